"""The strategy observe: everything is logged, and not a bit is changed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.captures import Captures
from support.judge.links import check_untouched
from support.peers import LINGER_0, Peers, content, receive_all, transfer
from support.service import ServiceProcess

from nfq_zerortt.testbed.network import Testbed


@pytest.fixture(scope="module")
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("observe")
    with ServiceProcess(network, directory, "--strategy", "observe") as running:
        yield running


def test_connection_passes_untouched_and_is_logged(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(client, server, content(100_000, 1))
        transfer(server, client, content(90_000, 2))
        client.close()
        assert receive_all(server) == b""
        server.close()
    check_untouched(captures)
    closed = service.event("flow.closed", port=port)
    assert (closed["bytes_to_server"], closed["bytes_to_client"]) == (100_000, 90_000)
    assert closed["segments_rewritten"] == 0
    names = [event["event"] for event in service.events(port=port)]
    assert names == [
        "flow.syn_received",
        "flow.syn_forwarded",
        "flow.synack_captured",
        "flow.established",
        "flow.closed",
    ]
    captured = service.event("flow.synack_captured", port=port)
    assert captured["delta"] == 0
    assert 20 <= captured["server_rtt_ms"] < 1000
    assert service.event("flow.established", port=port)["strategy"] == "observe"


def test_reset_passes_untouched_and_is_logged(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        transfer(client, server, b"hello")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
    check_untouched(captures)
    assert service.event("flow.reset", port=port)["by"] == "client"


def test_refused_port_is_refused_as_ever(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures, pytest.raises(ConnectionRefusedError):
        peers.connect(port)
    check_untouched(captures)
    assert service.event("flow.reset", port=port)["reason"] == "refused"
