"""One direction of a flow: what came, what left, and what came again."""

from __future__ import annotations

from collections import deque

from nfq_zerortt.observe.pairing import Pairing, Shape
from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.tracing.words import later_by
from nfq_zerortt.wire import flags as tcp

_KEPT_S = 150.0  # early data may be held until the last SYN was not answered
_KEPT_LATER_S = 5.0
_MOST_WAITING = 512  # more than early data may have segments
_BELOW_ALL = -(1 << 32)


class Way:
    """One direction.

    Attributes:
        pairing: finds what came again when it leaves.
        recent: the latest data and FINs that came: where they begin and end.
        came_to, left_to: the number behind all data and FINs that came, and that left.
    """

    __slots__ = ("came_to", "left_to", "pairing", "recent")

    def __init__(self, recent: deque[tuple[int, int, Packet]]) -> None:
        self.pairing: Pairing[Packet] = Pairing(_KEPT_S, _MOST_WAITING)
        self.recent = recent
        self.came_to = 0
        self.left_to = 0

    def __len__(self) -> int:
        """Return how much is kept: packets, and numbers of some that left."""
        return len(self.pairing) + len(self.recent)

    def shed(self) -> None:
        """Keep nothing of what came, and left."""
        self.pairing.clear()
        self.recent.clear()

    def begin_in_the_middle(self) -> None:
        """Take nothing for a repetition because its number is below that which is counted from."""
        self.came_to = self.left_to = _BELOW_ALL

    def early_data_is_over(self) -> None:
        """Keep what came for less long: nothing has to be held any more."""
        self.pairing.keep_s = _KEPT_LATER_S

    def came(self, packet: Packet, shape: Shape) -> None:
        """Take in a packet that came."""
        end = _end(shape)
        if end > shape.seq:
            if (shape.end if shape.length else end) <= self.came_to:
                self._came_again(packet, shape)
            self.came_to = max(self.came_to, end)
            self.recent.append((shape.seq, end, packet))
        self.pairing.came(packet, shape, packet.time_s)

    def left(self, packet: Packet, shape: Shape) -> Packet | None:
        """Take in a packet that left, and return it as it came; None: it had not come."""
        origin = self.pairing.left(shape, packet.time_s)
        end = _end(shape)
        if end > shape.seq:
            self.left_to = max(self.left_to, end)
        return origin

    def _came_again(self, packet: Packet, shape: Shape) -> None:
        # Of data with a FIN, that may have come first as packets of their own, the data counts.
        upto = shape.end if shape.length else _end(shape)
        first = next(
            (p for start, end, p in self.recent if start <= shape.seq and upto <= end), None
        )
        if first is None:
            packet.because.append("sent again, or overtaken on the way: data behind it had come")
            return
        # Not one by one: each would keep all before it in memory.
        packet.repeats = first.repeats or first
        said = f"a repetition of {first.tag}, {later_by(first, packet)} after it"
        if upto > self.left_to:
            said += ", whose data had not left yet" if shape.length else ", which had not left yet"
        elif first.onward:
            left = first.onward[-1]
            said += f", which had left as {left.tag} {later_by(left, packet)} before"
        packet.because.append(said)


def _end(shape: Shape) -> int:
    """Return the number behind a packet: a FIN takes one, like a byte of data."""
    return shape.end + bool(shape.marks & tcp.FIN)
