"""How the demonstration judges a connection, from what both ends and the captures say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nfq_zerortt.demo.figures import connections, sent_twice
from nfq_zerortt.demo.result import Connection, FastOpen
from nfq_zerortt.demo.verdict import gain_text
from nfq_zerortt.observe.records import PacketRecord, SentData, Tap
from nfq_zerortt.wire import flags as tcp

CLIENT, SERVER = ("10.0.1.2", 40000), ("10.0.3.2", 8080)
AT_CLIENT, AT_SERVER = Tap("client", "eth0"), Tap("server", "eth2")
CLIENT_SAID: dict[str, Any] = {
    "work": "small",
    "number": 0,
    "error": None,
    "port": 40000,
    "connect_ms": 0.5,
    "sent_sha256": "request",
    "received_sha256": "answer",
}
SERVER_SAID: dict[str, Any] = {
    "port": 40000,
    "received_sha256": "request",
    "sent_sha256": "answer",
}


def captured(spoofed_isn: int = 900) -> list[PacketRecord]:
    """A held connection at RTT 100 ms; the server's ISN is 500."""

    def seen(ms: float, tap: Tap, up: bool, *numbers: int) -> PacketRecord:
        ends = (CLIENT, SERVER) if up else (SERVER, CLIENT)
        return PacketRecord(ms / 1000, tap, *ends, *numbers)

    syn_ack, data = tcp.SYN | tcp.ACK, tcp.PSH | tcp.ACK
    return [
        seen(10, AT_CLIENT, True, tcp.SYN, 100, 0, 0),
        seen(10.4, AT_CLIENT, False, syn_ack, spoofed_isn, 101, 0),
        seen(10.6, AT_CLIENT, True, data, 101, spoofed_isn + 1, 200),
        seen(60, AT_SERVER, True, tcp.SYN, 100, 0, 0),
        seen(60.1, AT_SERVER, False, syn_ack, 500, 101, 0),
        seen(160, AT_SERVER, True, data, 101, 501, 200),
        seen(210, AT_CLIENT, False, data, spoofed_isn + 1, 301, 600),
        seen(211, AT_CLIENT, False, data, spoofed_isn + 601, 301, 400),
        seen(212, AT_CLIENT, False, data, spoofed_isn + 601, 301, 400),
    ]


def judge(
    client: dict[str, Any],
    server: list[dict[str, Any]],
    records: list[PacketRecord],
    expect_spoofed: bool = True,
) -> Connection:
    return connections(
        [client],
        server,
        records,
        client_tap=AT_CLIENT,
        server_tap=AT_SERVER,
        client_address=CLIENT[0],
        server=SERVER,
        expect_spoofed=expect_spoofed,
    )[0]


def test_the_times_count_from_the_syn() -> None:
    made = judge(CLIENT_SAID, [SERVER_SAID], captured())
    assert made.error is None
    times = made.times
    assert times is not None
    assert times.connect_ms == 0.5
    assert times.first_byte_sent_ms == pytest.approx(0.6)
    assert times.first_byte_at_server_ms == pytest.approx(150)
    assert times.first_byte_back_ms == pytest.approx(200)
    assert times.last_byte_back_ms == pytest.approx(201)  # not its repetition


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sent_sha256": "other"}, "SHA-256 of the request"),
        ({"received_sha256": "other"}, "SHA-256 of the answer"),
        ({"error": "Connection refused"}, "Connection refused"),
        ({"port": 40001}, "did not say"),
    ],
)
def test_what_went_wrong_is_said(changed: dict[str, Any], words: str) -> None:
    error = judge(CLIENT_SAID | changed, [SERVER_SAID], captured()).error
    assert error is not None
    assert words in error


def test_a_connection_without_packets_is_an_error() -> None:
    assert "missing in the captures" in str(judge(CLIENT_SAID, [SERVER_SAID], []).error)


def test_a_run_through_the_service_that_was_not_spoofed_is_an_error() -> None:
    records = captured(spoofed_isn=500)
    assert "not handled" in str(judge(CLIENT_SAID, [SERVER_SAID], records).error)
    assert judge(CLIENT_SAID, [SERVER_SAID], records, expect_spoofed=False).error is None
    assert "did not send" in str(judge(CLIENT_SAID, [SERVER_SAID], captured(), False).error)


def test_sent_twice_counts_repeated_bytes_only() -> None:
    assert sent_twice([SentData(0, 0, 100), SentData(1, 100, 200)]) == 0
    assert sent_twice([SentData(0, 0, 100), SentData(1, 0, 100), SentData(2, 50, 200)]) == 2


def in_the_syn(acknowledged: int) -> list[PacketRecord]:
    """The same with the data in the SYN, whose SYN-ACK acknowledges that number."""
    found = []
    for record in captured():
        if record.tap == AT_SERVER and record.is_syn:
            found.append(replace(record, payload_bytes=200, fast_open=8))
        elif record.tap == AT_SERVER and record.is_syn_ack:
            found.append(replace(record, ack=acknowledged))
        elif record.tap == AT_CLIENT or acknowledged == 101:
            found.append(record)
    return found


@pytest.mark.parametrize(
    ("acknowledged", "taken", "at_server_ms"), [(301, True, 50), (101, False, 150)]
)
def test_data_in_a_syn_is_at_the_server_when_it_is_taken(
    acknowledged: int, taken: bool, at_server_ms: float
) -> None:
    made = judge(CLIENT_SAID, [SERVER_SAID], in_the_syn(acknowledged))
    assert made.error is None
    assert made.fast_open == FastOpen(200, taken, sent_cookie=8, given_cookie=None)
    assert made.times is not None
    assert made.times.first_byte_at_server_ms == pytest.approx(at_server_ms)


def test_without_data_and_option_in_the_syn_there_is_no_fast_open() -> None:
    assert judge(CLIENT_SAID, [SERVER_SAID], captured()).fast_open is None


@pytest.mark.parametrize(
    ("gain_ms", "rtt_ms", "text"),
    [
        (None, 100, "not known"),
        (99.9, 100, "99.9, 1.00 RTT"),
        (100.2, 100, "100, 1.00 RTT"),
        (9999.6, 10_000, "10000, 1.00 RTT"),
        (4.9, 100, "none (+4.9)"),
        (-4.9, 100, "none (-4.9)"),
        (-12.3, 100, "12.3 later"),
        (3.5, 0, "3.5"),
    ],
)
def test_a_gain_in_words(gain_ms: float | None, rtt_ms: float, text: str) -> None:
    assert gain_text(gain_ms, rtt_ms) == text
