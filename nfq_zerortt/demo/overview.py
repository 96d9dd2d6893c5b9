"""The result in two pictures: the four hosts, and where one exchange spends its time each way."""

from __future__ import annotations

from nfq_zerortt.demo.result import FIGURES, HOLD, Result, Run
from nfq_zerortt.demo.work import Work
from nfq_zerortt.observe import svg

STYLE = """
svg .lane.direct { --lane: var(--direct); }
svg .lane.hold { --lane: var(--hold); }
svg .lane.fastopen { --lane: var(--fastopen); }
svg .lane rect { stroke: var(--lane); stroke-width: 1.5; }
svg .lane .waiting { fill: none; stroke-dasharray: 3 3; }
svg .lane .request { fill: var(--lane); }
svg .lane .answer { fill: var(--panel); }
svg .lane .on { fill: var(--page); font-weight: 600; }
svg .lane .mark { stroke: var(--text); stroke-width: 1.5; }
svg .rtt { stroke: var(--grid); stroke-width: 1; stroke-dasharray: 2 3; fill: none; }
svg .host { fill: var(--panel); stroke: var(--text); stroke-width: 1; }
svg .host.own { stroke: var(--hold); stroke-width: 2.5; }
svg .link { stroke: var(--text); stroke-width: 1.5; fill: none; }
svg .link.far { stroke-dasharray: 6 4; }
"""

_WIDTH = 380
_LEFT, _RIGHT, _TOP, _LANE, _BAR = 62, 12, 34, 62, 20
_LEAST_LABEL = 40  # px between two labels below a bar
_HALF_LABEL = 20
_LETTER = 6.2  # px, of the text in a bar

_CONNECT, _SENT, _AT_SERVER, _BACK = FIGURES
_MARKS = ((_CONNECT, "connected"), (_AT_SERVER, "arrives"), (_BACK, "answer"))


def hosts(result: Result) -> str:
    """Return the four hosts in their chain, with the delay where it is."""
    names = [result.path[0].left.host, *(link.right.host for link in result.path)]
    width, gap, top, height = 74, 26, 16, 34
    parts = []
    for number, name in enumerate(names):
        x = 4 + number * (width + gap)
        own = " own" if number == 1 else ""
        parts.append(
            svg.element("rect", x=x, y=top, width=width, height=height, rx=5, class_=f"host{own}")
        )
        parts.append(svg.text(x + width / 2, top + 21, name, "strong", "middle"))
        if number:
            far = " far" if names[number - 1] == names[1] else ""
            line = f"M{x - gap} {top + height / 2}H{x}"
            parts.append(svg.element("path", d=line, class_=f"link{far}"))
    middle = 4 + 2 * width + 1.5 * gap
    wan = f"{result.rtt_ms:g} ms there and back"
    parts.append(svg.text(middle, 10, wan, "muted", "middle"))
    parts.append(svg.text(4 + 1.5 * width + gap, 66, "the service", "muted", "middle"))
    words = f"{', '.join(names)} in a chain; {wan} between {names[1]} and {names[2]}"
    return svg.picture(_WIDTH, 72, "The four hosts", words, *parts)


def draw(result: Result, work: Work) -> str:
    """Return a bar for each way: waiting for connect(), the request's way, the answer's way."""
    values = [v for run in result.runs for figure in FIGURES if (v := run.median(work, figure))]
    most = max(values, default=1.0) * 1.03
    plot = _WIDTH - _LEFT - _RIGHT
    height = _TOP + _LANE * len(result.runs) + 4
    parts = []
    for number in range(int(most / result.rtt_ms) + 1 if result.rtt_ms else 0):
        x = _LEFT + plot * number * result.rtt_ms / most
        parts.append(svg.element("path", d=f"M{x:.1f} {_TOP - 14}V{height}", class_="rtt"))
        shown = "0" if not number else f"{number} round trip{'s' if number > 1 else ''}"
        anchor = "start" if not number else "middle" if x < _WIDTH - 50 else "end"
        parts.append(svg.text(min(x, _WIDTH - 2), _TOP - 20, shown, "muted", anchor))
    words = []
    for number, run in enumerate(result.runs):
        parts.append(_lane(run, work, _TOP + _LANE * number, plot / most))
        words += [
            f"{run.way}, {figure.name}: {value:.1f} ms"
            for figure in FIGURES
            if (value := run.median(work, figure)) is not None
        ]
    return svg.picture(_WIDTH, height, f"{work.title}: medians", "; ".join(words), *parts)


def _lane(run: Run, work: Work, y: float, scale: float) -> str:
    medians = [run.median(work, figure) for figure in (_CONNECT, _SENT, _AT_SERVER, _BACK)]
    parts = [svg.text(_LEFT - 8, y + _BAR / 2 + 4, run.way, "strong", "end")]
    if None in medians:
        parts.append(svg.text(_LEFT, y + _BAR / 2 + 4, "no connection succeeded", "muted"))
        return svg.element("g", *parts, class_=f"lane {run.way}")
    _, sent, at_server, back = (_LEFT + (value or 0.0) * scale for value in medians)
    for kind, begin, end, said in (
        ("waiting", float(_LEFT), sent, "handshake"),
        ("request", sent, at_server, "request: held first" if run.way == HOLD else "request"),
        ("answer", at_server, back, "answer"),
    ):
        if end - begin < 1:
            continue
        parts.append(svg.element("rect", x=begin, y=y, width=end - begin, height=_BAR, class_=kind))
        if end - begin > _LETTER * len(said):
            on = "on" if kind == "request" else ""
            parts.append(svg.text((begin + end) / 2, y + _BAR / 2 + 4, said, on, "middle"))
    parts += _labels(run, work, y + _BAR, scale)
    return svg.element("g", *parts, class_=f"lane {run.way}")


def _labels(run: Run, work: Work, y: float, scale: float) -> list[str]:
    """Return the marks below a bar; one that would cover the one before is left out."""
    parts: list[str] = []
    free_from = 0.0
    for figure, said in _MARKS:
        value = run.median(work, figure) or 0.0
        x = _LEFT + value * scale
        if x < free_from:
            continue
        free_from = x + _LEAST_LABEL
        anchor = "start" if x < _LEFT + _HALF_LABEL else "middle"
        at = max(x - _HALF_LABEL / 2, 0) if anchor == "start" else min(x, _WIDTH - _HALF_LABEL)
        parts.append(svg.element("path", d=f"M{x:.1f} {y}v4", class_="mark"))
        parts.append(svg.text(at, y + 14, f"{value:.1f}", "mono", anchor))
        parts.append(svg.text(at, y + 25, said, "muted", anchor))
    return parts
