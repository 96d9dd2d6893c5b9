"""Connections that pass untouched: remembered, so that they stay that way and are named once."""

from __future__ import annotations

from collections import OrderedDict

from nfq_zerortt.wire.view import SegmentView

_MOST = 131_072  # two for each connection
KEEP_S = 120.0
"""So long after its last packet a connection may still be there. A SYN on its 4-tuple may be a
stranger's guess until then; if it is a new connection, that one passes untouched as well."""


class Passing:
    """The 4-tuples, as packets of either side carry them; bounded, the quietest forgotten first."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, float] = OrderedDict()

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
