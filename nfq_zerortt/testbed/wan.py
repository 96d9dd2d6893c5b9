"""What the wide area network between the two NICs is like."""

from __future__ import annotations

from dataclasses import dataclass

from nfq_zerortt.errors import ConfigError

# The number of the delay line's NFQUEUE in servernic's namespace.
QUEUE_NUMBER = 64000

MAX_RTT_MS = 10_000.0
MIN_RATE_MBIT = 0.01
MAX_RATE_MBIT = 100_000.0

# A full Ethernet frame, as tc counts it: 1500 bytes of IP and 14 of header.
_FRAME_BYTES = 1514

_SMALLEST_QUEUE_BYTES = 20 * _FRAME_BYTES


@dataclass(frozen=True, slots=True)
class WanSettings:
    """Delay, loss and rate of the WAN; ConfigError on a value that is out of range.

    ``rtt_ms``: milliseconds there and back, half of it in each direction.
    ``loss_percent``: the share of packets lost, in each direction by itself.
    ``rate_mbit``: Mbit/s in each direction; None: as fast as the machine.
    ``seed``: of the losses drawn by the delay line (netem draws its own).
    """

    rtt_ms: float = 100.0
    loss_percent: float = 0.0
    rate_mbit: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rtt_ms <= MAX_RTT_MS:
            raise ConfigError(f"--rtt {self.rtt_ms:g}ms: must be 0ms to {MAX_RTT_MS:g}ms")
        if not 0 <= self.loss_percent <= 100:
            raise ConfigError(f"--loss {self.loss_percent:g}%: must be 0% to 100%")
        if self.rate_mbit is not None and not MIN_RATE_MBIT <= self.rate_mbit <= MAX_RATE_MBIT:
            raise ConfigError(
                f"--rate {self.rate_mbit:g}mbit: must be "
                f"{MIN_RATE_MBIT:g}mbit to {MAX_RATE_MBIT:g}mbit"
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
