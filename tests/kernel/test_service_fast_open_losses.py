"""Fast Open on a network that loses, delays, swallows and doubles packets, and on a full server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.addresses import FAMILIES, Family
from support.captures import WAN, Captures
from support.conversation import converse, talk
from support.counters import tcp_counters
from support.fast_open import PATIENT, SYSCTL, check_fast_open
from support.peers import (
    Peers,
    content,
    next_port,
    receive,
    receive_all,
)
from support.service import ServiceProcess
from support.settings import sysctls, wan
from support.waiting import until
from support.wan_faults import FIRST, dropping, replay

from nfq_zerortt.testbed.network import Testbed

CONNECTIONS = int(os.environ.get("ZERORTT_CROWD", "150"))
"""How many the crowd has; 2000 for the figure, which takes ten seconds."""
ESTABLISHED, SYN_RECEIVED = 1, 3
"""As struct tcp_info (linux/tcp.h) has them."""
CROWD = Path(__file__).parent / "support" / "crowd.py"


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with this strategy, shared by the tests of this file."""
    directory = tmp_path_factory.mktemp("service")
    config = directory / "config.toml"
    config.write_text(PATIENT, encoding="utf-8")
    # A repeated SYN-ACK for a flow in the kernel is acknowledged by a packet that no client sent.
    options = ("--config", str(config), "--data-path", "python")
    with ServiceProcess(network, directory, *options) as running:
        yield running


@pytest.mark.parametrize("lost", ["syn", "syn-ack", "both"])
def test_loss_in_the_handshake(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    family: Family,
    lost: str,
) -> None:
    """The SYN is repeated plain, so whatever was lost, the data arrives once."""
    syn = ["--dport", str(port), "--syn", *FIRST]
    syn_ack = ["--sport", str(port), "--tcp-flags", "SYN,ACK", "SYN,ACK", *FIRST]
    with ExitStack() as stack:
        stack.enter_context(sysctls(network, "server", {SYSCTL: "0x602"}))
        rules = []
        if lost != "syn-ack":
            rules.append(stack.enter_context(dropping(network, family, *syn)))
        if lost != "syn":
            rules.append(stack.enter_context(dropping(network, family, *syn_ack)))
        with Captures(network, tmp_path, port) as captures:
            converse(peers, port, [content(200)])
        assert [rule.count for rule in rules] == [1] * len(rules)
    (opened,) = check_fast_open(captures, lossy=True)
    assert len(opened.data) == 200
    assert opened.accepted == (200 if lost == "syn-ack" else 0)
    assert len(opened.syns) == {"syn": 2, "syn-ack": 2, "both": 3}[lost]


def test_server_answers_and_closes_and_its_syn_ack_is_lost(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """All that it said is kept until the SYN-ACK comes again, and delivered then."""
    answer = content(5000)
    match = ["--sport", str(port), "--tcp-flags", "SYN,ACK", "SYN,ACK", *FIRST]
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        dropping(network, peers.family, *match) as rule,
        Captures(network, tmp_path, port) as captures,
    ):
        listener = peers.listen(port)
        client = peers.connect(port)
        client.sendall(b"request")
        server = peers.accept(listener)
        assert receive(server, 7) == b"request"
        server.sendall(answer)
        server.close()
        assert receive_all(client) == answer
        client.close()
        service.event("flow.closed", port=port)
        assert rule.count == 1
    (opened,) = check_fast_open(captures, lossy=True)
    far, near = opened.translated.server_side, opened.translated.client_side
    arrived = next(p for p in far.down if p.payload)
    assert arrived.time < far.syn_acks[0].time < next(p for p in near.down if p.payload).time
    said = [(p.seq, len(p.payload)) for p in far.down if p.payload]
    assert len(said) == len(set(said)), "the client was meant to take what was kept"


def test_third_ack_is_lost(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int
) -> None:
    """The server has the data and says nothing yet; it repeats its SYN-ACK until it is answered."""
    third = ["--dport", str(port), "--tcp-flags", "SYN,ACK,FIN,RST", "ACK", *FIRST]
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        dropping(network, peers.family, *third) as rule,
    ):
        listener = peers.listen(port)
        client = peers.connect(port)
        client.sendall(b"request")
        server = peers.accept(listener)
        assert receive(server, 7) == b"request"
        until(lambda: rule.count == 1, "the third ACK")
        assert state_of(server) == SYN_RECEIVED
        until(lambda: state_of(server) == ESTABLISHED, "the third ACK again", 2.0)
        server.sendall(b"answer")
        assert receive(client, 6) == b"answer"


