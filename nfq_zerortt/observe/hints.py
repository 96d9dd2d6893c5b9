"""What the first events say about how the service was put into the network.

Two ways to hold it wrong show only when packets come: the two interfaces exchanged, and
answers that do not come back through this router. Each is told once, and only as long as
nothing has been seen that speaks against it: by any process of the service, or by a former one.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from typing import Any

FROM_SERVER_SIDE = 5
"""Connections from the servers' side: one or two come to any router, clients or not."""

UNANSWERED_SYNS = 4
ANSWER_S = 1.4
"""SYNs of one connection, and what lies between the second and the last of them, at least: by
default these are sent after 0.25 s and 1.75 s. Late answers would be there."""

_WATCHED = 64  # connections without an answer, at a time

_ENDED = frozenset({"flow.closed", "flow.reset"})

_CLIENTS_SEEN, _SERVERS_SEEN, _EXCHANGED, _NO_ANSWERS = range(4)

# The service has them from the SYN of a client, looked at after the side that it came from.
_OF_A_CLIENT = frozenset(
    {"direct", "refused_lately", "unreachable_lately", "no_answer_lately", "client_fast_open"}
)

Hint = tuple[str, str, str]
"""What it is about, what was seen, and what to do."""


class Hints:
    """Looks at the events of a service; those of its workers are in processes forked off later."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._known = mmap.mmap(-1, _NO_ANSWERS + 1)  # one memory for all processes
        self._from_server_side: set[str] = set()
        self._unanswered: dict[str, float] = {}

    def note(self, event: str, fields: Mapping[str, Any]) -> Hint | None:
        """Take notice of an event; return what is to be said now, if anything."""
        if event in _ENDED:
            self._unanswered.pop(fields["flow"], None)  # it takes no room from those that go on
        if event == "flow.syn_received":
            self._known[_CLIENTS_SEEN] = 1
        elif event == "flow.synack_captured" or fields.get("by") == "server":
            self._known[_SERVERS_SEEN] = 1
        elif event == "service.flows_adopted":
            self._known[_CLIENTS_SEEN] = self._known[_SERVERS_SEEN] = 1
        elif event == "flow.bypassed":
            return self._bypassed(fields)
        elif event == "flow.syn_forwarded" and fields["attempt"] > 1:
            return self._repeated(fields)
        return None

    def _bypassed(self, fields: Mapping[str, Any]) -> Hint | None:
        if fields["reason"] in _OF_A_CLIENT:
            self._known[_CLIENTS_SEEN] = 1
        if self._known[_CLIENTS_SEEN] or fields["reason"] != "from_server_side":
            return None
        self._from_server_side.add(fields["flow"])  # a repeated SYN is of the same
        if len(self._from_server_side) < FROM_SERVER_SIDE:
            return None
        return self._once(_EXCHANGED, _exchanged(fields))

    def _repeated(self, fields: Mapping[str, Any]) -> Hint | None:
        if self._known[_SERVERS_SEEN]:
            self._unanswered.clear()
            return None
        now = time.monotonic()
        if fields["attempt"] < UNANSWERED_SYNS:
            if len(self._unanswered) < _WATCHED:
                self._unanswered.setdefault(fields["flow"], now)
        elif now - self._unanswered.get(fields["flow"], now) >= ANSWER_S:
            return self._once(_NO_ANSWERS, _no_answers(fields))
        return None

    def _once(self, which: int, hint: Hint) -> Hint | None:
        told, self._known[which] = self._known[which], 1
        return None if told else hint


def _exchanged(fields: Mapping[str, Any]) -> Hint:
    return (
        "the two interfaces",
        f"the first {FROM_SERVER_SIDE} connections (the last is {fields['flow']}) came in on the "
        "servers' side; such connections pass untouched",
        "if the clients are on that side, exchange --client-iface and --server-iface",
    )


def _no_answers(fields: Mapping[str, Any]) -> Hint:
    server = fields["flow"].partition(">")[2]
    return (
        "no answers",
        f"{server} has not answered {fields['attempt']} SYNs, and no other server has answered yet",
        "if it answers without the service, its packets come back by another way than through "
        "--server-iface (compare the routes of both directions), or are dropped or translated here "
        "(nfq-zerortt check names NAT, firewall and reverse path filter); servers for which that "
        'cannot be changed: a [[destination]] with strategy = "direct"',
    )
