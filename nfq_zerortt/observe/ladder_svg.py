"""The ladder diagram as a picture, narrow enough for a phone."""

from __future__ import annotations

from nfq_zerortt.observe import svg
from nfq_zerortt.observe.hops import Hop
from nfq_zerortt.observe.ladder import Layout, Note, Row, flag_names

STYLE = """
svg .life { stroke: var(--muted); stroke-width: 1; }
svg .packet { stroke: var(--text); stroke-width: 1.3; fill: none; }
svg .packet.own { stroke: var(--hold); stroke-width: 2; stroke-dasharray: 5 3; }
svg .packet.data { stroke-width: 2.4; }
svg .head { fill: var(--text); stroke: none; }
svg .head.own { fill: var(--hold); }
svg .holding { fill: var(--hold-soft); stroke: var(--hold); stroke-width: 1; }
svg .ladder-label { font-size: 9.5px; }
svg .ladder-note { font-size: 9.5px; font-style: italic; }
"""

_WIDTH = 360
_LEFT = 50  # of it for the times
_RIGHT = 14
_TOP = 30
_ROW = 33
_PAUSE = 12
_SLANT = 7
_HALF_BAR = 3.5
_HEAD = 6


def draw(diagram: Layout, title: str) -> str:
    """Return the picture; the page that it stands in needs svg.STYLE and this module's."""
    gaps = len(diagram.hosts) - 1
    span = _WIDTH - _LEFT - _RIGHT
    columns = [_LEFT + span * host / gaps for host in range(gaps + 1)]
    tops: list[float] = []
    y = float(_TOP + 18)
    for number in range(len(diagram.rows)):
        y += _PAUSE if number in diagram.pauses else 0
        tops.append(y)
        y += _ROW
    parts = [
        svg.element("line", x1=x, x2=x, y1=float(_TOP - 8), y2=y - 10, class_="life")
        for x in columns
    ]
    for host, name in enumerate(diagram.hosts):
        anchor = "end" if host == gaps else "middle"
        x = columns[host] + (_RIGHT - 2 if host == gaps else 0)
        parts.append(svg.text(x, _TOP - 14, name, "strong halo", anchor))
    parts.append(svg.text(_LEFT - 12, _TOP - 14 + 16, "ms", "muted", "end"))
    parts += [
        svg.element(
            "rect",
            x=columns[wait.host] - _HALF_BAR,
            width=2 * _HALF_BAR,
            y=tops[wait.first_row] + _SLANT,
            height=tops[wait.last_row] - tops[wait.first_row] - _SLANT,
            class_="holding",
        )
        for wait in diagram.waits
        if diagram.rows[wait.first_row].end is Note.HELD
    ]
    for row, top in zip(diagram.rows, tops, strict=True):
        parts += _row(row, top, columns)
    description = "; ".join(
        f"{row.time_ms:.2f} ms {diagram.hosts[row.from_host]} to {diagram.hosts[row.to_host]} "
        f"{flag_names(row.hops[0].flags)} {_numbers(row.hops[0])}"
        + "".join(f", {text}" for _, text in row.notes())
        for row in diagram.rows
    )
    return svg.picture(_WIDTH, y, title, description, *parts)


def _row(row: Row, top: float, columns: list[float]) -> list[str]:
    labels = [svg.text(_LEFT - 8, top + 4, f"{row.time_ms:.2f}", "mono muted ladder-label", "end")]
    arrow: list[str] = []
    own = " own" if row.begin in (Note.SPOOFED, Note.MADE) else ""
    count = len(row.hops)
    for place, hop in enumerate(row.hops):
        x1, x2 = columns[hop.from_host], columns[hop.to_host]
        y1, y2 = top + _SLANT * place / count, top + _SLANT * (place + 1) / count
        labels += _labels(hop, (x1 + x2) / 2, (y1 + y2) / 2)
        tip = x2
        if place == count - 1:
            towards = 1 if x2 > x1 else -1
            tip -= towards * (_HALF_BAR if row.end is Note.HELD else 0)
            arrow.append(_head(hop, tip, y2, towards, own))
        data = " data" if hop.payload_bytes else ""
        line = svg.element("line", x1=x1, y1=y1, x2=tip, y2=y2, class_=f"packet{own}{data}")
        arrow.append(line)
    for link, text in row.notes():
        if 0 <= link < len(columns) - 1:
            left = link >= max(row.from_host, row.to_host)
            x = columns[link] + 7 if left else columns[link + 1] - 7
            labels.append(svg.text(x, top + 6, text, "ladder-note", "start" if left else "end"))
    return labels + arrow


def _labels(hop: Hop, middle: float, line: float) -> list[str]:
    """Write what it is above the arrow, and its numbers below."""
    size = f" {hop.payload_bytes} B" if hop.payload_bytes else ""
    option = " TFO" if hop.fast_open is not None else ""
    above = flag_names(hop.flags) + size + option
    return [
        svg.text(middle, line - 4, above, "mono strong ladder-label halo", "middle"),
        svg.text(middle, line + 13.5, _numbers(hop), "mono ladder-label halo", "middle"),
    ]


def _head(hop: Hop, tip: float, y: float, towards: int, own: str) -> str:
    if hop.received_s is None:
        return svg.text(tip, y + 4, "✗", "strong", "middle")
    back = tip - towards * _HEAD
    path = f"M{tip:.1f} {y:.1f}L{back:.1f} {y - 3.2:.1f}V{y + 3.2:.1f}Z"
    return svg.element("path", d=path, class_=f"head{own}")


def _numbers(hop: Hop) -> str:
    ack = f" ack {hop.ack_base.show(hop.ack)}" if hop.ack_base is not None else ""
    option = ""
    if hop.fast_open is not None:
        option = " cookie" if hop.fast_open else " request"
    return f"{hop.seq_base.show(hop.seq)}{ack}{option}"
