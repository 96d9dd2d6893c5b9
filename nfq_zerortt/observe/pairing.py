"""Which of the packets that came to a host it is that left it.

A host may forward a packet, keep it for a while, cut it into smaller segments, drop it, or make
one of its own. The numbers here are relative (see hops.py), so they are the same on both sides of
a translation. For one direction; both kinds are to be told in order of time.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from nfq_zerortt.wire import flags as tcp

T = TypeVar("T")

MARKS = tcp.SYN | tcp.FIN | tcp.RST
"""The flags that a packet without data must have in common with what it became."""

_RECENT_S = 0.02
"""What is sent again is taken for what came so short a time before, if anything did."""
_LONGEST = 1 << 18
"""Bytes of data in one packet at most; with segmentation offload it may be as long as that."""
_MOST_LEFT = 1024


class Shape(NamedTuple):
    """What a packet says. ``marks`` are those flags of MARKS that it has.

    ``stamp`` is its TSval, relative like the numbers; None if it is not known. ``ident`` is what
    its IP header is told apart by; None if it has nothing of that kind.
    """

    marks: int
    seq: int
    ack: int
    length: int
    stamp: int | None = None
    ident: int | None = None

    @property
    def end(self) -> int:
        """The number behind its data."""
        return self.seq + self.length

    @property
    def is_syn(self) -> bool:
        """Whether it opens a connection; a SYN-ACK acknowledges something."""
        return bool(self.marks & tcp.SYN) and not self.marks & tcp.ACK


def marks_of(flags: int) -> int:
    """Return the marks of a packet: those of MARKS, and for a SYN-ACK the ACK as well."""
    marks = flags & MARKS
    return marks | flags & tcp.ACK if marks & tcp.SYN else marks


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T]):
    token: T
    shape: Shape
    time_s: float
    order: int
    passed: int = 0


class Pairing(Generic[T]):
    """One direction at one host. A token stands for a packet that came."""

    def __init__(self, keep_s: float = float("inf"), most: int | None = None) -> None:
        """A packet may stay for ``keep_s`` and be recognised still, and ``most`` of them may."""
        self.keep_s = keep_s
        self._most = most
        self._order = 0
        self._waiting: OrderedDict[int, _Waiting[T]] = OrderedDict()
        self._plain: dict[tuple[int, int, int], deque[_Waiting[T]]] = {}
        self._data: list[tuple[int, int, _Waiting[T]]] = []
        self._sent_to: int | None = None
        self._left: dict[tuple[int, int, int], None] = {}

    def __len__(self) -> int:
        """Return how much is kept: packets that came, and numbers of some that left."""
        return len(self._waiting) + len(self._left)

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._plain.clear()
        self._data.clear()
        self._left.clear()

    def came(self, token: T, shape: Shape, time_s: float) -> None:
        """A packet came to the host."""
        self._forget(time_s)
        self._order += 1
        waiting = _Waiting(token, shape, time_s, self._order)
        self._waiting[self._order] = waiting
        if shape.length and not shape.is_syn:
            bisect.insort(self._data, (shape.seq, self._order, waiting))
        else:
            self._plain.setdefault(_key(shape), deque()).append(waiting)

    def left(self, shape: Shape, time_s: float) -> T | None:
        """Tell which one it was that left the host; None: one of its own."""
        self._forget(time_s)
        if shape.length and not shape.is_syn:
            return self._data_left(shape, time_s)
        key = _key(shape)
        queue = self._plain.get(key)
        again = key in self._left
        self._left[key] = None
        if len(self._left) > _MOST_LEFT:
            del self._left[next(iter(self._left))]
        found = _chosen(queue or (), shape, time_s, again=again)
        if found is None or (shape.is_syn and found.shape.length > shape.length):
            return None
        self._drop(found)
        return found.token

    def _data_left(self, shape: Shape, time_s: float) -> T | None:
        last = bisect.bisect_right(self._data, shape.seq, key=lambda one: one[0])
        candidates: list[_Waiting[T]] = []
        for place in range(last - 1, -1, -1):
            start, _, waiting = self._data[place]
            if start < shape.seq - _LONGEST:
                break
            if waiting.shape.end >= shape.end:
                candidates.append(waiting)
        candidates.sort(key=lambda one: one.order)
        again = self._sent_to is not None and shape.end <= self._sent_to
        self._sent_to = shape.end if self._sent_to is None else max(self._sent_to, shape.end)
        found = _chosen(candidates, shape, time_s, again=again)
        if found is None:
            return None
        found.passed += shape.length
        if found.passed >= found.shape.length:
            self._drop(found)
        return found.token

    def _drop(self, waiting: _Waiting[T]) -> None:
        del self._waiting[waiting.order]
        shape = waiting.shape
        if shape.length and not shape.is_syn:
            place = bisect.bisect_left(self._data, (shape.seq, waiting.order), key=lambda o: o[:2])
            del self._data[place]
            return
        queue = self._plain[_key(shape)]
        queue.remove(waiting)
        if not queue:
            del self._plain[_key(shape)]

    def _forget(self, now_s: float) -> None:
        waiting = self._waiting
        while waiting:
            oldest = next(iter(waiting.values()))
            full = self._most is not None and len(waiting) > self._most
            if not full and now_s - oldest.time_s <= self.keep_s:
                return
            self._drop(oldest)


def _key(shape: Shape) -> tuple[int, int, int]:
    """What a packet without data is found by; a SYN, which may get data on its way, likewise."""
    return shape.marks, shape.seq, shape.ack


def _chosen(
    candidates: deque[_Waiting[T]] | list[_Waiting[T]] | tuple[()],
    shape: Shape,
    time_s: float,
    *,
    again: bool,
) -> _Waiting[T] | None:
    """Choose among several with the same numbers: the first one, unless there is better.

    The timestamp tells them apart, where there is one, and the IP header, which a packet mostly
    keeps. What leaves ``again`` is rather one that came just now than one that has been kept.
    """
    if not candidates:
        return None
    same = [one for one in candidates if shape.stamp is not None and one.shape.stamp == shape.stamp]
    among = same or list(candidates)
    same = [one for one in among if shape.ident is not None and one.shape.ident == shape.ident]
    if same:
        return same[0]
    if again:
        among = [one for one in among if time_s - one.time_s <= _RECENT_S] or among
    return among[0]
