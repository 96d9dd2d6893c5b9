"""Packets of the differential test: fields, a kind, and the frame that both make.

A kind says what the frame around the TCP segment is like, and which of the two must happen to it:
it is translated, or it is left alone. All the rest of a packet is free.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

from bpf.record import CLIENT, map_key
from nfq_zerortt.wire.checksum import internet_checksum, tcp_checksum

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NS = (1 << bit for bit in range(9))
FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")

ETHERNET = 14
IP_HEADER = {False: 20, True: 40}
TCP_HEADER = 20

CLIENT_PORT, SERVER_PORT = 43210, 80
ADDRESSES = {
    False: (bytes((10, 0, 1, 2)), bytes((10, 0, 3, 2))),
    True: (
        bytes.fromhex("fd000001" + "00" * 11 + "02"),
        bytes.fromhex("fd000003" + "0" * 22 + "02"),
    ),
}
CONTENT = random.Random(5).randbytes(1 << 17)
_TCP = struct.Struct("!HHIIHHHH")
_IPV4, _IPV6, _OTHER = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
_MF = 0x2000


def key_of(ipv6: bool) -> bytes:
    """Return the key of the flow that the packets belong to."""
    return map_key(*ADDRESSES[ipv6], CLIENT_PORT, SERVER_PORT)


class Fate(Enum):
    """What the program must do with a packet."""

    TRANSLATED = "translated"
    LEFT = "left alone"


@dataclass(frozen=True)
class Packet:
    """One frame. ``detail`` is a random number of which the kind and the IP header make use."""

    kind: str = "plain"
    side: int = CLIENT
    ipv6: bool = False
    seq: int = 0
    ack: int = 0
    flags: int = ACK
    window: int = 0
    urgent: int = 0
    reserved: int = 0
    options: bytes = b""
    payload: int = 0
    padding: int = 0
    checksum_error: int = 0
    mark: int = 0
    gso_size: int = 0
    detail: int = 0

    @property
    def fate(self) -> Fate:
        """What must happen to it if its flow is in the map and settled."""
        return Fate.LEFT if self.flags & SYN else KINDS[self.kind].fate

    @property
    def entry_at(self) -> int:
        """The side whose program it is given to."""
        return 1 - self.side if self.kind == "wrong side" else self.side

    @property
    def gso_segments(self) -> int:
        """How many segments it is made of; 0 if it is no GSO packet."""
        return -(-self.payload // self.gso_size) if self.gso_size else 0

    def addresses(self) -> tuple[bytes, bytes]:
        """Source and destination."""
        client, server = ADDRESSES[self.ipv6]
        return (client, server) if self.side == CLIENT else (server, client)

    def segment(self) -> bytes:
        """The TCP header and its data, with its checksum."""
        ports = (CLIENT_PORT, SERVER_PORT) if self.side == CLIENT else (SERVER_PORT, CLIENT_PORT)
        offset = (TCP_HEADER + len(self.options)) // 4
        fields = (
            *ports,
            self.seq,
            self.ack,
            offset << 12 | self.reserved << 9 | self.flags,
            self.window,
        )
        start = self.detail % 4096
        rest = self.options + CONTENT[start : start + self.payload]
        data = _TCP.pack(*fields, 0, self.urgent) + rest
        checksum = tcp_checksum(*self.addresses(), data)
        checksum = (checksum + self.checksum_error) % 0xFFFF
        return _TCP.pack(*fields, checksum, self.urgent) + rest

    def ip(self) -> bytes:
        """The IP packet, as if nothing was wrong with it."""
        segment, detail = self.segment(), self.detail
        source, destination = self.addresses()
        if self.ipv6:
            first = 6 << 28 | detail & 0xFFFFFFF
            head = struct.pack("!IHBB", first, len(segment), 6, detail >> 8 & 0xFF or 1)
            return head + source + destination + segment
        head = struct.pack(
            "!BBHHHBBH",
            0x45,
            detail & 0xFF,
            20 + len(segment),
            detail >> 8 & 0xFFFF,
            0x4000 if detail & 1 else 0,
            detail >> 4 & 0xFF or 1,
            6,
            0,
        )
        head += source + destination
        return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:] + segment

    def frame(self) -> bytes:
        """The whole frame."""
        return self._frame

    @cached_property
    def _frame(self) -> bytes:
        ethernet = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + (_IPV6 if self.ipv6 else _IPV4)
        frame = KINDS[self.kind].shape(ethernet + self.ip(), self)
        return frame + CONTENT[-self.padding :] if self.padding else frame

    def simpler(self) -> Iterator[Packet]:
        """Packets of the same kind with something less in them."""
        for start in range(0, len(self.options), 4):
            yield replace(self, options=self.options[:start] + self.options[start + 4 :])
        for at, byte in enumerate(self.options):
            if byte != 1:
                yield replace(self, options=self.options[:at] + b"\x01" + self.options[at + 1 :])
        for length in {0, 1, self.payload // 2} - {self.payload}:
            if length < self.payload:
                yield replace(self, payload=length)
        for bit in range(9):
            if self.flags >> bit & 1:
                yield replace(self, flags=self.flags & ~(1 << bit))
        for name in (
            *("window", "urgent", "reserved", "padding", "checksum_error", "mark"),
            *("gso_size", "detail", "ack", "seq"),
        ):
            change: dict[str, Any] = {name: 0}
            if getattr(self, name):
                yield replace(self, **change)

    def __str__(self) -> str:
        flags = "|".join(name for bit, name in enumerate(FLAG_NAMES) if self.flags >> bit & 1)
        lines = [
            f"{self.kind}, IPv{6 if self.ipv6 else 4}, from the "
            f"{'client' if self.side == CLIENT else 'server'}, must be {self.fate.value}",
            f"seq={self.seq} ack={self.ack} flags={flags or 0} window={self.window} "
            f"urgent={self.urgent} reserved={self.reserved}",
            f"options={self.options.hex(' ') or 'none'} payload={self.payload} bytes",
            f"padding={self.padding} checksum_error={self.checksum_error} mark={self.mark:#x} "
            f"gso_size={self.gso_size} detail={self.detail}",
            f"frame={self.frame().hex()}",
        ]
        return "\n".join(lines)


Shape = Callable[[bytes, Packet], bytes]


@dataclass(frozen=True)
class Kind:
    """What is done to a frame, and what must become of it. ``families``: of IP it is possible."""

    fate: Fate
    shape: Shape
    families: tuple[bool, ...] = (False, True)


def _as_it_is(frame: bytes, _: Packet) -> bytes:
    return frame


def _put(frame: bytes, at: int, data: bytes) -> bytes:
    return frame[:at] + data + frame[at + len(data) :]


def _word(frame: bytes, at: int, value: int) -> bytes:
    return _put(frame, at, struct.pack("!H", value & 0xFFFF))


def _summed(frame: bytes) -> bytes:
    """The IPv4 frame with the checksum of its header made right."""
    header = (frame[14] & 15) * 4
    if header < 20:
        return frame
    cleared = _word(frame, 24, 0)
    return _word(frame, 24, internet_checksum(cleared[14 : 14 + header]))


def _reserved_bit(frame: bytes, packet: Packet) -> bytes:
    return _summed(_word(frame, 20, 0x8000 | (packet.detail & 1) << 14))


def _first_fragment(frame: bytes, _: Packet) -> bytes:
    return _summed(_word(frame, 20, _MF))


def _later_fragment(frame: bytes, packet: Packet) -> bytes:
    more = _MF if packet.detail & 1 else 0
    return _summed(_word(frame, 20, more | ((packet.detail >> 1) % 0x1FFF + 1)))


def _ip_options(frame: bytes, packet: Packet) -> bytes:
    words = packet.detail % 10 + 1
    longer = frame[:34] + b"\x01" * (4 * words) + frame[34:]
    longer = _word(_put(longer, 14, bytes((0x45 + words,))), 16, len(longer) - 14)
    return _summed(longer)


def _short_header(frame: bytes, packet: Packet) -> bytes:
    return _put(frame, 14, bytes((0x40 + packet.detail % 5,)))


def _other_version(frame: bytes, packet: Packet) -> bytes:
    right = frame[14] >> 4
    other = [number for number in range(16) if number != right][packet.detail % 15]
    return _put(frame, 14, bytes((other << 4 | frame[14] & 15,)))


def _other_protocol(frame: bytes, packet: Packet) -> bytes:
    """Not TCP, and for IPv6 no extension header either, though the bytes are the same."""
    number = (17, 1, 58, 132, 47, 50, 59, 255)[packet.detail % 8]
    return _put(frame, 20, bytes((number,))) if packet.ipv6 else _put(frame, 23, bytes((number,)))


def _extension(kinds: tuple[int, ...]) -> Shape:
    """The frame with extension headers (RFC 8200, section 4) before TCP."""

    def shape(frame: bytes, packet: Packet) -> bytes:
        headers = b""
        for kind, following in zip(kinds, (*kinds[1:], 6), strict=True):
            if kind == 44:
                headers += struct.pack("!BBHI", following, 0, packet.detail & 1, packet.detail)
            elif kind == 43:
                headers += struct.pack("!BBBBI", following, 0, 3, 0, 0)
            else:
                headers += struct.pack("!BBBB4x", following, 0, 1, 4)
        longer = frame[:54] + headers + frame[54:]
        return _word(_put(longer, 20, bytes((kinds[0],))), 18, len(longer) - 54)

    return shape


def _jumbogram(frame: bytes, _: Packet) -> bytes:
    return _word(frame, 18, 0)


def _tagged(*tags: int) -> Shape:
    """The frame with VLAN tags (IEEE 802.1Q)."""

    def shape(frame: bytes, packet: Packet) -> bytes:
        inside = b"".join(struct.pack("!HH", tag, packet.detail % 4095) for tag in tags)
        return frame[:12] + inside + frame[12:]

    return shape


def _other_ethertype(frame: bytes, packet: Packet) -> bytes:
    swapped = _IPV4 if packet.ipv6 else _IPV6
    return _put(frame, 12, (_OTHER, swapped, b"\x88\x64", b"\0\x2e")[packet.detail % 4])


def _total(frame: bytes, total: int, *, ipv6: bool) -> bytes:
    """The frame whose IP header says that it and what follows are ``total`` bytes long."""
    return _word(frame, 18, total - 40) if ipv6 else _summed(_word(frame, 16, total))


def _cut(frame: bytes, packet: Packet) -> bytes:
    """Shorter than its IP header says, but not without that."""
    least = ETHERNET + IP_HEADER[packet.ipv6]
    return frame[: least + packet.detail % (len(frame) - least)]


def _too_long(frame: bytes, packet: Packet) -> bytes:
    size = len(frame) - ETHERNET
    more = (1, 2, 3, packet.detail)[packet.detail >> 16 & 3]
    return _total(frame, size + 1 + more % (0xFFFF - size), ipv6=packet.ipv6)


def _too_short(frame: bytes, packet: Packet) -> bytes:
    """No room for a TCP header, or not even for that of IPv4."""
    least = IP_HEADER[packet.ipv6] if packet.ipv6 or packet.detail & 1 else 0
    most = IP_HEADER[packet.ipv6] + TCP_HEADER
    return _total(frame, least + (packet.detail >> 1) % (most - least), ipv6=packet.ipv6)


def _header_cut(frame: bytes, packet: Packet) -> bytes:
    """The TCP header ends behind the packet."""
    start = IP_HEADER[packet.ipv6]
    room = packet.detail % 40
    offset = min(15, (TCP_HEADER + room) // 4 + 1 + (packet.detail >> 8) % 3)
    at = ETHERNET + start + 12
    frame = _put(frame, at, bytes((offset << 4 | frame[at] & 15,)))
    total = start + min(TCP_HEADER + room, 4 * offset - 1)
    return _total(frame, min(total, len(frame) - ETHERNET), ipv6=packet.ipv6)


def _low_offset(frame: bytes, packet: Packet) -> bytes:
    at = ETHERNET + IP_HEADER[packet.ipv6] + 12
    return _put(frame, at, bytes((packet.detail % 5 << 4 | frame[at] & 15,)))


def _no_flow(frame: bytes, packet: Packet) -> bytes:
    """One bit of an address or a port is another."""
    start = 22 if packet.ipv6 else 26
    length = 36 if packet.ipv6 else 12
    at, bit = start + packet.detail % length, packet.detail >> 8 & 7
    return _put(frame, at, bytes((frame[at] ^ 1 << bit,)))


def _mapped(frame: bytes, packet: Packet) -> bytes:
    """An IPv6 packet whose addresses are the flow's IPv4 addresses in disguise."""
    segment = frame[34:]
    prefix = bytes(10) + b"\xff\xff"
    head = struct.pack("!IHBB", 6 << 28, len(segment), 6, 64)
    addresses = prefix + frame[26:30] + prefix + frame[30:34]
    return frame[:12] + _IPV6 + head + addresses + segment


