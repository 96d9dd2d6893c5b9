"""Path MTU discovery through the service (RFC 1191, RFC 8201).

A link behind servernic takes 1280 bytes, and both ends believe in 1500: who sends
too much is told by a router, and believes it if the segment quoted is one of its own.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from support.addresses import FAMILIES, Family
from support.captures import CLIENT, CLIENT_SIDE, SERVER, SERVER_SIDE, Captures
from support.checker import Translated, check_captures
from support.crafted import send
from support.namespaces import inside
from support.peers import Peers, content, digest, receive, receive_all, sending, transfer
from support.quoting import Quoting, too_big
from support.reading import SYN, Read
from support.service import ServiceProcess
from support.settings import narrow_path
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

NARROW = 1280
SIZE = 60_000
IP_MTU, IPV6_MTU = 14, 24


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def narrow(network: Testbed, family: Family) -> Iterator[None]:
    with narrow_path(network, family, NARROW):
        yield


def path_mtu(end: socket.socket) -> int:
    """Return what the socket's kernel believes that the path takes."""
    if end.family == socket.AF_INET6:
        return end.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
    return end.getsockopt(socket.IPPROTO_IP, IP_MTU)


def check_errors(captures: Captures, found: Translated, family: Family) -> list[Quoting]:
    """Check the errors that reached the client: each quotes what the client itself has sent."""
    errors = [Quoting(captured) for captured in captures.errors[CLIENT]]
    assert errors, "the client was meant to be told of the narrow link"
    sent = {(packet.seq, packet.ack) for packet in found.client_side.up}
    for error in errors:
        assert error.is_intact
        assert (error.quoted_source, error.target) == (family.client, family.client)
        assert (error.seq, error.ack) in sent
    return errors


def check_sent_again_at_once(found: Translated, errors: list[Quoting]) -> None:
    """What the client sends again because of the error must not be taken for needless."""
    first = min(error.time for error in errors)

    def small_after_that(packets: list[Read]) -> Counter[tuple[int, bytes]]:
        return Counter(
            (packet.seq, packet.payload)
            for packet in packets
            if packet.time > first and packet.payload and len(packet.raw) <= NARROW
        )

    again = small_after_that(found.client_side.up)
    assert again, "the client was meant to send smaller segments"
    held_back = again - small_after_that(found.server_side.up)
    assert not held_back, f"{held_back.total()} of {again.total()} smaller segments held back"


@pytest.mark.usefixtures("narrow")
def test_early_data_does_not_fit(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    family: Family,
    port: int,
    tmp_path: Path,
) -> None:
    """The segments that were held are too big: the error comes while repetitions are dropped."""
    request = content(7000)
    with Captures(network, tmp_path, port, errors=True) as captures:
        listener = peers.listen(port)
        client = peers.connect(port)
        with sending(client, request):
            server = peers.accept(listener)
            assert receive(server, len(request)) == request
        assert path_mtu(client) == NARROW
        server.close()
        client.close()
    (found,) = check_captures(captures, lossy=True)
    assert any(len(packet.payload) > NARROW for packet in found.server_side.up)
    errors = check_errors(captures, found, family)
    assert {error.source for error in errors} == {family.servernic}
    check_sent_again_at_once(found, errors)
    service.event("flow.closed", port=port)


@pytest.mark.usefixtures("narrow")
def test_both_ways(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    family: Family,
    port: int,
    tmp_path: Path,
) -> None:
    up, down = content(SIZE, 1), content(SIZE, 2)
    with Captures(network, tmp_path, port, errors=True) as captures:
        client, server = peers.pair(port)
        with sending(client, up), sending(server, down):
            got, sent = receive(client, SIZE), receive(server, SIZE)
        assert (digest(got), digest(sent)) == (digest(down), digest(up))
        assert (path_mtu(client), path_mtu(server)) == (NARROW, NARROW)
        client.close()
        assert receive_all(server) == b""
        server.close()
    (found,) = check_captures(captures, lossy=True)
    check_sent_again_at_once(found, check_errors(captures, found, family))
    at_server = [Quoting(captured) for captured in captures.errors[SERVER]]
    assert at_server, "the server was meant to be told of the narrow link"
    assert {error.seq for error in at_server} <= {p.seq for p in found.server_side.down}
    service.event("flow.closed", port=port)


