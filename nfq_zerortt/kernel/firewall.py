"""Whether this router's firewall lets through what connection tracking does not see.

The packets that are handled, and the ICMP errors about them, are untracked (see
``iptables_rules/clientnic.rules``). A firewall that lets pass only what belongs to a
tracked connection drops them all, also those of connections that pass untouched. Here
FORWARD is walked as such a packet would: each rule matches it, does not, or perhaps
does (where that depends on addresses, ports or marks). So is OUTPUT, as an ICMP error
that this router itself sends about an untracked packet: the kernel calls that INVALID.
Only the rules are read; nothing is changed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import xtables
from nfq_zerortt.kernel.declarations import OWN_PREFIX, Family

PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Where the tools are, also for a user whose PATH does not say so."""

_ACCEPTING = frozenset({"ACCEPT", "NFQUEUE", "QUEUE"})
_DROPPING = frozenset({"DROP", "REJECT"})
_DEEPEST = 32
_STATES = frozenset({"--ctstate", "--state"})
COMMANDS: dict[Family, str] = {"ipv4": "iptables", "ipv6": "ip6tables"}
_NFT_FAMILIES: dict[str, tuple[Family, ...]] = {
    "ip": ("ipv4",),
    "ip6": ("ipv6",),
    "inet": ("ipv4", "ipv6"),
}
_FORWARDING6 = Path("/proc/sys/net/ipv6/conf/all/forwarding")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of packet, and how ``iptables -S`` may write what matches it."""

    name: str
    protocols: frozenset[str]
    types: frozenset[str] = frozenset()


TCP = Kind("TCP", frozenset({"tcp", "6", "all"}))
# Of the errors, those that path MTU discovery cannot do without.
ERRORS: dict[Family, Kind] = {
    "ipv4": Kind(
        "ICMP errors about it",
        frozenset({"icmp", "1", "all"}),
        frozenset({"any", "255", "3", "3/4", "destination-unreachable", "fragmentation-needed"}),
    ),
    "ipv6": Kind(
        "ICMPv6 errors about it",
        frozenset({"ipv6-icmp", "icmpv6", "58", "all"}),
        frozenset({"2", "2/0", "packet-too-big"}),
    ),
}


@dataclass(frozen=True, slots=True)
class Passage:
    """A packet on its way: where it comes in and goes out; None if any."""

    came_in: str | None
    goes_out: str | None
    kind: Kind = TCP
    chain: str = "FORWARD"
    state: str = "UNTRACKED"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What drops packets of one kind.

    Attributes:
        family: of the packets.
        kind: of the packets.
        where: what drops them, in the firewall's own words.
        command: the beginning of the command that adds a rule there, before all others.
        chain: where they are dropped, FORWARD or OUTPUT.
    """

    family: Family
    kind: Kind
    where: str
    command: str
    chain: str = "FORWARD"

    def remedies(self, client_iface: str, server_iface: str) -> list[str]:
        """Return the commands that let them pass in both directions.

        Where TCP itself is dropped, its rule is one for the errors about it as well.
        """
        ways = ((client_iface, server_iface), (server_iface, client_iface))
        if self.command.startswith("nft "):
            accept = "ct state untracked accept"
            return [f"{self.command} iifname {one} oifname {other} {accept}" for one, other in ways]
        protocol = {TCP: "", ERRORS["ipv4"]: "-p icmp ", ERRORS["ipv6"]: "-p icmpv6 "}[self.kind]
        if self.chain == "OUTPUT":
            accept = f"{protocol}-m conntrack --ctstate INVALID -j ACCEPT"
            return [f"{self.command} -o {iface} {accept}" for iface, _ in ways]
        accept = f"{protocol}-m conntrack --ctstate UNTRACKED -j ACCEPT"
        return [f"{self.command} -i {one} -o {other} {accept}" for one, other in ways]


