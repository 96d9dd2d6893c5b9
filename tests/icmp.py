"""ICMP errors for tests, made from the packet that they quote."""

from __future__ import annotations

import struct

from nfq_zerortt.wire.checksum import internet_checksum
from nfq_zerortt.wire.icmp import Kind

ERRORS = {
    "unreachable": Kind.UNREACHABLE,
    "expired": Kind.EXPIRED,
    "too_big": Kind.TOO_BIG,
    "other": Kind.OTHER,
}
_V4 = {"unreachable": (3, 1), "expired": (11, 0), "too_big": (3, 4), "other": (12, 0)}
_V6 = {"unreachable": (1, 3), "expired": (3, 0), "too_big": (2, 0), "other": (4, 0)}
_ROUTER_V4 = bytes((10, 0, 2, 9))
_ROUTER_V6 = bytes.fromhex("fd" + "22" * 14 + "09")
_MTU = 1280


def error_quoting(packet: bytes, kind: str, quoted: int = 548) -> bytes:
    """Return the ICMP error that a router sends back for ``packet``; it quotes so many bytes."""
    ipv6 = packet[0] >> 4 == 6
    kind_and_code = (_V6 if ipv6 else _V4)[kind]
    body = bytearray(struct.pack(">BBHI", *kind_and_code, 0, _MTU) + packet[:quoted])
    if ipv6:
        src, dst = _ROUTER_V6, packet[8:24]
        header = struct.pack(">IHBB", 6 << 28, len(body), 58, 64) + src + dst
    else:
        src, dst = _ROUTER_V4, packet[12:16]
        plain = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0) + src + dst
        header = plain[:10] + struct.pack(">H", internet_checksum(plain)) + plain[12:]
    struct.pack_into(">H", body, 2, internet_checksum(_pseudo(header) + bytes(body)))
    return header + bytes(body)


def icmp_checksum_is_right(packet: bytes) -> bool:
    """Tell whether the sum over an ICMP packet without IP options or extensions is right."""
    header = 40 if packet[0] >> 4 == 6 else 20
    body = bytearray(packet[header:])
    found = bytes(body[2:4])
    body[2:4] = bytes(2)
    return internet_checksum(_pseudo(packet[:header]) + bytes(body)) == int.from_bytes(found, "big")


def _pseudo(header: bytes) -> bytes:
    """ICMPv6 counts a pseudo-header (RFC 4443, section 2.3), ICMP does not."""
    if header[0] >> 4 != 6:
        return b""
    return header[8:40] + struct.pack(">IHBB", struct.unpack_from(">H", header, 4)[0], 0, 0, 58)
