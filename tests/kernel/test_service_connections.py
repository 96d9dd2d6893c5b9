"""The life of a connection through the service, with the sockets of two real kernels.

After each test the capture is judged by an independent reader (support/judge/).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import socket
import sys
import termios
import time
from pathlib import Path

import pytest
from support.addresses import FAMILIES, Family
from support.captures import SERVER_SIDE, Captures
from support.checker import Translated, check_captures
from support.judge.links import check_checksums
from support.peers import (
    LINGER_0,
    Peers,
    content,
    digest,
    expect_reset,
    receive,
    receive_all,
    sending,
    transfer,
)
from support.reading import FIN, RST, SYN, connections
from support.service import ServiceProcess
from support.settings import sysctls, wan
from support.waiting import PATIENCE_S, until

from nfq_zerortt.testbed.network import Testbed

LARGE = 200_000
"""Many windows at first, some two hundred segments: scapy needs a second for each side."""
MANY = 20
FAR_RTT_MS = 150
"""So far that the client is done before the server's answer comes, on a busy machine as well; and
not so far that it repeats, which Linux does after 200 ms."""


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


def only(found: list[Translated]) -> Translated:
    assert len(found) == 1
    return found[0]


def flags_up(found: Translated) -> int:
    flags = 0
    for packet in found.server_side.up:
        flags |= packet.flags
    return flags


@pytest.mark.parametrize("size", [1, 1440, 1441, LARGE])
def test_request_and_answer(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path, size: int
) -> None:
    request, answer = content(size, 1), content(size, 2)
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(client, server, request)
        transfer(server, client, answer)
        client.close()
        assert receive_all(server) == b""
        server.close()
    found = only(check_captures(captures))
    assert digest(found.sent) == digest(request)
    assert digest(found.answered) == digest(answer)
    closed = service.event("flow.closed", port=port)
    assert (closed["bytes_to_server"], closed["bytes_to_client"]) == (size, size)
    captured = service.event("flow.synack_captured", port=port)
    spoofed = service.event("flow.synack_spoofed", port=port)
    assert spoofed["isn_spoofed"] == found.isn_spoofed
    assert (captured["isn_server"], captured["delta"]) == (found.isn_server, found.delta)
    assert flags_up(found) & RST == 0


def test_both_ways_at_once(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    up, down = content(LARGE, 1), content(LARGE, 2)
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        with sending(client, up), sending(server, down):
            got = receive(client, LARGE)
            sent = receive(server, LARGE)
        assert (digest(got), digest(sent)) == (digest(down), digest(up))
        client.close()
        server.close()
    check_captures(captures)


def test_client_is_connected_before_the_server_knows(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with wan(network, FAR_RTT_MS), Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.connect(port)
        client.sendall(b"early")
        server = peers.accept(listener)
        assert receive(server, 5) == b"early"
        client.close()
        server.close()
    found = only(check_captures(captures))
    third = next(p for p in found.client_side.up if not p.flags & SYN)
    first_syn_ack = found.server_side.syn_acks[0]
    assert third.time < first_syn_ack.time
    assert service.event("flow.data_released", port=port)["bytes"] == len("early")


def test_many_at_once(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """Connections that overlap: nobody gets another's bytes, or numbers."""
    requests = [content(2000, seed) for seed in range(MANY)]
    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        clients = [peers.connect(port) for _ in requests]
        for client, request in zip(clients, requests, strict=True):
            client.sendall(request)
        for _ in clients:
            server = peers.accept(listener)
            request = receive(server, len(requests[0]))
            server.sendall(request[::-1])
            server.shutdown(socket.SHUT_WR)
        for client, request in zip(clients, requests, strict=True):
            assert receive_all(client) == request[::-1]
            client.close()
        service.wait_for("flow.closed", port=port, count=MANY)
    found = check_captures(captures)
    assert len({translated.isn_spoofed for translated in found}) == MANY


