"""What TCP does seldom: opening from both ends, probes, urgent data, long silence."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from support.addresses import FAMILIES, IPV4, IPV6, Family
from support.captures import Captures
from support.checker import check_captures
from support.peers import Peers, content, digest, receive, receive_all, sending, transfer
from support.reading import ACK, RST, SYN, URG, Read
from support.service import ServiceProcess
from support.settings import wan
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

LARGE = 400_000
BUFFER = 131_072
"""For a reader that does not read: the kernel doubles it."""
WINDOW = 16_384


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("later", ["neither", "client", "server"])
def test_simultaneous_open(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path, later: str
) -> None:
    """The SYNs cross each other on the WAN; the server's is one that the client has no need of."""
    client, server = peers.tcp("client"), peers.tcp("server")
    source = port + 10_000
    client.bind((peers.family.client, source))
    server.bind((peers.family.server, port))
    up, down = content(4000, 1), content(4000, 2)
    failed: list[OSError] = []

    def connect(end: socket.socket, to: tuple[str, int], delay_s: float) -> None:
        time.sleep(delay_s)
        try:
            end.connect(to)
        except OSError as error:
            failed.append(error)

    head_start_s = 0.01  # of the 150 ms that a SYN is under way
    with wan(network, 300), Captures(network, tmp_path, port) as captures:
        threads = [
            threading.Thread(
                target=connect,
                args=(client, (peers.family.server, port), head_start_s * (later == "client")),
            ),
            threading.Thread(
                target=connect,
                args=(server, (peers.family.client, source), head_start_s * (later == "server")),
            ),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        with sending(client, up), sending(server, down):
            got, sent = receive(client, len(down)), receive(server, len(up))
        assert (got, sent) == (down, up)
        client.close()
        assert receive_all(server) == b""
        server.close()
    service.event("flow.established", port=port)
    assert service.event("flow.closed", port=port)["bytes_to_server"] == len(up)
    everything = [packet for packets in captures.packets.values() for packet in packets]
    assert not any(Read(captured).flags & RST for captured in everything)


def keep_alive(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)


def test_keepalive(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """A connection that is silent for longer than its ends would bear without an answer."""
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(server, client, b"hello")
        for end in (client, server):
            keep_alive(end)
        time.sleep(2.4)
        transfer(client, server, b"still here")
        transfer(server, client, b"so am I")
        client.close()
        server.close()
    (found,) = check_captures(captures)
    for packets, isn in (
        (found.server_side.up, found.isn_client),
        (found.client_side.down, found.isn_spoofed),
    ):
        assert len(probes(packets, isn)) >= 2, "the ends were meant to probe"
    service.event("flow.closed", port=port)


def probes(packets: list[Read], isn: int) -> list[Read]:
    """Return the packets that carry nothing, one number before what comes next."""
    found, reached = [], (isn + 1) % 2**32
    for packet in packets:
        if packet.flags & SYN:
            continue
        if not packet.payload and packet.flags == ACK and packet.seq == (reached - 1) % 2**32:
            found.append(packet)
        reached = (packet.seq + len(packet.payload)) % 2**32 if packet.payload else reached
    return found


def probes_without_window(end: socket.socket) -> int:
    """How often in a row an end has found the other's window closed: tcpi_backoff (linux/tcp.h)."""
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[4]


def test_zero_window_is_probed(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The client does not read until the server has probed its closed window several times."""
    data = content(LARGE)
    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.tcp("client")
        # A reader that promises little at a time sees its memory end in time to say so.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WINDOW)
        client.connect((peers.family.server, port))
        server = peers.accept(listener)
        with sending(server, data):
            until(lambda: probes_without_window(server) > 2, "probes")
            got = receive(client, len(data))
        assert digest(got) == digest(data)
        client.close()
        server.close()
    (found,) = check_captures(captures)
    assert len(probes(found.client_side.down, found.isn_spoofed)) >= 2
    assert any(packet.window == 0 for packet in found.server_side.up)


@pytest.mark.parametrize("early", [True, False], ids=["early", "later"])
def test_urgent_data(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    early: bool,
) -> None:
    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.connect(port)
        server = None if early else peers.accept(listener)
        say_urgently(client)
        server = server or peers.accept(listener)
        hear_urgently(server)
        say_urgently(server)
        hear_urgently(client)
        client.close()
        server.close()
    (found,) = check_captures(captures)
    assert any(packet.flags & URG for packet in found.server_side.up)
    assert any(packet.flags & URG for packet in found.client_side.down)


def say_urgently(end: socket.socket) -> None:
    end.sendall(b"before")
    end.send(b"!", socket.MSG_OOB)
    end.sendall(b"after")


def hear_urgently(end: socket.socket) -> None:
    """What is urgent is no part of the stream, and its place is a mark that reading stops at."""
    assert receive(end, 6) == b"before"
    deadline = time.monotonic() + 5
    while True:
        try:
            urgent = end.recv(1, socket.MSG_OOB)
            break
        except (BlockingIOError, OSError):
            assert time.monotonic() < deadline, "the urgent byte does not come"
            time.sleep(0.01)
    assert urgent == b"!"
    assert receive(end, 5) == b"after"


@pytest.mark.parametrize(("family", "closing"), [(IPV4, "client"), (IPV6, "server")], ids=str)
def test_half_closed_for_long(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path, closing: str
) -> None:
    late = content(20_000)
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        first, second = (client, server) if closing == "client" else (server, client)
        first.sendall(b"that was all")
        first.shutdown(socket.SHUT_WR)
        assert receive_all(second) == b"that was all"
        for _ in range(2):
            time.sleep(0.5)
            transfer(second, first, late)
        second.close()
        assert receive_all(first) == b""
    check_captures(captures)
    service.event("flow.closed", port=port)
