"""How far the server is, by what went there and what came back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import distance
from nfq_zerortt.wire.view import SegmentView


def of_data_ms(packets: Iterable[Packet]) -> float | None:
    """Return the shortest time from data that left for the server to its acknowledgement.

    A server may wait with an acknowledgement, so a round trip takes that long at most. None: there
    is no pair of which it is known that they belong together.
    """
    left = _Left()
    shortest: int | None = None
    for packet in packets:
        segment = packet.segment
        if segment is None or packet.tap == 0 or segment.flags & (tcp.SYN | tcp.RST):
            continue
        if packet.to_server and segment.payload_length:
            left.add(segment, packet.time_ns)
        elif not packet.to_server and segment.flags & tcp.ACK:
            left_ns = left.acknowledged_by(segment)
            if left_ns is not None:
                took = packet.time_ns - left_ns
                shortest = took if shortest is None else min(shortest, took)
    return None if shortest is None else shortest / 1e6


class _Left:
    """Data on its way. Timestamps say which copy an acknowledgement is for (RFC 7323, section 4).

    Without them data that left twice says nothing (RFC 6298, section 3).
    """

    def __init__(self) -> None:
        self._stamped: dict[int, int] = {}
        self._plain: deque[tuple[int, int]] = deque()
        self._sent_to: int | None = None
        self._acknowledged: int | None = None

    def add(self, segment: SegmentView, time_ns: int) -> None:
        stamps = segment.readable_options.timestamps
        again = self._sent_to is not None and distance(self._sent_to, segment.seq) < 0
        if self._sent_to is None or distance(self._sent_to, segment.end_seq) > 0:
            self._sent_to = segment.end_seq
        if stamps is not None:
            self._stamped[stamps[0]] = time_ns
        elif again:
            self._plain.clear()
        else:
            self._plain.append((segment.end_seq, time_ns))

    def acknowledged_by(self, segment: SegmentView) -> int | None:
        """Return when the latest that it is for has left; None if it is for nothing new."""
        before = self._acknowledged
        if before is not None and distance(before, segment.ack) <= 0:
            return None
        self._acknowledged = segment.ack
        stamps = segment.readable_options.timestamps
        found = self._stamped.get(stamps[1]) if stamps is not None else None
        while self._plain and distance(self._plain[0][0], segment.ack) >= 0:
            found = self._plain.popleft()[1]
        return found