def test_server_speaks_first(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    greeting, command = content(3000, 1), content(500, 2)
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(server, client, greeting)
        transfer(client, server, command)
        transfer(server, client, b"221 bye\r\n")
        server.close()
        assert receive_all(client) == b""
        client.close()
    found = only(check_captures(captures))
    assert found.answered == greeting + b"221 bye\r\n"


def test_client_shuts_down_writing_and_gets_the_answer(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    answer = content(LARGE // 4)
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(server) == b"question"
        with sending(server, answer):
            assert digest(receive(client, len(answer))) == digest(answer)
        server.close()
        assert receive_all(client) == b""
    check_captures(captures)
    service.event("flow.closed", port=port)


def test_client_sends_and_closes_before_the_server_answers(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    request = content(5000)
    with wan(network, FAR_RTT_MS), Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.connect(port)
        client.sendall(request)
        client.close()
        server = peers.accept(listener)
        assert receive_all(server) == request
        server.close()
    found = only(check_captures(captures))
    fin = next(p for p in found.client_side.up if p.flags & FIN)
    assert fin.time < found.server_side.syn_acks[0].time, "the FIN was meant to be held"
    service.event("flow.closed", port=port)


def test_server_shuts_down_writing_and_gets_more(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    upload = content(LARGE // 4)
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        server.sendall(b"only this")
        server.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"only this"
        transfer(client, server, upload)
        client.close()
        assert receive_all(server) == b""
        server.close()
    check_captures(captures)
    service.event("flow.closed", port=port)


def test_both_close_at_once(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(client, server, b"x")
        time.sleep(0.05)  # so that no FIN carries an ACK that the other waits for
        server.shutdown(socket.SHUT_WR)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b""
        assert receive_all(server) == b""
    found = only(check_captures(captures))
    client_fin = next(p for p in found.server_side.up if p.flags & FIN)
    server_fin = next(p for p in found.server_side.down if p.flags & FIN)
    assert client_fin.ack == server_fin.seq, "the FINs were meant to cross each other"
    service.event("flow.closed", port=port)


def test_no_byte_at_all(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        client.close()
        assert receive_all(server) == b""
        server.close()
    found = only(check_captures(captures))
    assert (found.sent, found.answered) == (b"", b"")


def test_client_resets(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(client, server, b"hello")
        transfer(server, client, b"hello yourself")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        client.close()
        expect_reset(server)
    check_captures(captures)
    reset = service.event("flow.reset", port=port)
    assert (reset["by"], reset["reason"]) == ("client", "client_reset")


def test_server_resets(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(client, server, b"hello")
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        server.close()
        expect_reset(client)
    check_captures(captures)
    assert service.event("flow.reset", port=port)["by"] == "server"


def test_server_with_unread_data_resets(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        client.sendall(b"never read")
        until(lambda: server.recv(1, socket.MSG_PEEK), "data")
        server.close()
        expect_reset(client)
    check_captures(captures)


@pytest.mark.parametrize("data", [b"", b"data that is given up"])
def test_client_resets_before_the_server_answers(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    data: bytes,
) -> None:
    with wan(network, FAR_RTT_MS), Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.connect(port)
        if data:
            client.sendall(data)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        client.close()
        service.wait_for("flow.closed", port=port)
    found = only(check_captures(captures, may_reset=True, complete=False))
    assert [p.flags for p in found.server_side.up] == [SYN, RST], "SYN, then RST"
    assert found.server_side.up[1].seq == (found.isn_client + 1) % 2**32
    listener.settimeout(0.1)
    with pytest.raises(TimeoutError):
        listener.accept()
    assert service.event("flow.reset", port=port)["by"] == "client"


@pytest.mark.parametrize("data", [b"", b"data for nobody"])
def test_refused_port_is_an_error_at_once(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    data: bytes,
) -> None:
    """ECONNRESET where a direct connection sees ECONNREFUSED: the client was connected."""
    with Captures(network, tmp_path, port) as captures:
        client = peers.connect(port)
        if data:
            client.sendall(data)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    check_checksums(captures)
    (side,) = connections(captures.packets[SERVER_SIDE]).values()
    assert {p.flags for p in side.up} == {SYN}  # on a slow machine it is repeated
    reset = service.event("flow.reset", port=port)
    assert (reset["reason"], reset["by"]) == ("refused", "server")
    service.event("flow.closed", port=port)


def test_same_ports_again_at_once(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The server closes first and keeps TIME_WAIT; the client may use its port again."""
    listener = peers.listen(port)
    source = 40_000 + port % 20_000
    with Captures(network, tmp_path, port) as captures:
        for number in range(3):
            data = content(3000, number)
            client = peers.connect(port, source_port=source)
            server = peers.accept(listener)
            transfer(client, server, data)
            transfer(server, client, data)
            server.close()
            assert receive_all(client) == b""
            client.close()
            service.wait_for("flow.closed", port=port, count=number + 1)
    found = check_captures(captures)
    assert len(found) == 3
    assert len({translated.delta for translated in found}) == 3
    spoofed = [translated.isn_spoofed for translated in found]
    for earlier, later in itertools.pairwise(spoofed):
        assert 0 < (later - earlier) % 2**32 < 2**31, "the ISN ran back on the same 4-tuple"


def test_same_ports_again_after_a_reset(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    listener = peers.listen(port)
    source = 40_000 + port % 20_000
    with Captures(network, tmp_path, port) as captures:
        for number in range(3):
            client = peers.connect(port, source_port=source)
            server = peers.accept(listener)
            transfer(client, server, content(2000, number))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            client.close()
            expect_reset(server)
            server.close()
            time.sleep(0.08)  # until the server's last ACKs are through: they belong to this one
    assert len(check_captures(captures)) == 3


def test_same_ports_while_the_client_is_in_time_wait(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """With tcp_tw_reuse the kernel itself takes a port in TIME_WAIT again, after a second."""
    listener = peers.listen(port)
    source = 40_000 + port % 20_000
    settings = {"net.ipv4.tcp_tw_reuse": "1", "net.ipv4.ip_local_port_range": f"{source} {source}"}
    with sysctls(network, "client", settings), Captures(network, tmp_path, port) as captures:
        for number in range(2):
            client = peers.tcp("client")
            until(lambda s=client: connected(s, peers.family, port), "a port that is in TIME_WAIT")  # type: ignore[misc]
            server = peers.accept(listener)
            transfer(client, server, content(2000, number))
            client.close()
            assert receive_all(server) == b""
            server.close()
            service.wait_for("flow.closed", port=port, count=number + 1)
    assert len(check_captures(captures)) == 2


def connected(client: socket.socket, family: Family, port: int) -> bool:
    try:
        client.connect((family.server, port))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True


def wait_until_full(reader: socket.socket) -> None:
    """Wait until nothing comes any more, for longer than the first zero-window probe waits."""
    waiting, since = -1, time.monotonic()
    until_s = since + PATIENCE_S
    while time.monotonic() - since < 0.4 or not waiting:
        assert time.monotonic() < until_s, f"{waiting} bytes wait, and more come"
        time.sleep(0.02)
        now = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)
        if now != waiting:
            waiting, since = now, time.monotonic()


@pytest.mark.parametrize("slow", ["server", "client"])
def test_zero_window(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    slow: str,
) -> None:
    """A reader that does not read for a while, then everything."""
    data = content(LARGE)
    buffers = {slow: 32_768}
    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port, receive_buffer=buffers.get("server"))
        client = peers.connect(port, receive_buffer=buffers.get("client"))
        server = peers.accept(listener)
        sender, reader = (client, server) if slow == "server" else (server, client)
        if slow == "client":
            transfer(client, server, b"begin")
        with sending(sender, data):
            wait_until_full(reader)
            got = receive(reader, len(data))
        assert digest(got) == digest(data)
        client.close()
        server.close()
    found = only(check_captures(captures))
    reader_said = found.client_side.down if slow == "server" else found.client_side.up
    scale = reader_said[0].number("WScale")
    assert scale is not None
    windows = [p.window << scale for p in reader_said if not p.flags & (SYN | RST)]
    assert min(windows) < 1428, "the window was meant to close to less than a segment"
