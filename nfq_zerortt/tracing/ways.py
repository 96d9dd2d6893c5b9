"""One direction of a flow: what came, what left, and what came again."""

from __future__ import annotations

from collections import deque

from nfq_zerortt.observe.pairing import Pairing, Shape
from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.tracing.words import between

_KEPT_S = 150.0  # early data may be held until the last SYN was not answered
_KEPT_LATER_S = 5.0
_MOST_WAITING = 512  # more than early data may have segments


class Way:
    """One direction.

    Attributes:
        pairing: finds what came again when it leaves.
        recent: the latest data that came: where it begins and ends.
        came_to, left_to: the number behind all data that came, and that left.
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

    def early_data_is_over(self) -> None:
        """Keep what came for less long: nothing has to be held any more."""
        self.pairing.keep_s = _KEPT_LATER_S

    def came(self, packet: Packet, shape: Shape) -> None:
        """Take in a packet that came."""
        if shape.length:
            if shape.end <= self.came_to:
                self._came_again(packet, shape)
            self.came_to = max(self.came_to, shape.end)
            self.recent.append((shape.seq, shape.end, packet))
        self.pairing.came(packet, shape, packet.time_s)

    def left(self, packet: Packet, shape: Shape) -> Packet | None:
        """Take in a packet that left, and return it as it came; None: it had not come."""
        origin = self.pairing.left(shape, packet.time_s)
        if shape.length:
            self.left_to = max(self.left_to, shape.end)
        return origin

    def _came_again(self, packet: Packet, shape: Shape) -> None:
        first = next(
            (p for start, end, p in self.recent if start <= shape.seq and shape.end <= end), None
        )
        if first is None:
            packet.because.append("sent again, or overtaken on the way: data behind it had come")
            return
        # Not one by one: each would keep all before it in memory.
        packet.repeats = first.repeats or first
        said = f"a repetition of {first.tag}, {between(first, packet)} after it"
        if shape.end > self.left_to:
            said += ", whose data had not left yet"
        elif first.onward:
            left = first.onward[-1]
            said += f", which had left as {left.tag} {between(left, packet)} before"
        packet.because.append(said)
