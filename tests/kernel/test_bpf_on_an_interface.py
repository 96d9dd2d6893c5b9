"""What BPF_PROG_TEST_RUN cannot show: frames as a real interface hands them in.

There the kernel has taken the VLAN tag out of the frame before a program sees it, and frames come
that are too short for their headers; that are in pieces; that are many segments in one, with a
checksum that is yet to be filled in.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from bpf import generator
from bpf.loaded import object_under_test
from bpf.packets import ACK, ETHERNET, KINDS, SYN, Fate, Packet, key_of
from bpf.record import CLIENT, SERVER, Entry
from bpf.reference import Reference
from support.namespaces import inside
from support.pair import Pair

from nfq_zerortt.kernel import bpf_object
from nfq_zerortt.kernel.bpf_object import PROGRAMS
from nfq_zerortt.kernel.kernel_path import KernelPath

QUEUE = 7
_LIMIT_S = 5.0


class Wire:
    """The programs on two interfaces; packets are sent from the other ends of these."""

    def __init__(self, pair: Pair, path: KernelPath) -> None:
        self._path = path
        self.pair = pair
        with inside(pair.name):
            self._sockets = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW) for _ in range(2)]
        for sending, interface in zip(self._sockets, ("c1", "s1"), strict=True):
            sending.bind((interface, 0))

    def begin(self, entry: Entry, *, ipv6: bool) -> None:
        """Put the flow into the map."""
        self._path.insert(key_of(ipv6), entry.pack())

    def entry(self, *, ipv6: bool) -> Entry:
        """What the map has of the flow."""
        value = self._path.find(key_of(ipv6))
        assert value is not None
        return Entry.unpack(value)

    def send(self, side: int, frame: bytes) -> None:
        """Let a frame arrive at the interface of that side."""
        self._sockets[side].send(frame)

    def flush(self, packet: Packet, segments: int) -> None:
        """Send a packet of the flow, and wait until so many are counted."""
        self.send(packet.side, packet.frame())
        until = time.monotonic() + _LIMIT_S
        while self.entry(ipv6=packet.ipv6).of(packet.side).segments < segments:
            assert time.monotonic() < until, "the packet has not been counted"
            time.sleep(0.001)

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets:
            each.close()


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """The object under test, attached."""
    pair = Pair()
    try:
        code = object_under_test().read_bytes()
        interfaces = dict(zip(PROGRAMS, ("c0", "s0"), strict=True))
        path = KernelPath(bpf_object.load(16, code=code), interfaces, QUEUE)
        try:
            with inside(pair.name):
                path.attach()
            made = Wire(pair, path)
            yield made
            made.close()
        finally:
            with inside(pair.name):
                path.close(leave=False)
    finally:
        pair.remove()


def flow() -> Entry:
    """A flow whose numbers are all different."""
    return generator.entry(random.Random(3))


def left_alone(wire: Wire, packet: Packet, frames: list[bytes]) -> None:
    """Send frames; nothing may change in the flow but by the packet behind them."""
    before = flow()
    wire.begin(before, ipv6=packet.ipv6)
    for frame in frames:
        wire.send(packet.side, frame)
    last = replace(packet, kind="plain", flags=ACK, payload=0, gso_size=0, padding=0)
    count = before.of(packet.side).segments + 1
    wire.flush(last, count)
    reference = Reference(before, ipv6=packet.ipv6)
    reference.carry(last)
    assert wire.entry(ipv6=packet.ipv6).differences(reference.entry()) == []


SIDES = pytest.mark.parametrize("side", [CLIENT, SERVER], ids=["client", "server"])
FAMILIES = pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])


@SIDES
@pytest.mark.parametrize(
    ("kind", "ipv6"),
    [
        (name, ipv6)
        for name, kind in KINDS.items()
        for ipv6 in kind.families
        if kind.fate is Fate.LEFT and name != "wrong side"
    ],
)
def test_left_alone(wire: Wire, side: int, kind: str, ipv6: bool) -> None:
    packet = Packet(kind=kind, side=side, ipv6=ipv6, payload=100, detail=0x123456)
    left_alone(wire, packet, [packet.frame(), replace(packet, options=b"\1\1\1\1").frame()])


@SIDES
@FAMILIES
@pytest.mark.parametrize("tag", [0x8100, 0x88A8])
@pytest.mark.parametrize("number", [0, 1, 0x6005, 0xFFF])
def test_a_vlan_of_its_own_is_left_alone(
    wire: Wire, side: int, ipv6: bool, tag: int, number: int
) -> None:
    """VLAN 0 only gives a priority, and would come to this very interface; it is left, too."""
    frame = Packet(side=side, ipv6=ipv6, payload=50).frame()
    tagged = frame[:12] + tag.to_bytes(2) + number.to_bytes(2) + frame[12:]
    left_alone(wire, Packet(side=side, ipv6=ipv6), [tagged])


@SIDES
@FAMILIES
def test_frames_cut_off_anywhere(wire: Wire, side: int, ipv6: bool) -> None:
    packet = Packet(side=side, ipv6=ipv6, payload=8, options=b"\1\1\1\1")
    frame = packet.frame()
    left_alone(wire, packet, [frame[:size] for size in range(ETHERNET + 1, len(frame))])


@SIDES
@FAMILIES
def test_all_that_is_translated_counts(wire: Wire, side: int, ipv6: bool) -> None:
    """A sequence of packets brings the flow as far as in the core."""
    rng = random.Random(f"{side}{ipv6}")
    entry = flow()
    wire.begin(entry, ipv6=ipv6)
    reference = Reference(entry, ipv6=ipv6)
    for _ in range(100):
        at = reference.entry()
        packet = generator.packet(rng, at, ipv6, calm=True)
        size = min(packet.payload, 1400)
        packet = replace(packet, kind="plain", side=side, gso_size=0, payload=size, padding=0)
        if packet.flags & SYN:
            continue
        wire.flush(packet, at.of(side).segments + 1)
        reference.carry(packet)
        assert wire.entry(ipv6=ipv6).differences(reference.entry()) == [], packet


# --- offloads -----------------------------------------------------------------------------

_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_NEEDS_CSUM, _GSO_TCPV4 = 1, 1
_CHECKSUM_AT = ETHERNET + 20 + 16


class Joined:
    """Sends the client's packets as a host with offloads hands them out; receives them behind us.

    Joined segments (TSO), a checksum that is still to be filled in, and next to nothing of the
    packet in the linear part of its buffer.
    """

    def __init__(self, wire: Wire) -> None:
        with inside(wire.pair.name):
            self._receiving = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
            self._sending = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._receiving.settimeout(_LIMIT_S)
        self._receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._sending.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._sending.bind(("c1", 0))
        address = wire.pair.sh("cat /sys/class/net/c0/address").strip()
        self._destination = bytes.fromhex(address.replace(":", ""))

    def exchange(self, packet: Packet, *, partial: bool, linear: int) -> tuple[bytes, bytes]:
        """Send a packet; return it as it was sent and as it was received, both from IP on."""
        frame = self._destination + packet.frame()[6:]
        if partial:
            segment = frame[ETHERNET + 20 :]
            pseudo = frame[ETHERNET + 12 : ETHERNET + 20] + b"\0\6" + len(segment).to_bytes(2)
            total = sum(struct.unpack("!6H", pseudo)) % 0xFFFF
            frame = frame[:_CHECKSUM_AT] + total.to_bytes(2) + frame[_CHECKSUM_AT + 2 :]
        header = struct.pack(
            "=BBHHHH",
            _NEEDS_CSUM if partial else 0,
            _GSO_TCPV4 if packet.gso_size else 0,
            min(linear, len(frame)),
            packet.gso_size,
            ETHERNET + 20 if partial else 0,
            16 if partial else 0,
        )
        self._sending.send(header + frame)
        return frame[ETHERNET:], self._receiving.recv(1 << 17)

    def close(self) -> None:
        """Close the sockets."""
        self._sending.close()
        self._receiving.close()


@pytest.fixture(scope="module")
def joined(wire: Wire) -> Iterator[Joined]:
    """The server's address is at the client's interface, so what comes in there is received."""
    wire.pair.sh("ip address add 10.0.3.2/32 dev c0; ip route add 10.0.1.0/24 dev c0")
    made = Joined(wire)
    yield made
    made.close()


@pytest.mark.parametrize("linear", [14, 34, 54, 66, 200], ids="{} bytes linear".format)
@pytest.mark.parametrize(
    ("payload", "gso_size", "partial"),
    [
        *((0, 0, False), (1, 0, False), (1400, 0, False), (0, 0, True), (1400, 0, True)),
        *((3000, 1448, True), (1449, 1448, True), (20000, 536, True), (65000, 1448, True)),
    ],
)
def test_offloads(
    wire: Wire, joined: Joined, payload: int, gso_size: int, partial: bool, linear: int
) -> None:
    rng = random.Random(f"{payload} {gso_size} {partial} {linear}")
    entry = generator.entry(rng)
    packet = replace(
        generator.packet(rng, entry, ipv6=False, calm=True),
        kind="plain",
        side=CLIENT,
        seq=entry.to_server.next_seq,
        flags=ACK,
        options=bytes.fromhex("0101080a0000000100000002"),
        payload=payload,
        padding=0,
        checksum_error=0,
        gso_size=gso_size,
    )
    wire.begin(entry, ipv6=False)
    sent, received = joined.exchange(packet, partial=partial, linear=linear)
    reference = Reference(entry, ipv6=False)
    wanted = bytearray(reference.carry(packet))
    if partial:  # it has the sum of the pseudo-header only, of which nothing is changed
        wanted[36:38] = sent[36:38]
    assert received == bytes(wanted)
    assert wire.entry(ipv6=False).differences(reference.entry()) == []