def state_of(end: socket.socket) -> int:
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0]


# The server's queue of connections whose third ACK is not there.


@pytest.fixture
def crowd_servers(network: Testbed, family: Family) -> Iterator[tuple[int, int]]:
    """Two servers that expect a crowd: one as it comes, one whose Fast Open queue takes two."""
    ports = (next_port(), next_port())
    with sysctls(network, "server", {SYSCTL: "0x602"}), ExitStack() as stack:
        for port, qlen in zip(ports, (0, 2), strict=True):
            server = network.popen(
                "server",
                [sys.executable, str(CROWD), "server", family.server, str(port), str(qlen)],
                stdout=subprocess.PIPE,
            )
            stack.callback(server.wait)
            stack.callback(server.kill)
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
        yield ports


def test_crowd_and_a_queue_that_overflows(
    service: ServiceProcess,
    network: Testbed,
    family: Family,
    crowd_servers: tuple[int, int],
) -> None:
    """Mixed sizes, half of them to a server that soon takes no more data with SYNs."""
    before = tcp_counters(network, "server")
    ports = ",".join(map(str, crowd_servers))
    with wan(network, 20, loss_percent=1):
        done = network.exec(
            "client",
            [sys.executable, str(CROWD), "client", family.server, ports, str(CONNECTIONS), "20"],
            timeout_s=60,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"complete": CONNECTIONS, "failed": []}
    counted = tcp_counters(network, "server")
    taken = counted["TCPFastOpenPassive"] - before["TCPFastOpenPassive"]
    overflows = "TCPFastOpenListenOverflow"
    assert taken > 0
    assert counted[overflows] > before[overflows], "the queue was meant to overflow"
    told = [
        event["fast_open"]
        for port in crowd_servers
        for event in service.wait_for("flow.synack_captured", port=port, count=CONNECTIONS // 2)
    ]
    assert told.count("accepted") == taken


# Packets that come twice.


def test_answer_that_takes_longer_than_our_patience(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The SYN is repeated though nothing was lost: without data, so that comes once."""
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        wan(network, 400),
        Captures(network, tmp_path, port) as captures,
    ):
        converse(peers, port, [content(200)])
        suppressed = service.event("flow.closed", port=port)["retransmissions_suppressed"]
    # The last packets may still be under way when the captures end.
    (opened,) = check_fast_open(captures, lossy=True)
    assert opened.accepted == 200
    assert len(opened.syns) == 2
    end = (opened.translated.isn_client + 1 + 200) % 2**32
    reported = [p for p in opened.translated.client_side.down if p.sack and p.sack[1] == end]
    assert len(reported) == suppressed > 0, "the client was meant to repeat, and to be told"


def test_syn_that_the_network_doubles(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """While the server knows the connection, a copy of the SYN does nothing."""
    with sysctls(network, "server", {SYSCTL: "0x602"}):
        listener = peers.listen(port)
        with Captures(network, tmp_path, port) as captures:
            client = peers.connect(port)
            client.sendall(b"request")
            server = peers.accept(listener)
            assert receive(server, 7) == b"request"
        replay(network, captures.packets[WAN][0].raw)
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.accept()
        server.sendall(b"answer")
        assert receive(client, 6) == b"answer"
        client.close()
        assert receive_all(server) == b""


def test_syn_that_the_network_doubles_and_delays(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """What Fast Open does not promise (RFC 7413, section 2.1).

    A copy of the SYN that comes when the connection is over is a new one to the server: its
    application gets the data a second time. This is why not all ports are on the list of
    those where the strategy auto does it. The second connection is reset.
    """
    with sysctls(network, "server", {SYSCTL: "0x602"}):
        listener = peers.listen(port)
        with Captures(network, tmp_path, port) as captures:
            talk(peers, listener, [b"pay 100"])
        replay(network, captures.packets[WAN][0].raw)
        again = peers.accept(listener)
        assert receive(again, 7) == b"pay 100"
        with pytest.raises(ConnectionResetError):
            receive_all(again)
