"""The results as tables: a row for each figure, a column for each contender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.comparison.results import Figure, Results

_NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A section's table; the first column names the figure."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Results, contenders: Sequence[str]) -> list[Table]:
    """Return a table for each section; ``contenders``: the columns, plain forwarding first."""
    sections: dict[str, list[Figure]] = {}
    for figure in results.figures():
        name = figure.section if not figure.flows else f"{figure.section} by flows"
        sections.setdefault(name, []).append(figure)
    return [
        Table(
            name,
            ("", *contenders),
            tuple(_row(results, figure, contenders) for figure in _ordered(figures)),
        )
        for name, figures in sections.items()
    ]


def _ordered(figures: Sequence[Figure]) -> list[Figure]:
    titles = list(dict.fromkeys(figure.title for figure in figures))
    return sorted(figures, key=lambda figure: (titles.index(figure.title), figure.flows))


def _row(results: Results, figure: Figure, contenders: Sequence[str]) -> tuple[str, ...]:
    title = f"{figure.title}, {figure.unit}"
    if figure.flows:
        title = f"{figure.flows:,} flows: {title}"
    return title, *(cell(results, figure, name, contenders[0]) for name in contenders)


def cell(results: Results, figure: Figure, name: str, plain: str) -> str:
    """Return median, range, and the ratio to plain forwarding in the same repetitions."""
    if name in results.absent:
        return "absent"
    values = results.values(figure, name)
    middle = results.median(figure, name)
    if middle is None:
        return _NOTHING
    said = _number(middle, figure)
    if len(values) > 1:
        said += f" ({_number(min(values), figure)}–{_number(max(values), figure)})"
    ratio = results.ratio(figure, name, plain)
    if ratio is not None and name != plain and figure.compared:
        said += f" ×{ratio:.2f}"
    return said


def _number(value: float, figure: Figure) -> str:
    return f"{value:,.{figure.digits}f}"
