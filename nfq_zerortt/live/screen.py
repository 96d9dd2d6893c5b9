"""Draws the view: lines of text for a screen of some width and height.

What is said by a colour is said by a word as well; without colours nothing is lost.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from nfq_zerortt.live.feed import Snapshot
from nfq_zerortt.live.flow import FlowRecord
from nfq_zerortt.live.ladder import event_lines, ladder
from nfq_zerortt.live.rates import SHARES, WINDOW_S, Rates
from nfq_zerortt.live.view import FLOWS, HELP, ONE, ORDERS, View
from nfq_zerortt.readable import listed, milliseconds, short, span

HEAD = 6
"""Lines above the flows; on a low screen there are fewer."""
_LOW = 14  # lines
_OLD_S = 3.0  # a list of flows that is older says so
_FLOW_WIDTH = 28  # of addresses and ports: IPv4's longest but for some digits
_WIDE = 110  # columns: whole words
_KEY_WIDTH = 20
_BOLD, _DIM, _BAD, _MARK = "bold", "dim", "bold red", "reverse"

_STATES = {
    "ESTABLISHED": "ESTAB",
    "CLIENT_CLOSED": "C-CLOSED",
    "SERVER_CLOSED": "S-CLOSED",
    "FORWARDED": "FORWARD",
    "TIME_WAIT": "TIMEWAIT",
}

KEYS = (
    ("arrows, page up/down", "move; also k and j"),
    ("home, end", "to the first, to the last; also g and G"),
    ("enter", "look into the marked flow: what is known of it, its ladder, its events"),
    ("s", "sort by: " + ", ".join(order.name for order in ORDERS)),
    ("r", "the other way round"),
    ("/", "show flows with these words only (address, port, state, strategy, path)"),
    ("escape", "show all flows again; go back"),
    ("e", "hide flows that have ended, or show them"),
    ("p, space", "pause: what is shown stays as it is"),
    ("q", "go back; leave"),
)


class Heading(NamedTuple):
    """What stands above a column, and how wide the column is."""

    text: str
    width: int


@dataclass(frozen=True, slots=True)
class Column:
    """Of the table: what it shows, and its headings on a usual and on a wide screen.

    ``key``: the field of the flow, or a name for what is made of several. A column with a higher
    ``rank`` goes first if there is no room; without a ``usual`` heading it is on wide screens only.
    """

    key: str
    rank: int
    usual: Heading | None
    wide: Heading
    right: bool = True


_COLUMNS = (
    Column("state", 1, Heading("state", 8), Heading("state", 13), right=False),
    Column("how", 5, Heading("by", 6), Heading("strategy/path", 15), right=False),
    Column("server_rtt_ms", 2, Heading("RTT ms", 6), Heading("RTT ms", 8)),
    Column("connected_earlier_ms", 6, Heading("saved", 6), Heading("saved ms", 8)),
    Column("data_earlier_ms", 4, Heading("data", 6), Heading("data ms", 8)),
    Column("bytes_to_server", 3, Heading("out", 5), Heading("out", 6)),
    Column("bytes_to_client", 3, Heading("in", 5), Heading("in", 6)),
    Column("fast_open", 7, None, Heading("Fast Open", 10), right=False),
    Column("age_s", 8, None, Heading("age", 9)),
)


class Screen:
    """Makes the lines of a screen, with the codes of the terminal for their style."""

    def __init__(self) -> None:
        # The terminal's colours; none with NO_COLOR in the environment (no-color.org).
        self._console = Console(
            file=io.StringIO(), force_terminal=True, highlight=False, markup=False, width=1000
        )

    def lines(
        self, view: View, snapshot: Snapshot, rates: Rates, size: tuple[int, int]
    ) -> list[str]:
        """Return the lines, as many as the screen has."""
        width, height = size
        head = list(_head(view, snapshot, rates, width))
        head = head if height >= _LOW else [head[0], head[-1]]
        room = height - len(head) - 1
        if view.mode == FLOWS:
            body = list(_table(view, width, room))
        else:
            text = list(_one(view, snapshot, width) if view.mode == ONE else _help(width))
            view.top = min(view.top, max(len(text) - room, 0))
            body = text[view.top : view.top + room]
        body += [Text()] * (room - len(body))
        drawn = [*head, *body, _foot(view, width)]
        return [self._drawn(line, width) for line in drawn]

    def _drawn(self, line: Text, width: int) -> str:
        line.truncate(width)
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return captured.get()


def page(view: View, size: tuple[int, int]) -> int:
    """Return how many lines one page has."""
    _, height = size
    head = HEAD if height >= _LOW else 2
    return max(height - head - 2 if view.mode == FLOWS else height - head - 1, 1)


# --- above --------------------------------------------------------------------------------


def _head(view: View, snapshot: Snapshot, rates: Rates, width: int) -> Iterator[Text]:
    stats = snapshot.stats
    about, counters, gauges = stats["service"], stats["counters"], stats["gauges"]
    processes = f", {about['workers']} workers" if about["workers"] > 1 else ""
    yield Text(
        f"nfq-zerortt {about['version']}  {about['strategy']}/{about['data_path']}  "
        f"{about['client_iface']} > {about['server_iface']}  up {span(about['uptime_s'])}"
        f"{processes}",
        _BOLD,
    )
    flows = sum(sum(paths.values()) for paths in gauges["flows"].values())
    yield Text(
        f"flows {flows:,} ({gauges['half_open_flows']:,} half open)  "
        f"handshakes {rates.per_second('flows_begun'):,.1f}/s  "
        f"bypassed {rates.per_second('flows_bypassed'):,.1f}/s  "
        f"held {short(gauges['held_bytes'])}B"
    )
    saved = counters["saved_seconds"]
    yield Text(
        f"SYN-ACK {_latency(rates)}  "
        f"saved: connect {saved['connect']:,.1f} s, data {saved['data']:,.1f} s"
    )
    yield _line_of_queues(counters, gauges, rates)
    resets = {name: sum(by.values()) for name, by in counters["flows_reset"].items()}
    lost = counters["log_events_suppressed"]
    problems = {**counters["problems"], "log.suppressed": lost}
    line = Text(f"bypassed {listed(counters['flows_bypassed'])}  reset {listed(resets)}  ")
    line.append(f"problems {listed(problems)}", _BAD if any(problems.values()) else "")
    yield line
    yield _line_of_state(view, snapshot, width)


def _latency(rates: Rates) -> str:
    latency = rates.latency()
    if latency is None:
        return "none yet"
    parts = [
        f"p{share * 100:.0f} {milliseconds(value)}"
        for share, value in zip(SHARES, latency.quantiles, strict=True)
    ]
    since = f"{WINDOW_S:.0f} s" if latency.recent else "all"
    return f"ms {' '.join(parts)} ({since})"


def _line_of_queues(counters: Mapping[str, Any], gauges: Mapping[str, Any], rates: Rates) -> Text:
    dropped = sum(sum(causes.values()) for causes in counters["queue_dropped"].values())
    line = Text(f"queue {sum(gauges['queue_waiting'].values()):,} waiting, ")
    line.append(f"{dropped:,} dropped", _BAD if dropped else "")
    line.append(f"  packets {rates.per_second('queue_packets'):,.0f}/s")
    room = gauges["limit"]["kernel_entries"]
    if room:
        there = sum(gauges["kernel_entries"].values())
        line.append(f"  kernel {there:,}/{room:,}", _BAD if there >= room else "")
    line.append(
        f"  cpu {rates.per_second('cpu_seconds') * 100:.0f}%"
        f"  mem {short(gauges['resident_memory_bytes'])}"
    )
    return line


def _line_of_state(view: View, snapshot: Snapshot, width: int) -> Text:
    if snapshot.problem:
        return Text(_problem(snapshot.problem, width), _BAD)
    if view.mode == HELP:
        return Text("keys", _BOLD)
    if view.mode == ONE and view.looked_at is not None:
        return Text(_paused(view) + f"flow {view.looked_at['flow_id']}", _BOLD)
    if snapshot.flows_at is None:
        return Text(f"the list of flows is on its way: {snapshot.coming:,} so far", _DIM)
    order = ORDERS[view.order].name + (", the other way round" if view.reverse else "")
    said = f"{_paused(view)}{len(view):,} shown, by {order}"
    age = snapshot.at - snapshot.flows_at
    if age >= _OLD_S:
        said += f", as of {age:.0f} s ago"
    if not view.ended:
        said += ", without ended ones"
    if view.words and not view.typing:
        said += f", with: {view.words}"
    return Text(said[:width], _BOLD if view.paused else _DIM)


def _problem(problem: str, width: int) -> str:
    """Say it without the remedy, which comes after a colon, if there is no room for both."""
    said = f"NOT UP TO DATE: {problem}"
    return said if len(said) <= width else f"NOT UP TO DATE: {problem.partition(': ')[0]}"


def _paused(view: View) -> str:
    return "PAUSED  " if view.paused else ""


# --- flows --------------------------------------------------------------------------------


def _table(view: View, width: int, room: int) -> Iterator[Text]:
    wide = width >= _WIDE
    columns = _fitting(width)
    first = _left_of(columns, width)
    titles = " " + "client>server".ljust(first)
    for column, heading in columns:
        titles += " " + _fit(heading.text, heading.width, right=column.right)
    yield Text(titles, _BOLD)
    flows, marked = view.page(max(room - 1, 1))
    for number, flow in enumerate(flows):
        line = (">" if number == marked else " ") + _cut(flow["flow"], first).ljust(first)
        for column, heading in columns:
            cell = _cell(flow, column.key, wide=wide)
            line += " " + _fit(cell, heading.width, right=column.right)
        yield Text(line, _MARK if number == marked else "")
    if not flows:
        yield Text(" no flows" + (" with these words" if view.words else ""), _DIM)


def _fitting(width: int) -> list[tuple[Column, Heading]]:
    """Return the columns for which there is room beside the flows' addresses."""
    headings = [(one, one.wide if width >= _WIDE else one.usual) for one in _COLUMNS]
    left = [(column, heading) for column, heading in headings if heading is not None]
    while left and _left_of(left, width) < _FLOW_WIDTH:
        left.remove(max(left, key=lambda one: one[0].rank))
    return left


