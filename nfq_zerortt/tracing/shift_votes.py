"""By what a flow is shifted, found from its packets alone: of a capture without the handshake.

What left had come a moment before, with the same numbers in its sender's space. Often several
packets fit; but only the true shift fits again and again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nfq_zerortt.tracing.numbers import same_but_for_shift, shift_between
from nfq_zerortt.tracing.packets import SOON_S, Packet, Role, segment_of
from nfq_zerortt.wire import flags as tcp

_ENOUGH = 3
_MOST = 4096  # shifts that may be the one


class Votes:
    """How often each shift has fitted."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int | None]] = Counter()

    def __len__(self) -> int:
        """Return how many shifts have fitted."""
        return len(self._counts)

    def clear(self) -> None:
        """Begin anew."""
        self._counts.clear()

    def find(self, left: Packet, came: Iterable[Packet]) -> Packet | None:
        """Return the packet that this one was when it came; None: that is not sure (yet)."""
        if not segment_of(left).flags & tcp.ACK:
            return None
        candidates = {
            shift_between(one, left): one
            for one in came
            if one.role is Role.UNKNOWN
            and left.time_s - one.time_s <= SOON_S
            and same_but_for_shift(one, left)
        }
        if not candidates:
            return None
        if len(self._counts) > _MOST:
            self._counts.clear()
        self._counts.update(candidates.keys())
        if len(candidates) == 1 and left.to_server and segment_of(left).payload_length:
            # The client's numbers are its own on both sides, so its data is found exactly.
            return next(iter(candidates.values()))
        (best, count), *others = self._counts.most_common(2)
        sure = count >= _ENOUGH and not (others and 2 * others[0][1] > count)
        return candidates.get(best) if sure else None
