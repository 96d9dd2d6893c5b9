"""The time-sequence plot: how far a stream has come, and when, seen at one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nfq_zerortt.observe import svg
from nfq_zerortt.observe.records import Endpoint, PacketRecord, Tap, data_of

STYLE = """
svg .series { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .series.a { stroke: var(--direct); stroke-dasharray: 6 3; }
svg .series.b { stroke: var(--hold); }
svg .series.c { stroke: var(--fastopen); stroke-width: 3.6; }
svg .repeat { fill: none; stroke: var(--text); stroke-width: 1.4; }
"""

_WIDTH, _HEIGHT = 380, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 40, 56
_LABEL = 60  # room for a stream's name

Axis = Callable[[float], float]
"""From a value to a place in the picture."""


@dataclass(frozen=True, slots=True)
class Point:
    """After this segment, ``end`` bytes of the stream have been seen."""

    time_ms: float
    end: int


@dataclass(frozen=True, slots=True)
class Series:
    """One direction of one connection at one place.

    ``points`` are the segments with new data, in order of time; ``repeats`` those in which
    nothing was new: sent again, or overtaken on the way.
    """

    points: tuple[Point, ...]
    repeats: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A series to be plotted: a stream of the connection, and the way that it went.

    ``style``, one for each way, is "a" (dashed), "b" (solid) or "c" (heavy).
    """

    stream: str
    way: str
    style: str
    series: Series


def series(
    records: Iterable[PacketRecord],
    tap: Tap,
    source: Endpoint,
    destination: Endpoint,
    start_s: float,
) -> Series:
    """Follow one direction at ``tap``; times count from ``start_s``."""
    points: list[Point] = []
    repeats: list[Point] = []
    reached = 0
    for segment in data_of(records, tap, source, destination):
        point = Point((segment.time_s - start_s) * 1000, segment.end)
        if segment.end > reached:
            points.append(point)
            reached = segment.end
        else:
            repeats.append(point)
    return Series(tuple(points), tuple(repeats))


SINCE_SYN = "ms since the SYN left the client"


def draw(
    curves: Sequence[Curve], title: str, until_ms: float, *, time_axis: str = SINCE_SYN
) -> str:
    """Return the plot of several curves, its time axis from 0 to ``until_ms``.

    ``time_axis`` says what that counts. The page that it stands in needs svg.STYLE and this
    module's.
    """
    most = max((p.end for c in curves for p in c.series.points), default=1)
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(time_ms: float) -> float:
        return _LEFT + plot_width * time_ms / until_ms

    def y(count: float) -> float:
        return _TOP + plot_height * (1 - count / most)

    parts = [svg.text(4, 14, title, "strong")]
    step = svg.nice_step(most, 5)
    for number in range(int(most / step) + 1):
        at = y(number * step)
        parts.append(svg.element("path", d=f"M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}", class_="grid"))
        parts.append(svg.text(_LEFT - 5, at + 4, _kilobytes(number * step), "muted", "end"))
    step = svg.nice_step(until_ms, 6)
    for number in range(int(until_ms / step) + 1):
        at = x(number * step)
        parts.append(svg.element("path", d=f"M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}", class_="grid"))
        parts.append(svg.text(at, _HEIGHT - _BOTTOM + 14, f"{number * step:g}", "muted", "middle"))
    parts.append(svg.text(_LEFT - 5, _TOP - 10, "kB", "muted", "end"))
    parts.append(svg.text(_WIDTH - _RIGHT, _HEIGHT - 25, time_axis, "muted", "end"))
    # The heavy ones at the back, for curves may cover each other.
    for curve in sorted(curves, key=lambda one: one.style, reverse=True):
        points = curve.series.points
        if not points:
            continue
        path = f"M{x(points[0].time_ms):.1f} {y(0):.1f}"
        path += "".join(f"H{x(p.time_ms):.1f}V{y(p.end):.1f}" for p in points)
        parts.append(svg.element("path", d=path, class_=f"series {curve.style}"))
        parts += [
            svg.element("circle", cx=x(p.time_ms), cy=y(p.end), r=3.0, class_="repeat")
            for p in curve.series.repeats
        ]
    parts += _labels(curves, x, y)
    words = "; ".join(
        f"{c.stream}, {c.way}: first byte {c.series.points[0].time_ms:.1f} ms, "
        f"last {c.series.points[-1].time_ms:.1f} ms"
        for c in curves
        if c.series.points
    )
    return svg.picture(_WIDTH, _HEIGHT, title, words, *parts)


def _labels(curves: Sequence[Curve], x: Axis, y: Axis) -> list[str]:
    """Name each stream once, beside where it ends first, and explain the lines."""
    parts = []
    for name in dict.fromkeys(curve.stream for curve in curves):
        ends = [c.series.points[-1] for c in curves if c.stream == name and c.series.points]
        if ends:
            first = min(ends, key=lambda point: point.time_ms)
            at, level = x(first.time_ms), y(first.end * 0.93)
            if at < _LEFT + _LABEL:
                parts.append(svg.text(at + 6, level, name, "strong halo"))
            else:
                parts.append(svg.text(at - 6, level, name, "strong halo", "end"))
    left = float(_LEFT)
    for way, style in dict.fromkeys((curve.way, curve.style) for curve in curves):
        line = f"M{left:.0f} {_HEIGHT - 8}h26"
        parts.append(svg.element("path", d=line, class_=f"series {style}"))
        parts.append(svg.text(left + 31, _HEIGHT - 4, way))
        left += 31 + 6.5 * len(way) + 14
    return parts


def _kilobytes(count: float) -> str:
    return f"{count / 1000:g}"
