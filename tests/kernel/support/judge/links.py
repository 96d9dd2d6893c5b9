"""Every packet at every interface: checksums, and what one link hands to the next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from scapy.layers.inet import in4_chksum
from scapy.layers.inet6 import in6_chksum
from scapy.utils import checksum

from support.addresses import IPV4, Family
from support.captures import (
    CLIENT,
    CLIENT_SIDE,
    LAN,
    POINTS,
    SERVER,
    SERVER_SIDE,
    WAN,
    Captured,
    Captures,
)
from support.judge.violations import Violations
from support.reading import read_ip, tcp_part

SIMULTANEOUS_S = 0.001
"""Packets that arrive within this time may be handled by two processors of a host at once."""

_TTL, _CHECKSUM, _HOP_LIMIT = 8, slice(10, 12), 7


def check_checksums(captures: Captures) -> None:
    """Every IPv4 header's and every TCP checksum, at every interface."""
    wrong = Violations()
    right: set[bytes] = set()
    for point in POINTS:
        for captured in captures.packets[point]:
            raw = captured.raw
            if raw in right:
                continue
            ip = read_ip(raw)
            start, end = tcp_part(ip)
            if ip.version == 4 and checksum(raw[:start]) != 0:
                wrong.add(f"{point}: IP checksum {ip.chksum:#06x}: {ip.summary()}")
            of_segment = in4_chksum if ip.version == 4 else in6_chksum
            if of_segment(6, ip, raw[start:end]) != 0:
                wrong.add(f"{point}: TCP checksum {ip[1].chksum:#06x}: {ip.summary()}")
            right.add(raw)
    wrong.fail_if_any()


def check_links(captures: Captures, *, lossy: bool = False) -> None:
    """What leaves one host reaches the next, and servernic takes one off the TTL, no more."""
    for near, far in ((CLIENT, CLIENT_SIDE), (SERVER_SIDE, WAN), (LAN, SERVER)):
        assert _bytes_of(captures.packets[near]) == _bytes_of(captures.packets[far]), (
            f"{near} and {far} are ends of one link and saw different packets; all namespaces "
            f"together have lost {captures.lost_by_the_machine} since, for the machine was too slow"
        )
    if not lossy:  # the WAN's losses happen between these two
        assert _but_ttl(captures.packets[WAN]) == _but_ttl(captures.packets[LAN]), (
            "servernic changed more than the TTL"
        )


def _bytes_of(packets: Iterable[Captured]) -> Counter[bytes]:
    return Counter(captured.raw for captured in packets)


def without_ttl(raw: bytes) -> bytes:
    """Return a packet's bytes but for what every router changes."""
    blank = bytearray(raw)
    if raw[0] >> 4 == 6:
        blank[_HOP_LIMIT] = 0
        return bytes(blank)
    blank[_TTL] = 0
    blank[_CHECKSUM] = b"\0\0"
    return bytes(blank)


def _but_ttl(packets: Iterable[Captured]) -> Counter[bytes]:
    return Counter(without_ttl(captured.raw) for captured in packets)


def check_untouched(captures: Captures, family: Family = IPV4) -> None:
    """Nothing was changed, added or taken away on any of the four hosts, but the TTL."""
    check_checksums(captures)
    check_links(captures)
    client_side, server_side = captures.packets[CLIENT_SIDE], captures.packets[SERVER_SIDE]
    assert client_side, "nothing was captured"
    assert _but_ttl(client_side) == _but_ttl(server_side)
    for near, far, source in (
        (client_side, server_side, family.client),
        (server_side, client_side, family.server),
    ):
        arrived: dict[bytes, list[float]] = defaultdict(list)
        for captured in near:
            arrived[without_ttl(captured.raw)].append(captured.time)
        onward = [
            without_ttl(captured.raw) for captured in far if read_ip(captured.raw).src == source
        ]
        latest = 0.0
        for raw in onward:
            time = arrived[raw].pop(0)
            assert time > latest - SIMULTANEOUS_S, (
                f"a packet from {source} was overtaken by one that came {latest - time:.6f} s later"
            )
            latest = max(latest, time)
