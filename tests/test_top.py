"""The parts of the live view that need no terminal: keys, order, ladder, rates, widths."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nfq_zerortt.core import descriptions
from nfq_zerortt.core.states import State
from nfq_zerortt.live import terminal
from nfq_zerortt.live.feed import Feed, Snapshot
from nfq_zerortt.live.flow import kept
from nfq_zerortt.live.ladder import ladder
from nfq_zerortt.live.rates import Rates
from nfq_zerortt.live.screen import Screen, page
from nfq_zerortt.live.view import FLOWS, HELP, ONE, ORDERS, View
from nfq_zerortt.observe.control import Request
from nfq_zerortt.readable import milliseconds, short, span
from tests.scenarios.script import Numbers, Run
from tests.test_control import Serving, until
from tests.test_flow_tables import flow
from tests.test_metrics import stats

CODES = re.compile(r"\x1b\[[0-9;]*m")


def flows(count: int) -> list[dict[str, Any]]:
    """Return flows as the service tells them, each a little different."""
    one = flow()
    return [
        {
            **one,
            "flow_id": number,
            "flow": f"10.0.1.2:{40_000 + number}>10.0.3.2:80",
            "bytes_to_client": 100 * number,
            "server_rtt_ms": None if number % 2 else float(number),
            "state": "TIME_WAIT" if number % 3 == 0 else "ESTABLISHED",
        }
        for number in range(1, count + 1)
    ]


# --- keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1bOB\x1b[5~", ["up", "down", "page up"]),
        ("\x1b", ["escape"]),
        ("/é\r\x7f", ["/", "é", "enter", "backspace"]),
        ("a\x9b31m\x07\u202eb", ["a", "3", "1", "m", "b"]),
        ("\x01\x1b[99;1x", ["escape", "[", "9", "9", ";", "1", "x"]),
    ],
)
def test_keys_have_names(typed: str, keys: list[str]) -> None:
    assert terminal.named(typed) == keys


def numbers(view: View, lines: int = 100) -> list[int]:
    return [flow["flow_id"] for flow in view.page(lines)[0]]


def test_the_order_can_be_chosen() -> None:
    view = View()
    view.take(flows(4))
    assert numbers(view) == [4, 3, 2, 1]
    view.press("r", 10)
    view.take(flows(4))
    assert numbers(view) == [1, 2, 3, 4]
    view.press("r", 10)
    while ORDERS[view.order].name != "RTT":
        view.press("s", 10)
    view.take(flows(4))
    assert numbers(view)[:2] == [4, 2], "those without one come last"
    assert sorted(numbers(view)[2:]) == [1, 3]


@pytest.mark.parametrize("order", range(len(ORDERS)))
def test_every_order_takes_what_the_service_tells(order: int) -> None:
    run = Run(Numbers(c=1, r=2))
    run.play(">> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n")
    assert run.engine is not None
    view = View()
    view.order = order
    view.take([*descriptions.flows(run.engine.table, run.now), flow()])
    assert len(view) == 2


def test_the_mark_stays_with_its_flow() -> None:
    view = View()
    view.take(flows(4))
    view.press("down", 10)
    view.take(flows(6))  # two more, above it
    shown, marked = view.page(10)
    assert shown[marked]["flow_id"] == 3
    view.press("g", 10)
    view.take(flows(7))
    assert view.page(10)[1] == 0, "at the top it stays there"
    for _ in range(20):
        view.press("page down", 3)
    assert view.page(3) == (view.page(3)[0], 2)
    assert numbers(view, 3) == [3, 2, 1]


def test_words_choose_and_modes_change() -> None:
    view = View()
    for key in "/40002 ESTAB":
        view.press(key, 10)
    view.take(flows(4))
    assert numbers(view) == [2]
    view.press("q", 10)
    assert view.words.endswith("q"), "a letter like others while one types"
    view.press("backspace", 10)
    view.press("enter", 10)
    view.press("enter", 10)
    assert view.mode == ONE
    assert view.looked_at is not None
    assert view.looked_at["flow_id"] == 2
    view.press("q", 10)
    assert (view.mode, view.quit) == (FLOWS, False)
    view.press("?", 10)
    assert view.mode == HELP
    view.press("escape", 10)
    view.press("e", 10)
    view.press("escape", 10)
    view.take(flows(4))
    assert numbers(view) == [4, 2, 1], "3 has ended"
    view.press("q", 10)
    assert view.quit


def test_the_same_flows_are_sorted_once() -> None:
    """A key that only moves the mark costs nothing, however many flows there are."""
    view, there = View(), Counted(flows(4))
    view.take(there)
    for key in ("down", "up", "?", "escape", "enter", "escape"):
        view.press(key, 10)
        view.take(there)
    assert there.gone_through == 1
    for key in "ser/x":
        view.press(key, 10)
        view.take(there)
    assert there.gone_through == 5
    assert len(view) == 0


class Counted(list[dict[str, Any]]):
    """A list that knows how often somebody went through it."""

    gone_through = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.gone_through += 1
        return super().__iter__()


def test_a_flow_is_kept_with_little_memory() -> None:
    texts = [json.dumps(one) for one in flows(1000)]

    def memory(make: Callable[[list[tuple[str, Any]]], object]) -> int:
        decoder = json.JSONDecoder(object_pairs_hook=make)
        tracemalloc.start()
        there = [decoder.decode(text) for text in texts]
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(there) == 1000
        return used

    assert memory(kept) < memory(dict) / 2
    one = kept(list(json.loads(texts[7]).items()))
    assert dict(one) == json.loads(texts[7])
    assert one.get("warp") is None


# --- what is asked for --------------------------------------------------------------------


def test_the_head_does_not_wait_for_the_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of flows that takes its time is said to be on its way."""
    monkeypatch.setattr("nfq_zerortt.live.feed.EVERY_S", 0.1)
    path = tmp_path / "control.sock"
    go_on = threading.Event()

    async def slow_flows() -> AsyncIterator[dict[str, Any]]:
        for one in flows(3):
            yield one
        while not go_on.is_set():
            await asyncio.sleep(0.01)

    told, counted = threading.Event(), stats()
    with Serving(
        path,
        stats=lambda: counted,
        flows=slow_flows,
        events=Request(iter_of, frozenset({"flow_id"})),
    ):
        feed = Feed(path, told.set)
        assert feed.latest.flows_at is None
        feed.start()
        first = feed.latest.at
        until(lambda: feed.latest.at > first, "it is asked again, beside the flows")
        assert feed.latest.flows_at is None
        view, screen, rates = View(), Screen(), Rates()
        rates.take(feed.latest.at, feed.latest.stats)
        drawn = "\n".join(screen.lines(view, feed.latest, rates, (80, 24)))
        assert "the list of flows is on its way: 0 so far" in drawn
        go_on.set()
        until(lambda: len(feed.latest.flows) == 3, "the flows are here")
    until(lambda: "no service answers" in feed.latest.problem, "that is said")
    assert len(feed.latest.flows) == 3
    feed.paused = True


