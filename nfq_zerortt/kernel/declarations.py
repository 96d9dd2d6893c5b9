"""Reads rule declarations: the part of the iptables-save format that this product needs.

Strict on purpose. libxtables ends the process on an argument that it does not
like, so nothing reaches it that was not understood here; and a typing error in a
rule must be an error, never a rule that matches something else.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nfq_zerortt.errors import ConfigError

Family = Literal["ipv4", "ipv6"]
FAMILIES: tuple[Family, ...] = ("ipv4", "ipv6")
COMMANDS: dict[Family, str] = {"ipv4": "iptables", "ipv6": "ip6tables"}
"""The commands' names, to which ``-legacy`` or ``-nft`` is added."""

OWN_PREFIX = "ZERORTT-"
"""How the name of every chain of this product begins."""

LONGEST_CHAIN_NAME = 28
"""In bytes (XT_EXTENSION_MAXNAMELEN in linux/netfilter/x_tables.h, less what iptables keeps)."""

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
"""The tables that may be declared, with their built-in chains."""

_PORT = r"[0-9]{1,5}(:[0-9]{1,5})?"
_PORT_LIST = rf"{_PORT}(,{_PORT}){{0,14}}"
_INTERFACE = r"[^\s/!+\"'\\]{1,15}"
_NUMBER = r"[0-9]{1,5}"
_MARK = r"0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8}"

# At most ten words a location, ten values a test, ten tests (linux/netfilter/xt_u32.h).
_WORD = r"(?:0x[0-9A-Fa-f]{1,8}|[0-9]{1,9})"
_LOCATION = rf"{_WORD}(?:(?:&|<<|>>|@){_WORD}){{0,9}}"
_VALUES = rf"{_WORD}(?::{_WORD})?(?:,{_WORD}(?::{_WORD})?){{0,9}}"
_U32 = rf"{_LOCATION}={_VALUES}(?:&&{_LOCATION}={_VALUES}){{0,9}}"

U32_VALUES = 10
"""How many values or ranges one test of a u32 match takes."""

