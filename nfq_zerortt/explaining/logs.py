"""The service's log as the packets that it tells of.

At level debug each packet is there. At level info the events of the flow tell of the few packets
of its handshake, and of its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.explaining.explanation import (
    Explanation,
    Line,
    path_of,
    streams_of,
    taps_of,
)
from nfq_zerortt.explaining.flows import MOST_LISTED, MOST_PACKETS, Listed, Listing
from nfq_zerortt.observe.records import Endpoint, PacketRecord
from nfq_zerortt.readable import counted
from nfq_zerortt.tracing import selection
from nfq_zerortt.tracing.words import milliseconds
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import add

Event = dict[str, Any]

_NAMES = ("towards the client", "towards the server")
_NEAR, _FAR = taps_of(_NAMES)
_FLAGS = {
    name: bit for bit in (1 << place for place in range(9)) if (name := tcp.names(bit)) != "-"
}


def is_log(file: Path) -> bool:
    """Tell whether a file is a log: its first line is an event."""
    try:
        with file.open("rb") as lines:
            first = lines.readline(1 << 16)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    try:
        event = json.loads(first)
    except ValueError:
        return False
    return isinstance(event, dict) and "event" in event


def listing(file: Path) -> Listing:
    """List the flows of a log; ZeroRttError if there is none."""
    found: dict[tuple[int, str], Listed] = {}
    others: set[tuple[int, str]] = set()
    for event in _events(file):
        key = event["flow_id"], event["flow"]  # each run of the service counts from 1
        time_s = _time_s(event)
        listed = found.get(key)
        if listed is None:
            if len(found) >= MOST_LISTED:
                others.add(key) if len(others) < 1 << 20 else None
                continue
            listed = found[key] = Listed(*key, time_s)
        listed.last_s = time_s
        listed.packets += 1
        name = event["event"]
        listed.fin = listed.fin or name == "flow.closed"
        listed.rst = listed.rst or name == "flow.reset"
        if name == "flow.closed":
            listed.data_to_server = event.get("bytes_to_server", 0)
            listed.data_to_client = event.get("bytes_to_client", 0)
    if not found:
        raise ZeroRttError(f"{file}: there is no flow in this log")
    return Listing(list(found.values()), len(others))


def explained(file: Path, wanted: str) -> Explanation:
    """Explain one flow of a log, by its flow_id or as the log writes it."""
    number = int(wanted) if wanted.isdecimal() else None
    ends = set() if number is not None else set(selection.parse(wanted, "its flow_id").endpoints)
    mine: list[Event] = []
    left_out = 0
    for event in _events(file):
        if number is None and ends <= set(_ends(event)):
            number = event["flow_id"]
        if event["flow_id"] == number and (not mine or event["flow"] == mine[0]["flow"]):
            if len(mine) < MOST_PACKETS:
                mine.append(event)
            else:
                left_out += 1
    if not mine:
        raise ConfigError(f"--flow {wanted!r}: there is no such flow in {file}")
    _date_back(mine)
    client, server = _ends(mine[0])
    packets = [event for event in mine if event["event"].startswith("packet.")]
    syns = (_time_s(event) for event in mine if event["event"] == "flow.syn_received")
    syn_s = next(syns, None)
    level = "every packet" if packets else "the events of the flow, not each packet"
    try:
        records = list(_of_packets(packets, syn_s) if packets else _of_flow(mine))
        lines = _lines(mine)
    except KeyError as error:
        raise ConfigError(f"{file}: an event of the flow has no field {error}") from None
    made = Explanation(
        name=mine[0]["flow"],
        origin=f"the service's log ({level})",
        client=client,
        server=server,
        records=records,
        path=path_of(_NAMES),
        streams=streams_of(_NAMES, client, server) if packets else (),
        lines=lines,
    )
    if left_out:
        made.left_out.append(f"{left_out} later events of the flow are left out.")
    if not packets:
        made.left_out.append(
            "The diagram has the packets whose numbers the log's events tell: no RST, which may "
            "have been passed on or not. With --log-level debug, or from a trace, it has all."
        )
    return made


def _events(file: Path) -> Iterator[Event]:
    """Give the events of flows; a line that is torn, as after a full disk, is passed over."""
    events = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                event = json.loads(line)
                if "flow_id" in event and ">" in event["flow"]:
                    yield event
                events += isinstance(event.get("event"), str)
            except (ValueError, TypeError, KeyError):
                if not events and line.endswith(b"\n"):  # the last line may be being written
                    raise ConfigError(f"{file}, line {number}: it is no event") from None


def _ends(event: Event) -> tuple[Endpoint, Endpoint]:
    client, server = selection.parse(event["flow"]).endpoints
    return client, server


def _time_s(event: Event) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def _date_back(events: list[Event]) -> None:
    """Date the client's SYN when it was read: its event is written a little later."""
    answer = next((event for event in events if "latency_us" in event), None)
    if answer is None or events[0]["event"] != "flow.syn_received":
        return
    read_s = _time_s(answer) - answer["latency_us"] / 1e6
    if read_s < _time_s(events[0]):
        read = datetime.fromtimestamp(read_s, UTC).isoformat(timespec="microseconds")
        events[0] = events[0] | {"timestamp": read}


