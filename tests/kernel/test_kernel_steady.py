"""Flows that the kernel carries, while the service runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.addresses import FAMILIES, Family
from support.captures import Captures
from support.carried import KERNEL, flows, until_settled
from support.checker import check_captures
from support.counters import queued
from support.peers import LINGER_0, Peers, content, digest, receive, receive_all, sending, transfer
from support.reading import Read
from support.service import ServiceProcess
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

SIZE = 2_000_000
NARROW = 1300
SO_LINGER = (socket.SOL_SOCKET, socket.SO_LINGER)


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


def test_no_packet_of_a_carried_flow_comes_to_the_queue(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    up, down = content(SIZE, 1), content(SIZE, 2)
    with ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control)) as service:
        client, server = peers.pair(port)
        assert service.event("flow.established", port=port)["data_path"] == "kernel"
        transfer(client, server, b"request")
        transfer(server, client, b"answer")
        until_settled(network, control, port, 1)
        until(lambda: is_quiet(network, client, server, 100), "a transfer without the queue")
        before = queued(network)
        with sending(client, up), sending(server, down):
            got, sent = receive(client, SIZE), receive(server, SIZE)
        client.close()
        assert receive_all(server) == b""
        server.close()
        closed = service.event("flow.closed", port=port)
        assert queued(network) == before
        assert (digest(got), digest(sent)) == (digest(down), digest(up))
        assert (closed["bytes_to_server"] - len(b"request") - SIZE) % 100 == 0
        assert (closed["bytes_to_client"] - len(b"answer") - SIZE) % 100 == 0
        (shown,) = [flow for flow in flows(network, control) if flow["flow_id"] == 1]
        assert (shown["state"], shown["data_path"]) == ("TIME_WAIT", "kernel")


def test_packets_keep_their_order_at_the_hand_over(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """Flows are handed over while data goes both ways: none overtakes another."""
    with ServiceProcess(network, tmp_path, *KERNEL) as service:
        listener = peers.listen(port)
        with Captures(network, tmp_path, port) as captures:
            for number in range(20):
                up, down = content(60_000, number), content(60_000, 100 + number)
                client = peers.connect(port)
                with sending(client, up):
                    server = peers.accept(listener)
                    with sending(server, down):
                        got, sent = receive(client, len(down)), receive(server, len(up))
                assert (digest(got), digest(sent)) == (digest(down), digest(up))
                client.close()
                server.close()
            service.wait_for("flow.closed", port=port, count=20)
    found = check_captures(captures)
    assert len(found) == 20
    for one in found:
        assert order(one.server_side.up) == order(one.client_side.up)
        assert order(one.client_side.down) == order(one.server_side.down)


def order(packets: list[Read]) -> list[int]:
    """Return in which order the segments came, each where it came first.

    The client repeats some: it believes the path to be short.
    """
    numbers = [packet.seq for packet in packets if packet.payload]
    return list(dict.fromkeys((number - numbers[0]) & 0xFFFFFFFF for number in numbers))


def test_a_server_learns_of_a_narrow_link_behind_us(
    network: Testbed, peers: Peers, family: Family, port: int, control: Path, tmp_path: Path
) -> None:
    """This router itself says so, about segments that the program has renumbered before."""
    down = content(200_000)
    with ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control)) as service:
        client, server = peers.pair(port)
        transfer(client, server, b"request")
        transfer(server, client, b"answer")
        until_settled(network, control, port, 1)
        set_mtu(network, "clientnic", "eth0", NARROW)
        try:
            with sending(server, down):
                assert digest(receive(client, len(down))) == digest(down)
        finally:
            set_mtu(network, "clientnic", "eth0", 1500)
            forget_path_mtu(network, family)
        client.close()
        server.close()
        service.event("flow.closed", port=port)


def set_mtu(network: Testbed, host: str, interface: str, mtu: int) -> None:
    words = ["ip", "link", "set", interface, "mtu", str(mtu)]
    network.exec(host, words, timeout_s=10, check=True)


def forget_path_mtu(network: Testbed, family: Family) -> None:
    words = ["ip", f"-{family.version}", "route", "flush", "cache"]
    network.exec("server", words, timeout_s=10, check=True)


def test_a_reset_ends_a_carried_flow(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    with ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control)) as service:
        client, server = peers.pair(port)
        transfer(client, server, b"request")
        transfer(server, client, b"answer")
        until_settled(network, control, port, 1)
        server.setsockopt(*SO_LINGER, LINGER_0)
        server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        reset = service.event("flow.reset", port=port)
        assert (reset["by"], reset["reason"]) == ("server", "server_reset")
        assert service.event("flow.closed", port=port)["bytes_to_client"] == len(b"answer")


def test_a_port_used_again_begins_a_new_flow(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    with ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control)) as service:
        listener = peers.listen(port)
        source_port = 0
        for number in range(1, 4):
            client = peers.connect(port, source_port=source_port)
            server = peers.accept(listener)
            source_port = client.getsockname()[1]
            transfer(client, server, b"request " * number)
            transfer(server, client, b"answer " * number)
            until_settled(network, control, port, 1)
            client.setsockopt(*SO_LINGER, LINGER_0)
            client.close()
            with pytest.raises(ConnectionResetError):
                server.recv(1)
            closed = service.wait_for("flow.closed", port=port, count=number)
            assert len(closed) == number
            assert closed[-1]["bytes_to_server"] == 8 * number


def test_a_connection_that_was_there_before_us_is_kept_from_the_queue(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    client, server = peers.pair(port)
    transfer(client, server, b"before")
    with ServiceProcess(network, tmp_path, *KERNEL) as service:
        transfer(client, server, b"x" * 5000)
        transfer(server, client, b"y" * 5000)
        assert service.event("flow.bypassed", port=port)["reason"] == "mid_stream"
        until(lambda: is_quiet(network, client, server), "a transfer without the queue")


def is_quiet(
    network: Testbed, client: socket.socket, server: socket.socket, size: int = 200_000
) -> bool:
    """Whether transfers both ways do without the queue."""
    before = queued(network)
    transfer(client, server, content(size))
    transfer(server, client, content(size))
    return queued(network) == before
