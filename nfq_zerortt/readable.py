"""Numbers as people read them: short, with their unit, and counts in a line."""

from __future__ import annotations

from collections.abc import Mapping


def milliseconds(seconds: float | None) -> str:
    """Write a time in milliseconds, with three digits or so; "-" for none."""
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def span(seconds: float) -> str:
    """Write a longer time in its two largest units: "2 h 5 min"."""
    whole = int(seconds)
    for unit, size, smaller, part in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def rounded(seconds: float) -> str:
    """Write a longer time in its largest unit alone: "2 h"."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def short(value: float) -> str:
    """Write a count or a size in at most five characters: "1.2k", "34M"."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return (
                f"{value / size:.1f}{unit}" if value < 10 * size else f"{value // size:.0f}{unit}"
            )
    return f"{value:.0f}"


def listed(counts: Mapping[str, int]) -> str:
    """Write the counts that are not 0, the highest first: "12: 10 hold, 2 observe"."""
    there = sorted((-count, name) for name, count in counts.items() if count)
    if not there:
        return "none"
    parts = ", ".join(f"{-count:,} {name}" for count, name in there)
    return parts if len(there) == 1 else f"{sum(counts.values()):,}: {parts}"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