KINDS = {
    "plain": Kind(Fate.TRANSLATED, _as_it_is),
    "reserved bit": Kind(Fate.TRANSLATED, _reserved_bit, (False,)),
    "first fragment": Kind(Fate.LEFT, _first_fragment, (False,)),
    "later fragment": Kind(Fate.LEFT, _later_fragment, (False,)),
    "IP options": Kind(Fate.LEFT, _ip_options, (False,)),
    "short IP header": Kind(Fate.LEFT, _short_header, (False,)),
    "mapped addresses": Kind(Fate.LEFT, _mapped, (False,)),
    "hop-by-hop": Kind(Fate.LEFT, _extension((0,)), (True,)),
    "routing": Kind(Fate.LEFT, _extension((43,)), (True,)),
    "fragment header": Kind(Fate.LEFT, _extension((44,)), (True,)),
    "destination": Kind(Fate.LEFT, _extension((60,)), (True,)),
    "many extensions": Kind(Fate.LEFT, _extension((0, 60, 43, 44, 60)), (True,)),
    "jumbogram": Kind(Fate.LEFT, _jumbogram, (True,)),
    "other version": Kind(Fate.LEFT, _other_version),
    "other protocol": Kind(Fate.LEFT, _other_protocol),
    "VLAN": Kind(Fate.LEFT, _tagged(0x8100)),
    "provider VLAN": Kind(Fate.LEFT, _tagged(0x88A8)),
    "two VLANs": Kind(Fate.LEFT, _tagged(0x88A8, 0x8100)),
    "other ethertype": Kind(Fate.LEFT, _other_ethertype),
    "cut off": Kind(Fate.LEFT, _cut),
    "total too long": Kind(Fate.LEFT, _too_long),
    "total too short": Kind(Fate.LEFT, _too_short),
    "TCP header cut off": Kind(Fate.LEFT, _header_cut),
    "low data offset": Kind(Fate.LEFT, _low_offset),
    "no such flow": Kind(Fate.LEFT, _no_flow),
    "wrong side": Kind(Fate.LEFT, _as_it_is),
}
