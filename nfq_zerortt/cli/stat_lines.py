"""The answer to ``stats`` in lines for people: a word, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nfq_zerortt.observe.metrics import bound
from nfq_zerortt.readable import listed, milliseconds, short, span

Record = Mapping[str, Any]


def lines(stats: Record) -> Iterator[tuple[str, str]]:
    """Give the lines, each as its word and the rest."""
    counters, gauges = stats["counters"], stats["gauges"]
    histograms = stats["histograms"]
    yield "service", service(stats["service"])
    states = {state: sum(paths.values()) for state, paths in gauges["flows"].items()}
    limit = gauges["limit"]
    half_open = f"{gauges['half_open_flows']:,} half open of {limit['half_open_flows']:,} allowed"
    yield "flows now", f"{listed(states)}; {half_open}"
    yield "begun", listed(counters["flows_begun"])
    paths: dict[str, int] = {}
    for strategy, by_path in counters["flows_established"].items():
        for path, count in by_path.items():
            paths[f"{strategy}/{path}"] = count
    yield "established", listed(paths)
    yield "bypassed", listed(counters["flows_bypassed"])
    by_reason = {reason: sum(by.values()) for reason, by in counters["flows_reset"].items()}
    yield "reset", listed(by_reason)
    yield "ended", listed(counters["flows_closed"])
    yield "SYN-ACK sent", _times(histograms["syn_ack_seconds"])
    yield "server's RTT", _times(histograms["server_rtt_seconds"])
    asked = {kind: count for kind, count in counters["syns_sent"].items() if kind != "none"}
    answers = listed(counters["fast_open_answers"])
    yield "Fast Open", f"SYNs {listed(asked)}; answers {answers}"
    held = f"{short(gauges['held_bytes'])}B now, {short(counters['early_data_bytes'])}B so far"
    yield "held", f"{held}; {_times(histograms['held_seconds'])}"
    saved = counters["saved_seconds"]
    yield "saved", f"{saved['connect']:,.3f} s until connected, {saved['data']:,.3f} s for the data"
    octets = counters["bytes"]
    ended = f"{short(octets['to_server'])}B out, {short(octets['to_client'])}B in"
    yield (
        "ended flows",
        (
            f"{ended}; {counters['segments_rewritten']:,} segments rewritten, "
            f"{counters['retransmissions_suppressed']:,} repetitions kept from the WAN"
        ),
    )
    yield "packets", listed(counters["packets"])
    for queue, waiting in gauges["queue_waiting"].items():
        dropped = counters["queue_dropped"][queue]
        came = counters["queue_packets"][queue]
        yield (
            f"queue {queue}",
            f"{came:,} packets, {waiting:,} waiting; dropped: {dropped['full']:,} as it was full, "
            f"{dropped['not_taken']:,} not taken",
        )
    if not gauges["queue_waiting"]:
        yield "queue", "the service's user may not read /proc/net/netfilter/nfnetlink_queue"
    if limit["kernel_entries"]:
        entries = gauges["kernel_entries"]
        yield "kernel table", f"{listed(entries)}; room for {limit['kernel_entries']:,}"
    yield "learned", listed(gauges["learned"])
    yield "problems", listed(counters["problems"])
    yield "log", f"{counters['log_events_suppressed']:,} events not written"
    memory = f"{short(gauges['resident_memory_bytes'])}B of memory"
    yield "process", f"{memory}, {counters['cpu_seconds']:,.1f} s of processor time"


def service(about: Record) -> str:
    """Tell what the service is."""
    processes = "1 process" if about["workers"] == 1 else f"{about['workers']} workers"
    return (
        f"nfq-zerortt {about['version']}, {about['strategy']}, data path {about['data_path']}, "
        f"{about['client_iface']} > {about['server_iface']}, up {span(about['uptime_s'])}, "
        f"pid {about['pid']}, {processes}"
    )


def _times(histogram: Record) -> str:
    counts, bounds = histogram["counts"], histogram["bounds"]
    if not any(counts):
        return "none"
    total = sum(counts)
    parts = [f"mean {milliseconds(histogram['sum'] / total)} ms"]
    for word, share in (("half", 0.5), ("99 %", 0.99)):
        high = bound(share, counts, bounds)
        within = "not within" if high is None else "within"
        parts.append(f"{word} {within} {milliseconds(high or bounds[-1])} ms")
    return f"{total:,}; {', '.join(parts)}"