def obstacles(client_iface: str | None = None, server_iface: str | None = None) -> list[Obstacle]:
    """Return what drops untracked TCP between the interfaces, or the ICMP errors about it.

    Errors are left out where TCP itself is dropped. IPv6 is looked at if this host forwards
    it. Without interfaces, a rule for some interface counts as one that lets pass only if it
    names the packet's state.

    Raises:
        ZeroRttError: the rules cannot be read.
    """
    families: list[Family] = ["ipv4", "ipv6"] if _forwards_ipv6() else ["ipv4"]
    ways = [(client_iface, server_iface), (server_iface, client_iface)]
    if client_iface is None:
        del ways[1]
    found: list[Obstacle] = []
    for family in families:
        for variant in ("legacy", "nft"):
            command = f"{COMMANDS[family]}-{variant}"
            rules = listed(family, command)
            for came_in, goes_out in ways if rules else ():
                found += _on_the_way(family, command, rules, came_in, goes_out)
    return found + [one for one in _nft_obstacles() if one.family in families]


def _on_the_way(
    family: Family,
    command: str,
    rules: Sequence[Sequence[str]],
    came_in: str | None,
    goes_out: str | None,
) -> Iterator[Obstacle]:
    """Tell what drops packets that go from one interface to the other."""
    for kind in (TCP, ERRORS[family]):
        if end := Walk(rules, Passage(came_in, goes_out, kind)).end():
            towards = f" from {came_in} to {goes_out}" if came_in else ""
            yield Obstacle(family, kind, f"{command} FORWARD ({end}){towards}", _insert(command))
            break
    own = ERRORS[family]
    if end := Walk(rules, Passage(None, goes_out, own, "OUTPUT", "INVALID")).end():
        towards = f" to {goes_out}" if goes_out else ""
        where = f"{command} OUTPUT ({end}){towards}"
        yield Obstacle(family, own, where, _insert(command, "OUTPUT"), "OUTPUT")


def _insert(command: str, chain: str = "FORWARD") -> str:
    return f"{command} -I {chain}"


def _forwards_ipv6() -> bool:
    return _FORWARDING6.exists() and _FORWARDING6.read_text(encoding="ascii").strip() != "0"


