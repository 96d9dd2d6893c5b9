"""Address translation that the packets meet: it needs the tracking that they are exempt from.

TCP that comes in by one of the two interfaces is untracked, whichever interface it leaves by: so
a rule for a third interface counts, too. Rules that such a packet cannot meet do not count: those
of a virtual network beside it, of other protocols, of other ports. What is addressed to this
router itself stays tracked: where it is sent on to another host, as to a container, it is that
host's answers which must not come in by one of the two interfaces.
"""

from __future__ import annotations

import functools
import ipaddress
import json
from collections.abc import Callable, Sequence
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import nat_rules, nft_nat_rules, tools
from nfq_zerortt.kernel.features.feature import Feature, not_looked_at
from nfq_zerortt.kernel.nat_rules import NatRule
from nfq_zerortt.ports import ALL_PORTS, PortSet


def address_translation(
    client_iface: str | None = None, server_iface: str | None = None, ports: PortSet = ALL_PORTS
) -> Feature:
    """NAT needs the connection tracking that the handled packets are exempt from."""
    name = "no NAT in the way"
    sides = frozenset(side for side in (client_iface, server_iface) if side)
    try:
        rules = {*nat_rules.of_legacy(sides), *nft_nat_rules.of_nft(sides)}
        behind = functools.cache(functools.partial(_behind, sides=sides))  # it asks for routes
        met = sorted({rule.target for rule in rules if _may_be_met(rule, behind, sides, ports)})
    except ZeroRttError as error:
        return not_looked_at(name, error)
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


def _may_be_met(
    rule: NatRule, behind: Callable[[str], bool], sides: frozenset[str], ports: PortSet
) -> bool:
    if not rule.ports.overlaps(ports):
        return False
    if rule.sends_on_to is not None:
        if rule.target == "REDIRECT":
            return False  # to this router
        if sides and rule.sends_on_to and not behind(rule.sends_on_to):
            return False
    return not sides or not rule.sources or any(map(behind, rule.sources))


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
