"""What was measured: of each figure, of each contender, a value in each repetition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.rows import median
from nfq_zerortt.errors import ZeroRttError


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that is measured of every contender.

    Attributes:
        section: the table that it belongs to.
        title: its row there.
        unit: of its values.
        digits: how many of them stand behind the decimal point.
        flows: connections that were open meanwhile, besides those of the figure itself.
        compared: whether the ratio to plain forwarding says something.
    """

    section: str
    title: str
    unit: str
    digits: int = 2
    flows: int = 0
    compared: bool = True


@dataclass(slots=True)
class Results:
    """All values of a run.

    Attributes:
        absent: contenders that this machine cannot have, and what it lacks.
        failures: what went wrong, with the contender's name.
        checked: by contender, how many transfers were checked by hash, and how many were right.
        strangers: the share of the processors that others had in each measured window.
    """

    absent: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    checked: dict[str, tuple[int, int]] = field(default_factory=dict)
    strangers: list[float] = field(default_factory=list)
    _values: dict[Figure, dict[str, dict[int, float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )

    def repetition(self, number: int) -> Repetition:
        """Return where the values of a repetition are noted."""
        return Repetition(self, number)

    def add(self, figure: Figure, contender: str, repetition: int, value: float) -> None:
        """Note a value."""
        self._values[figure][contender][repetition] = value

    def figures(self) -> list[Figure]:
        """Return what was measured, in the order in which it was."""
        return list(self._values)

    def values(self, figure: Figure, contender: str) -> list[float]:
        """Return a contender's values by repetition; empty where it has none."""
        return list(self._values.get(figure, {}).get(contender, {}).values())

    def median(self, figure: Figure, contender: str) -> float | None:
        """Return the median; None without values."""
        values = self.values(figure, contender)
        return median(values) if values else None

    def ratio(self, figure: Figure, contender: str, other: str) -> float | None:
        """Return the median of the ratios to ``other`` in the same repetition; None without."""
        both = self._values.get(figure, {})
        mine, theirs = both.get(contender, {}), both.get(other, {})
        ratios = [mine[n] / theirs[n] for n in mine if theirs.get(n)]
        return median(ratios) if ratios else None

    def check(self, contender: str, right: int, number: int) -> None:
        """Note how many of some transfers arrived unharmed."""
        before_right, before = self.checked.get(contender, (0, 0))
        self.checked[contender] = before_right + right, before + number

    def document(self, contenders: Iterable[str]) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "absent": self.absent,
            "failures": self.failures,
            "unharmed": {
                name: {"right": right, "of": number}
                for name, (right, number) in self.checked.items()
            },
            "strangers_share": self.strangers,
            "figures": [
                {
                    "section": figure.section,
                    "title": figure.title,
                    "unit": figure.unit,
                    "flows": figure.flows,
                    "values": {name: self.values(figure, name) for name in contenders},
                }
                for figure in self.figures()
            ],
        }


@dataclass(frozen=True, slots=True)
class Repetition:
    """One time that everything is measured; values of the same repetition are compared."""

    results: Results
    number: int

    def add(self, figure: Figure, contender: str, value: float) -> None:
        """Note a value."""
        self.results.add(figure, contender, self.number, value)

    def failed(self, error: ZeroRttError) -> None:
        """Note that a figure could not be measured."""
        self.results.failures.append(str(error))
