"""Packets that are malformed, strange, or none of the service's business: they pass untouched.

What a kernel without the service forwards, it forwards with the service: every
packet is sent twice, first without it, and the server's wire must see the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.captures import SERVER as SERVER_WIRE
from support.captures import Captures
from support.crafted import FIRST_ID, fuzzed, malformed, send
from support.judge.links import check_untouched
from support.peers import Peers, content, receive_all, transfer
from support.service import ServiceProcess

from nfq_zerortt.testbed.network import Testbed

PACKETS = malformed()
DROPPED_BY_ANY_KERNEL = {
    "IP version 5",
    "IP header of 16 bytes",
    "IP length beyond the frame",
    "wrong IP checksum",
}
MALFORMED = ("bytes of TCP header", "data offset")


@dataclass
class Passed:
    """What the server's wire saw of each packet, first without the service, then with it."""

    without: dict[str, bytes]
    through: dict[str, bytes]
    service: ServiceProcess


def send_all(network: Testbed, directory: Path) -> dict[str, bytes]:
    directory.mkdir()
    with Captures(network, directory) as captures:
        send(network, PACKETS.values())
    names = list(PACKETS)
    arrived: dict[str, bytes] = {}
    for captured in captures.packets[SERVER_WIRE]:
        number = int.from_bytes(captured.raw[4:6], "big") - FIRST_ID
        if captured.raw[12:16] == bytes([10, 0, 1, 2]) and 0 <= number < len(names):
            arrived.setdefault(names[number], captured.raw)
    return arrived


@pytest.fixture(scope="module")
def passed(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passed]:
    directory = tmp_path_factory.mktemp("bad")
    without = send_all(network, directory / "without")
    with ServiceProcess(network, directory, "--log-level", "debug") as service:
        through = send_all(network, directory / "through")
        yield Passed(without, through, service)


def test_connection_from_before_the_service_goes_on(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    client, server = peers.pair(port)
    transfer(client, server, content(3000))
    with ServiceProcess(network, tmp_path) as service:
        with Captures(network, tmp_path, port) as captures:
            transfer(client, server, content(50_000))
            transfer(server, client, content(50_000))
            client.close()
            assert receive_all(server) == b""
            server.close()
        check_untouched(captures)
        assert service.event("flow.bypassed", port=port)["reason"] == "mid_stream"


def test_the_kernel_itself_forwards_most_of_them(passed: Passed) -> None:
    assert set(PACKETS) - set(passed.without) == DROPPED_BY_ANY_KERNEL


@pytest.mark.parametrize("name", PACKETS)
def test_passes_as_without_the_service(passed: Passed, name: str) -> None:
    assert passed.through.get(name) == passed.without.get(name)


def test_malformed_ones_are_logged(passed: Passed) -> None:
    unreadable = [name for name in passed.without if any(part in name for part in MALFORMED)]
    assert len(passed.service.events("packet.malformed")) >= len(unreadable)
    reasons = {event["reason"] for event in passed.service.events("flow.bypassed")}
    assert {"syn_with_data", "fragment", "mid_stream"} <= reasons
    for beginning in ("malformed", "odd_flags"):
        assert [reason for reason in reasons if reason.startswith(beginning)], reasons


def test_serves_the_next_connection(
    passed: Passed, network: Testbed, peers: Peers, port: int
) -> None:
    client, server = peers.pair(port)
    transfer(client, server, content(50_000))
    transfer(server, client, content(50_000))
    passed.service.event("flow.established", port=port)
    assert passed.service.faults() == []


def test_connection_from_the_servers_side_is_none_of_ours(
    passed: Passed, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    listener = peers.tcp("client")
    listener.bind(("10.0.1.2", port))
    listener.listen(1)
    with Captures(network, tmp_path, port) as captures:
        caller = peers.tcp("server")
        caller.connect(("10.0.1.2", port))
        called = peers.accept(listener)
        transfer(caller, called, content(20_000))
        transfer(called, caller, content(20_000))
        caller.close()
        called.close()
    check_untouched(captures)
    assert passed.service.event("flow.bypassed", port=port)["reason"] == "from_server_side"


def test_random_segments_do_no_harm(
    passed: Passed, network: Testbed, peers: Peers, port: int
) -> None:
    for seed in range(4):
        send(network, fuzzed(250, seed))
    client, server = peers.pair(port)
    transfer(client, server, content(5_000))
    passed.service.event("flow.established", port=port)
    assert passed.service.faults() == []
