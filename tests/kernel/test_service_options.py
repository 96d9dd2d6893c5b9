"""What the two ends negotiate, and what the service makes of it, with real kernels."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from support.captures import SERVER_SIDE, Captures
from support.checker import Translated, check_captures
from support.crafted import send
from support.judge.handshakes import SYN_OPTIONS
from support.judge.links import check_checksums, check_untouched
from support.peers import SERVER, Peers, content, digest, receive, sending, transfer
from support.reading import SYN, Read, connections, ecn_flags
from support.service import ServiceProcess
from support.settings import route_option, sysctls

from nfq_zerortt.testbed.network import Testbed

BULK = 120_000
WITHOUT = {
    "timestamps": {"net.ipv4.tcp_timestamps": "0"},
    "sack": {"net.ipv4.tcp_sack": "0"},
    "window_scaling": {"net.ipv4.tcp_window_scaling": "0"},
    "anything": {
        "net.ipv4.tcp_timestamps": "0",
        "net.ipv4.tcp_sack": "0",
        "net.ipv4.tcp_window_scaling": "0",
    },
}
NAMES = {"timestamps": "Timestamp", "sack": "SAckOK", "window_scaling": "WScale"}
IPPROTO_MPTCP = 262
TCP_MD5SIG = 14
MSG_FASTOPEN = 0x20000000


def bulk(
    network: Testbed, peers: Peers, port: int, directory: Path, times: int = 1
) -> list[Translated]:
    """Move data both ways, the client's first before the server has answered; check it all."""
    up, down = content(BULK, 1), content(BULK, 2)
    with Captures(network, directory, port) as captures:
        listener = peers.listen(port)
        for _ in range(times):
            client = peers.connect(port)
            with sending(client, up):
                server = peers.accept(listener)
                assert digest(receive(server, BULK)) == digest(up)
            transfer(server, client, down)
            client.close()
            server.close()
    return check_captures(captures)


@pytest.mark.parametrize("missing", WITHOUT)
def test_client_without(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    missing: str,
) -> None:
    with sysctls(network, "client", WITHOUT[missing]):
        (found,) = bulk(network, peers, port, tmp_path)
    for name in [NAMES[missing]] if missing in NAMES else NAMES.values():
        assert name not in found.client_side.syn_acks[0].named
        assert name not in found.server_side.syns[0].named


@pytest.mark.parametrize("missing", WITHOUT)
def test_server_without(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    missing: str,
) -> None:
    """The client was promised it. The next time it is not, and nothing needs translation."""
    names = [NAMES[missing]] if missing in NAMES else list(NAMES.values())
    with sysctls(network, "server", WITHOUT[missing]):
        first, second = bulk(network, peers, port, tmp_path, times=2)
    for name in names:
        assert name in first.client_side.syn_acks[0].named
        assert name not in first.server_side.syn_acks[0].named
        assert name not in second.client_side.syn_acks[0].named
        assert name not in second.server_side.syns[0].named
    if "Timestamp" in names:
        later = [p for p in first.server_side.up if not p.flags & SYN]
        assert later
        assert not [p for p in later if p.timestamps], "the server did not grant timestamps"


def longest(packets: list[Read]) -> int:
    """Return the most data and option bytes in one segment: what an MSS counts."""
    return max(len(p.payload) + int(p.tcp.dataofs) * 4 - 20 for p in packets)


@pytest.mark.parametrize("mss", [536, 1200, 1460])
def test_server_with_another_mss(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    mss: int,
) -> None:
    """Early segments are cut to what the server takes; the next SYN-ACK promises as much."""
    with route_option(network, "server", "advmss", str(mss)):
        first, second = bulk(network, peers, port, tmp_path, times=2)
    assert first.client_side.syn_acks[0].number("MSS") == 1440
    assert second.client_side.syn_acks[0].number("MSS") == mss
    for found in (first, second):
        assert found.server_side.syn_acks[0].number("MSS") == mss
        assert longest(found.server_side.up) <= mss