_ICMP_ERRORS = "destination-unreachable|time-exceeded|parameter-problem"
# For each extension its options: the pattern of the value, None for one without a value.
_MATCHES: Mapping[str, Mapping[str, str | None]] = {
    "multiport": {"--dports": _PORT_LIST, "--sports": _PORT_LIST},
    "addrtype": {"--dst-type": "LOCAL", "--src-type": "LOCAL"},
    "icmp": {"--icmp-type": _ICMP_ERRORS},
    "icmp6": {"--icmpv6-type": f"{_ICMP_ERRORS}|packet-too-big"},
    "u32": {"--u32": _U32},
    "mark": {"--mark": _MARK},
}
_TARGETS: Mapping[str, Mapping[str, str | None]] = {
    "CT": {"--notrack": None},
    "NFQUEUE": {
        "--queue-num": _NUMBER,
        "--queue-balance": f"{_NUMBER}:{_NUMBER}",
        "--queue-bypass": None,
    },
    "MARK": {"--set-xmark": _MARK},
    "ACCEPT": {},
    "RETURN": {},
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a match or target, for example ``! --dst-type LOCAL``."""

    name: str
    value: str | None = None
    inverted: bool = False

    def __str__(self) -> str:
        sign = "! " if self.inverted else ""
        return sign + self.name + (f" {self.value}" if self.value is not None else "")


@dataclass(frozen=True, slots=True)
class Extension:
    """A match or a target with its options; a target may also be the name of a chain."""

    name: str
    options: tuple[Option, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.name, *map(str, self.options)])


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ``first`` puts it at the head of its chain instead of the end.

    ``family`` is the only one that it is for; None if it serves both.
    """

    chain: str
    target: Extension
    first: bool = False
    in_interface: str | None = None
    out_interface: str | None = None
    protocol: str | None = None
    matches: tuple[Extension, ...] = ()
    family: Family | None = None

    def __str__(self) -> str:
        words = ["-I" if self.first else "-A", self.chain]
        if self.family is not None:
            words.append(_FLAGS[self.family])
        for flag, value in (
            ("-i", self.in_interface),
            ("-o", self.out_interface),
            ("-p", self.protocol),
        ):
            if value is not None:
                words += [flag, value]
        for match in self.matches:
            words += ["-m", str(match)]
        return " ".join([*words, "-j", str(self.target)])


@dataclass(frozen=True, slots=True)
class Table:
    """What is declared for one table: our own chains, and the rules in order."""

    name: str
    chains: tuple[str, ...]
    rules: tuple[Rule, ...]

    def of(self, *families: Family) -> Table:
        """Return the table with those rules only that are for one of these families."""
        wanted = (None, *families)
        rules = tuple(rule for rule in self.rules if rule.family in wanted)
        return Table(self.name, self.chains, rules)

    def __str__(self) -> str:
        lines = [f"*{self.name}"]
        lines += [f":{chain} - [0:0]" for chain in self.chains]
        lines += [str(rule) for rule in self.rules]
        return "\n".join([*lines, "COMMIT"])


def fill_in(text: str, values: Mapping[str, str], groups: Mapping[str, Sequence[str]]) -> str:
    """Replace the placeholders ``{name}`` of a declaration; comments are left as they are.

    ``values`` are put in as they stand. A line with a name of ``groups`` is repeated
    for each text in its group. Raises ConfigError for a name in neither.
    """
    lines: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            lines.append(line)
            continue
        repeated = [name for name in groups if f"{{{name}}}" in line]
        if len(repeated) > 1:
            raise ConfigError(f"rule declaration with two lists of ports in one line: {line}")
        for choice in groups[repeated[0]] if repeated else ("",):
            lines.append(_filled(line, {**values, **dict.fromkeys(repeated, choice)}))
    return "\n".join(lines) + "\n"


def _filled(line: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError(
                f"rule declaration with unknown placeholder {{{match[1]}}}: {line}; "
                f"allowed: {', '.join(sorted(values))}"
            )
        return values[match[1]]

    return re.sub(r"\{(\w*)\}", value, line)


def parse(text: str, source: str = "rules") -> tuple[Table, ...]:
    """Read declarations without placeholders.

    ``source`` is the name that an error shows beside the number of the line.
    Raises ConfigError at the first thing that is not understood.
    """
    tables: list[Table] = []
    name = ""
    chains: list[str] = []
    rules: list[Rule] = []
    for number, raw_line in enumerate(text.splitlines(), start=1):
        line = raw_line.strip()
        try:
            if not line or line.startswith("#"):
                continue
            if line.startswith("*"):
                name = _table_name(line, name, tables)
                chains, rules = [], []
            elif not name:
                raise _NotUnderstoodError("a line outside of a table; begin with *raw or *mangle")
            elif line == "COMMIT":
                tables.append(Table(name, tuple(chains), tuple(rules)))
                name = ""
            elif line.startswith(":"):
                chains.append(_own_chain(line, chains))
            else:
                rules.append(_rule(line, name, chains))
        except _NotUnderstoodError as error:
            raise ConfigError(f"{source}, line {number}: {error}") from None
    if name:
        raise ConfigError(f"{source}: table {name} ends without COMMIT")
    return tuple(tables)


class _NotUnderstoodError(Exception):
    """Why a line was refused; the line's number is added outside."""


def _table_name(line: str, open_table: str, done: Sequence[Table]) -> str:
    name = line[1:]
    if open_table:
        raise _NotUnderstoodError(f"table {open_table} ends without COMMIT")
    if name not in BUILT_IN:
        raise _NotUnderstoodError(f"table {name!r} is unknown; allowed: {', '.join(BUILT_IN)}")
    if any(table.name == name for table in done):
        raise _NotUnderstoodError(f"table {name!r} is declared twice")
    return name


def _own_chain(line: str, known: Sequence[str]) -> str:
    match = re.fullmatch(r":(\S+) - \[0:0\]", line)
    if match is None:
        raise _NotUnderstoodError("a chain is declared as ':NAME - [0:0]'")
    name = match[1]
    if not re.fullmatch(rf"{OWN_PREFIX}[A-Z0-9-]+", name) or len(name) > LONGEST_CHAIN_NAME:
        raise _NotUnderstoodError(
            f"chain {name!r}: a chain of ours is named {OWN_PREFIX}… in capitals, digits and "
            f"hyphens, {LONGEST_CHAIN_NAME} at most"
        )
    if name in known:
        raise _NotUnderstoodError(f"chain {name!r} is declared twice")
    return name


def _rule(line: str, table: str, own_chains: Sequence[str]) -> Rule:
    try:
        words = _Words(shlex.split(line))
    except ValueError as error:
        raise _NotUnderstoodError(str(error)) from None
    command = words.take("-A or -I")
    if command not in ("-A", "-I"):
        raise _NotUnderstoodError(f"{command!r} is not understood; a rule begins with -A or -I")
    chain = words.take("a chain")
    if chain not in own_chains and chain not in BUILT_IN[table]:
        raise _NotUnderstoodError(f"chain {chain!r} is neither declared nor built into {table}")
    found: dict[str, str] = {}
    matches: list[Extension] = []
    target: Extension | None = None
    family: Family | None = None
    while (word := words.peek()) is not None:
        words.take("an option")
        if word in _PLAIN and word not in found:
            found[word] = words.take_matching(_PLAIN[word], word)
        elif word in _FAMILY_OF and family is None:
            family = _FAMILY_OF[word]
        elif word == "-m":
            matches.append(_extension(words, _MATCHES, "match"))
        elif word == "-j" and target is None:
            target = _target(words, own_chains)
        elif word in _FAMILY_OF:
            raise _NotUnderstoodError("a line is for -4 or for -6, and says so once")
        elif word in _PLAIN or word == "-j":
            raise _NotUnderstoodError(f"{word} stands twice")
        else:
            raise _NotUnderstoodError(f"{word!r} is not understood")
    if target is None:
        raise _NotUnderstoodError("the rule has no target; add -j TARGET")
    rule = Rule(
        chain,
        target,
        first=command == "-I",
        in_interface=found.get("-i"),
        out_interface=found.get("-o"),
        protocol=found.get("-p"),
        matches=tuple(matches),
        family=family,
    )
    if chain in BUILT_IN[table] and rule != jump(chain, target.name, first=rule.first):
        raise _NotUnderstoodError(f"{chain} is built in: only a bare jump to a chain of ours there")
    if chain in BUILT_IN[table] and target.name not in own_chains:
        raise _NotUnderstoodError(f"{target.name!r} is not a declared chain")
    _check_family(rule)
    return rule


_PLAIN: Mapping[str, str] = {"-i": _INTERFACE, "-o": _INTERFACE, "-p": "tcp|icmp|icmpv6"}
_FLAGS: Mapping[Family, str] = {"ipv4": "-4", "ipv6": "-6"}
_FAMILY_OF: Mapping[str, Family] = {flag: family for family, flag in _FLAGS.items()}
_PROTOCOL_FAMILY: Mapping[str | None, Family] = {"icmp": "ipv4", "icmpv6": "ipv6"}
_NEEDED_PROTOCOL: Mapping[str, str] = {"multiport": "tcp", "icmp": "icmp", "icmp6": "icmpv6"}


def _check_family(rule: Rule) -> None:
    """Refuse a rule that no family, or the wrong one, could take."""
    family = _PROTOCOL_FAMILY.get(rule.protocol, rule.family)
    if family != rule.family and family is not None:
        raise _NotUnderstoodError(f"-p {rule.protocol} needs {_FLAGS[family]}")
    for match in rule.matches:
        protocol = _NEEDED_PROTOCOL.get(match.name, rule.protocol)
        if protocol != rule.protocol:
            raise _NotUnderstoodError(f"{match.name} needs -p {protocol}")
        if match.name == "u32" and rule.family is None:
            raise _NotUnderstoodError("u32 needs -4 or -6: it counts bytes of the header")


def jump(chain: str, target: str, *, first: bool = False) -> Rule:
    """Return the bare jump from ``chain`` to the chain ``target``."""
    return Rule(chain, Extension(target), first=first)


def _target(words: _Words, own_chains: Sequence[str]) -> Extension:
    if words.peek() in own_chains:
        return Extension(words.take("a target"))
    return _extension(words, _TARGETS, "target")


def _extension(
    words: _Words, known: Mapping[str, Mapping[str, str | None]], kind: str
) -> Extension:
    name = words.take(f"the name of a {kind}")
    if name not in known:
        raise _NotUnderstoodError(f"{kind} {name!r} is unknown; allowed: {', '.join(known)}")
    allowed = known[name]
    options: list[Option] = []
    while (word := words.peek()) == "!" or (word is not None and word.startswith("--")):
        inverted = word == "!"
        if inverted:
            words.take("!")
        option = words.take("an option")
        if option not in allowed:
            raise _NotUnderstoodError(
                f"{kind} {name} has no option {option!r}; allowed: {', '.join(allowed)}"
            )
        if any(option == one.name for one in options):
            raise _NotUnderstoodError(f"{option} stands twice")
        pattern = allowed[option]
        if inverted and pattern is None:
            raise _NotUnderstoodError(f"{option} cannot be inverted")
        value = None if pattern is None else words.take_matching(pattern, option)
        options.append(Option(option, value, inverted))
    if allowed and not options:
        raise _NotUnderstoodError(f"{kind} {name} needs one of {', '.join(allowed)}")
    return Extension(name, tuple(options))


class _Words:
    """The words of a rule, taken from the left."""

    def __init__(self, words: Sequence[str]) -> None:
        self._left: Iterator[str] = iter(words)
        self._next = next(self._left, None)

    def peek(self) -> str | None:
        return self._next

    def take(self, what: str) -> str:
        if self._next is None:
            raise _NotUnderstoodError(f"the line ends where {what} is expected")
        word, self._next = self._next, next(self._left, None)
        return word

    def take_matching(self, pattern: str, option: str) -> str:
        word = self.take(f"the value of {option}")
        if re.fullmatch(pattern, word) is None:
            raise _NotUnderstoodError(f"{option} {word!r} is not a valid value")
        return word
