"""From what client, server and captures say of a run to its connections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nfq_zerortt.demo.result import Connection, FastOpen, Times
from nfq_zerortt.observe.records import (
    Endpoint,
    PacketRecord,
    SentData,
    Tap,
    data_of,
    syn_data_taken,
)


def connections(
    client_said: Iterable[Mapping[str, Any]],
    server_said: Iterable[Mapping[str, Any]],
    records: Iterable[PacketRecord],
    *,
    client_tap: Tap,
    server_tap: Tap,
    client_address: str,
    server: Endpoint,
    expect_spoofed: bool,
) -> list[Connection]:
    """Put together what is known of each connection, and check it.

    A connection is in error when the client could not make it, when a hash differs between the
    two ends, when its packets are not in the captures, or when its SYN-ACK was spoofed and
    should not have been, or the reverse.
    """
    by_port = _by_port(records, server)
    at_server = {report["port"]: report for report in server_said}
    found = []
    for report in client_said:
        made = Connection(report["work"], report["number"], report["error"])
        if made.error is None:
            port = report["port"]
            client = (client_address, port)
            own = by_port[port]
            up = data_of(own, client_tap, client, server)
            times = _times(report["connect_ms"], own, (client, server), (client_tap, server_tap))
            spoofed = _spoofed(own, client_tap, server_tap)
            error = _hash_error(report, at_server.get(port))
            if error is None and times is None:
                error = "its packets are missing in the captures"
            elif error is None and spoofed != expect_spoofed:
                error = (
                    "the client got the server's own SYN-ACK: it was not handled by the service"
                    if expect_spoofed
                    else "the client got a SYN-ACK that the server did not send"
                )
            made = Connection(
                made.work,
                made.number,
                error,
                client,
                times,
                sent_twice(up),
                _fast_open(own, server_tap),
            )
        found.append(made)
    return found


def sent_twice(segments: Sequence[SentData]) -> int:
    """Return how many of one direction's segments repeat a byte that was sent before."""
    repeated = end = 0
    for segment in segments:
        repeated += segment.start < end
        end = max(end, segment.end)
    return repeated


def _by_port(records: Iterable[PacketRecord], server: Endpoint) -> Mapping[int, list[PacketRecord]]:
    found: dict[int, list[PacketRecord]] = defaultdict(list)
    for record in records:
        other = record.destination if record.source == server else record.source
        found[other[1]].append(record)
    return found


def _times(
    connect_ms: float,
    own: Sequence[PacketRecord],
    ends: tuple[Endpoint, Endpoint],
    taps: tuple[Tap, Tap],
) -> Times | None:
    """Return the connection's times, all but the first counted from its SYN at the client.

    ``ends`` and ``taps``: the client's first, then the server's.
    """
    (client, server), (client_tap, server_tap) = ends, taps
    syn = next((r.time_s for r in own if r.tap == client_tap and r.is_syn), None)
    sent = data_of(own, client_tap, client, server)
    arrived = data_of(own, server_tap, client, server)
    back = data_of(own, client_tap, server, client)
    if syn is None or not (sent and arrived and back):
        return None
    end = max(segment.end for segment in back)
    last = next(segment for segment in back if segment.end == end)

    def since_syn(segment: SentData) -> float:
        return (segment.time_s - syn) * 1000

    first_back = next((s for s in back if s.start == 0), back[0])
    first_arrived = next((s for s in arrived if s.start == 0), arrived[0])
    return Times(
        connect_ms=connect_ms,
        first_byte_sent_ms=since_syn(sent[0]),
        first_byte_at_server_ms=since_syn(first_arrived),
        first_byte_back_ms=since_syn(first_back),
        last_byte_back_ms=since_syn(last),
    )


def _spoofed(own: Iterable[PacketRecord], client_tap: Tap, server_tap: Tap) -> bool:
    """Tell whether the client's SYN-ACK carries another ISN than the server's."""
    isns: dict[Tap, int] = {}
    for record in own:
        if record.is_syn_ack:
            isns.setdefault(record.tap, record.seq)
    return isns.get(client_tap) != isns.get(server_tap)


def _fast_open(own: Sequence[PacketRecord], server_tap: Tap) -> FastOpen | None:
    """Return what the connection's first SYN and SYN-ACK at the server say of Fast Open."""
    at_server = [record for record in own if record.tap == server_tap]
    syn = next((record for record in at_server if record.is_syn), None)
    if syn is None or (syn.fast_open is None and not syn.payload_bytes):
        return None
    return FastOpen(
        data_bytes=syn.payload_bytes,
        taken=syn.payload_bytes > 0 and syn_data_taken(at_server, syn),
        sent_cookie=syn.fast_open,
        given_cookie=next((r.fast_open for r in at_server if r.is_syn_ack), None),
    )


def _hash_error(client: Mapping[str, Any], server: Mapping[str, Any] | None) -> str | None:
    if server is None:
        return "the server did not say what it received"
    if client["sent_sha256"] != server["received_sha256"]:
        return "SHA-256 of the request differs between client and server"
    if client["received_sha256"] != server["sent_sha256"]:
        return "SHA-256 of the answer differs between server and client"
    return None
