"""Counting: what the events of real scripts add up to, and what is told of it to whom."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nfq_zerortt import measuring
from nfq_zerortt.cli.stat_lines import lines
from nfq_zerortt.core import descriptions
from nfq_zerortt.core.actions import Actions, Report, Side
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.observe import exposition
from nfq_zerortt.observe.http_hosts import only_for
from nfq_zerortt.observe.metrics import (
    BY_NAME,
    COUNTER,
    GAUGE,
    HISTOGRAM,
    METRICS,
    RTT_BOUNDS,
    SYN_ACK_BOUNDS,
    Metric,
    add,
    differences,
    quantile,
)
from nfq_zerortt.observe.recent import MOST, MOST_CAPPED, Recent
from nfq_zerortt.observe.tally import BYPASSED, OTHER, RESETTERS, Histogram, Tally
from tests.scenarios.script import Numbers, Run, scripts
from tests.test_control_docs import answers
from tests.test_docs import EVENTS, codes, rows

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "docs/monitoring"
METRICS_PAGE = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")


@dataclass
class Told(Run):
    """Runs a script, and keeps its events as the service would log them."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def _shown(self, actions: Actions, side: Side | None) -> list[str]:
        for action in actions:
            if isinstance(action, Report):
                fields = {"flow_id": action.flow_id, **action.fields}
                if action.event == "flow.synack_spoofed":
                    fields["latency_us"] = 123.4
                self.events.append((action.event, fields))
        return super()._shown(actions, side)


@cache
def played() -> list[list[tuple[str, dict[str, Any]]]]:
    """Return the events of every script, each a service of its own."""
    found = []
    for script in scripts():
        run = Told(Numbers(c=1_000_000, r=3_000_000_000))
        run.play(script.read_text(encoding="utf-8"))
        found.append(run.events)
    return found


def counted() -> dict[str, Any]:
    """Return what all scripts together add up to."""
    total: dict[str, Any] = {}
    for events in played():
        tally = Tally()
        for event, fields in events:
            tally.note(event, fields)
        add(total, tally.record())
    return total


def all_events(name: str) -> Iterator[dict[str, Any]]:
    return (fields for events in played() for event, fields in events if event == name)


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


# --- counting -----------------------------------------------------------------------------


def test_connections_are_counted_as_they_were() -> None:
    counters = counted()[COUNTER]
    assert nonzero(counters["flows_begun"]) == Counter(
        fields["strategy"] for fields in all_events("flow.syn_received")
    )
    assert set(nonzero(counters["flows_begun"])) == {"auto", "hold", "fastopen", "observe"}
    established = Counter(
        (fields["strategy"], fields["data_path"]) for fields in all_events("flow.established")
    )
    assert {
        (strategy, path): count
        for strategy, paths in counters["flows_established"].items()
        for path, count in paths.items()
    } == established
    reset = Counter((fields["reason"], fields["by"]) for fields in all_events("flow.reset"))
    assert {
        (reason, by): count
        for reason, sides in counters["flows_reset"].items()
        for by, count in sides.items()
        if count
    } == reset
    bypassed = Counter(
        re.match(r"\w+", fields["reason"])[0]  # type: ignore[index]
        for fields in all_events("flow.bypassed")
    )
    assert nonzero(counters["flows_bypassed"]) == bypassed
    assert OTHER not in bypassed


def test_ends_are_counted_by_what_ended_them() -> None:
    """What a RST has ended is closed without a reason: the reset has told it."""
    closed = counted()[COUNTER]["flows_closed"]
    expected: Counter[str] = Counter()
    for events in played():
        by_reset = {f["flow_id"]: f["reason"] for event, f in events if event == "flow.reset"}
        for event, fields in events:
            if event == "flow.closed":
                reason = fields.get("reason") or by_reset.get(fields["flow_id"], "fin")
                expected[reason] += 1
    assert nonzero(closed) == expected
    assert {"fin", "client_reset", "server_reset", "refused", "no_answer"} <= expected.keys()


