"""What the flow table says, as plain dictionaries for people and programs.

Addresses are text, durations carry their unit in the name, and points in time
are given as how long ago they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.table import FlowTable


def flows(table: FlowTable, now: float) -> Iterator[dict[str, Any]]:
    """Describe the flows of the table, one at a time, the oldest first.

    The table may change while this runs: a flow that is gone when its turn comes is left out, one
    that comes is told of, too.
    """
    return (describe_flow(flow, now) for flow in table)


def describe_flow(flow: Flow, now: float) -> dict[str, Any]:
    """Return what is known of a flow; docs/reference/control.md has the meaning of each key."""
    client, _, server = flow.name.partition(">")
    to_server, to_client = flow.to_server, flow.to_client
    answered = flow.isn_server is not None
    earlier = flow.data_earlier
    return {
        "flow_id": flow.number,
        "flow": flow.name,
        "client": client,
        "server": server,
        "state": flow.state.name,
        "strategy": flow.strategy,
        "data_path": data_path(flow),
        "age_s": _ago(flow.created, now),
        "idle_s": _ago(flow.last_seen, now),
        "server_rtt_ms": _ms(flow.server_rtt) if answered else None,
        "connected_earlier_ms": _ms(flow.server_rtt) if answered and not flow.observed else None,
        "data_earlier_ms": None if earlier is None else _ms(earlier),
        "fast_open": flow.fast_open,
        "syn_data_bytes": flow.syn_data,
        "syn_data_accepted_bytes": flow.carried,
        "syn_attempts": flow.attempts,
        "bytes_to_server": to_server.octets,
        "bytes_to_client": to_client.octets,
        "segments_rewritten": to_server.segments + to_client.segments,
        "retransmissions_suppressed": flow.duplicates.count,
        "isn_client": flow.isn_client,
        "isn_spoofed": None if flow.observed else flow.isn_spoofed,
        "isn_server": flow.isn_server,
        "delta": flow.shift if answered and not flow.observed else None,
    }


def data_path(flow: Flow) -> str:
    """Tell who rewrites the packets of a flow now: python or kernel; none if it is observed."""
    if flow.observed:
        return "none"
    return "python" if flow.handed_over is None else "kernel"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _ago(then: float, now: float) -> float:
    return round(max(now - then, 0.0), 3)
