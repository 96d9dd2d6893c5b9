"""A packet's way through the rules of a table, as ``iptables -S`` lists them.

Each rule matches the packet, does not, or perhaps does (where that depends on addresses, ports or
marks). The packets are those that connection tracking does not see, and the ICMP errors about them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nfq_zerortt.kernel.declarations import OWN_PREFIX, Family

_ACCEPTING = frozenset({"ACCEPT", "NFQUEUE", "QUEUE"})
_DROPPING = frozenset({"DROP", "REJECT"})
_DEEPEST = 32
_STATES = frozenset({"--ctstate", "--state"})


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
    """A packet on its way: where it comes in and goes out; None if any.

    ``is_local`` is whether it is addressed to this router itself; None if perhaps.
    """

    came_in: str | None
    goes_out: str | None
    kind: Kind = TCP
    chain: str = "FORWARD"
    state: str = "UNTRACKED"
    is_local: bool | None = None


class Walk:
    """A packet on its way through one table, whose rules are given as iptables -S lists them."""

    def __init__(self, rules: Sequence[Sequence[str]], passage: Passage) -> None:
        self._passage = passage
        self._chains: dict[str, list[Sequence[str]]] = {}
        self._policy = "ACCEPT"
        self._perhaps = False
        self._verdicts: dict[str, str | None] = {}  # of chains: they may have many jumps to them
        self._seen: set[str] = set()
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
        self._seen.clear()
        yield from self._met(self._passage.chain, 0)

    def _met(self, chain: str, depth: int) -> Iterator[Sequence[str]]:
        if depth > _DEEPEST or chain in self._seen:
            return
        self._seen.add(chain)
        for words in self._chains.get(chain, ()):
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
        if chain not in self._verdicts:
            self._verdicts[chain] = None  # for a jump back to it, which the kernel does not allow
            self._verdicts[chain] = self._judged(chain, depth)
        return self._verdicts[chain]

    def _judged(self, chain: str, depth: int) -> str | None:
        """Find out what :meth:`_through` returns."""
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
            elif option == "--dst-type":
                answer = _is_type(words.pop(0), self._passage.is_local)
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


def _is_type(listed: str, is_local: bool | None) -> bool | None:
    """Whether an address is of one of these types; of one that is not ours, the type is unknown."""
    types = listed.split(",")
    if is_local:
        return "LOCAL" in types
    return False if is_local is False and types == ["LOCAL"] else None