def test_sums_are_those_of_the_events() -> None:
    counters = counted()[COUNTER]
    closed = list(all_events("flow.closed"))
    assert counters["bytes"] == {
        "to_server": sum(fields["bytes_to_server"] for fields in closed),
        "to_client": sum(fields["bytes_to_client"] for fields in closed),
    }
    assert counters["segments_rewritten"] == sum(f["segments_rewritten"] for f in closed)
    suppressed = sum(fields["retransmissions_suppressed"] for fields in closed)
    assert counters["retransmissions_suppressed"] == suppressed
    released = list(all_events("flow.data_released"))
    assert counters["early_data_bytes"] == sum(fields["bytes"] for fields in released) > 0
    sent = list(all_events("flow.syn_forwarded"))
    first = [fields["fast_open"] for fields in sent if fields["attempt"] == 1]
    assert counters["syns_sent"] == {"request": 0, "cookieless": 0, **Counter(first)}
    assert counters["syns_repeated"] == len(sent) - len(first) > 0
    answers = Counter(fields["fast_open"] for fields in all_events("flow.synack_captured"))
    assert counters["fast_open_answers"] == {
        "accepted": answers["accepted"],
        "rejected": answers["rejected"],
    }
    assert answers["accepted"]
    assert answers["rejected"]


def test_histograms_have_every_value() -> None:
    histograms = counted()[HISTOGRAM]
    rtts = [fields["server_rtt_ms"] / 1000 for fields in all_events("flow.synack_captured")]
    assert sum(histograms["server_rtt_seconds"]["counts"]) == len(rtts)
    assert histograms["server_rtt_seconds"]["sum"] == pytest.approx(sum(rtts), abs=1e-3)
    held = [fields["held_ms"] / 1000 for fields in all_events("flow.data_released")]
    assert histograms["held_seconds"]["sum"] == pytest.approx(sum(held), abs=1e-3)
    counts = histograms["syn_ack_seconds"]["counts"]
    spoofed = len(list(all_events("flow.synack_spoofed")))
    assert counts[SYN_ACK_BOUNDS.index(0.00015)] == sum(counts) == spoofed


@pytest.mark.parametrize(
    ("strategy", "taken"),
    [("hold", 0), ("fastopen", 200), ("fastopen", 100), ("fastopen", 0), ("observe", 0)],
)
def test_the_time_saved_is_that_of_the_flow(strategy: str, taken: int) -> None:
    script = (
        ">> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n"
        ">> 0.003 client PSH,ACK C+1 ack S+1 len 200 win 502 <nop nop ts TC+1/TS>\n"
        f">> 0.1 server SYN,ACK R ack C+{taken + 1} win 65160 <mss 1400 sackOK ts TR/TC nop ws 7>\n"
    )
    run = Told(Numbers(c=1_000_000, r=3_000_000_000), strategy=strategy)
    run.play(script)
    tally = Tally()
    for event, fields in run.events:
        tally.note(event, fields)
    saved = tally.record()[COUNTER]["saved_seconds"]
    assert run.engine is not None
    (flow,) = descriptions.flows(run.engine.table, run.now)
    for what in ("connect", "data"):
        key = {"connect": "connected_earlier_ms", "data": "data_earlier_ms"}[what]
        assert saved[what] == pytest.approx((flow[key] or 0.0) / 1000, abs=1e-5)
    assert (saved["connect"] > 0) == (strategy != "observe")


def test_labels_do_not_grow_with_what_strangers_send() -> None:
    tally = Tally()
    before = json.dumps(tally.record())
    for reason in ("malformed: option 99", "odd_flags FIN,SYN", "something new"):
        tally.note("flow.bypassed", {"flow_id": 1, "reason": reason})
    tally.note("flow.reset", {"flow_id": 1, "reason": "something new", "by": "server"})
    after = tally.record()[COUNTER]
    assert nonzero(after["flows_bypassed"]) == {"malformed": 1, "odd_flags": 1, OTHER: 1}
    assert after["flows_reset"][OTHER] == {"clientnic": 1}
    assert re.sub(r"\d", "", json.dumps(after)) == re.sub(
        r"\d", "", json.dumps(json.loads(before)[COUNTER])
    )


