"""Flows and what was learned, as tables for people: at 80 columns, wider, and in a pipe.

Of a full table (65,536 flows) rich would make a table in a minute and a half, so it gets what a
screen can show; longer lists are lines without its help.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nfq_zerortt.core.states import ENDED_NAMES
from nfq_zerortt.readable import milliseconds, rounded, short

_WIDE = 120  # columns: from there on a flow has one line
_PIPE_WIDTH = 1000  # nothing is folded, so that grep(1) and awk(1) find it
_MOST_DRAWN = 1000  # flows
_GAP = "  "

_NO_FLOWS = "no flows"

Row = Mapping[str, Any]


class Screen:
    """Where tables are shown: in a terminal that is watched, the next in the last one's place."""

    def __init__(self, *, learned: bool, live: bool, console: Console | None = None) -> None:
        """``console``: another one than that of stdout."""
        self._console = console or Console(highlight=False)
        if console is None and not self._console.is_terminal:
            self._console = Console(highlight=False, width=_PIPE_WIDTH)
        self._learned = learned
        self._live: Live | None = None
        if live and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: Iterable[Row]) -> None:
        """Show them, as of now."""
        if self._learned:
            self._draw(learned_table(list(rows)))
        elif self._live is not None:
            # A screen shows a part: what lives first, the newest of it first.
            first = heapq.nsmallest(
                self._console.height,
                rows,
                lambda row: (row["state"] in ENDED_NAMES, -row["flow_id"]),
            )
            self._draw(flow_table(first, narrow=self._narrow))
        elif not self._console.is_terminal:
            self._print(flow_lines(rows))
        else:
            there = iter(rows)
            some = list(islice(there, _MOST_DRAWN + 1))
            if len(some) > _MOST_DRAWN:
                self._print(flow_lines(chain(some, there)))
            else:
                self._draw(flow_table(some, narrow=self._narrow))

    @property
    def _narrow(self) -> bool:
        return self._console.is_terminal and self._console.width < _WIDE

    def _draw(self, shown: RenderableType) -> None:
        if self._live is not None:
            self._live.update(shown, refresh=True)
        elif self._console.is_terminal:
            self._console.print(shown)
        else:
            with self._console.capture() as captured:
                self._console.print(shown)
            self._print(captured.get().splitlines())

    @staticmethod
    def _print(lines: Iterable[str]) -> None:
        for line in lines:
            print(line.rstrip())
        sys.stdout.flush()  # whoever watches reads it now


def flow_lines(flows: Iterable[Row]) -> Iterator[str]:
    """Give the table of :func:`flow_table` as lines, one for each flow, however many there are."""
    rows = [_cells(flow, " ", " / ") for flow in flows]
    if not rows:
        yield _NO_FLOWS
        return
    headings = _headings(" ", " / ")
    widths = [len(heading.text) for heading in headings]
    for row in rows:
        widths = list(map(max, widths, map(len, row)))
    for row in chain([tuple(heading.text for heading in headings)], rows):
        yield _GAP.join(
            cell.rjust(width) if heading.right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        )


def flow_table(flows: Sequence[Row], *, narrow: bool) -> RenderableType:
    """Return the flows as a table; ``narrow``: two lines for each."""
    if not flows:
        return Text(_NO_FLOWS)
    mark, join = ("\n", "\n") if narrow else (" ", " / ")
    first, *others = _headings(mark, join)
    table = _table(first.text)
    for heading in others:
        table.add_column(heading.text, no_wrap=True, justify="right" if heading.right else "left")
    for flow in flows:
        name, *cells = _cells(flow, mark, join)
        table.add_row(Text(name), *cells)
    return table


class _Heading(NamedTuple):
    text: str
    right: bool = False


def _headings(mark: str, join: str) -> tuple[_Heading, ...]:
    return (
        _Heading(f"client >{mark}server"),
        _Heading("state"),
        _Heading(f"strategy{mark}path"),
        _Heading("RTT ms", right=True),
        _Heading(f"saved ms:{mark}connect{join}data", right=True),
        _Heading(f"bytes:{mark}out{join}in", right=True),
        _Heading("Fast Open"),
    )


def _cells(flow: Row, mark: str, join: str) -> tuple[str, ...]:
    """Return what stands below the headings."""
    return (
        f"{flow['client']} >{mark}{flow['server']}",
        flow["state"],
        f"{flow['strategy']}{mark}{flow['data_path']}",
        _ms(flow["server_rtt_ms"]),
        _ms(flow["connected_earlier_ms"]) + join + _ms(flow["data_earlier_ms"]),
        short(flow["bytes_to_server"]) + join + short(flow["bytes_to_client"]),
        _fast_open(flow, mark),
    )


def learned_table(servers: Sequence[Row]) -> RenderableType:
    """Return what was learned of each server, and the cookies, as tables."""
    if not servers:
        return Text("nothing was learned yet")
    table = _table("server")
    table.add_column("client speaks", no_wrap=True)
    table.add_column("RTT ms", no_wrap=True, justify="right")
    for heading in ("options", "Fast Open", "left alone"):
        table.add_column(heading)
    for one in servers:
        answered = one["answered"]
        table.add_row(
            Text(one["server"]),
            _speaks(one),
            _ms(answered and answered["rtt_ms"]),
            _options(answered),
            _habits(one),
            _left_alone(one["left_alone"]),
        )
    cookies = _table("server")
    cookies.add_column("client", overflow="fold")
    cookies.add_column("cookie", overflow="fold")
    cookies.add_column("age", no_wrap=True, justify="right")
    for one in servers:
        for cookie in one["cookies"]:
            age = rounded(cookie["age_s"])
            cookies.add_row(Text(one["server"]), Text(cookie["client"]), cookie["cookie"], age)
    return Group(table, "", cookies) if cookies.row_count else table


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    return table


def _fast_open(flow: Row, mark: str) -> str:
    asked, size = flow["fast_open"], flow["syn_data_bytes"]
    if asked in ("none", "request"):
        return {"none": "-", "request": "asked"}[asked]
    if flow["isn_server"] is None:
        return f"{size} B{mark}sent"
    taken = flow["syn_data_accepted_bytes"]
    return f"{taken} B{mark}taken" if taken else f"{size} B{mark}not taken"


def _speaks(one: Row) -> str:
    if one["speaks_early"] is None:
        return "-"
    return f"after {one['gap_ms']:.1f} ms" if one["speaks_early"] else "late"


def _options(answered: Row | None) -> str:
    if answered is None:
        return "-"
    scale = answered["window_scale"]
    words = [f"mss {answered['mss']}"] + ([] if scale is None else [f"scale {scale}"])
    return ", ".join(words + [f"no {name}" for name in answered["denied"]])


def _habits(one: Row) -> str:
    habits = one["fast_open"]
    if habits is None:
        return "-"
    if habits["not_for_s"]:
        why = "SYN vanished" if habits["troubles"] else "refused"
        return f"{why}, not for {rounded(habits['not_for_s'])}"
    if habits["accepts"]:
        return "accepts"
    return "gives no cookie" if habits["asked"] else "not tried"


def _left_alone(left: Row | None) -> str:
    if left is None:
        return "-"
    return f"{left['reason'].removesuffix('_lately')}, {rounded(left['for_s'])} more"


def _ms(value: float | None) -> str:
    return milliseconds(None if value is None else value / 1000)
