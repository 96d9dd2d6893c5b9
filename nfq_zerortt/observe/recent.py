"""The last events, to look into a flow that is there: kept as they were, written when asked for."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

from nfq_zerortt.observe.events import CAPPED, LEVELS
from nfq_zerortt.observe.log import Timestamps

MOST = 2000
"""A connection has eight events."""
MOST_CAPPED = 200
"""Of those that a stranger can cause at will: they must not drive the others out."""

_Event = tuple[float, str, Mapping[str, Any]]


class Recent:
    """Keeps the last events of one process. At level debug those about packets are among them."""

    def __init__(self) -> None:
        self._events: deque[_Event] = deque(maxlen=MOST)
        self._capped: deque[_Event] = deque(maxlen=MOST_CAPPED)

    def add(self, event: str, fields: Mapping[str, Any]) -> None:
        """Keep an event, with the time of now."""
        kept = self._capped if event in CAPPED else self._events
        kept.append((time.time(), event, fields))

    def records(self, flow_id: int | None = None) -> Iterator[dict[str, Any]]:
        """Give them as the log has them, the oldest first: all, or those of one flow."""
        chosen = [
            [one for one in kept if flow_id is None or one[2].get("flow_id") == flow_id]
            for kept in (self._events, self._capped)
        ]
        stamps = Timestamps()
        for when, event, fields in heapq.merge(*chosen, key=itemgetter(0)):
            yield {"timestamp": stamps.of(when), "level": LEVELS[event], "event": event, **fields}
