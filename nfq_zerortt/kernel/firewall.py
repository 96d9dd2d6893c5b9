"""Whether this router's firewall lets through what connection tracking does not see.

The packets that are handled, and the ICMP errors about them, are untracked (see
``iptables_rules/clientnic.rules``). A firewall that lets pass only what belongs to a
tracked connection drops them all, also those of connections that pass untouched. Here
FORWARD is walked as such a packet would. So is OUTPUT, as an ICMP error that this router
itself sends about an untracked packet: the kernel calls that INVALID. Only the rules are
read; nothing is changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfq_zerortt.kernel import listed_rules
from nfq_zerortt.kernel.declarations import COMMANDS, Family
from nfq_zerortt.kernel.table_walk import ERRORS, TCP, Kind, Passage, Walk

_NFT_FAMILIES: dict[str, tuple[Family, ...]] = {
    "ip": ("ipv4",),
    "ip6": ("ipv6",),
    "inet": ("ipv4", "ipv6"),
}
_NFT_NAMES: dict[Family, str] = {"ipv4": "ip", "ipv6": "ip6"}
_IPTABLES_TABLES = frozenset({"filter", "mangle", "security"})
"""Of the iptables-nft command, with a chain FORWARD."""
_FORWARDING6 = Path("/proc/sys/net/ipv6/conf/all/forwarding")


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
    told: set[str] = set()
    for family in families:
        for variant in ("legacy", "nft"):
            command = f"{COMMANDS[family]}-{variant}"
            rules = listed_rules.of_iptables(family, command)
            if rules and variant == "nft":
                told.add(_NFT_NAMES[family])
            for came_in, goes_out in ways if rules else ():
                found += _on_the_way(family, command, rules, came_in, goes_out)
    return found + [one for one in _nft_obstacles(told) if one.family in families]


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


def _nft_obstacles(told: Set[str]) -> list[Obstacle]:
    """Look at nft's own chains: those that drop at their end and say nothing of untracked.

    Of the families ``told`` the iptables command has told what is in its tables.
    """
    ruleset = listed_rules.of_nft()
    found = []
    for chain in ruleset.chains:
        table = (chain["family"], chain["table"])
        forwards = chain.get("hook") == "forward" and chain.get("type") == "filter"
        if not forwards or chain["family"] not in _NFT_FAMILIES:
            continue
        if table[0] in told and table[1] in _IPTABLES_TABLES and chain["name"] == "FORWARD":
            continue
        rules = [rule for rule in ruleset.rules if (rule["family"], rule["table"]) == table]
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
