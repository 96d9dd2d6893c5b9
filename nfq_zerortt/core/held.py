"""Early data: what the client sends before the server has answered.

Segments are copied here and dropped, never parked in the kernel's queue. A
segment that brings nothing new is a spurious retransmission: the client has
measured a round trip of well under a millisecond to us, so its timers fire
before the server's acknowledgement can be here. It must not cross the WAN
again, and the client must learn that it was spurious (RFC 2883), or it would
take it for loss and shrink its window; :class:`Duplicates` keeps the account.
"""

from __future__ import annotations

import bisect

from nfq_zerortt.wire.flags import URG
from nfq_zerortt.wire.seqnum import distance
from nfq_zerortt.wire.view import SegmentView

_MAX_DUPLICATES = 32
_MAX_SEGMENTS = 256
_COST_OF_ONE = 512
"""What a held segment costs beside its bytes, roughly: segments of one byte are bounded, too."""


def cost_of(view: SegmentView) -> int:
    """Return what holding a segment costs, bytes of memory."""
    return len(view.raw) + _COST_OF_ONE


class Held:
    """The held segments of one flow, each the whole packet as it came from the client."""

    __slots__ = ("_end", "_order", "_segments", "cost", "octets", "start")

    def __init__(self, start: int) -> None:
        """``start``: the sequence number behind the client's SYN."""
        self.start = start
        self.octets = 0
        self.cost = 0
        self._end = start
        self._order = 0
        self._segments: list[tuple[int, int, SegmentView]] = []

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def end(self) -> int:
        """The sequence number behind the last held byte or FIN."""
        return self._end

    @property
    def is_full(self) -> bool:
        """Whether there are as many segments as can be."""
        return len(self._segments) >= _MAX_SEGMENTS

    def contiguous_end(self) -> int:
        """The sequence number up to which nothing is missing."""
        return (self.start + self._reach(0)) & 0xFFFFFFFF

    def covers(self, view: SegmentView) -> bool:
        """Tell whether held segments contain all of the segment's data and FIN."""
        position = distance(self.start, view.seq)
        return position + view.sequence_length <= self._reach(position)

    def _reach(self, position: int) -> int:
        """How far the held segments go without a gap from ``position``, relative to start."""
        for first, _, held in self._segments:
            if first > position:
                break
            position = max(position, first + held.sequence_length)
        return position

    def add(self, view: SegmentView) -> None:
        """Keep a segment."""
        self._order += 1
        bisect.insort(self._segments, (distance(self.start, view.seq), self._order, view))
        self.octets += view.payload_length
        self.cost += cost_of(view)
        if distance(self._end, view.end_seq) > 0:
            self._end = view.end_seq

    def first_data(self) -> bytes:
        """Return the data of the segment that begins right behind the SYN, if it is here.

        Nothing if it is urgent: a SYN cannot say so.
        """
        if self._segments and self._segments[0][0] == 0:
            first = self._segments[0][2]
            return b"" if first.flags & URG else first.payload
        return b""

    def first_stamp(self) -> int | None:
        """Return the TSval of that segment, if it has one."""
        if self._segments and self._segments[0][0] == 0:
            stamps = self._segments[0][2].readable_options.timestamps
            return stamps[0] if stamps else None
        return None

    def release(self) -> list[SegmentView]:
        """Give the segments back in the order of their numbers, and forget them."""
        views = [view for _, _, view in self._segments]
        self._segments = []
        self.octets = self.cost = 0
        return views


class Duplicates:
    """Ranges of early data that the client repeated and that were not passed on."""

    __slots__ = ("_ranges", "count")

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self.count = 0

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def add(self, start: int, end: int) -> None:
        """Note a suppressed retransmission of the sequence numbers from start up to end."""
        self.count += 1
        if len(self._ranges) < _MAX_DUPLICATES:
            self._ranges.append((start, end))

    def forget(self) -> None:
        """What was repeated had been lost after all: no D-SACK is due."""
        self._ranges.clear()

    def acknowledged(self, ack: int) -> list[tuple[int, int]]:
        """Return and forget the ranges that ``ack`` covers: now each is due a D-SACK."""
        covered = [block for block in self._ranges if distance(block[1], ack) >= 0]
        self._ranges = [block for block in self._ranges if distance(block[1], ack) < 0]
        return covered
