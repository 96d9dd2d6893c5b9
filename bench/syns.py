"""What became of SYNs, from the service's log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(slots=True)
class Syn:
    """One connection's SYN.

    Attributes:
        at: when the client was answered, seconds since the epoch.
        carried: what it carried: none, request, cookie or cookieless.
        accepted: the server has taken the data in it.
        gap_ms: from the spoofed SYN-ACK to the client's first data; None without early data.
    """

    at: float
    carried: str = ""
    accepted: bool = False
    gap_ms: float | None = None


def syns(events: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Syn]]:
    """Return of each connection the server's address, and its SYN."""
    flows: dict[int, tuple[str, Syn]] = {}
    for event in events:
        name = event["event"]
        number = event.get("flow_id")
        at = datetime.fromisoformat(event["timestamp"]).timestamp()
        if name == "flow.synack_spoofed" and number not in flows:
            flows[event["flow_id"]] = (event["flow"].split(">")[1].rsplit(":", 1)[0], Syn(at))
        if number not in flows:
            continue
        syn = flows[number][1]
        if name == "flow.syn_forwarded":
            syn.carried = syn.carried or event["fast_open"]
        elif name == "flow.data_held":
            syn.gap_ms = (at - syn.at) * 1000
        elif name == "flow.synack_captured":
            syn.accepted = event["fast_open"] == "accepted"
    yield from flows.values()
