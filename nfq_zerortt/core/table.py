"""The flow table: flows by the 4-tuple of their packets, their timers, and the bounds."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator

from nfq_zerortt.core.flow import Flow, Path
from nfq_zerortt.core.roll import Roll
from nfq_zerortt.core.states import ENDED, HALF_OPEN

_LONGEST_WAIT = 60.0
"""A timer further away is looked at again after this time, so that a flow which has ended is
not kept in memory by a timer that it had set for days ahead."""


class FlowTable:
    """All flows of one engine.

    ``paths`` maps the key that a packet carries to the direction that it belongs to; the
    packet path reads it directly. ``held_cost`` is what all held segments cost, bytes.
    """

    def __init__(self) -> None:
        self.paths: dict[bytes, Path] = {}
        self.held_cost = 0
        self._roll = Roll()
        self._timers: list[tuple[float, int, Flow]] = []
        self._order = itertools.count()
        self._half_open: set[Flow] = set()
        self._ended: OrderedDict[Flow, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.paths) // 2

    def __iter__(self) -> Iterator[Flow]:
        """Give the flows, the oldest first; the table may change meanwhile."""
        return iter(self._roll)

    @property
    def half_open(self) -> int:
        """How many flows have no complete handshake yet."""
        return len(self._half_open)

    def add(self, flow: Flow) -> None:
        """Take in a flow."""
        self.paths[flow.client_key] = flow.from_client
        self.paths[flow.server_key] = flow.from_server
        self._roll.append(flow)
        self._half_open.add(flow)

    def changed(self, flow: Flow) -> None:
        """Keep account after a flow changed its state."""
        if flow.state not in HALF_OPEN:
            self._half_open.discard(flow)
        if flow.state in ENDED:
            self._ended[flow] = None

    def oldest_ended(self) -> Flow | None:
        """Return the flow that ended first of those still kept: the first to make room."""
        return next(iter(self._ended), None)

    def remove(self, flow: Flow) -> None:
        """Forget a flow."""
        self._half_open.discard(flow)
        self._ended.pop(flow, None)
        if self.paths.get(flow.client_key) is flow.from_client:
            del self.paths[flow.client_key]
            del self.paths[flow.server_key]
            self._roll.remove(flow)
            flow.dissolve()

    def set_timer(self, flow: Flow, deadline: float, now: float) -> None:
        """Let ``flow`` be due at ``deadline``; a later call replaces an earlier one."""
        flow.deadline = deadline
        wake = min(deadline, now + _LONGEST_WAIT)
        if flow.scheduled is None or wake < flow.scheduled:
            flow.scheduled = wake
            heapq.heappush(self._timers, (wake, next(self._order), flow))

    def next_deadline(self) -> float | None:
        """Return when :meth:`due` has to be asked next, or None."""
        return self._timers[0][0] if self._timers else None

    def due(self, now: float) -> Iterator[Flow]:
        """Give the flows whose time has come, each once."""
        while self._timers and self._timers[0][0] <= now:
            wake, _, flow = heapq.heappop(self._timers)
            if self.paths.get(flow.client_key) is not flow.from_client or flow.scheduled != wake:
                continue  # gone, or scheduled anew for an earlier time
            flow.scheduled = None
            if flow.deadline <= now:
                yield flow
            else:
                self.set_timer(flow, flow.deadline, now)
