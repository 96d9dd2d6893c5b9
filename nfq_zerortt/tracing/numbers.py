"""Numbers of one packet on both sides: how they are counted, and how they are compared."""

from __future__ import annotations

from nfq_zerortt.tracing.packets import Packet, Role, segment_of
from nfq_zerortt.wire.seqnum import add, distance

_FAR = 1 << 28


class Space:
    """One side's sequence numbers, counted from ``isn`` and never wrapping around."""

    __slots__ = ("_at", "_high", "isn")

    def __init__(self, isn: int) -> None:
        self.isn = isn
        self._at = isn
        self._high = 0

    def relative(self, number: int) -> int:
        """Return how far a number is behind the ISN."""
        step = distance(self._at, number)
        if 0 < step < _FAR:
            self._at = number
            self._high += step
            return self._high
        return self._high + step


def is_same(came: Packet, left: Packet) -> bool:
    """Whether nothing was changed."""
    one, other = segment_of(came), segment_of(left)
    return (
        came.to_server == left.to_server
        and came.role is Role.UNKNOWN
        and (one.seq, one.ack, one.flags, one.payload_length, one.option_bytes)
        == (other.seq, other.ack, other.flags, other.payload_length, other.option_bytes)
    )


def same_but_for_shift(came: Packet, left: Packet) -> bool:
    """Whether nothing that its sender counts was changed."""
    if came.to_server != left.to_server:
        return False
    one, other = segment_of(came), segment_of(left)
    if one.flags != other.flags or one.payload_length != other.payload_length:
        return False
    there, here = one.readable_options.timestamps, other.readable_options.timestamps
    if (there is None) != (here is None):
        return False
    if came.to_server:
        return one.seq == other.seq and (there is None or there[0] == here[0])  # type: ignore[index]
    return one.ack == other.ack and (there is None or there[1] == here[1])  # type: ignore[index]


def shift_between(came: Packet, left: Packet) -> tuple[int, int | None]:
    """Return Δ and τ if the two are the same packet."""
    one, other = segment_of(came), segment_of(left)
    there, here = one.readable_options.timestamps, other.readable_options.timestamps
    tau = None
    if came.to_server:
        if there is not None and here is not None:
            tau = add(here[1], -there[1])
        return add(other.ack, -one.ack), tau
    if there is not None and here is not None:
        tau = add(there[0], -here[0])
    return add(one.seq, -other.seq), tau
