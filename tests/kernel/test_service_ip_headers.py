"""What IP puts around TCP: extension headers and fragments go through, the numbers are changed."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw
from support.addresses import FAMILIES, IPV6, Family
from support.captures import Captures
from support.checker import check_captures
from support.crafted import send
from support.peers import Peers, content, digest, receive, receive_all, transfer
from support.raw_server import RawServer
from support.reading import read_ip
from support.service import ServiceProcess
from support.settings import sysctls
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

SIZE = 100_000
PADDING = bytes([0, 0, 1, 4, 0, 0, 0, 0])
"""An extension header (RFC 8200, section 4.2) whose one option is four bytes of padding."""


class Kind(NamedTuple):
    """An extension header: the socket option that asks for it, and its protocol number."""

    option: int
    number: int


KINDS = {"hop by hop": Kind(54, 0), "destination": Kind(59, 60)}


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Tests of this file run over both, where they do not say otherwise."""
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", [IPV6], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begin", ["with the SYN", "in mid-stream"])
def test_extension_headers(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    kind: str,
    begin: str,
) -> None:
    """Kernels send them on every packet, as the socket option asks (RFC 3542)."""
    up, down = content(SIZE, 1), content(SIZE, 2)

    def extend(end: socket.socket) -> None:
        end.setsockopt(socket.IPPROTO_IPV6, KINDS[kind].option, PADDING)

    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.tcp("client")
        if begin == "with the SYN":
            extend(client)
            extend(listener)
        client.connect((peers.family.server, port))
        client.sendall(b"early")
        server = peers.accept(listener)
        assert receive(server, 5) == b"early"
        # Not on the server: what it sends would no longer fit, which a kernel does not notice.
        extend(client)
        transfer(client, server, up)
        transfer(server, client, down)
        client.close()
        assert receive_all(server) == b""
        server.close()
    (found,) = check_captures(captures)
    assert (digest(found.sent), digest(found.answered)) == (digest(b"early" + up), digest(down))
    extended = KINDS[kind].number
    (syn,) = found.server_side.syns
    with_data = [packet.ip.nh for packet in found.server_side.up if packet.payload]
    if begin == "with the SYN":
        assert syn.ip.nh == extended
        assert set(with_data) == {extended}
        assert {p.ip.nh for p in found.client_side.down if p.payload} == {extended}
    else:
        assert with_data[0] == 6
        assert set(with_data[1:]) == {extended}
    service.event("flow.closed", port=port)


def segment(family: Family, server: str, payload: bytes = b"", **fields: object) -> bytes:
    """Return the bytes of a client's TCP segment, its checksum right."""
    layer = IP if family.version == 4 else IPv6
    whole = layer(src=family.client, dst=server) / TCP(**fields) / Raw(payload)
    return bytes(whole)[20 if family.version == 4 else 40 :]


def fragments(family: Family, server: str, whole: bytes, size: int) -> list[bytes]:
    """Return the packets that carry a segment in pieces of ``size`` bytes, a multiple of 8."""
    packets = []
    ident = int.from_bytes(whole[2:4], "big")  # the port: no test's fragments mix with another's
    for start in range(0, len(whole), size):
        more = start + size < len(whole)
        if family.version == 4:
            flags = "MF" if more else 0
            head = IP(src=family.client, dst=server, proto=6, id=ident, flags=flags)
            head.frag = start // 8
        else:
            fragment = IPv6ExtHdrFragment(nh=6, id=ident, offset=start // 8, m=int(more))
            head = IPv6(src=family.client, dst=server) / fragment
        packets.append(bytes(head / Raw(whole[start : start + size])))
    return packets


def reassembled(family: Family, packets: Iterable[bytes]) -> bytes:
    """Return the segment that fragments, in any order, make up; or a whole packet's."""
    pieces: dict[int, bytes] = {}
    for raw in packets:
        packet = read_ip(raw)
        if family.version == 4:
            pieces[packet.frag * 8] = raw[packet.ihl * 4 : packet.len]
        elif packet.nh == 44:
            pieces[packet[IPv6ExtHdrFragment].offset * 8] = raw[48 : 40 + packet.plen]
        else:
            pieces[0] = raw[40 : 40 + packet.plen]
    whole = b""
    for start, piece in sorted(pieces.items()):
        assert start == len(whole), "a fragment is missing"
        whole += piece
    return whole


def test_fragments_in_mid_stream(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int
) -> None:
    """A segment of the client's that is sent in fragments comes to the server's application."""
    data = content(2000)
    family = peers.family
    with sysctls(network, "client", {"net.ipv4.tcp_timestamps": "0"}):
        client, server = peers.pair(port)
    transfer(client, server, b"whole")
    isn = service.event("flow.syn_received", port=port)["isn_client"]
    spoofed = service.event("flow.synack_spoofed", port=port)["isn_spoofed"]
    by_hand = segment(
        family,
        family.server,
        data,
        sport=client.getsockname()[1],
        dport=port,
        seq=(isn + 1 + len(b"whole")) % 2**32,
        ack=(spoofed + 1) % 2**32,
        flags="PA",
        window=1000,
    )
    send(network, fragments(family, family.server, by_hand, 600))
    assert receive(server, len(data)) == data


@pytest.mark.parametrize("size", [24, 8], ids=["whole header first", "no whole header"])
def test_first_packet_in_fragments(
    service: ServiceProcess, network: Testbed, family: Family, port: int, size: int
) -> None:
    """A SYN in fragments comes to the server as it was sent, whether we answer it or not."""
    options = [("MSS", 1400), ("NOP", None), ("WScale", 7), *[("NOP", None)] * 4]
    server = RawServer(network, family, port)
    whole = segment(
        family,
        server.address,
        sport=30_000,
        dport=port,
        seq=12345,
        flags="S",
        window=5000,
        options=options,
    )
    try:
        send(network, fragments(family, server.address, whole, size))
        came: list[bytes] = []

        def complete() -> bool:
            came.extend(server.packets())
            return sum(map(len, came)) >= len(whole)

        until(complete, "the SYN at the server")
        came.extend(server.packets(0.1))
    finally:
        server.close()
    assert reassembled(family, came) == whole
    assert service.faults() == []
