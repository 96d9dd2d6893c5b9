"""An explanation as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import re
from html import escape

from nfq_zerortt import __version__
from nfq_zerortt.explaining import plot
from nfq_zerortt.explaining.explanation import Explanation
from nfq_zerortt.explaining.terminal import left_out, parts
from nfq_zerortt.observe import ladder, ladder_svg, sheet, svg, timeseq

# Colour says nothing alone: lines differ in their strokes, and everything has a label.
_LAYOUT = """
body { max-width: 62rem; }
h1 { font-size: 1.3rem; line-height: 1.3; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; }
.lead, .note { color: var(--muted); }
.scroll { overflow-x: auto; }
table { width: 100%; }
th, td { padding: .25rem .8rem .25rem 0; }
thead th { border-bottom: 1px solid var(--grid); }
td.time { text-align: right; white-space: nowrap; color: var(--muted); }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; }
tbody td { border-bottom: 1px solid var(--grid); }
figure { max-width: 44rem; }
.panels { display: grid; gap: 1.2rem; max-width: 62rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
@media (max-width: 30rem) { body { font-size: 15px; } th, td { padding-right: .5rem; } }
@media print { body { max-width: none; padding: 0; font-size: 11px; }
  tr, .panels figure { break-inside: avoid; } h2 { break-after: avoid; }
  .ladder { max-width: 11cm; break-inside: avoid; } .panels { grid-template-columns: 1fr 1fr; } }
"""
_ARROW, _BREAK = escape(">"), "<wbr>"
_ROWS_ON_A_PAGE = 24
_WAYS = {"came": ("came here", "a"), "left": ("left here", "b"), "seen": ("seen here", "b")}


def page(made: Explanation) -> str:
    """Return the whole file."""
    diagram = _layout(made)
    body = [
        f"<h1>{escape(made.name).replace(_ARROW, _ARROW + _BREAK)}</h1>",
        f'<p class="lead">From {escape(made.origin)}.</p>',
        "<h2>What happened</h2>",
        _table([(_when(one.time_ms), escape(one.text)) for one in made.lines], ("after", "what")),
        "<h2>The packets</h2>",
        *_ladders(diagram),
        _paragraphs(diagram.legend()),
        *_plots(made),
        *_comments(made),
        _paragraphs(made.left_out),
        f'<p class="note">Made by nfq-zerortt {escape(__version__)} explain.</p>',
    ]
    style = _LAYOUT + svg.STYLE + ladder_svg.STYLE + timeseq.STYLE
    return sheet.document(made.name, style, [part for part in body if part])


def picture(made: Explanation) -> str:
    """Return the ladder diagram as an SVG file of its own, its begin if it is long."""
    drawn = ladder_svg.draw(parts(_layout(made))[0], made.name)
    style = svg.STYLE + ladder_svg.STYLE
    plain = re.sub(r"var\(--([a-z-]+)\)", lambda match: sheet.LIGHT[match[1]], style)
    opened = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return opened.replace(">", f"><style>{plain}</style>", 1) + "\n"


def _layout(made: Explanation) -> ladder.Layout:
    return ladder.layout(made.records, made.path, made.client, made.server)


def _when(time_ms: float | None) -> str:
    return "" if time_ms is None else f"{time_ms:.2f} ms"


def _ladders(diagram: ladder.Layout) -> list[str]:
    """Draw the diagram in pieces that fit on a printed page each."""
    drawn = []
    for number, part in enumerate(parts(diagram)):
        if number:
            drawn.append(_paragraphs([left_out(diagram)]))
        for begin in range(0, len(part.rows), _ROWS_ON_A_PAGE):
            piece = part.part(begin, begin + _ROWS_ON_A_PAGE)
            made = ladder_svg.draw(piece, f"The packets from {piece.rows[0].time_ms:.2f} ms on")
            drawn.append(f'<figure class="ladder">{made}</figure>')
    return drawn


def _table(rows: list[tuple[str, str]], heading: tuple[str, str]) -> str:
    """Make a table of times and texts, the latter HTML already."""
    lines = [
        f'<tr><td class="time">{escape(when)}</td><td class="text">{text}</td></tr>'
        for when, text in rows
    ]
    head = "".join(f"<th>{escape(word)}</th>" for word in heading)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'
        + "\n".join(lines)
        + "</tbody></table></div>"
    )


def _paragraphs(texts: list[str]) -> str:
    return "\n".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def _plots(made: Explanation) -> list[str]:
    drawn = []
    for name in dict.fromkeys(stream.name for stream in made.streams):
        curves = []
        for stream in made.streams:
            if stream.name == name:
                way, style = _WAYS[stream.way]
                curves.append(timeseq.Curve(name, way, style, plot.series_of(made, stream)))
        ends = [p.time_ms for c in curves for p in (*c.series.points, *c.series.repeats)]
        if not ends:
            continue
        plotted = timeseq.draw(curves, name, max(*ends, 1.0), time_axis="ms since the first packet")
        drawn.append(f"<figure>{plotted}</figure>")
    if not drawn:
        return []
    return ["<h2>The bytes over time</h2>", f'<div class="panels">{"".join(drawn)}</div>']


def _comments(made: Explanation) -> list[str]:
    if not made.comments:
        return []
    rows = [
        (_when(time_ms), f"<b>{escape(about)}</b>\n{escape(text)}")
        for time_ms, about, text in made.comments
    ]
    return ["<h2>What was done with each packet</h2>", _table(rows, ("after", "packet"))]