def documented_reasons(heading: str) -> set[str]:
    part = EVENTS.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    return {re.match(r"\w+", reason)[0] for row in rows(part) for reason in codes(row[0])}  # type: ignore[index]


def test_every_documented_reason_has_a_label() -> None:
    assert set(BYPASSED) - {OTHER} == documented_reasons("Bypassed")
    assert set(RESETTERS) - {OTHER} == documented_reasons("Ended") - {"timeout"}
    closed = Tally().record()[COUNTER]["flows_closed"].keys()
    assert closed - {OTHER, "fin"} == documented_reasons("Ended")


# --- numbers ------------------------------------------------------------------------------


def test_a_value_counts_for_the_bucket_that_it_is_not_above() -> None:
    histogram = Histogram((0.1, 0.2))
    for value in (0.05, 0.1, 0.15, 0.2, 0.3):
        histogram.take(value)
    assert histogram.record() == {"counts": [2, 2, 1], "sum": 0.8}


def test_records_are_added() -> None:
    total: dict[str, Any] = {"a": {"x": 1}, "list": [1, 2]}
    add(total, {"a": {"x": 2, "y": 0.5}, "b": 3, "list": [10, 20]})
    add(total, {"a": {}, "new": [1]})
    assert total == {"a": {"x": 3, "y": 0.5}, "b": 3, "list": [11, 22], "new": [1]}


def test_what_came_since() -> None:
    assert differences([3, 5], [1, 5]) == [2, 0]
    assert differences([1, 2], [3, 1]) == [1, 2], "it has begun anew"


def test_quantiles_lie_within_their_bucket() -> None:
    bounds = (1.0, 2.0, 4.0)
    assert quantile(0.5, [0, 0, 0, 0], bounds) is None
    assert quantile(0.5, [4, 0, 0, 0], bounds) == 0.5
    assert quantile(0.5, [1, 2, 1, 0], bounds) == 1.5
    assert quantile(1.0, [1, 2, 1, 0], bounds) == 4.0
    assert quantile(0.99, [1, 0, 0, 99], bounds) == 4.0, "nothing is known beyond"


def test_what_is_said_of_a_histogram_is_so() -> None:
    """All round trips take 101 ms: half of them are not "within" less, nor a bound made up."""
    told = {**stats(), HISTOGRAM: dict(stats()[HISTOGRAM])}
    told["service"] = {**told["service"], "pid": 1}
    rtts = Histogram(RTT_BOUNDS)
    for _ in range(10):
        rtts.take(0.101)
    told[HISTOGRAM]["server_rtt_seconds"] = {**rtts.record(), "bounds": list(RTT_BOUNDS)}
    said = dict(lines(told))["server's RTT"]
    assert said == "10; mean 101 ms, half within 125 ms, 99 % within 125 ms"
    rtts.take(100.0)
    told[HISTOGRAM]["server_rtt_seconds"] = {**rtts.record(), "bounds": list(RTT_BOUNDS)}
    assert dict(lines(told))["server's RTT"].endswith("125 ms, 99 % not within 6400 ms")


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        (None, True),
        ("127.0.0.1:9464", True),
        ("127.0.0.1", True),
        ("LOCALHOST:8080", True),
        ("evil.example", False),
        ("evil.example:9464", False),
        ("127.0.0.1.evil.example", False),
        ("127x0.0.1", False),
        ("[", False),
        ("", False),
    ],
)
def test_another_host_s_name_is_refused(asked: str | None, *, served: bool) -> None:
    """As a web page may ask whose name leads here (DNS rebinding)."""

    def app(_: Any, start: Any) -> list[bytes]:
        start("200 OK", [])
        return [b"numbers"]

    statuses: list[str] = []

    def start(status: str, *_: Any) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda _: None

    environ = {} if asked is None else {"HTTP_HOST": asked}
    body = only_for(app, "127.0.0.1")(environ, start)
    assert statuses == ["200 OK" if served else "403 Forbidden"]
    assert (b"".join(body) == b"numbers") == served


# --- the last events ----------------------------------------------------------------------


