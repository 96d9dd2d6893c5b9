"""How late the delay line lets packets go: a histogram of fixed size."""

from __future__ import annotations

from dataclasses import dataclass

_BUCKETS_PER_S = 50_000  # of 20 µs each
_BUCKETS = 5_000  # up to 100 ms; what is later counts as the last one


@dataclass(frozen=True, slots=True)
class LatenessFigures:
    """Actual minus planned release, in milliseconds."""

    median_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Lateness:
    """Counts samples in constant time and memory, for it runs once per packet."""

    def __init__(self) -> None:
        self._counts = [0] * (_BUCKETS + 1)
        self._max_s = 0.0

    def add(self, late_s: float) -> None:
        """Count one release that was ``late_s`` seconds (0 or more) behind its plan."""
        index = int(late_s * _BUCKETS_PER_S)
        self._counts[index if index < _BUCKETS else _BUCKETS] += 1
        self._max_s = max(self._max_s, late_s)

    def figures(self) -> LatenessFigures:
        """Return the figures so far, each percentile rounded up to its bucket's end (20 µs)."""
        total = sum(self._counts)
        shares = [0.5, 0.95, 0.99]
        found: list[float] = []
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            while len(found) < len(shares) and total and seen >= shares[len(found)] * total:
                end_s = (index + 1) / _BUCKETS_PER_S
                found.append(min(end_s, self._max_s) * 1000)
            if len(found) == len(shares):
                break
        median, p95, p99 = (round(value, 3) for value in (found or [0.0, 0.0, 0.0]))
        return LatenessFigures(median, p95, p99, round(self._max_s * 1000, 3))
