"""Address translation that the packets meet: it needs the tracking that they are exempt from.

TCP that comes in by one of the two interfaces is untracked, whichever interface it leaves by: so
a rule for a third interface counts, too. Rules that such a packet cannot meet do not count: those
of a virtual network beside it, of other protocols, of other ports.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.kernel import listed_rules, tools
from nfq_zerortt.kernel.declarations import FAMILIES
from nfq_zerortt.kernel.features.feature import AS_ROOT, Feature
from nfq_zerortt.kernel.table_walk import TCP, Passage, Walk
from nfq_zerortt.ports import PortSet

_TARGETS = frozenset({"MASQUERADE", "SNAT", "DNAT", "NETMAP", "REDIRECT"})
_HOOKS = ("PREROUTING", "POSTROUTING")
_PORT_OPTIONS = frozenset({"--dport", "--dports"})
_ALL_PORTS = PortSet()


@dataclass(frozen=True, slots=True)
class _Rule:
    """One rule that translates; a condition that is not understood is none.

    Attributes:
        target: as iptables calls it.
        sources: the networks that it is for; empty for all.
        ports: the servers' ports that it is for.
    """

    target: str
    sources: tuple[str, ...] = ()
    ports: PortSet = _ALL_PORTS


def address_translation(
    client_iface: str | None = None, server_iface: str | None = None, ports: PortSet = _ALL_PORTS
) -> Feature:
    """NAT needs the connection tracking that the handled packets are exempt from."""
    name = "no NAT in the way"
    sides = frozenset(side for side in (client_iface, server_iface) if side)
    try:
        rules = {*_legacy(sides), *_nft(sides)}
        met = sorted({rule.target for rule in rules if _may_be_met(rule, sides, ports)})
    except ZeroRttError as error:
        return Feature(name, None, False, f"cannot be looked at: {error}", AS_ROOT)
    if not rules:
        return Feature(name, True, False, "no NAT rules in this namespace")
    if not met:
        return Feature(name, True, False, "no NAT rule for what is handled")
    where = f"comes in by {' or '.join(sorted(sides))}" if sides else "is handled"
    return Feature(
        name,
        False,
        False,
        f"NAT rules ({', '.join(met)}): they do not work on TCP that {where}, which is untracked "
        "while the service runs, whichever interface it leaves by",
        "do the NAT on another router, or choose --ports so that they do not meet",
    )


def _may_be_met(rule: _Rule, sides: frozenset[str], ports: PortSet) -> bool:
    if not rule.ports.overlaps(ports):
        return False
    return not sides or not rule.sources or any(_behind(one, sides) for one in rule.sources)


def _behind(network: str, sides: frozenset[str]) -> bool:
    """Whether hosts of a network may be behind these interfaces, going by the routes to them."""
    try:
        wanted = ipaddress.ip_network(network, strict=False)
    except ValueError:
        return True  # a named set, or what else can stand there
    ip = ["ip", f"-{wanted.version}", "-j", "route"]
    found = _routes([*ip, "show", "root", str(wanted)])  # to parts of it
    found += _routes([*ip, "get", str(wanted.network_address)])
    return not found or any(route.get("dev") in sides for route in found)


def _routes(command: Sequence[str]) -> list[dict[str, Any]]:
    try:
        said = tools.run(command)
    except ZeroRttError:
        return []  # there is no route
    return list(json.loads(said)) if said else []


# --- the legacy tables --------------------------------------------------------------------


def _legacy(sides: frozenset[str]) -> Iterator[_Rule]:
    for family in FAMILIES:
        command = f"{listed_rules.COMMANDS[family]}-legacy"
        listed = listed_rules.of_iptables(family, command, "nat")
        for hook in _HOOKS:
            # In POSTROUTING iptables knows no interface that a packet came in by.
            for came_in in (sides if hook == "PREROUTING" else ()) or (None,):
                passage = Passage(came_in, None, TCP, hook)
                for words in Walk(listed, passage).may_meet():
                    if (target := _after(words, {"-j"})) in _TARGETS:
                        yield _Rule(target, _sources(words), _ports(words))


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
    return _port_set(listed.replace(":", "-"))


def _port_set(text: str) -> PortSet:
    try:
        return PortSet.parse(text) if text else _ALL_PORTS
    except ConfigError:
        return _ALL_PORTS  # from 0 on, for one


# --- nftables, and what iptables-nft has put there ----------------------------------------


def _nft(sides: frozenset[str]) -> Iterator[_Rule]:
    ruleset = listed_rules.of_nft()
    own = {  # chains for what this router itself sends and gets
        (chain["family"], chain["table"], chain["name"])
        for chain in ruleset.chains
        if chain.get("hook") in ("output", "input")
    }
    for rule in ruleset.rules:
        if (rule["family"], rule["table"], rule["chain"]) in own:
            continue
        target = _nft_target(rule["expr"])
        tests = [part["match"] for part in rule["expr"] if "match" in part]
        if target and not any(_excludes(test, sides) for test in tests):
            yield _Rule(target, _nft_sources(tests), _nft_ports(tests))


def _nft_target(expressions: Sequence[dict[str, Any]]) -> str:
    for part in expressions:
        named = part.get("xt", {}).get("name", "")
        for word in (named, *(verb.upper() for verb in part)):
            if word in _TARGETS:
                return str(word)
    return ""


def _excludes(test: dict[str, Any], sides: frozenset[str]) -> bool:
    """Whether a test is never true for TCP that comes in by one of the interfaces."""
    left, inverted = test["left"], test["op"] == "!="
    if left == {"meta": {"key": "iifname"}} and sides:
        names = _values(test["right"])
        matching = {side for side in sides if any(_is_named(side, name) for name in names)}
        return matching == sides if inverted else not matching
    if left == {"meta": {"key": "l4proto"}}:
        return inverted is any(value in ("tcp", 6) for value in _values(test["right"]))
    payload = left.get("payload", {}) if isinstance(left, dict) else {}
    return payload.get("protocol") == "udp"


def _nft_sources(tests: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    found = (
        value
        for test in _about(tests, "saddr")
        for value in _values(test["right"])
    )  # fmt: skip
    return tuple(
        f"{one['prefix']['addr']}/{one['prefix']['len']}"
        if isinstance(one, dict) and "prefix" in one
        else str(one)
        for one in found
    )


def _nft_ports(tests: Sequence[dict[str, Any]]) -> PortSet:
    items = []
    for test in _about(tests, "dport"):
        for value in _values(test["right"]):
            if isinstance(value, int):
                items.append(str(value))
            elif isinstance(value, dict) and "range" in value:
                items.append("-".join(map(str, value["range"])))
            else:
                return _ALL_PORTS
    return _port_set(",".join(items))


def _about(tests: Sequence[dict[str, Any]], field: str) -> Iterator[dict[str, Any]]:
    for test in tests:
        left = test["left"]
        payload = left.get("payload", {}) if isinstance(left, dict) else {}
        if payload.get("field") == field and test["op"] == "==":
            yield test


def _values(right: Any) -> list[Any]:
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    return right if isinstance(right, list) else [right]


def _is_named(interface: str, pattern: Any) -> bool:
    text = str(pattern)
    return interface.startswith(text[:-1]) if text.endswith("*") else interface == text