def _left_of(columns: Sequence[tuple[Column, Heading]], width: int) -> int:
    """Return how wide the flows' own column is beside these."""
    return width - 1 - sum(heading.width + 1 for _, heading in columns)


def _fit(text: str, width: int, *, right: bool) -> str:
    text = text[:width]
    return text.rjust(width) if right else text.ljust(width)


def _cut(text: str, width: int) -> str:
    """Cut a flow's name: of both ends as much as there is room for, ports rather than prefixes."""
    if len(text) <= width:
        return text
    client, _, server = text.partition(">")
    half = max((width - 1) // 2, 4)
    return ">".join(
        end if len(end) <= half else ".." + end[len(end) - half + 2 :] for end in (client, server)
    )


def _cell(flow: FlowRecord, key: str, *, wide: bool) -> str:
    if key == "state":
        state = str(flow["state"])
        return state if wide else _STATES.get(state, state)
    if key == "how":
        strategy, path = flow["strategy"], flow["data_path"]
        return f"{strategy}/{path}" if wide else f"{strategy[:4]}/{path[0]}"
    value = flow[key]
    if key.endswith("_ms"):
        return "-" if value is None else milliseconds(value / 1000)
    if key == "age_s":
        return span(value)
    return value if isinstance(value, str) else short(value)


# --- one flow, and help -------------------------------------------------------------------


def _one(view: View, snapshot: Snapshot, width: int) -> Iterator[Text]:
    flow = view.looked_at or {}
    yield Text(str(flow.get("flow", "")), _BOLD)
    line = ""
    for name, value in flow.items():
        if name in ("flow_id", "flow", "client", "server"):
            continue
        word = f"{name} {'-' if value is None else value}"
        if line and len(line) + 3 + len(word) > width:
            yield Text(line)
            line = ""
        line += ("   " if line else "") + word
    yield Text(line)
    yield Text()
    events = [one for one in snapshot.events if one.get("flow_id") == flow.get("flow_id")]
    if not events:
        yield Text("Its events are not kept any more, or are on their way here.", _DIM)
    for drawn in ladder(events, width):
        yield Text(drawn)
    if events:
        yield Text()
    for event in event_lines(events):
        yield from _folded(event, width)


def _folded(text: str, width: int, indent: int = 4) -> Iterator[Text]:
    """Give a text as lines, those behind the first one indented."""
    yield from map(
        Text, textwrap.wrap(text, width, subsequent_indent=" " * min(indent, width // 2))
    )


def _help(width: int) -> Iterator[Text]:
    for key, meaning in KEYS:
        yield from _folded(f"{key:<{_KEY_WIDTH}} {meaning}", width, _KEY_WIDTH + 1)
    yield Text()
    yield Text("by: the strategy, and who rewrites the packets: p python, k kernel, n none.")
    yield Text("saved, data: how much earlier the client was connected, and its data left, ms.")
    yield Text("out, in: data to the server and to the client, repetitions not counted.")


def _foot(view: View, width: int) -> Text:
    if view.typing:
        return Text(f"show flows with: {view.words}_"[-width:], _BOLD)
    if view.mode == FLOWS:
        keys = "q quit  s sort  r reverse  / filter  e ended  p pause  enter look  ? help"
    else:
        keys = "q back  up/down scroll  p pause"
    return Text(keys[:width], _DIM)
