"""Rules of others that the packets meet: NAT, and firewalls that drop what is untracked."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import firewall, xtables
from nfq_zerortt.kernel.declarations import FAMILIES
from nfq_zerortt.kernel.features.feature import AS_ROOT, Feature

NAT_TARGETS = frozenset({"MASQUERADE", "SNAT", "DNAT", "NETMAP", "REDIRECT"})


def address_translation() -> Feature:
    """NAT needs the connection tracking that the handled packets are exempt from."""
    name = "no NAT in the way"
    try:
        found = sorted(_legacy_nat() | _nft_nat())
    except ZeroRttError as error:
        return Feature(name, None, False, f"cannot be looked at: {error}", AS_ROOT)
    if not found:
        return Feature(name, True, False, "no NAT rules in this namespace")
    return Feature(
        name,
        False,
        False,
        f"NAT rules ({', '.join(found)}): they do not work on the packets that are handled",
        "do the NAT on another router, or choose --ports so that they do not meet",
    )


def _legacy_nat() -> set[str]:
    found: set[str] = set()
    for family in FAMILIES:
        if xtables.is_in_use(family, "nat"):
            with xtables.opened(family, "nat") as table:
                for chain in table.chains():
                    found |= NAT_TARGETS.intersection(table.targets(chain))
    return found


def _nft_nat() -> set[str]:
    nft = shutil.which("nft", path=firewall.PATH)
    if nft is None:
        return set()
    ran = subprocess.run([nft, "list", "ruleset"], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ZeroRttError(f"nft list ruleset failed: {ran.stderr.partition(chr(10))[0]}")
    words = _NFT_NAT.findall(ran.stdout)
    return {word.upper() for word in words}


_NFT_NAT = re.compile(
    r"^\s+(?!chain|comment|type).*?\b(masquerade|snat|dnat|redirect)\b",
    re.MULTILINE | re.IGNORECASE,
)
"""A rule that translates, in nft's own words or as a target that iptables-nft put there."""


def untracked(client_iface: str | None = None, server_iface: str | None = None) -> Feature:
    """A stateful firewall drops what connection tracking does not see, which is what we handle."""
    name = "firewall passes untracked"
    try:
        found = firewall.obstacles(client_iface, server_iface)
    except ZeroRttError as error:
        return Feature(name, None, False, f"cannot be looked at: {error}", AS_ROOT)
    if not found:
        detail = "nothing drops untracked TCP that is forwarded, or ICMP errors about it"
        return Feature(name, True, False, detail)
    rules_to_add = [
        rule
        for one in found
        for rule in one.remedies(client_iface or "CLIENT-IF", server_iface or "SERVER-IF")
    ]
    return Feature(name, False, False, _told(found), "; ".join(dict.fromkeys(rules_to_add)))


def _told(found: Sequence[firewall.Obstacle]) -> str:
    """Say what the firewall drops, and what that means."""
    forwarded = [one for one in found if one.chain == "FORWARD"]
    tcp = [one.where for one in forwarded if one.kind is firewall.TCP]
    errors = [one.where for one in forwarded if one.kind is not firewall.TCP]
    own = [one.where for one in found if one.chain == "OUTPUT"]
    said = []
    if tcp:
        said.append(
            f"untracked TCP is dropped by {' and '.join(dict.fromkeys(tcp))}, and the packets "
            "between clients and servers are untracked while the service runs: no connection gets "
            "through there"
        )
    if errors:
        said.append(
            f"untracked ICMP errors are dropped by {' and '.join(errors)}, and those about "
            "connections that the service handles are untracked: path MTU discovery fails there"
        )
    if own:
        said.append(
            f"this router's own ICMP errors about untracked packets are dropped by "
            f"{' and '.join(own)}: path MTU discovery fails where its own next link is the narrow "
            "one"
        )
    return "; ".join(said)
