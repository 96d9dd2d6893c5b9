"""Counts what happens, from the events as they happen: the core need not know of it.

A connection has eight events, and a few tenths of a microsecond are spent on each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from nfq_zerortt.config import STRATEGIES
from nfq_zerortt.core.actions import Action, Drop, Replace
from nfq_zerortt.observe.events import LEVELS
from nfq_zerortt.observe.metrics import COUNTER, HISTOGRAM, RTT_BOUNDS, SYN_ACK_BOUNDS, Record

OTHER = "other"
"""The label of a reason that is not listed here: labels must not grow with what strangers send."""
BYPASSED = (
    *("mid_stream", "from_server_side", "tcp_md5", "tcp_ao", "client_fast_open", "syn_with_data"),
    *("odd_flags", "fragment", "wrong_checksum", "malformed", "flow_table_full", "kernel_full"),
    *("too_many_half_open", "prefix_unanswered", "port_not_selected", "direct", "refused_lately"),
    *("unreachable_lately", "no_answer_lately", "service_stopping", "syn_ack_not_sent"),
    *("source_is_destination", OTHER),
)
RESETTERS = {
    "client_reset": "client",
    "server_reset": "server",
    "refused": "server",
    "no_answer": "clientnic",
    "unreachable": "clientnic",
    "service_stopped": "clientnic",
    OTHER: "clientnic",
}
"""Who reset a flow, by the reason of the event that says so."""
FIN, TIMEOUT = "fin", "timeout"
_CLOSED = (FIN, TIMEOUT, *RESETTERS)
_NO_PROBLEMS = ("flow.reset", "log.suppressed")  # they have counts of their own
_PROBLEMS = [
    name
    for name, level in LEVELS.items()
    if level in ("warning", "error") and name not in _NO_PROBLEMS
]

Fields = Mapping[str, Any]


class Histogram:
    """How often which values came, in buckets."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """``bounds``: a value counts for the first one that is not less; beyond the last, too."""
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self._bounds = bounds

    def take(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def record(self) -> Record:
        """Return what was counted."""
        return {"counts": list(self.counts), "sum": round(self.sum, 6)}


class Tally:
    """The counts of one process.

    Attributes:
        rewritten, injected: so many packets; counted by whoever hands them on.
    """

    def __init__(self) -> None:
        self.rewritten = self.injected = 0
        self._forwarded = self._dropped = 0
        self._begun = dict.fromkeys(STRATEGIES, 0)
        self._established: dict[tuple[str, str], int] = {}
        self._bypassed = dict.fromkeys(BYPASSED, 0)
        self._reset: dict[tuple[str, str], int] = dict.fromkeys(RESETTERS.items(), 0)
        self._closed = dict.fromkeys(_CLOSED, 0)
        self._syns = dict.fromkeys(("none", "request", "cookie", "cookieless"), 0)
        self._repeated = 0
        self._answers = {"accepted": 0, "rejected": 0}
        self._early = 0
        self._connected_earlier = self._data_earlier = 0.0
        self._to_server = self._to_client = self._segments = self._suppressed = 0
        self._problems = dict.fromkeys(_PROBLEMS, 0)
        self._captured: tuple[int, float] = (0, 0.0)  # the flow whose SYN-ACK came last, its RTT
        self._was_reset: tuple[int, str] = (0, "")
        self._syn_ack = Histogram(SYN_ACK_BOUNDS)
        self._rtt = Histogram(RTT_BOUNDS)
        self._held = Histogram(RTT_BOUNDS)
        self._counting: dict[str, Callable[[Fields], None]] = {
            "flow.syn_received": self._on_begun,
            "flow.synack_spoofed": self._on_spoofed,
            "flow.syn_forwarded": self._on_forwarded,
            "flow.synack_captured": self._on_captured,
            "flow.data_released": self._on_released,
            "flow.established": self._on_established,
            "flow.bypassed": self._on_bypassed,
            "flow.reset": self._on_reset,
            "flow.closed": self._on_closed,
        }

    def note(self, event: str, fields: Fields) -> None:
        """Take in an event."""
        counting = self._counting.get(event)
        if counting is not None:
            counting(fields)
        elif event in self._problems:
            self._problems[event] += 1

    def verdict(self, given: Action) -> None:
        """Count a packet by the verdict on it."""
        if type(given) is Replace:
            self.rewritten += 1
        elif type(given) is Drop:
            self._dropped += 1
        else:
            self._forwarded += 1

    def _on_begun(self, fields: Fields) -> None:
        self._begun[fields["strategy"]] += 1

    def _on_spoofed(self, fields: Fields) -> None:
        latency = fields.get("latency_us")
        if latency is not None:
            self._syn_ack.take(latency * 1e-6)

    def _on_forwarded(self, fields: Fields) -> None:
        if fields["attempt"] == 1:
            self._syns[fields["fast_open"]] += 1
        else:
            self._repeated += 1

    def _on_captured(self, fields: Fields) -> None:
        rtt = fields["server_rtt_ms"] * 1e-3
        self._rtt.take(rtt)
        if not fields["delta"]:  # observed: the numbers are the server's, and nothing was saved
            return
        self._connected_earlier += rtt
        answer = fields["fast_open"]
        if answer != "none":
            self._answers[answer] += 1
            if answer == "accepted":  # it left a round trip earlier; what is released is the rest
                self._data_earlier += rtt
                return
        self._captured = fields["flow_id"], rtt

    def _on_released(self, fields: Fields) -> None:
        held = fields["held_ms"] * 1e-3
        self._held.take(held)
        self._early += fields["bytes"]
        # What the server's SYN-ACK releases follows it at once: it was here as long before.
        flow, rtt = self._captured
        if flow == fields["flow_id"] and fields["bytes"]:
            self._data_earlier += max(rtt - held, 0.0)
        self._captured = 0, 0.0

    def _on_established(self, fields: Fields) -> None:
        how = fields["strategy"], fields["data_path"]
        self._established[how] = self._established.get(how, 0) + 1

    def _on_bypassed(self, fields: Fields) -> None:
        reason = fields["reason"].partition(" ")[0].rstrip(":")  # "odd_flags FIN", "malformed: …"
        self._bypassed[reason if reason in self._bypassed else OTHER] += 1

    def _on_reset(self, fields: Fields) -> None:
        how = fields["reason"], fields["by"]
        self._reset[how if how in self._reset else (OTHER, "clientnic")] += 1
        self._was_reset = fields["flow_id"], fields["reason"]

    def _on_closed(self, fields: Fields) -> None:
        flow, by_reset = self._was_reset  # what a RST ends is closed right behind
        reason = fields.get("reason", by_reset if flow == fields["flow_id"] else FIN)
        self._closed[reason if reason in self._closed else OTHER] += 1
        self._to_server += fields["bytes_to_server"]
        self._to_client += fields["bytes_to_client"]
        self._segments += fields["segments_rewritten"]
        self._suppressed += fields["retransmissions_suppressed"]

    def record(self) -> Record:
        """Return all counts by the names of :mod:`nfq_zerortt.observe.metrics`."""
        return {
            COUNTER: {
                "flows_begun": dict(self._begun),
                "flows_established": _nested(self._established),
                "flows_bypassed": dict(self._bypassed),
                "flows_reset": _nested(self._reset),
                "flows_closed": dict(self._closed),
                "syns_sent": dict(self._syns),
                "syns_repeated": self._repeated,
                "fast_open_answers": dict(self._answers),
                "early_data_bytes": self._early,
                "saved_seconds": {
                    "connect": round(self._connected_earlier, 6),
                    "data": round(self._data_earlier, 6),
                },
                "bytes": {"to_server": self._to_server, "to_client": self._to_client},
                "segments_rewritten": self._segments,
                "retransmissions_suppressed": self._suppressed,
                "packets": {
                    "rewritten": self.rewritten,
                    "forwarded": self._forwarded,
                    "dropped": self._dropped,
                    "injected": self.injected,
                },
                "problems": dict(self._problems),
            },
            HISTOGRAM: {
                "syn_ack_seconds": self._syn_ack.record(),
                "server_rtt_seconds": self._rtt.record(),
                "held_seconds": self._held.record(),
            },
        }


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (first, second), count in counts.items():
        nested.setdefault(first, {})[second] = count
    return nested
