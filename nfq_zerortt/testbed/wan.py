"""What the wide area network between the two NICs is like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from nfq_zerortt.errors import ConfigError

# The number of the delay line's NFQUEUE in servernic's namespace.
QUEUE_NUMBER = 64000

MAX_RTT_MS = 10_000.0
MAX_REORDER_MS = 10_000.0
DEFAULT_REORDER_MS = 5.0
MIN_RATE_MBIT = 0.01
MAX_RATE_MBIT = 100_000.0

# A full Ethernet frame, as tc counts it: 1500 bytes of IP and 14 of header.
_FRAME_BYTES = 1514

_SMALLEST_QUEUE_BYTES = 20 * _FRAME_BYTES


class First(StrEnum):
    """A segment of a TCP connection that can be lost once, the first time that it is sent."""

    SYN = "syn"
    SYN_ACK = "syn-ack"
    DATA = "data"
    """The client's first segment with data."""
    ACK = "ack"
    """The third segment of the handshake, if it is a bare ACK."""


@dataclass(frozen=True, slots=True)
class WanSettings:
    """Delay, rate and faults of the WAN; ConfigError on a value that is out of range.

    ``rtt_ms``: milliseconds there and back, half of it in each direction.
    ``loss_percent``: the share of packets lost, in each direction by itself.
    ``rate_mbit``: Mbit/s in each direction; None: as fast as the machine.
    ``seed``: of everything that is drawn.
    ``reorder_percent``: the share of packets, in each direction, that are held back for
    ``reorder_ms`` more, so that those behind them overtake.
    ``duplicate_percent``: the share of packets that arrive twice.
    ``lose_first``: what of every TCP connection is lost once.
    """

    rtt_ms: float = 100.0
    loss_percent: float = 0.0
    rate_mbit: float | None = None
    seed: int = 0
    reorder_percent: float = 0.0
    reorder_ms: float = DEFAULT_REORDER_MS
    duplicate_percent: float = 0.0
    lose_first: tuple[First, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rtt_ms <= MAX_RTT_MS:
            raise ConfigError(f"--rtt {self.rtt_ms:g}ms: must be 0ms to {MAX_RTT_MS:g}ms")
        for option, percent in (
            ("--loss", self.loss_percent),
            ("--reorder", self.reorder_percent),
            ("--duplicate", self.duplicate_percent),
        ):
            if not 0 <= percent <= 100:
                raise ConfigError(f"{option} {percent:g}%: must be 0% to 100%")
        if not 0 < self.reorder_ms <= MAX_REORDER_MS:
            raise ConfigError(
                f"--reorder-by {self.reorder_ms:g}ms: must be above 0ms, at most "
                f"{MAX_REORDER_MS:g}ms"
            )
        if self.rate_mbit is not None and not MIN_RATE_MBIT <= self.rate_mbit <= MAX_RATE_MBIT:
            raise ConfigError(
                f"--rate {self.rate_mbit:g}mbit: must be "
                f"{MIN_RATE_MBIT:g}mbit to {MAX_RATE_MBIT:g}mbit"
            )

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``document`` has written.

        Raises TypeError, KeyError, ValueError or ConfigError for anything else.
        """
        fields = dict(document)
        return cls(lose_first=tuple(First(name) for name in fields.pop("lose_first")), **fields)

    def document(self) -> dict[str, Any]:
        """Return the settings as JSON has them."""
        return asdict(self) | {"lose_first": [str(first) for first in self.lose_first]}

    @property
    def has_faults(self) -> bool:
        """Whether anything happens to packets besides delay and rate."""
        return bool(
            self.loss_percent or self.reorder_percent or self.duplicate_percent or self.lose_first
        )

    @property
    def one_way_ms(self) -> float:
        """The delay of one direction in milliseconds."""
        return self.rtt_ms / 2

    def rate_queue_bytes(self) -> int:
        """The queue in front of the slow link: one bandwidth-delay product and 20 ms.

        That is enough for a single loss-based flow to fill the link, and
        bounds what a full queue adds to the RTT ("bufferbloat").
        """
        if self.rate_mbit is None:
            raise ValueError("no rate is set")
        bytes_per_ms = self.rate_mbit * 1e6 / 8 / 1000
        return max(round(bytes_per_ms * (self.rtt_ms + 20)), _SMALLEST_QUEUE_BYTES)

    def rate_burst_bytes(self) -> int:
        """What may pass at once: 1 ms worth of the rate, and ten frames at least."""
        if self.rate_mbit is None:
            raise ValueError("no rate is set")
        return max(round(self.rate_mbit * 1e6 / 8 / 1000), 10 * _FRAME_BYTES)
