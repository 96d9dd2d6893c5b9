"""Data that came after data behind it: what was lost before this host, or overtaken there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import distance

_MOST_HOLES = 1024


def late(packets: Iterable[Packet]) -> Iterator[tuple[Packet, float]]:
    """Give what fills a hole, with the milliseconds since the hole was there.

    ``packets``: all of one direction that came, in order of time.
    """
    begin: int | None = None
    reached = 0  # counted from the first data; numbers wrap around, this does not
    holes: list[tuple[int, int, int]] = []  # begin, end, when something behind it came
    for packet in packets:
        segment = packet.segment
        if segment is None or not segment.payload_length or segment.flags & tcp.SYN:
            continue
        if begin is None:
            begin = segment.seq
        start = reached + distance((begin + reached) % (1 << 32), segment.seq)
        end = start + segment.payload_length
        found = [hole for hole in holes if start < hole[1] and hole[0] < end]
        if found:
            yield packet, (packet.time_ns - min(since for _, _, since in found)) / 1e6
            holes = [hole for hole in holes if hole not in found] + [
                (low, high, since)
                for first, last, since in found
                for low, high in ((first, start), (end, last))
                if low < high
            ]
        if start > reached:
            holes.append((reached, start, packet.time_ns))
            del holes[:-_MOST_HOLES]
        reached = max(reached, end)
