"""What a benchmark says: one row for each figure."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Attributes:
        figure: what was measured.
        measured: the result, in words.
        target: what is to be reached, empty where the figure is only reported.
        met: whether it was reached; None without a target.
        how: how it was measured.
        values: the numbers behind ``measured``; the unit is part of each name.
    """

    figure: str
    measured: str
    target: str = ""
    met: bool | None = None
    how: str = ""
    values: dict[str, float] = field(default_factory=dict)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was really measured.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("no samples")
    return sorted(samples)[max(math.ceil(percent / 100 * len(samples)), 1) - 1]


def median(samples: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(samples)


def log_uniform(draw: random.Random, low: int, high: int) -> int:
    """Draw a whole number between ``low`` and ``high``, each order of magnitude as likely."""
    return min(max(round(math.exp(draw.uniform(math.log(low), math.log(high)))), low), high)