def test_client_with_a_small_mss(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with route_option(network, "client", "advmss", "700"):
        (found,) = bulk(network, peers, port, tmp_path)
    assert found.server_side.syns[0].number("MSS") == 700
    assert longest(found.client_side.down) <= 700


def test_server_behind_a_smaller_mtu(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    for host in ("servernic", "server"):
        network.exec(host, ["ip", "link", "set", "eth2", "mtu", "1300"], check=True)
    try:
        first, _ = bulk(network, peers, port, tmp_path, times=2)
    finally:
        for host in ("servernic", "server"):
            network.exec(host, ["ip", "link", "set", "eth2", "mtu", "1500"], check=True)
    assert first.server_side.syn_acks[0].number("MSS") == 1260


def test_ecn_is_not_negotiated(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    ecn = {"net.ipv4.tcp_ecn": "1"}
    with sysctls(network, "client", ecn), sysctls(network, "server", ecn):
        (found,) = bulk(network, peers, port, tmp_path)
    assert ecn_flags(found.client_side.syns[0]), "the client was meant to ask for ECN"
    for packet in found.server_side.all():
        assert not ecn_flags(packet)
        assert packet.ip.tos & 3 == 0


def test_multipath_client_falls_back_to_plain_tcp(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    data = content(5000)
    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port, protocol=IPPROTO_MPTCP)
        client = peers.tcp("client", IPPROTO_MPTCP)
        client.connect((SERVER, port))
        server = peers.accept(listener)
        transfer(client, server, data)
        transfer(server, client, data)
        client.close()
        server.close()
    (found,) = check_captures(captures)
    kinds = {kind for kind, _ in found.client_side.syns[0].options}
    assert kinds - SYN_OPTIONS, "the client was meant to ask for MPTCP"


def expect_bypassed(service: ServiceProcess, port: int, captures: Captures, reason: str) -> None:
    check_untouched(captures)
    event = service.event("flow.bypassed", port=port)
    assert event["reason"] == reason
    assert not service.events("flow.syn_received", port=port)
    (side,) = connections(captures.packets[SERVER_SIDE]).values()
    assert side.syns
    assert side.syn_acks


def fast_open(peers: Peers, port: int, request: bytes) -> socket.socket:
    """Connect and send with one call, as a client of Fast Open does (tcp(7))."""
    client = peers.tcp("client")
    client.settimeout(None)  # on a socket that does not wait, the call would send no data
    limit = struct.pack("ll", 5, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    assert client.sendto(request, MSG_FASTOPEN, (SERVER, port)) == len(request)
    return client


def test_client_that_does_fast_open_itself_is_left_alone(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """First it asks for a cookie, then it sends its request in the SYN, and both work."""
    settings = {"net.ipv4.tcp_fastopen": "1027"}  # 0x403: both roles, with cookies
    request, answer = content(900, 1), content(5000, 2)
    with sysctls(network, "server", settings), sysctls(network, "client", settings):
        listener = peers.listen(port)
        for number in range(2):
            directory = tmp_path / str(number)
            directory.mkdir()
            with Captures(network, directory, port) as captures:
                client = fast_open(peers, port, request)
                server = peers.accept(listener)
                assert receive(server, len(request)) == request
                transfer(server, client, answer)
                client.close()
                server.close()
            check_untouched(captures)
            (side,) = connections(captures.packets[SERVER_SIDE]).values()
            assert side.syns[0].payload == (request if number else b"")
    bypassed = service.wait_for("flow.bypassed", port=port, count=2)
    assert {event["reason"] for event in bypassed} == {"client_fast_open"}
    assert not service.events("flow.syn_received", port=port)


def test_client_that_sends_data_in_its_syn_is_left_alone(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    server_side = {"net.ipv4.tcp_fastopen": "1538"}  # 0x602: data without a cookie is taken
    client_side = {"net.ipv4.tcp_fastopen": "5"}  # 0x5: and sent without one
    request = content(900)
    with sysctls(network, "server", server_side), sysctls(network, "client", client_side):
        listener = peers.listen(port)
        with Captures(network, tmp_path, port) as captures:
            client = fast_open(peers, port, request)
            server = peers.accept(listener)
            assert receive(server, len(request)) == request
            transfer(server, client, content(5000))
            client.close()
            server.close()
    expect_bypassed(service, port, captures, "syn_with_data")
    (side,) = connections(captures.packets[SERVER_SIDE]).values()
    assert side.syns[0].payload == request


def sign_with_md5(end: socket.socket, peer: str) -> None:
    """Let a socket sign its segments to and from ``peer`` (RFC 2385; tcp(7), TCP_MD5SIG)."""
    key = b"secret"
    address = struct.pack("=H2x4s120x", socket.AF_INET, socket.inet_aton(peer))
    value = address + struct.pack("=BBHi80s", 0, 0, len(key), 0, key)
    try:
        end.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, value)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            pytest.skip("this kernel has no TCP_MD5SIG; the SYN made by hand is tested")
        raise


def test_signed_connection_is_left_alone(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """A real one, signed by both kernels: any change of a number would break the signature."""
    data = content(20_000)
    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        sign_with_md5(listener, "10.0.1.2")
        client = peers.tcp("client")
        sign_with_md5(client, SERVER)
        client.connect((SERVER, port))
        server = peers.accept(listener)
        transfer(client, server, data)
        transfer(server, client, data)
        client.close()
        server.close()
    expect_bypassed(service, port, captures, "tcp_md5")


def send_syn(network: Testbed, port: int, *options: tuple[int, bytes]) -> None:
    """Send a SYN made by hand, with options that the client's kernel may not know."""
    packet = IP(src="10.0.1.2", dst=SERVER) / TCP(
        sport=33_000, dport=port, seq=77, flags="S", options=[("MSS", 1460), *options]
    )
    send(network, [bytes(packet)])


@pytest.mark.parametrize(
    ("kind", "length", "reason"), [(19, 16, "tcp_md5"), (29, 14, "tcp_ao"), (34, 8, None)]
)
def test_syn_with_an_option_of_the_ends_is_left_alone(
    service: ServiceProcess,
    network: Testbed,
    port: int,
    tmp_path: Path,
    kind: int,
    length: int,
    reason: str | None,
) -> None:
    """MD5 (RFC 2385), TCP-AO (RFC 5925) and a Fast Open cookie (RFC 7413)."""
    with Captures(network, tmp_path, port) as captures:
        send_syn(network, port, (kind, bytes(length)))
        service.wait_for("flow.bypassed", port=port)
    check_untouched(captures)
    event = service.event("flow.bypassed", port=port)
    assert event["reason"] == (reason or "client_fast_open")


@pytest.mark.parametrize(
    ("kind", "data"), [(30, bytes([0, 0x81])), (253, b"experiment"), (77, b""), (14, b"\1")]
)
def test_unknown_option_is_taken_out_of_the_syn(
    service: ServiceProcess,
    network: Testbed,
    port: int,
    tmp_path: Path,
    kind: int,
    data: bytes,
) -> None:
    """MPTCP (RFC 8684) among them: nobody has promised it to the client."""
    with Captures(network, tmp_path, port) as captures:
        send_syn(network, port, (kind, data))
        service.wait_for("flow.syn_forwarded", port=port)
    check_checksums(captures)
    (side,) = connections(captures.packets[SERVER_SIDE]).values()
    (syn,) = side.syns
    assert syn.number("MSS") == 1460
    assert {name for name, _ in syn.options} <= SYN_OPTIONS
