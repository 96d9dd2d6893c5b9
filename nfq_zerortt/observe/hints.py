"""What the first events say about how the service was put into the network.

Two ways to hold it wrong show only when packets come: the two interfaces exchanged, and
answers that do not come back through this router. Each is told once, and only as long as
nothing has been seen that speaks against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNANSWERED_SYNS = 4
"""SYNs of one connection, the last after about two seconds: late answers would be there."""

_FROM_SERVER_SIDE = "from_server_side"

Hint = tuple[str, str, str]
"""What it is about, what was seen, and what to do."""


class Hints:
    """Looks at the events of one process of the service."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._clients_seen = False
        self._servers_seen = False
        self._told: set[str] = set()

    def note(self, event: str, fields: Mapping[str, Any]) -> Hint | None:
        """Take notice of an event; return what is to be said now, if anything."""
        if event == "flow.syn_received":
            self._clients_seen = True
        elif event == "flow.synack_captured" or fields.get("by") == "server":
            self._servers_seen = True
        elif event == "flow.bypassed" and fields.get("reason") == _FROM_SERVER_SIDE:
            return self._once(_exchanged(fields)) if not self._clients_seen else None
        elif event == "flow.syn_forwarded" and fields.get("attempt") == UNANSWERED_SYNS:
            return self._once(_no_answers(fields)) if not self._servers_seen else None
        return None

    def _once(self, hint: Hint) -> Hint | None:
        if hint[0] in self._told:
            return None
        self._told.add(hint[0])
        return hint


def _exchanged(fields: Mapping[str, Any]) -> Hint:
    return (
        "the two interfaces",
        f"the first connection ({fields['flow']}) came in on the servers' side; such connections "
        "pass untouched",
        "if the clients are on that side, exchange --client-iface and --server-iface",
    )


def _no_answers(fields: Mapping[str, Any]) -> Hint:
    server = fields["flow"].partition(">")[2]
    return (
        "no answers",
        f"{server} has not answered {UNANSWERED_SYNS} SYNs, and no other server has answered yet",
        "if it answers without the service, its packets come back by another way than through "
        "--server-iface (compare the routes of both directions), or are dropped or translated here "
        "(nfq-zerortt check names NAT, firewall and reverse path filter); servers for which that "
        'cannot be changed: a [[destination]] with strategy = "direct"',
    )