def test_the_last_events_are_kept_and_no_more() -> None:
    recent = Recent()
    for number in range(MOST + 10):
        recent.add("flow.syn_received", {"flow_id": number})
    for number in range(10 * MOST_CAPPED):
        recent.add("flow.bypassed", {"flow_id": 10_000 + number})
    kept = [record["flow_id"] for record in recent.records()]
    assert kept[:MOST] == list(range(10, MOST + 10)), "strangers must not drive flows out"
    assert len(kept) == MOST + MOST_CAPPED
    (one,) = recent.records(17)
    assert one["event"] == "flow.syn_received"
    assert one["level"] == "info"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", one["timestamp"])
    assert list(recent.records(1)) == []


# --- what is told -------------------------------------------------------------------------


@cache
def stats() -> dict[str, Any]:
    """Return the answer to ``stats`` of a service that has had the events of the scripts."""
    asked = answers().requests()["stats"].answer()
    assert isinstance(asked, Coroutine)
    told: dict[str, Any] = asyncio.run(asked)
    for kind, record in counted().items():
        told[kind] |= record
    for name, histogram in told[HISTOGRAM].items():
        histogram["bounds"] = list(BY_NAME[name].bounds)
    told["service"] |= {"version": "1.2.3", "strategy": "auto", "data_path": "kernel"}
    told["service"] |= {"client_iface": "eth0", "server_iface": "eth1", "uptime_s": 10.0}
    return told


def test_every_metric_is_told_and_no_other() -> None:
    for kind in (COUNTER, GAUGE, HISTOGRAM):
        assert set(stats()[kind]) == {metric.name for metric in METRICS if metric.kind == kind}


def families() -> dict[str, Any]:
    text = exposition.text(stats())
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_exposition_has_all_of_it() -> None:
    found = families()
    for metric in METRICS:
        family = found[metric.exposed.removesuffix("_total")]
        assert family.type == metric.kind[:-1]
        assert family.documentation == metric.meaning
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    begun = found["nfq_zerortt_flows_begun"].samples
    assert {s.labels["strategy"]: s.value for s in begun} == stats()[COUNTER]["flows_begun"]
    (up,) = found["nfq_zerortt_up"].samples
    assert up.value == 1
    (info,) = found["nfq_zerortt_info"].samples
    assert info.labels["version"] == "1.2.3"