def test_narrow_link_is_our_own(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    family: Family,
    port: int,
    tmp_path: Path,
) -> None:
    """Then clientnic's kernel tells the client, before the service has seen the segment."""
    ends = [("clientnic", "eth1"), ("servernic", "eth1")]
    up, down = content(SIZE, 1), content(SIZE, 2)
    try:
        for host, interface in ends:
            set_mtu(network, host, interface, NARROW)
        with Captures(network, tmp_path, port, errors=True) as captures:
            listener = peers.listen(port)
            client = peers.connect(port)
            with sending(client, up):
                server = peers.accept(listener)
                assert digest(receive(server, SIZE)) == digest(up)
            transfer(server, client, down)
            assert (path_mtu(client), path_mtu(server)) == (NARROW, NARROW)
            client.close()
            assert receive_all(server) == b""
            server.close()
    finally:
        for host, interface in ends:
            set_mtu(network, host, interface, 1500)
        for host in ("client", "server"):
            ip = ["ip", f"-{family.version}", "route", "flush", "cache"]
            network.exec(host, ip, check=True)
    assert captures.errors[CLIENT]
    assert all(len(captured.raw) <= NARROW for captured in captures.packets[SERVER_SIDE])
    assert service.event("flow.closed", port=port)["bytes_to_server"] == SIZE


def set_mtu(network: Testbed, host: str, interface: str, mtu: int) -> None:
    network.exec(host, ["ip", "link", "set", interface, "mtu", str(mtu)], check=True)


@pytest.mark.parametrize("guessed", [False, True], ids=["right number", "guessed number"])
def test_narrow_link_at_the_client(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    family: Family,
    port: int,
    tmp_path: Path,
    guessed: bool,
) -> None:
    """A router beside the client quotes what it saw, the client's numbers; the server has others.

    A quotation with a number from nowhere must not be believed after it was translated, either.
    """
    mtu = 1400
    with Captures(network, tmp_path, port, errors=True) as captures:
        before = ignored(network)
        client, server = peers.pair(port)
        transfer(server, client, b"greeting")
        spoofed = service.event("flow.synack_spoofed", port=port)["isn_spoofed"]
        seq = (spoofed + 1 + len(b"greeting") + 10_000_000 * guessed) % 2**32
        quoted = TCP(sport=port, dport=client.getsockname()[1], seq=seq, ack=1, flags="A")
        send(network, [too_big(family, quoted=quoted, mtu=mtu, to_server=True)])
        if guessed:
            until(lambda: ignored(network) > before, "the error at the server")
            assert path_mtu(server) == 1500
        else:
            until(lambda: path_mtu(server) == mtu, "the server's belief")
        transfer(server, client, content(SIZE))
        client.close()
        server.close()
    network.exec("server", ["ip", f"-{family.version}", "route", "flush", "cache"], check=True)
    (found,) = check_captures(captures)
    (near,) = [Quoting(captured) for captured in captures.errors[CLIENT_SIDE]]
    (far,) = [Quoting(captured) for captured in captures.errors[SERVER_SIDE]]
    assert (far.seq - near.seq) % 2**32 == found.delta
    assert far.is_intact
    biggest = max(len(p.raw) for p in found.server_side.down if not p.flags & SYN)
    assert biggest <= (1500 if guessed else mtu)


def ignored(network: Testbed) -> int:
    """Return how many ICMP errors the server's TCP did not believe."""
    with inside(network.netns("server")):
        names, values = [
            line.split()
            for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()
            if line.startswith("TcpExt:")
        ]
    return int(values[names.index("OutOfWindowIcmps")])
