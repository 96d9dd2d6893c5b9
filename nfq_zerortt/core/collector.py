"""Carried flows that are over: their ends are reported, and some time later their entries go."""

from __future__ import annotations

import heapq

from nfq_zerortt.core.actions import Action
from nfq_zerortt.core.endings import Endings
from nfq_zerortt.core.entries import Entries
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.passing import KEEP_S
from nfq_zerortt.core.states import ENDED, Event, State


class Collector:
    """Looks after the ends of flows that are only the carrier's.

    A flow that has ended stays for repeated FINs and stragglers. This process remembers when those
    are over whose end it has reported, so that they go in time, or sooner if there is no room.
    All others are found by whoever goes through all entries (:meth:`is_due`).
    """

    def __init__(self, entries: Entries, endings: Endings) -> None:
        self._entries = entries
        self._endings = endings
        self._lingering: list[tuple[float, bytes]] = []  # a heap

    def look_after(self, client_key: bytes, now: float) -> list[Action]:
        """Report and forget a flow, as far as it is time for that."""
        flow = self._entries.carrier.find(client_key)
        if flow is None:
            return []
        actions = self._look_after(flow, now)
        flow.dissolve()
        return actions

    def _look_after(self, flow: Flow, now: float) -> list[Action]:
        if flow.passing:
            if now - flow.last_seen > KEEP_S:
                self._entries.remove(flow.client_key)
            return []
        if flow.superseded:
            self._entries.remove(flow.client_key)
            return self._endings.seen(flow)
        over = flow.last_seen + self._endings.linger(flow)
        if flow.state in ENDED and not flow.ended:
            actions = self._endings.seen(flow)
            self._entries.carrier.mark_reported(flow)
            self._entries.is_full = False  # it can make room from now on
            heapq.heappush(self._lingering, (over, flow.client_key))
            return actions
        if over > now:
            if flow.ended:
                heapq.heappush(self._lingering, (over, flow.client_key))
            return []
        self._entries.remove(flow.client_key)
        if flow.ended:
            return []
        flow.apply(Event.TIMEOUT)
        return self._endings.told(flow, "timeout")

    def is_due(self, state: State, *, reported: bool, silent: float) -> bool:
        """Tell whether :meth:`look_after` has anything to do about a flow that is like this."""
        if state in ENDED and not reported:
            return True
        return silent >= self._endings.patience(state)

    def next_deadline(self) -> float | None:
        """Return when :meth:`tick` is to be called, or None."""
        return self._lingering[0][0] if self._lingering else None

    def tick(self, now: float) -> None:
        """Forget flows that ended long enough ago."""
        while self._lingering and self._lingering[0][0] <= now:
            _, client_key = heapq.heappop(self._lingering)
            flow = self._entries.carrier.find(client_key)
            if flow is not None:
                if flow.ended:  # else another flow has this 4-tuple now
                    self._look_after(flow, now)
                flow.dissolve()

    def make_room(self) -> bool:
        """Forget the flow that is over first; tell whether there was one."""
        while self._lingering:
            _, client_key = heapq.heappop(self._lingering)
            flow = self._entries.carrier.find(client_key)
            if flow is not None:
                is_over = flow.ended
                flow.dissolve()
                if is_over:
                    self._entries.remove(client_key)
                    return True
        # Others are known to another process, which looks after the ends.
        return not self._entries.is_full and self._entries.carrier.make_room()
