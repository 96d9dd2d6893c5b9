"""The plot: how each figure changes with the number of open connections.

The picture stands alone, so its colours are its own, and follow a light or dark page. Colour
never says anything alone: each contender has a marker and a kind of line of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from bench.comparison.figures import bulk, growth, handshakes
from bench.comparison.results import Figure, Results
from nfq_zerortt.observe import svg

_STYLE = """
svg { --text: #1b1b1b; --muted: #5c5c5c; --grid: #d9d9d9; --page: #ffffff; background: #ffffff; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .muted { fill: var(--muted); }
svg .strong { font-weight: 600; }
svg .grid { stroke: var(--grid); stroke-width: 1; fill: none; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .s0 { --ink: #444444; } svg .s1 { --ink: #b35900; } svg .s2 { --ink: #8a6d00; }
svg .s3 { --ink: #1a7f37; } svg .s4 { --ink: #7a3fb0; } svg .s5 { --ink: #0b62c4; }
@media (prefers-color-scheme: dark) {
svg { --text: #e8e8e8; --muted: #a8a8a8; --grid: #3d3d3d; --page: #161616; background: #161616; }
svg .s0 { --ink: #c8c8c8; } svg .s1 { --ink: #ffab5c; } svg .s2 { --ink: #e3c54a; }
svg .s3 { --ink: #5fd07f; } svg .s4 { --ink: #c79bf0; } svg .s5 { --ink: #6cb2ff; }
}
svg .line { stroke: var(--ink); } svg .mark { stroke: var(--ink); fill: var(--page);
stroke-width: 1.6; } svg .s5 .mark { fill: var(--ink); } svg .s5 .line { stroke-width: 3; }
"""
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5", "")

_WIDTH, _HEIGHT = 964, 740
_COLUMNS = 3
_PANEL_WIDTH, _PANEL_HEIGHT = 300, 288
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 40, 44
_HEAD = 80


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: a figure over the number of flows, which has a logarithmic axis."""

    title: str
    figures: tuple[Figure, ...]
    from_zero: bool = False
    """A linear axis from zero on; else a logarithmic one."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """The upward axis: where a value stands between the bottom (0) and the top (1)."""

    marks: tuple[float, ...]
    is_logarithmic: bool

    @classmethod
    def logarithmic(cls, values: Sequence[float]) -> Self:
        first = math.floor(math.log10(min(values)))
        last = max(math.ceil(math.log10(max(values))), first + 1)
        return cls(tuple(10.0**power for power in range(first, last + 1)), True)

    @classmethod
    def linear(cls, values: Sequence[float]) -> Self:
        step = svg.nice_step(max(values), 6)
        return cls(tuple(step * n for n in range(math.ceil(max(values) / step) + 1)), False)

    def share(self, value: float) -> float:
        low, high = self.marks[0], self.marks[-1]
        if self.is_logarithmic:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


def panels(levels: Sequence[int]) -> list[Panel]:
    """Return what is shown, for these numbers of flows."""
    down = bulk.Kind(offloads=True, streams=1, direction="down")

    def bulk_figure(flows: int) -> Figure:
        return replace(down, flows=flows).figure(bulk.THROUGHPUT)

    shown = (
        ("connect(), ms", growth.connect),
        ("first byte back, server with Fast Open, ms", growth.first_byte_fast_open),
        ("connections a second", handshakes.figure),
        (
            "bulk down, 1 stream, Gbit/s",
            lambda flows: replace(down, flows=flows).figure(bulk.THROUGHPUT),
        ),
        ("memory of the processes, MB", growth.process_memory),
        ("memory of the kernel, MB", growth.kernel_memory),
    )
    return [
        Panel(
            title, tuple(of(flows) for flows in levels), from_zero=of is growth.first_byte_fast_open
        )
        for title, of in shown
    ]


def plot(results: Results, contenders: Sequence[str], levels: Sequence[int], about: str) -> str:
    """Return the picture; ``about``: a line that says where and when it was measured."""
    shapes = [svg.element("style", _STYLE), svg.text(16, 24, about, "muted")]
    shapes += _legend(contenders)
    for number, panel in enumerate(panels(levels)):
        x = 16 + number % _COLUMNS * (_PANEL_WIDTH + 12)
        y = _HEAD + 20 + number // _COLUMNS * (_PANEL_HEIGHT + 30)
        shapes.append(
            svg.element("g", *_panel(panel, results, contenders), transform=f"translate({x} {y})")
        )
    title = "How the figures change with the number of open connections"
    picture = svg.picture(_WIDTH, _HEIGHT, title, about, *shapes)
    return picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _legend(contenders: Sequence[str]) -> list[str]:
    shapes = []
    for number, name in enumerate(contenders):
        x = 16 + number % _COLUMNS * (_PANEL_WIDTH + 12)
        y = 48 + number // _COLUMNS * 22
        dashes = _DASHES[number] or "none"
        line = svg.element("path", class_="line", d=f"M{x} {y}h36", stroke_dasharray=dashes)
        mark, label = _marker(number, x + 18, y), svg.text(x + 44, y + 4, name)
        shapes.append(svg.element("g", line, mark, label, class_=f"s{number}"))
    return shapes


def _panel(panel: Panel, results: Results, contenders: Sequence[str]) -> list[str]:
    points = {
        name: [
            (figure.flows, value)
            for figure in panel.figures
            if (value := results.median(figure, name)) is not None and value > 0
        ]
        for name in contenders
    }
    values = [value for of_one in points.values() for _, value in of_one]
    shapes = [svg.text(0, 14, panel.title, "strong")]
    if not values:
        return [*shapes, svg.text(_LEFT, _TOP + 30, "not measured", "muted")]
    axis = _Axis.linear(values) if panel.from_zero else _Axis.logarithmic(values)
    flows = [figure.flows for figure in panel.figures]

    def across(value: float) -> float:
        span = math.log(flows[-1] / flows[0]) or 1.0
        share = math.log(value / flows[0]) / span
        return _LEFT + share * (_PANEL_WIDTH - _LEFT - _RIGHT)

    def upward(value: float) -> float:
        return _PANEL_HEIGHT - _BOTTOM - axis.share(value) * (_PANEL_HEIGHT - _TOP - _BOTTOM)

    for mark in axis.marks:
        y = upward(mark)
        shapes.append(
            svg.element("path", class_="grid", d=f"M{_LEFT} {y:.1f}H{_PANEL_WIDTH - _RIGHT}")
        )
        shapes.append(svg.text(_LEFT - 6, y + 4, f"{mark:,g}", "muted", "end"))
    for number in flows:
        x, bottom = across(number), _PANEL_HEIGHT - _BOTTOM
        shapes.append(svg.element("path", class_="grid", d=f"M{x:.1f} {_TOP}V{bottom}"))
        shapes.append(svg.text(x, bottom + 18, f"{number:,}", "muted", "middle"))
    middle = (_LEFT + _PANEL_WIDTH - _RIGHT) / 2
    shapes.append(svg.text(middle, _PANEL_HEIGHT - 8, "open connections", "muted", "middle"))
    for number, name in enumerate(contenders):
        if points[name]:
            places = [(across(flow), upward(value)) for flow, value in points[name]]
            shapes.append(_curve(number, places))
    return shapes


def _curve(number: int, places: Sequence[tuple[float, float]]) -> str:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    line = svg.element("path", class_="line", d=path, stroke_dasharray=_DASHES[number] or "none")
    marks = [_marker(number, x, y) for x, y in places]
    return svg.element("g", line, *marks, class_=f"s{number}")


def _marker(number: int, x: float, y: float) -> str:
    """Return the contender's marker: circle, square, diamond, triangle, its reverse, or a dot."""
    if number in (0, 5):
        return svg.element("circle", class_="mark", cx=x, cy=y, r=4.0)
    paths = {
        1: "m-4 -4h8v8h-8z",
        2: "m0 -5l5 5l-5 5l-5 -5z",
        3: "m0 -5l5 9h-10z",
        4: "m0 5l5 -9h-10z",
    }
    return svg.element("path", class_="mark", d=f"M{x:.1f} {y:.1f}{paths[number]}")
