"""What the two applications do: the same in every run."""

from __future__ import annotations

from dataclasses import dataclass

FIRST = "first"
SMALL = "small"
THINKING = "thinking"
BULK = "bulk"

_THINK_SHARE = 0.8  # of the round trip, so that it fits into the handshake's wait


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of exchange, made ``connections`` times, one connection after the other.

    ``think_ms``: how long the client is busy with work of its own between connect() and the
    first send.
    """

    key: str
    connections: int
    request_bytes: int
    answer_bytes: int
    think_ms: float = 0.0

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        sizes = f"{_size(self.request_bytes)} request, {_size(self.answer_bytes)} answer"
        busy = f", client busy {self.think_ms:g} ms first" if self.think_ms else ""
        return ("first contact: " if self.key == FIRST else "") + sizes + busy


def works(rtt_ms: float) -> tuple[Work, ...]:
    """Return what is done in each run at this round trip, in this order.

    FIRST is the run's first contact with the server, made apart from the others, for it is then
    that Fast Open learns the cookie.
    """
    return (
        Work(FIRST, 1, 200, 1000),
        Work(SMALL, 10, 200, 1000),
        Work(BULK, 3, 200_000, 200_000),
        Work(THINKING, 6, 200, 1000, think_ms=round(_THINK_SHARE * rtt_ms, 3)),
    )


def _size(count: int) -> str:
    return f"{count // 1000} kB" if count >= 1000 else f"{count} B"