def test_histograms_are_cumulative() -> None:
    samples = families()["nfq_zerortt_server_rtt_seconds"].samples
    buckets = [sample.value for sample in samples if sample.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    (count,) = (sample.value for sample in samples if sample.name.endswith("_count"))
    assert buckets[-1] == count == sum(stats()[HISTOGRAM]["server_rtt_seconds"]["counts"])
    assert len(buckets) == len(BY_NAME["server_rtt_seconds"].bounds) + 1


def test_the_start_is_the_same_at_each_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer takes its time, so what is subtracted varies; an alert counts the changes."""
    now, uptime = 1000.0, 0.0

    def told() -> dict[str, Any]:
        return {**stats(), "service": {**stats()["service"], "uptime_s": uptime}}

    monkeypatch.setattr("nfq_zerortt.observe.exposition.time.time", lambda: now)
    registry = exposition.registry(told)

    def started() -> float | None:
        return registry.get_sample_value("nfq_zerortt_start_time_seconds")

    assert started() == 1000.0
    for later, up in ((10.0, 9.7), (20.0, 20.4), (3600.0, 3598.0)):
        now, uptime = 1000.0 + later, up
        assert started() == 1000.0
    now, uptime = 5000.0, 1.0
    assert started() == 4999.0, "it was started anew"


def test_without_a_service_it_is_down() -> None:
    def ask() -> dict[str, Any]:
        raise ZeroRttError("nobody is there")

    (family,) = exposition.registry(ask).collect()
    (sample,) = family.samples
    assert (sample.name, sample.value) == ("nfq_zerortt_up", 0)


def test_names_have_their_unit() -> None:
    """As Prometheus wants them: base units, spelled out, _total for what only grows."""
    for metric in METRICS:
        assert re.fullmatch(r"nfq_zerortt_[a-z_]+", metric.exposed)
        assert metric.exposed.endswith("_total") == (metric.kind == COUNTER)
        assert not re.search(r"_(ms|us|kib|kb)\b", metric.exposed)
        if metric.kind == HISTOGRAM:
            assert metric.exposed.endswith("_seconds")
            assert list(metric.bounds) == sorted(set(metric.bounds))


def test_every_metric_is_documented_as_it_is() -> None:
    def row(metric: Metric) -> list[str]:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        return [f"`{metric.exposed}`", metric.kind[:-1], labels, metric.meaning]

    assert rows(METRICS_PAGE) == [row(metric) for metric in METRICS]


# --- the dashboard and the alerts ---------------------------------------------------------


def expressions() -> dict[str, list[str]]:
    """Return what is asked of Prometheus in each file."""
    board = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    alerts = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    return {
        "dashboard": [
            *(target["expr"] for panel in board["panels"] for target in panel["targets"]),
            *(one.get("definition", "") for one in board["templating"]["list"]),
        ],
        # What is folded in YAML stands with more space before it than the next key.
        "alerts": [
            " ".join(found.split())
            for found in re.findall(r"^ {8}expr: (?:>-\n)?((?:.|\n {10})+)", alerts, re.MULTILINE)
        ],
    }


@pytest.mark.parametrize("file", ["dashboard", "alerts"])
def test_only_metrics_and_labels_that_exist_are_asked_for(file: str) -> None:
    samples: dict[str, list[dict[str, str]]] = {}
    for family in families().values():
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample.labels)
    given = {"instance", "job", "le"}
    asked: set[str] = set()
    metrics = {metric.exposed: metric for metric in METRICS}
    for expression in expressions()[file]:
        for name, selector in re.findall(r"(nfq_zerortt_\w+)(?:\{([^}]*)\})?", expression):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in samples or name in metrics, f"{name} in {expression}"
            asked.add(name)
            allowed = given | set(metrics[plain].labels if plain in metrics else ())
            for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', selector):
                assert label in allowed, f"{label} of {name} in {expression}"
                there = {labels.get(label) for labels in samples.get(name, [])}
                if operator in ("=", "=~") and label not in given and there:
                    assert set(value.split("|")) <= there, f"{value} of {label} in {expression}"
        by = {
            word
            for words in re.findall(r" by \(([^)]*)\)", expression)
            for word in words.split(", ")
        }
        assert by <= given | {label for metric in METRICS for label in metric.labels}
    assert len(asked) > 5


def test_what_an_operator_must_know_has_an_alert() -> None:
    asked = " ".join(expressions()["alerts"])
    for name in (
        "nfq_zerortt_up",
        "nfq_zerortt_queue_dropped_total",
        "nfq_zerortt_queues_unread",
        "nfq_zerortt_syn_ack_seconds_bucket",
        "flow_table_full",
        "too_many_half_open",
        "nfq_zerortt_log_events_suppressed_total",
    ):
        assert name in asked, name


def test_the_dashboard_is_whole() -> None:
    """What Grafana reads of it: every panel has a place of its own, a source and a question."""
    board = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    assert board["title"] == board["uid"] == "nfq-zerortt"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    names = [one["name"] for one in board["templating"]["list"]]
    assert names == ["datasource", "instance"]


def test_flows_of_the_kernel_are_counted_once() -> None:
    """Such a flow is in both places for a moment: then the kernel's entry counts."""
    run = Told(Numbers(c=1, r=2))
    run.play(">> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n")
    assert run.engine is not None
    (flow,) = run.engine.table
    assert isinstance(flow, Flow)
    assert _flows(run) == {"SPOOFED": {"python": 1}}
    flow.handed_over = 0.0
    assert _flows(run) == {}


def _flows(run: Told) -> dict[str, dict[str, int]]:
    assert run.engine is not None
    total: dict[str, Any] = {}
    for record in measuring.of_flows(run.engine):
        add(total, record)
    flows: dict[str, dict[str, int]] = total[GAUGE]["flows"]
    return flows
