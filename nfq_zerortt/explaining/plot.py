"""The time-sequence plot as text."""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.explaining.explanation import Explanation, Stream
from nfq_zerortt.observe.timeseq import Series, series

_HEIGHT = 12
_LEFT = 9
_MARKS = {"came": "+", "left": "x", "seen": "+"}
_BOTH, _AGAIN = "*", "r"


def series_of(made: Explanation, stream: Stream) -> Series:
    """Return one direction at one place; times count from the first packet."""
    start_s = min((record.time_s for record in made.records), default=0.0)
    return series(made.records, stream.tap, stream.source, stream.destination, start_s)


def draw(made: Explanation, name: str, width: int) -> list[str]:
    """Draw the streams of that name as lines of ``width`` characters; [] if there is no data."""
    drawn = [(s.way, series_of(made, s)) for s in made.streams if s.name == name]
    points = [point for _, one in drawn for point in one.points]
    if not points:
        return []
    most = max(point.end for point in points)
    last_ms = max(point.time_ms for point in points) or 1.0
    columns = width - _LEFT - 1
    cells = [[" "] * columns for _ in range(_HEIGHT)]
    for way, one in drawn:
        for point in one.points:
            row, column = _place(point.end / most, point.time_ms / last_ms, columns)
            there = cells[row][column]
            cells[row][column] = _MARKS[way] if there in (" ", _MARKS[way]) else _BOTH
        for point in one.repeats:
            row, column = _place(point.end / most, point.time_ms / last_ms, columns)
            cells[row][column] = _AGAIN
    lines = [f"{name}: bytes of the stream over time"]
    for number, row_cells in enumerate(cells):
        label = f"{most}" if number == 0 else "0" if number == _HEIGHT - 1 else ""
        lines.append(f"{label:>{_LEFT - 1}} |" + "".join(row_cells).rstrip())
    lines.append(" " * _LEFT + "+" + "-" * columns)
    end = f"{last_ms:.1f} ms"
    lines.append(" " * _LEFT + "0" + end.rjust(columns))
    ways = [way for way, one in drawn if one.points]
    lines.append(" " * _LEFT + _key(ways, again=any(one.repeats for _, one in drawn)))
    return lines


def _key(ways: Sequence[str], *, again: bool) -> str:
    words = {"came": "came here", "left": "left here", "seen": "seen here"}
    said = [f"{_MARKS[way]} {words[way]}" for way in ways]
    if len(ways) > 1:
        said.append(f"{_BOTH} both")
    if again:
        said.append(f"{_AGAIN} again, or overtaken")
    return ", ".join(said)


def _place(up: float, along: float, columns: int) -> tuple[int, int]:
    row, column = round((1 - up) * (_HEIGHT - 1)), int(along * columns)
    return min(max(row, 0), _HEIGHT - 1), min(max(column, 0), columns - 1)
