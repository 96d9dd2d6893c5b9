"""Rules that translate addresses, as the iptables commands list them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.kernel import listed_rules
from nfq_zerortt.kernel.declarations import COMMANDS, FAMILIES
from nfq_zerortt.kernel.table_walk import TCP, Passage, Walk
from nfq_zerortt.ports import ALL_PORTS, PortSet

TARGETS = frozenset({"MASQUERADE", "SNAT", "DNAT", "NETMAP", "REDIRECT"})
_HOOKS = ("PREROUTING", "POSTROUTING")
_PORT_OPTIONS = frozenset({"--dport", "--dports"})


@dataclass(frozen=True, slots=True)
class NatRule:
    """One rule that translates; a condition that is not understood is none.

    Attributes:
        target: as iptables calls it.
        sources: the networks that it is for; empty for all.
        ports: the servers' ports that it is for.
        sends_on_to: if it is only for what is addressed to this router, the address that takes its
            place; empty if that is not understood.
    """

    target: str
    sources: tuple[str, ...] = ()
    ports: PortSet = ALL_PORTS
    sends_on_to: str | None = None


def of_legacy(sides: frozenset[str]) -> Iterator[NatRule]:
    """Give those of the legacy tables that TCP which comes in by one of the interfaces may meet.

    Raises:
        ZeroRttError: they cannot be read.
    """
    for family in FAMILIES:
        command = f"{COMMANDS[family]}-legacy"
        yield from of_tables(listed_rules.of_iptables(family, command, "nat"), sides)


def of_tables(rules: Sequence[Sequence[str]], sides: frozenset[str]) -> Iterator[NatRule]:
    """Give those of the rules of a table nat, as ``iptables -S`` lists them."""
    for hook in _HOOKS:
        # In POSTROUTING iptables knows no interface that a packet came in by.
        for came_in in (sides if hook == "PREROUTING" else ()) or (None,):
            forwarded = Passage(came_in, None, TCP, hook, is_local=False)
            for words in Walk(rules, forwarded).may_meet():
                if (target := _after(words, {"-j"})) in TARGETS:
                    yield NatRule(target, _sources(words), _ports(words))
    for came_in in sides or (None,):
        addressed_to_us = Passage(came_in, None, TCP, "PREROUTING", is_local=True)
        for words in Walk(rules, addressed_to_us).may_meet():
            if (target := _after(words, {"-j"})) in TARGETS:
                place = _address(_after(words, {"--to-destination"}))
                yield NatRule(target, _sources(words), _ports(words), place)


def _address(place: str) -> str:
    """Return the first address of ADDRESS[-ADDRESS][:PORT], where one of IPv6 is in brackets."""
    first = place.partition("-")[0]
    if first.startswith("["):
        return first[1:].partition("]")[0]
    return first if first.count(":") > 1 else first.partition(":")[0]


def _after(words: Sequence[str], options: set[str] | frozenset[str]) -> str:
    """Return what follows one of the options, if it is there and not inverted."""
    for before, word, value in zip(["", *words], words, words[1:], strict=False):
        if word in options and before != "!":
            return value
    return ""


def _sources(words: Sequence[str]) -> tuple[str, ...]:
    source = _after(words, {"-s"})
    return (source,) if source else ()


def _ports(words: Sequence[str]) -> PortSet:
    listed = _after(words, _PORT_OPTIONS)
    return port_set(listed.replace(":", "-"))


def port_set(text: str) -> PortSet:
    """Return the ports of a list such as 80,443-500; all of them where it is not understood."""
    try:
        return PortSet.parse(text) if text else ALL_PORTS
    except ConfigError:
        return ALL_PORTS  # from 0 on, for one
