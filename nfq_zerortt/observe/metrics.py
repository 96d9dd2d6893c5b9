"""What a service counts and measures: each name once, with its kind, its labels and its meaning.

The answer to the request ``stats`` has these names, a level of nesting for each label; the
exposition for Prometheus is made from the same list.

Numbers of several processes are put together by adding, so everything here is a sum: also a gauge
is what each process has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
"""Nested: names, then the values of the labels, then a number; a histogram has a list of them."""

COUNTER, GAUGE, HISTOGRAM = "counters", "gauges", "histograms"
"""The kinds, and the keys of the answer under which the names stand."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One name. Times are in seconds, sizes in bytes.

    Attributes:
        bounds: of a histogram: the upper bounds of its buckets, but the last one's.
    """

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def exposed(self) -> str:
        """The name for Prometheus."""
        return f"nfq_zerortt_{self.name}" + ("_total" if self.kind == COUNTER else "")


SYN_ACK_BOUNDS = (
    *(0.00005, 0.000075, 0.0001, 0.00015, 0.0002, 0.0003, 0.0004, 0.0005, 0.00075),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.1),
)
"""From what it takes at best to what a client would notice; a SYN is to be answered in 1 ms."""
RTT_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4),
    *(0.6, 0.8, 1.6, 3.2, 6.4),
)
"""From the same building to a satellite, and a few SYNs lost on the way; finest over oceans."""

METRICS = (
    Metric("flows_begun", COUNTER, "Flows begun, by strategy.", ("strategy",)),
    Metric(
        "flows_established",
        COUNTER,
        "Flows both of whose handshakes were completed, by strategy and data path.",
        ("strategy", "data_path"),
    ),
    Metric("flows_bypassed", COUNTER, "Connections that pass untouched, by reason.", ("reason",)),
    Metric("flows_reset", COUNTER, "Flows reset, by reason and by whom.", ("reason", "by")),
    Metric(
        "flows_closed",
        COUNTER,
        "Flows that have ended, by reason; fin: both sides have closed.",
        ("reason",),
    ),
    Metric("syns_sent", COUNTER, "First SYNs to servers, by what they asked for.", ("fast_open",)),
    Metric("syns_repeated", COUNTER, "SYNs to servers sent again: no answer came."),
    Metric(
        "fast_open_answers",
        COUNTER,
        "SYN-ACKs to SYNs with data, by what became of it.",
        ("answer",),
    ),
    Metric("early_data_bytes", COUNTER, "Data held until the server had answered, then sent."),
    Metric("saved_seconds", COUNTER, "Time saved: until connected, and for the data.", ("what",)),
    Metric(
        "bytes", COUNTER, "Data of the flows that have ended, without repetitions.", ("direction",)
    ),
    Metric("segments_rewritten", COUNTER, "Segments translated, of the flows that have ended."),
    Metric(
        "retransmissions_suppressed",
        COUNTER,
        "Needless repetitions kept from the WAN, of the flows that have ended.",
    ),
    Metric("packets", COUNTER, "Packets of the queues by verdict, and our own.", ("verdict",)),
    Metric("problems", COUNTER, "Events of level warning and error.", ("event",)),
    Metric("log_events_suppressed", COUNTER, "Events that were not written to the log."),
    Metric("cpu_seconds", COUNTER, "Processor time that the service has used."),
    Metric(
        "queue_packets", COUNTER, "Packets that came to a queue, counted by the kernel.", ("queue",)
    ),
    Metric(
        "queue_dropped",
        COUNTER,
        "Packets of a queue that the kernel has dropped: it was full, or its socket was.",
        ("queue", "cause"),
    ),
    Metric("queue_waiting", GAUGE, "Packets that wait in a queue of the kernel's.", ("queue",)),
    Metric(
        "queues_unread",
        GAUGE,
        "Queues whose numbers the kernel does not tell: what it drops there does not show.",
    ),
    Metric(
        "flows", GAUGE, "Flows by state, and by who rewrites their packets.", ("state", "data_path")
    ),
    Metric("half_open_flows", GAUGE, "Flows whose handshakes are not complete."),
    Metric("held_bytes", GAUGE, "Memory that early data takes now."),
    Metric("passing_connections", GAUGE, "Connections remembered as passing untouched."),
    Metric("kernel_entries", GAUGE, "Entries in the kernel's table of flows, by what.", ("what",)),
    Metric("limit", GAUGE, "Bounds that were set, in the unit of what they bound.", ("of",)),
    Metric("learned", GAUGE, "What was learned of servers, by what.", ("what",)),
    Metric("resident_memory_bytes", GAUGE, "Memory of the service's processes."),
    Metric("processes", GAUGE, "Processes of the service."),
    Metric(
        "syn_ack_seconds",
        HISTOGRAM,
        "From a SYN read to the spoofed SYN-ACK sent.",
        bounds=SYN_ACK_BOUNDS,
    ),
    Metric(
        "server_rtt_seconds",
        HISTOGRAM,
        "From the first SYN to the server's SYN-ACK.",
        bounds=RTT_BOUNDS,
    ),
    Metric(
        "held_seconds",
        HISTOGRAM,
        "How long early data was held.",
        bounds=RTT_BOUNDS,
    ),
)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


def add(total: Record, more: Mapping[str, Any]) -> None:
    """Add the numbers of ``more`` to those of ``total``."""
    for name, value in more.items():
        if isinstance(value, Mapping):
            add(total.setdefault(name, {}), value)
        elif isinstance(value, list):
            before = total.get(name) or [0] * len(value)
            total[name] = [one + other for one, other in zip(before, value, strict=True)]
        else:
            total[name] = total.get(name, 0) + value


def differences(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """Return what came to each bucket since ``before``; all of it if the counting began anew."""
    since = [one - other for one, other in zip(now, before, strict=True)]
    return list(now) if any(count < 0 for count in since) else since


def bound(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """Return the upper bound of the bucket that completes that share; None beyond the last bound.

    It is certain that so many values are no larger.
    """
    wanted = share * sum(counts)
    below = 0
    for count, high in zip(counts, bounds, strict=False):
        below += count
        if below >= wanted:
            return high
    return None


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """Return about where that share of a histogram's values lies below; None if there are none.

    Within a bucket the values are taken to lie evenly. Of those beyond the last bound nothing is
    known but that: then it is the last bound.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    below, low = 0, 0.0
    for count, high in zip(counts, bounds, strict=False):
        if below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
        below, low = below + count, high
    return low
