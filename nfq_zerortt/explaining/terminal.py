"""An explanation as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime

from nfq_zerortt.explaining import plot
from nfq_zerortt.explaining.explanation import Explanation
from nfq_zerortt.explaining.flows import Listed, Listing
from nfq_zerortt.observe import ladder

FIRST_ROWS, LAST_ROWS = 60, 20
"""Of a diagram that is longer than both, its begin and its end are shown."""
_TIME = 11


def parts(diagram: ladder.Layout) -> list[ladder.Layout]:
    """Return a diagram whole, or its begin and its end."""
    count = len(diagram.rows)
    if count <= FIRST_ROWS + LAST_ROWS:
        return [diagram]
    return [diagram.part(0, FIRST_ROWS), diagram.part(count - LAST_ROWS, count)]


def left_out(diagram: ladder.Layout) -> str:
    """Say how many rows are between the parts; '' if none are."""
    count = len(diagram.rows) - FIRST_ROWS - LAST_ROWS
    return f"… {count} more packets …" if count > 0 else ""


def show(made: Explanation, width: int, *, ascii_only: bool = False) -> Iterator[str]:
    """Give the lines, of ``width`` characters at most (80 or more)."""
    width = max(width, ladder.MIN_WIDTH)
    yield made.name
    yield f"From {made.origin}."
    yield ""
    for line in made.lines:
        when = "" if line.time_ms is None else f"{line.time_ms:8.2f} ms"
        wrapped = textwrap.wrap(line.text, width - _TIME - 1) or [""]
        yield f"{when:>{_TIME}} {wrapped[0]}"
        yield from (" " * (_TIME + 1) + more for more in wrapped[1:])
    yield ""
    diagram = ladder.layout(made.records, made.path, made.client, made.server)
    shown = parts(diagram)
    yield from ladder.render(shown[0], width=width, ascii_only=ascii_only)
    for part in shown[1:]:
        yield "        " + left_out(diagram)
        yield from ladder.render(part, width=width, ascii_only=ascii_only)[1:]
    yield ""
    for text in diagram.legend():
        yield from textwrap.wrap(text, width)
    for name in dict.fromkeys(stream.name for stream in made.streams):
        drawn = plot.draw(made, name, width)
        if drawn:
            yield ""
            yield from drawn
    for text in made.left_out:
        yield ""
        yield from textwrap.wrap(text, width)


def show_listing(listing: Listing) -> Iterator[str]:
    """Give the list of flows, one a line."""
    heading = ("number", "begins (UTC)", "lasts", "packets", "to server", "to client", "end")
    rows = [(*_row(one), one.name) for one in listing.flows]
    yield _FORMAT.format(*heading, "client>server")
    for row in rows:
        yield _FORMAT.format(*row)
    if listing.others:
        yield f"… {listing.others} more flows"
    yield from listing.left_out


_FORMAT = "{:>6}  {:<15}  {:>10}  {:>7}  {:>10}  {:>10}  {:<6}  {}"


def _row(one: Listed) -> tuple[str, ...]:
    begins = datetime.fromtimestamp(one.first_s, UTC).strftime("%H:%M:%S.%f")
    lasts = f"{(one.last_s - one.first_s) * 1000:.1f} ms"
    counts = (str(one.packets), str(one.data_to_server), str(one.data_to_client))
    return (str(one.number), begins, lasts, *counts, one.ended)
