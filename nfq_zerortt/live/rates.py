"""What happened lately, from what was told one time after the other."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from nfq_zerortt.observe.metrics import differences, quantile

WINDOW_S = 10.0
SHARES = (0.5, 0.9, 0.99)

Record = dict[str, Any]


@dataclass(frozen=True)
class Latency:
    """About the spoofed SYN-ACKs: the quantiles of :data:`SHARES`, seconds.

    Attributes:
        recent: they are of the last ten seconds, else of all the time.
    """

    quantiles: tuple[float, ...]
    recent: bool


class Rates:
    """Keeps what was told in the last seconds."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, Record]] = deque()

    def take(self, at: float, stats: Record) -> None:
        """Take in what was told at that time."""
        if self._told and self._told[-1][0] == at:
            return
        if self._told and stats["service"]["pid"] != self._told[-1][1]["service"]["pid"]:
            self._told.clear()  # it was started anew, and counts from 0
        self._told.append((at, stats))
        while self._told[0][0] < at - WINDOW_S:
            self._told.popleft()

    def per_second(self, *names: str) -> float:
        """Return how fast that counter has grown, with all that is below it."""
        (since, before), (at, now) = self._told[0], self._told[-1]
        if at == since:
            return 0.0
        return (_sum(now["counters"], names) - _sum(before["counters"], names)) / (at - since)

    def latency(self) -> Latency | None:
        """Return how long it took to answer SYNs; None if there was none."""
        before, now = (told[1]["histograms"]["syn_ack_seconds"] for told in self._ends())
        lately = differences(now["counts"], before["counts"])
        recent = any(lately)
        counts = lately if recent else now["counts"]
        found = [quantile(share, counts, now["bounds"]) for share in SHARES]
        values = tuple(value for value in found if value is not None)
        return Latency(values, recent) if values else None

    def _ends(self) -> tuple[tuple[float, Record], tuple[float, Record]]:
        return self._told[0], self._told[-1]


def _sum(counters: Any, names: tuple[str, ...]) -> float:
    for name in names:
        counters = counters.get(name, {})
    if isinstance(counters, dict):
        return sum(_sum(inner, ()) for inner in counters.values())
    return float(counters)
