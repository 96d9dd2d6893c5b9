"""Rules that translate addresses, as nft lists them; those of iptables-nft as that command does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nfq_zerortt.kernel import listed_rules
from nfq_zerortt.kernel.declarations import COMMANDS, FAMILIES, Family
from nfq_zerortt.kernel.nat_rules import TARGETS, NatRule, of_tables, port_set
from nfq_zerortt.ports import ALL_PORTS, PortSet

_NFT_NAMES: dict[Family, str] = {"ipv4": "ip", "ipv6": "ip6"}


def of_nft(sides: frozenset[str]) -> Iterator[NatRule]:
    """Give those that TCP which comes in by one of the interfaces may meet.

    Raises:
        ZeroRttError: they cannot be read.
    """
    ruleset = listed_rules.of_nft()
    told = set()
    for family in FAMILIES:
        table = (_NFT_NAMES[family], "nat")
        if any(_place(chain, "name")[:2] == table for chain in ruleset.chains):
            # nft does not say all of what iptables-nft has set.
            command = f"{COMMANDS[family]}-nft"
            listed = listed_rules.of_iptables(family, command, "nat")
            if listed:
                told.add(table)
                yield from of_tables(listed, sides)
    own = {  # chains for what this router itself sends and gets
        _place(chain, "name")
        for chain in ruleset.chains
        if chain.get("hook") in ("output", "input")
    }
    for_us = _chains_for_us([one for one in ruleset.rules if _place(one, "chain") not in own])
    for rule in ruleset.rules:
        place = _place(rule, "chain")
        if place in own or place[:2] in told:
            continue
        target = _nft_target(rule["expr"])
        tests = [part["match"] for part in rule["expr"] if "match" in part]
        if target and not any(_excludes(test, sides) for test in tests):
            is_for_us = place in for_us or any(map(_wants_local, tests))
            yield NatRule(
                target,
                _nft_sources(tests),
                _nft_ports(tests),
                _nft_address(rule["expr"]) if is_for_us else None,
            )


def _place(of: dict[str, Any], name: str) -> tuple[str, str, str]:
    return of["family"], of["table"], of[name]


def _chains_for_us(rules: Sequence[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return the chains that nothing gets to but what is addressed to this router."""
    jumps: dict[tuple[str, str, str], set[tuple[str, str, str]]] = {}
    for rule in rules:
        source = _place(rule, "chain")
        is_for_us = any(_wants_local(part["match"]) for part in rule["expr"] if "match" in part)
        for target in _jumps(rule["expr"]):
            sources = jumps.setdefault((*source[:2], target), set())
            sources.add(_FOR_US if is_for_us else source)
    # From those that only such packets could get to, some are taken away that others get to, too.
    found = set(jumps)
    while found != (kept := {one for one in found if jumps[one] <= found | {_FOR_US}}):
        found = kept
    return found


_FOR_US = ("", "", "")
"""In the place of a chain: whichever it is, only what is addressed to this router gets on."""


def _jumps(expression: Any) -> Iterator[str]:
    """Give the chains that a rule jumps to, also those in a verdict map."""
    if isinstance(expression, list):
        for one in expression:
            yield from _jumps(one)
    elif isinstance(expression, dict):
        for key, value in expression.items():
            if key in ("jump", "goto") and isinstance(value, dict):
                yield value["target"]
            else:
                yield from _jumps(value)


def _wants_local(test: dict[str, Any]) -> bool:
    left = test["left"]
    fib = left.get("fib", {}) if isinstance(left, dict) else {}
    is_type = fib.get("result") == "type" and "daddr" in fib.get("flags", ())
    return is_type and test["op"] in ("==", "in") and _values(test["right"]) == ["local"]


def _nft_address(expressions: Sequence[dict[str, Any]]) -> str:
    for part in expressions:
        place = (part.get("dnat") or {}).get("addr", "")
        if isinstance(place, str) and place:
            return place
    return ""


def _nft_target(expressions: Sequence[dict[str, Any]]) -> str:
    for part in expressions:
        named = part.get("xt", {}).get("name", "")
        for word in (named, *(verb.upper() for verb in part)):
            if word in TARGETS:
                return str(word)
    return ""


def _excludes(test: dict[str, Any], sides: frozenset[str]) -> bool:
    """Whether a test is never true for TCP that comes in by one of the interfaces."""
    left, inverted = test["left"], test["op"] == "!="
    if isinstance(test["right"], str) and test["right"].startswith("@"):
        return False  # a named set, whose contents are not looked at
    if left == {"meta": {"key": "iifname"}} and sides:
        names = _values(test["right"])
        matching = {side for side in sides if any(_is_named(side, name) for name in names)}
        return matching == sides if inverted else not matching
    if left == {"meta": {"key": "l4proto"}}:
        return inverted is any(value in ("tcp", 6) for value in _values(test["right"]))
    payload = left.get("payload", {}) if isinstance(left, dict) else {}
    return payload.get("protocol") == "udp"


def _nft_sources(tests: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    found = (value for test in _about(tests, "saddr") for value in _values(test["right"]))
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
                return ALL_PORTS
    return port_set(",".join(items))


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
