"""Connections that pass untouched: remembered, so that they stay that way and are named once.

With a kernel data path they get entries there, too, which keep their packets from coming here.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from nfq_zerortt.core.entries import SETTLED_S, Entries
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.wire.view import SegmentView

_MOST = 131_072  # two for each connection
KEEP_S = 120.0
"""So long after its last packet a connection may still be there. A SYN on its 4-tuple may be a
stranger's guess until then; if it is a new connection, that one passes untouched as well."""


class Passing:
    """The 4-tuples, as packets of either side carry them; bounded, the quietest forgotten first.

    Attributes:
        entries: those of the kernel data path, if there is one.
        carried: how many connections have one, as far as is known.
        max_carried: how many may: a stranger's packets look the same.
    """

    def __init__(self) -> None:
        self.entries: Entries | None = None
        self.carried = 0
        self.max_carried = 0
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._moving: deque[tuple[float, bytes]] = deque()

    def __len__(self) -> int:
        """Return how many connections are remembered."""
        return len(self._seen) // 2

    def knows(self, view: SegmentView, now: float) -> bool:
        """Tell whether the packet belongs to such a connection, and remember it for longer."""
        key = view.flow_key
        seen = self._seen.get(key)
        if seen is None or now - seen > KEEP_S:
            return False
        self._note(key, now)
        return True

    def add(self, view: SegmentView, now: float) -> None:
        """Let the packet's connection pass from now on."""
        self._note(view.reply_key, now)
        self._note(view.flow_key, now)
        while len(self._seen) > _MOST:
            self._seen.popitem(last=False)

    def forget(self, view: SegmentView) -> None:
        """The packet begins a flow: nothing on its 4-tuple passes any more."""
        self._seen.pop(view.flow_key, None)
        self._seen.pop(view.reply_key, None)

    def _note(self, key: bytes, now: float) -> None:
        self._seen[key] = now
        self._seen.move_to_end(key)

    def hand_over(self, client_key: bytes, now: float) -> None:
        """Keep the packets of such a connection from coming here, if there is room for that."""
        if self.entries is None:
            return
        moving = self.entries.moving
        while self._moving and self._moving[0][0] < now:
            _, settled = self._moving.popleft()
            if settled in moving and moving[settled].flow.passing:
                moving.pop(settled).flow.dissolve()
        if not self.entries.enabled or self.carried >= self.max_carried or client_key in moving:
            return
        there = self.entries.carrier.find(client_key)
        if there is not None:
            there.dissolve()
            if not there.superseded:  # what is there already stays
                return
        flow = Flow.unknown(client_key, now)
        flow.passing = True
        if not self.entries.insert(flow, now):
            flow.dissolve()
            return
        self.carried += 1
        self._moving.append((now + SETTLED_S, client_key))