def run(argv: Sequence[str]) -> str | None:
    """Return what a command prints; None when there is no such command.

    Raises:
        ZeroRttError: it failed.
    """
    program = shutil.which(argv[0], path=PATH)
    if program is None:
        return None
    ran = subprocess.run([program, *argv[1:]], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ZeroRttError(f"{' '.join(argv)} failed: {ran.stderr.partition(chr(10))[0]}")
    return ran.stdout


def listed(family: Family, command: str, table: str = "filter") -> list[list[str]]:
    """Return the rules that ``command`` (iptables-legacy and its like) lists, as words.

    Raises:
        ZeroRttError: they cannot be read.
    """
    if command.endswith("-legacy") and not xtables.is_in_use(family, table):
        return []  # the command would create the table
    # Without -w the legacy command waits for the lock for ever.
    said = run([command, "-w", "1", "-t", table, "-S"]) or ""
    return [shlex.split(line) for line in said.splitlines()]


class Walk:
    """A packet on its way through the table filter, which is given as iptables -S does."""

    def __init__(self, rules: Sequence[Sequence[str]], passage: Passage) -> None:
        self._passage = passage
        self._chains: dict[str, list[Sequence[str]]] = {}
        self._policy = "ACCEPT"
        self._perhaps = False
        for words in rules:
            if words[:2] == ["-P", passage.chain]:
                self._policy = words[2]
            elif words[0] == "-A":
                self._chains.setdefault(words[1], []).append(words[2:])

    def end(self) -> str:
        """Return what surely drops the packet, as a text; empty when it passes or may pass."""
        verdict = self._through(self._passage.chain, 0)
        if verdict is None and self._policy in _DROPPING:
            verdict = f"policy {self._policy}"
        return "" if verdict is None or self._perhaps else verdict

    def may_meet(self) -> Iterator[Sequence[str]]:
        """Give the rules of others that the packet may match; in FORWARD those before ours."""
        yield from self._met(self._passage.chain, 0)

    def _met(self, chain: str, depth: int) -> Iterator[Sequence[str]]:
        for words in self._chains.get(chain, ()) if depth <= _DEEPEST else ():
            target = _target(words)
            if target.startswith(OWN_PREFIX):
                if chain == "FORWARD":
                    return
            elif self._matches(words)[0] is not False:
                yield words
                yield from self._met(target, depth + 1)

    def _through(self, chain: str, depth: int) -> str | None:
        """Return the text of what drops, empty for accepted, None when the chain ends."""
        if depth > _DEEPEST:
            return None
        for words in self._chains.get(chain, ()):
            matches, named = self._matches(words)
            if matches is False or not (target := _target(words)):
                continue
            if target in _ACCEPTING:
                if matches:
                    return ""
                if named:
                    self._perhaps = True
            elif target in _DROPPING:
                if matches:
                    return f"rule {shlex.join(words)}"
            elif target == "RETURN":
                if matches:
                    return None
            elif target in self._chains:
                # What is dropped down there is so only if the packet gets there at all.
                verdict = self._through(target, depth + 1)
                if verdict == "" and not matches:
                    self._perhaps = self._perhaps or named
                elif verdict is not None and matches:
                    return verdict
        return None

    def _matches(self, words: Sequence[str]) -> tuple[bool | None, bool]:
        """Tell whether a rule matches (None: perhaps), and if that perhaps is worth something."""
        surely, named, foreign = True, False, False
        words = list(words)
        while words:
            inverted = words[0] == "!"
            option = words.pop(inverted)
            if option in ("-j", "-g"):
                break
            if inverted:
                del words[0]
            if option in ("-m", "--match"):
                del words[0]
                continue
            answer: bool | None = None
            if option in ("-i", "-o"):
                actual = self._passage.came_in if option == "-i" else self._passage.goes_out
                foreign = foreign or actual is None
                answer = _is_interface(words.pop(0), actual)
            elif option in ("-p", "--protocol"):
                answer = words.pop(0) in self._passage.kind.protocols
            elif option in ("--icmp-type", "--icmpv6-type"):
                answer = words.pop(0) in self._passage.kind.types
            elif option == "--comment":
                del words[0]
                continue
            elif option in _STATES:
                answer = self._passage.state in words.pop(0).split(",")
                named = named or answer
            if answer is not None and answer is inverted:
                return False, False
            surely = surely and answer is not None
            while words and not words[0].startswith(("-", "!")):
                del words[0]
        return (True if surely else None), (named or not foreign)


def _target(words: Sequence[str]) -> str:
    for flag in ("-j", "-g"):
        if flag in words[:-1]:
            return words[list(words).index(flag) + 1]
    return ""


def _is_interface(pattern: str, actual: str | None) -> bool | None:
    if actual is None:
        return None
    if pattern.endswith("+"):
        return actual.startswith(pattern[:-1])
    return pattern == actual


def nft_ruleset() -> list[dict[str, Any]]:
    """Return what ``nft -j list ruleset`` lists; nothing where there is no nft.

    Raises:
        ZeroRttError: it cannot be read.
    """
    said = run(["nft", "-j", "list", "ruleset"])
    objects: list[dict[str, Any]] = json.loads(said)["nftables"] if said else []
    return objects


def _nft_obstacles() -> list[Obstacle]:
    """Look at nft's own chains: those that drop at their end and say nothing of untracked."""
    objects = nft_ruleset()
    found = []
    for chain in (one["chain"] for one in objects if "chain" in one):
        table = (chain["family"], chain["table"])
        forwards = chain.get("hook") == "forward" and chain.get("type") == "filter"
        if not forwards or chain["family"] not in _NFT_FAMILIES or chain["name"] == "FORWARD":
            continue  # FORWARD in capitals is the iptables command's
        rules = [
            one["rule"]
            for one in objects
            if "rule" in one and (one["rule"]["family"], one["rule"]["table"]) == table
        ]
        own = [rule["expr"] for rule in rules if rule["chain"] == chain["name"]]
        drops = chain.get("policy") == "drop" or bool(own and _always_drops(own[-1]))
        if drops and not re.search(r'"untracked"', json.dumps(rules)):
            place = f"{' '.join(table)} {chain['name']}"
            found += [
                Obstacle(family, TCP, f"nft chain {place}", f"nft insert rule {place}")
                for family in _NFT_FAMILIES[chain["family"]]
            ]
    return found


def _always_drops(expressions: Sequence[dict[str, Any]]) -> bool:
    words = {word for expression in expressions for word in expression}
    return bool(words & {"drop", "reject"}) and words <= {"drop", "reject", "counter", "log"}
