"""Firewalls of others, which drop what is untracked."""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import firewall
from nfq_zerortt.kernel.features.feature import Feature, not_looked_at
from nfq_zerortt.kernel.table_walk import TCP


def untracked(client_iface: str | None = None, server_iface: str | None = None) -> Feature:
    """A stateful firewall drops what connection tracking does not see, which is what we handle."""
    name = "firewall passes untracked"
    try:
        found = firewall.obstacles(client_iface, server_iface)
    except ZeroRttError as error:
        return not_looked_at(name, error)
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
    tcp = [one.where for one in forwarded if one.kind is TCP]
    errors = [one.where for one in forwarded if one.kind is not TCP]
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
