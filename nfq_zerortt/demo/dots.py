"""The distribution of the figures: one dot a connection, a line at the median."""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.demo.result import DIRECT, HOLD, Figure, Result
from nfq_zerortt.demo.work import Work
from nfq_zerortt.observe import svg

STYLE = """
svg .dot { stroke-width: 1.5; }
svg .dot.direct { fill: none; stroke: var(--direct); }
svg .dot.hold { fill: var(--hold); stroke: none; fill-opacity: .75; }
svg .dot.fastopen { fill: var(--fastopen); stroke: none; fill-opacity: .75; }
svg .median { stroke: var(--text); stroke-width: 1.6; }
"""

_WIDTH = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 72, 24, 34
_GROUP = 81
_STRIP = 19
_RADIUS = 3.6


def draw(result: Result, work: Work, figures: Sequence[Figure]) -> str:
    """Return the picture of one kind of work: a group a figure, a strip a way."""
    rows = [(figure, run, run.values(work, figure)) for figure in figures for run in result.runs]
    most = max((value for _, _, values in rows for value in values), default=1.0) * 1.02
    height = _TOP + _GROUP * len(figures) + _BOTTOM
    plot = _WIDTH - _LEFT - _RIGHT
    parts = [svg.text(4, 14, work.title, "strong")]
    step = svg.nice_step(most, 5)
    for number in range(int(most / step) + 1):
        at = _LEFT + plot * number * step / most
        parts.append(svg.element("path", d=f"M{at:.1f} {_TOP}V{height - _BOTTOM}", class_="grid"))
        label = f"{number * step:g}"
        parts.append(svg.text(at, height - _BOTTOM + 14, label, "muted", "middle"))
    parts.append(
        svg.text(_LEFT + plot, height - 4, "ms; one dot a connection, line: median", "muted", "end")
    )
    words = []
    for number, (figure, run, values) in enumerate(rows):
        group, strip = divmod(number, len(result.runs))
        y = _TOP + _GROUP * group + 24 + _STRIP * strip
        if strip == 0:
            parts.append(svg.text(_LEFT, y - 11, figure.name, "strong halo"))
        parts.append(svg.text(_LEFT - 8, y + 4, run.way, "muted", "end"))
        for place, value in enumerate(values):
            x = _LEFT + plot * value / most
            # Spread a little, so that equal values do not cover each other.
            parts.append(_dot(run.way, x, y + (place % 3 - 1) * 3.0))
        median = run.median(work, figure)
        if median is not None:
            x = _LEFT + plot * median / most
            parts.append(
                svg.element("path", d=f"M{x:.1f} {y - 8:.1f}V{y + 8:.1f}", class_="median")
            )
            parts.append(svg.text(_WIDTH - 4, y + 4, f"{median:.1f} ms", "mono", "end"))
            words.append(f"{figure.name}, {run.way}: median {median:.1f} ms")
    return svg.picture(_WIDTH, height, work.title, "; ".join(words), *parts)


def _dot(way: str, x: float, y: float) -> str:
    if way == DIRECT:
        return svg.element("circle", cx=x, cy=y, r=_RADIUS, class_="dot direct")
    r = _RADIUS + 0.8
    if way == HOLD:
        path = f"M{x - r:.1f} {y:.1f}L{x:.1f} {y - r:.1f}L{x + r:.1f} {y:.1f}L{x:.1f} {y + r:.1f}Z"
    else:
        path = f"M{x - r:.1f} {y + r:.1f}H{x + r:.1f}L{x:.1f} {y - r:.1f}Z"
    return svg.element("path", d=path, class_=f"dot {way}")
