"""Packets as a bad link, a bad host or a bad person makes them of good ones."""

from __future__ import annotations

import struct

from nfq_zerortt.wire.checksum import tcp_checksum
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.view import look

KINDS = (
    "flip",
    "truncate",
    "insert",
    "total",
    "offset",
    "options",
    "fragment",
    "ip_options",
    "extension",
    "quote",
    "quote",
    "quote",
)
"""The ways, the most fruitful one more often. All but ``quote``, an ICMP error about the packet,
leave its TCP checksum as it is: it comes damaged."""

_ICMP, _ICMP6 = 1, 58


def mutated(raw: bytes, kind: str, place: int, value: int) -> bytes:
    """Return the packet ``raw`` changed in the way ``kind``; the two numbers say where and how."""
    ipv4 = raw[:1] != b"" and raw[0] >> 4 == 4
    if len(raw) < 40:
        return raw + bytes((value & 0xFF,))
    packet = bytearray(raw)
    tcp = (raw[0] & 15) * 4 if ipv4 else 40
    match kind:
        case "flip":
            packet[place % len(packet)] ^= value & 0xFF or 1
        case "truncate":
            del packet[place % len(packet) :]
        case "insert":
            at = place % len(packet)
            packet[at:at] = value.to_bytes(2, "big")
        case "total":
            struct.pack_into(">H", packet, 2 if ipv4 else 4, value & 0xFFFF)
        case "offset":
            if tcp + 13 < len(packet):
                packet[tcp + 12] = (value & 0xF0) | (packet[tcp + 12] & 0x0F)
        case "options":
            if len(packet) > tcp + 20:
                at = tcp + 20 + place % min(len(packet) - tcp - 20, 40)
                packet[at] = value & 0xFF
        case "fragment":
            return _fragment(packet, value, ipv4=ipv4)
        case "ip_options":
            return _with_ip_options(packet, place) if ipv4 else bytes(packet)
        case "extension":
            return bytes(packet) if ipv4 else _with_extension(packet, place, value)
        case _:
            return _quoted(raw, place, value, ipv4=ipv4)
    return bytes(packet)


def mended(raw: bytes) -> bytes:
    """Return the packet with a TCP checksum that is right: no damage, but a host that is mad."""
    try:
        view = look(raw)
    except WireError:
        return raw
    packet = bytearray(raw)
    packet[view.tcp + 16 : view.tcp + 18] = bytes(2)
    checksum = tcp_checksum(view.src, view.dst, bytes(packet[view.tcp : view.end]))
    struct.pack_into(">H", packet, view.tcp + 16, checksum)
    return bytes(packet)


def _fragment(packet: bytearray, value: int, *, ipv4: bool) -> bytes:
    """Make it a fragment: the first of several, or a later one."""
    if ipv4:
        struct.pack_into(">H", packet, 6, value & 0x3FFF or 0x2000)
        return bytes(packet)
    header = struct.pack(">BBHI", packet[6], 0, value & 0xFFF9 or 1, 7)
    packet[6] = 44
    (length,) = struct.unpack_from(">H", packet, 4)
    struct.pack_into(">H", packet, 4, (length + 8) & 0xFFFF)
    packet[40:40] = header
    return bytes(packet)


def _with_ip_options(packet: bytearray, words: int) -> bytes:
    count = 1 + words % 10
    packet[0] = 0x40 | (5 + count)
    (total,) = struct.unpack_from(">H", packet, 2)
    struct.pack_into(">H", packet, 2, (total + 4 * count) & 0xFFFF)
    packet[20:20] = b"\x01" * (4 * count)
    return bytes(packet)


def _with_extension(packet: bytearray, which: int, value: int) -> bytes:
    size = 8 * (1 + value % 4)
    header = struct.pack(">BB", packet[6], size // 8 - 1) + bytes(size - 2)
    packet[6] = (0, 43, 60, 50)[which % 4]
    (length,) = struct.unpack_from(">H", packet, 4)
    struct.pack_into(">H", packet, 4, (length + size) & 0xFFFF)
    packet[40:40] = header
    return bytes(packet)


def _quoted(raw: bytes, kind: int, value: int, *, ipv4: bool) -> bytes:
    """An ICMP error about the packet, from a router of nowhere to the packet's sender."""
    types = ((3, 1), (3, 4), (3, 3), (11, 0), (4, 0)) if ipv4 else ((1, 0), (2, 0), (3, 0), (4, 1))
    first, code = types[kind % len(types)]
    quote = raw[: 28 + value % 64] if ipv4 else raw[: 48 + value % 64]
    body = struct.pack(">BBHI", first, code, 0, value & 0xFFFF) + quote
    if ipv4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, _ICMP, 0)
        return _summed(head + bytes((10, 0, 9, 1)) + raw[12:16], 10) + _summed(body, 2)
    head = struct.pack(">IHBB", 6 << 28, len(body), _ICMP6, 64)
    router = bytes.fromhex("fd" + "99" * 14 + "01")
    pseudo = sum(struct.unpack(">16H", router + raw[8:24])) + len(body) + _ICMP6
    return head + router + raw[8:24] + _summed(body, 2, pseudo)


def _summed(data: bytes, place: int, more: int = 0) -> bytes:
    """Fill in the Internet checksum at ``place``."""
    padded = data + b"\0" * (len(data) % 2)
    total = more + sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:place] + struct.pack(">H", ~total & 0xFFFF) + data[place + 2 :]
