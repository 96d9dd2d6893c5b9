"""The events of one flow as a ladder: client, this router, server, and time going down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

_TIME = 10  # columns
_NARROWEST = 12

Event = Mapping[str, Any]
_Arrow = tuple[str, str]
"""Its direction, > or <, and what it says."""


def ladder(events: Sequence[Event], width: int) -> list[str]:
    """Return the lines; the first two are the heading. Times are in milliseconds since the first.

    Without events there are no lines.
    """
    if not events:
        return []
    half = max((width - _TIME - 3) // 2, _NARROWEST)
    names = "client".ljust(half + 1 - 4) + "ClientNIC".center(9) + "server".rjust(half + 2 - 5)
    lines = ["ms".rjust(_TIME - 2) + "  " + names]
    lines.append(" " * _TIME + f"|{'':{half}}|{'':{half}}|")
    begin = _seconds(events[0])
    for event in events:
        at = f"{(_seconds(event) - begin) * 1000:{_TIME - 2}.3f}  "
        left, right, words = _drawn(event)
        if words:
            lines.append(f"{at}{words}"[:width])
        else:
            lines.append(f"{at}|{_arrow(left, half)}|{_arrow(right, half)}|")
    return lines


def _seconds(event: Event) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def _arrow(arrow: _Arrow | None, width: int) -> str:
    if arrow is None:
        return " " * width
    direction, words = arrow
    drawn = f" {words[: width - 4]} ".center(width - 1, "-")
    return drawn + ">" if direction == ">" else "<" + drawn


def _drawn(event: Event) -> tuple[_Arrow | None, _Arrow | None, str]:
    """Return the arrows on both sides of this router, or words if it is none of these."""
    name, rest = event["event"], event
    if name == "flow.syn_received":
        return (">", f"SYN {rest['isn_client']}"), None, ""
    if name == "flow.synack_spoofed":
        return ("<", f"SYN-ACK {rest['isn_spoofed']}"), None, ""
    if name == "flow.syn_forwarded":
        return None, (">", _syn(rest)), ""
    if name == "flow.data_held":
        return (">", f"{rest['bytes']} B, held"), None, ""
    if name == "flow.synack_captured":
        return None, ("<", f"SYN-ACK {rest['isn_server']}"), ""
    if name == "flow.data_released":
        return None, (">", f"{rest['bytes']} B, held {rest['held_ms']} ms"), ""
    if name == "flow.reset" and rest["by"] == "client":
        return (">", "RST"), None, ""
    if name == "flow.reset" and rest["by"] == "server":
        return None, ("<", f"RST, {rest['reason']}"), ""
    if name.startswith("packet.") and "direction" in rest:
        return *_packet(name, rest), ""
    return None, None, " ".join([name.partition(".")[2], *_words(rest)])


def _syn(event: Event) -> str:
    words = "SYN" if event["attempt"] == 1 else f"SYN, number {event['attempt']}"
    if event["fast_open"] != "none":
        words += f", {event['fast_open']}"
    return words + (f", {event['data_bytes']} B" if event["data_bytes"] else "")


def _packet(name: str, event: Event) -> tuple[_Arrow | None, _Arrow | None]:
    to_server = event["direction"] == "client_to_server"
    words = f"{event.get('flags', 'no TCP')} {event['length']} B"
    arrow = (">" if to_server else "<", words)
    if name == "packet.dropped":
        kept = (arrow[0], f"{words}, {event['reason']}")
        return (kept, None) if to_server else (None, kept)
    if name == "packet.injected":
        return (None, arrow) if to_server else (arrow, None)
    return arrow, arrow


def _words(event: Event) -> Iterator[str]:
    """Give the fields of an event that its name and place do not tell."""
    for name, value in event.items():
        if name not in ("timestamp", "level", "event", "flow_id", "flow"):
            yield f"{name} {value}"


def event_lines(events: Sequence[Event]) -> Iterator[str]:
    """Give the events as lines, with all of their fields."""
    for event in events:
        yield " ".join([event["timestamp"][11:], event["event"], *_words(event)])