def test_nothing_is_asked_while_it_is_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And however long the pause was, it goes on at once after it."""
    monkeypatch.setattr("nfq_zerortt.live.feed.EVERY_S", 0.02)
    path, counted, asked = tmp_path / "control.sock", stats(), Counter[str]()

    def count(name: str, answer: object) -> object:
        asked[name] += 1
        return answer

    with Serving(
        path,
        stats=lambda: count("stats", counted),
        flows=lambda: count("flows", iter(flows(3))),
        events=Request(lambda flow_id: count("events", iter([])), frozenset({"flow_id"})),
    ):
        feed = Feed(path, lambda: None)
        feed.start()
        until(lambda: asked["flows"] > 2 and asked["stats"] > 2, "it asks")
        feed.paused = True
        time.sleep(0.1)
        before = asked.copy()
        time.sleep(0.1)
        assert asked == before
        feed.look_into(1)  # what one looks into is asked for, once
        until(lambda: asked["events"] == 1, "its events")
        time.sleep(0.1)
        assert asked["events"] == 1
        feed.paused = False
        began = time.monotonic()
        until(lambda: asked["flows"] > before["flows"] + 2, "it asks again")
        assert time.monotonic() - began < 2
        feed.paused = True


def test_what_is_typed_cannot_steer_the_terminal() -> None:
    view, rates = View(), Rates()
    rates.take(0.0, stats())
    snapshot = Snapshot(0.0, stats(), flows(1))
    for key in terminal.named("/x\x9b2J\x07\x0b"):
        view.press(key, 10)
        drawn = CODES.sub("", "".join(Screen().lines(view, snapshot, rates, (80, 24))))
        assert drawn.isprintable()
    assert view.words == "x2J"


def iter_of(flow_id: int) -> Iterator[dict[str, Any]]:
    return iter([{"flow_id": flow_id}])


def test_an_old_list_says_so() -> None:
    view, rates = View(), Rates()
    rates.take(50.0, stats())
    for age, words in ((2.0, ""), (31.0, ", as of 31 s ago")):
        snapshot = Snapshot(50.0, stats(), flows(3), flows_at=50.0 - age)
        view.take(snapshot.flows)
        drawn = CODES.sub("", "\n".join(Screen().lines(view, snapshot, rates, (80, 24))))
        assert f"3 shown, by newest{words}\n" in drawn.replace(" \n", "\n") + "\n"


# --- the ladder ---------------------------------------------------------------------------


def event(name: str, at: float, **fields: object) -> dict[str, Any]:
    return {"timestamp": f"2026-01-02T03:04:{at:09.6f}Z", "event": name, "flow_id": 1, **fields}


def rungs(*events: dict[str, Any]) -> list[str]:
    lines = ladder(events, 79)
    assert {len(line) for line in lines[1:]} == {79}
    return lines[2:]


def test_a_ladder_goes_both_ways() -> None:
    lines = rungs(
        event("flow.syn_received", 0, isn_client=1000),
        event("flow.synack_spoofed", 0.0001, isn_spoofed=2000),
        event("flow.syn_forwarded", 0.0002, attempt=1, fast_open="cookie", data_bytes=200),
        event("flow.syn_forwarded", 0.25, attempt=2, fast_open="none", data_bytes=0),
        event("flow.reset", 0.3, by="server", reason="refused"),
    )
    for line, pattern in zip(
        lines,
        (
            r"   0\.000  \|-+ SYN 1000 -+>\| {33}\|",
            r"   0\.100  \|<-+ SYN-ACK 2000 -+\| {33}\|",
            r"   0\.200  \| {33}\|-+ SYN, cookie, 200 B -+>\|",
            r" 250\.000  \| {33}\|-+ SYN, number 2 -+>\|",
            r" 300\.000  \| {33}\|<-+ RST, refused -+\|",
        ),
        strict=True,
    ):
        assert re.fullmatch(pattern, line), line


def test_a_ladder_of_packets() -> None:
    onward, back = {"direction": "client_to_server"}, {"direction": "server_to_client"}
    (kept, went, sent) = rungs(
        event("packet.dropped", 0, **onward, flags="ACK", length=5, reason="held"),
        event("packet.rewritten", 0, **back, flags="ACK", length=7),
        event("packet.injected", 0, **onward, flags="SYN", length=0),
    )
    assert re.search(r"\|-+ ACK 5 B, held -+>\| {33}\|", kept)
    assert re.search(r"\|<-+ ACK 7 B -+\|<-+ ACK 7 B -+\|", went)
    assert re.search(r"\| {33}\|-+ SYN 0 B -+>\|", sent)


def test_without_events_there_is_no_ladder() -> None:
    assert ladder([], 80) == []


# --- numbers ------------------------------------------------------------------------------


def told(pid: int, counts: list[int], begun: int) -> dict[str, Any]:
    histogram = {"counts": counts, "bounds": [0.001, 0.002], "sum": 0.0}
    return {
        "service": {"pid": pid},
        "counters": {"flows_begun": {"auto": begun, "hold": 1}},
        "histograms": {"syn_ack_seconds": histogram},
    }


def test_rates_are_of_the_last_seconds() -> None:
    rates = Rates()
    rates.take(0.0, told(1, [0, 0, 0], 0))
    assert rates.latency() is None
    assert rates.per_second("flows_begun") == 0
    rates.take(2.0, told(1, [10, 0, 0], 10))
    assert rates.per_second("flows_begun") == 5
    rates.take(20.0, told(1, [10, 4, 0], 14))
    latency = rates.latency()
    assert latency is not None
    assert not latency.recent, "nothing but one answer is of the last seconds"
    rates.take(22.0, told(1, [10, 8, 0], 18))
    assert rates.per_second("flows_begun") == 2
    latency = rates.latency()
    assert latency is not None
    assert latency.recent
    assert latency.quantiles[0] == 0.0015
    rates.take(23.0, told(2, [0, 0, 0], 0))  # started anew
    assert rates.per_second("flows_begun") == 0


def test_numbers_are_short() -> None:
    assert [milliseconds(value) for value in (None, 0.0001, 0.0123, 1.5)] == [
        "-",
        "0.10",
        "12.3",
        "1500",
    ]
    assert [short(value) for value in (7, 1234, 34_567, 9_990_000, 2e12)] == [
        "7",
        "1.2k",
        "34k",
        "10.0M",
        "2.0T",
    ]
    assert [span(value) for value in (5.9, 65, 3700, 90_000)] == [
        "5 s",
        "1 min 5 s",
        "1 h 1 min",
        "1 d 1 h",
    ]


# --- the screen ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [FLOWS, ONE, HELP])
@pytest.mark.parametrize("size", [(80, 24), (20, 5), (43, 13), (110, 30), (300, 100)])
def test_a_screen_is_never_wider_or_higher_than_it_is(mode: str, size: tuple[int, int]) -> None:
    view, rates = View(), Rates()
    events = [event("flow.syn_received", 0, isn_client=1, options={"mss": 1460, "x": "[red]"})]
    snapshot = Snapshot(0.0, stats(), [flow(ipv6=True), *flows(60)], events, "[no] service")
    rates.take(0.0, snapshot.stats)
    view.take(snapshot.flows)
    if mode != FLOWS:
        view.press("enter" if mode == ONE else "?", page(view, size))
    assert view.mode == mode
    width, height = size
    drawn = Screen().lines(view, snapshot, rates, size)
    assert len(drawn) == height
    plain = [CODES.sub("", line) for line in drawn]
    assert max(map(len, plain)) <= width
    assert not any("\x1b" in line or "\n" in line for line in plain)
    assert "NOT UP TO DATE: [no]"[:width] in "\n".join(plain)
    if mode == FLOWS:
        assert sum(line.startswith((">", " ")) and "10.0" in line for line in plain) <= height
        assert len(view.page(page(view, size))[0]) == min(61, page(view, size))


@pytest.mark.parametrize(("width", "remedy"), [(80, False), (200, True)])
def test_a_problem_is_not_cut_in_the_middle(width: int, *, remedy: bool) -> None:
    view, rates = View(), Rates()
    problem = "no service answers at /run/nfq-zerortt/control.sock"
    advice = ": start one (nfq-zerortt run), or name its socket (--control-socket)"
    snapshot = Snapshot(0.0, stats(), [flow()], [], problem + advice)
    rates.take(0.0, snapshot.stats)
    view.take(snapshot.flows)
    plain = [
        CODES.sub("", line).rstrip() for line in Screen().lines(view, snapshot, rates, (width, 24))
    ]
    assert f"NOT UP TO DATE: {problem}{advice if remedy else ''}" in plain


@pytest.mark.parametrize("state", list(State))
def test_every_state_fits_its_column(state: State) -> None:
    view, rates = View(), Rates()
    snapshot = Snapshot(0.0, stats(), [{**flow(), "state": state.name}])
    rates.take(0.0, snapshot.stats)
    view.take(snapshot.flows)
    drawn = Screen().lines(view, snapshot, rates, (80, 24))
    (line,) = (CODES.sub("", one) for one in drawn if "10.0.1.2:" in one)
    found = re.search(r":80 +(\S+) +fast/p ", line)
    assert found is not None, line
    assert len(found[1]) <= 8
    wide = Screen().lines(view, snapshot, rates, (120, 24))
    assert any(f" {state.name} " in CODES.sub("", one) for one in wide)


def test_text_of_others_is_no_markup() -> None:
    view, rates = View(), Rates()
    snapshot = Snapshot(0.0, stats(), [{**flow(), "flow": "[bold]x>[/bold]y"}])
    rates.take(0.0, snapshot.stats)
    view.take(snapshot.flows)
    drawn = "\n".join(Screen().lines(view, snapshot, rates, (80, 24)))
    assert "[bold]x>[/bold]y" in drawn