def _of_packets(events: list[Event], syn_s: float | None) -> Iterator[PacketRecord]:
    """``syn_s``: when the client's SYN was read."""
    for event in events:
        if "seq" not in event:
            continue
        time_s = _time_s(event)
        client, server = _ends(event)
        up = event["direction"] == "client_to_server"
        source, destination = (client, server) if up else (server, client)
        came, left = (_NEAR, _FAR) if up else (_FAR, _NEAR)
        kind = event["event"]
        flags = sum(_FLAGS.get(name, 0) for name in event["flags"].split(","))
        # Its data is counted without SYN and FIN, as in a captured packet.
        common = (source, destination, flags)
        if kind != "packet.injected":
            numbers = (event["seq"], event["ack"])
            # The log has the SYN when it goes on; it came before it was answered.
            arrival_s = syn_s if flags == tcp.SYN and syn_s is not None else time_s
            syn_s = None if flags == tcp.SYN else syn_s
            yield PacketRecord(arrival_s, came, *common, *numbers, event["length"])
        if kind != "packet.dropped":
            numbers = (event["new_seq"], event["new_ack"])
            yield PacketRecord(time_s, left, *common, *numbers, event["length"])


def _of_flow(events: list[Event]) -> Iterator[PacketRecord]:
    client, server = _ends(events[0])
    isn = spoofed = real = 0
    answered_here = False
    taken = held = 0
    for event in events:
        now, name = _time_s(event), event["event"]
        up, down = (client, server), (server, client)
        if name == "flow.syn_received":
            isn = event["isn_client"]
            yield PacketRecord(now, _NEAR, *up, tcp.SYN, isn, 0, 0)
        elif name == "flow.synack_spoofed":
            answered_here = True
            spoofed = event["isn_spoofed"]
            yield PacketRecord(now, _NEAR, *down, tcp.SYN | tcp.ACK, spoofed, add(isn, 1), 0)
        elif name == "flow.syn_forwarded":
            taken = event.get("data_bytes", 0)
            asked = 0 if event.get("fast_open") in ("request", "cookieless") else None
            yield PacketRecord(now, _FAR, *up, tcp.SYN, isn, 0, taken, asked)
        elif name == "flow.synack_captured":
            real = event["isn_server"]
            taken = taken if event.get("fast_open") == "accepted" else 0
            ack = add(isn, 1 + taken)
            yield PacketRecord(now, _FAR, *down, tcp.SYN | tcp.ACK, real, ack, 0)
            if not answered_here:
                yield PacketRecord(now, _NEAR, *down, tcp.SYN | tcp.ACK, real, ack, 0)
        elif name == "flow.data_held":
            held = event["bytes"]
            flags = tcp.PSH | tcp.ACK
            yield PacketRecord(now, _NEAR, *up, flags, add(isn, 1), add(spoofed, 1), held)
        elif name == "flow.data_released" and held > taken:
            # Of several segments the first one.
            start, size = add(isn, 1 + taken), min(held - taken, event["bytes"])
            yield PacketRecord(now, _FAR, *up, tcp.PSH | tcp.ACK, start, add(real, 1), size)


def _lines(events: list[Event]) -> list[Line]:
    start_s = _time_s(events[0])
    lines = []
    for event in events:
        say = _SENTENCES.get(event["event"])
        if say is not None:
            lines.append(Line((_time_s(event) - start_s) * 1000, say(event)))
    return lines


def _syn_forwarded(event: Event) -> str:
    again = f", attempt {event['attempt']}" if event.get("attempt", 1) > 1 else ""
    data = event.get("data_bytes", 0)
    carried = (
        f" with {counted(data, 'byte')} of data (Fast Open, {event['fast_open']})" if data else ""
    )
    return f"The SYN left for the server{carried}{again}."


def _spoofed(event: Event) -> str:
    latency = event.get("latency_us")
    after = f", {latency} µs after its SYN was read" if latency is not None else ", once more"
    return f"The client was answered in the server's name{after}."


def _captured(event: Event) -> str:
    took = {"accepted": " It took the data in the SYN.", "rejected": " It left the SYN's data."}
    return (
        f"The server's SYN-ACK came, {milliseconds(event['server_rtt_ms'])} after the SYN; "
        f"Δ = {event['delta']}." + took.get(event.get("fast_open", ""), "")
    )


def _released(event: Event) -> str:
    return (
        f"{counted(event['bytes'], 'byte')} of early data left for the server, held for "
        f"{milliseconds(event['held_ms'])}."
    )


def _closed(event: Event) -> str:
    again = event.get("retransmissions_suppressed", 0)
    text = (
        f"The flow ended: {counted(event['bytes_to_server'], 'byte')} to the server, "
        f"{event['bytes_to_client']} to the client."
    )
    if again:
        text += f" Not passed on: {counted(again, 'needless repetition')} of early data."
    return text


_SENTENCES: dict[str, Callable[[Event], str]] = {
    "flow.syn_received": lambda event: f"The client's SYN came, ISN {event['isn_client']}.",
    "flow.synack_spoofed": _spoofed,
    "flow.syn_forwarded": _syn_forwarded,
    "flow.data_held": lambda event: (
        f"Early data came ({counted(event['bytes'], 'byte')}), and was held."
    ),
    "flow.data_released": _released,
    "flow.synack_captured": _captured,
    "flow.established": lambda event: (
        f"Both handshakes are complete (strategy {event['strategy']}, data path "
        f"{event['data_path']})."
    ),
    "flow.bypassed": lambda event: f"The flow passes untouched: {event['reason']}.",
    "flow.reset": lambda event: (
        f"The connection was reset by the {event['by']}: {event['reason']}."
        if event["by"] != "clientnic"
        else f"The client got a RST of the service's: {event['reason']}."
    ),
    "flow.closed": _closed,
}
