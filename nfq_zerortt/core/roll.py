"""The flows of a table in the order in which they came, to be gone through while they change.

Of a dictionary one would have to copy the keys first: with 65,536 flows that takes more than a
millisecond, and packets wait. Here the flows are a linked list, and whoever goes through it stands
between two of them. So nothing is copied, and a flow that is there from the beginning of a walk to
its end is met exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfq_zerortt.core.flow import Flow


class _Walk:
    """Somebody who goes through the roll: ``ahead`` is the next flow to be met."""

    __slots__ = ("ahead",)

    def __init__(self, first: Flow | None) -> None:
        self.ahead = first


class Roll:
    """Flows, each once, linked by :attr:`Flow.earlier` and :attr:`Flow.later`."""

    __slots__ = ("_first", "_last", "_walks")

    def __init__(self) -> None:
        self._first: Flow | None = None
        self._last: Flow | None = None
        self._walks: list[_Walk] = []

    def append(self, flow: Flow) -> None:
        """Take in a flow that is not on the roll."""
        flow.earlier, flow.later = self._last, None
        if self._last is None:
            self._first = flow
        else:
            self._last.later = flow
        self._last = flow

    def remove(self, flow: Flow) -> None:
        """Strike out a flow that is on the roll."""
        for walk in self._walks:
            if walk.ahead is flow:
                walk.ahead = flow.later
        if flow.earlier is None:
            self._first = flow.later
        else:
            flow.earlier.later = flow.later
        if flow.later is None:
            self._last = flow.earlier
        else:
            flow.later.earlier = flow.earlier
        flow.earlier = flow.later = None

    def __iter__(self) -> Iterator[Flow]:
        """Give the flows, the oldest first; they may come and go meanwhile."""
        walk = _Walk(self._first)
        self._walks.append(walk)
        try:
            while (flow := walk.ahead) is not None:
                walk.ahead = flow.later
                yield flow
        finally:
            self._walks.remove(walk)
