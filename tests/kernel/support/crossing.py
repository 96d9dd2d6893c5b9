"""What servernic did to the packets that crossed it, read from the captures beside it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from support.captures import LAN, WAN, Captured, Captures


@dataclass
class Crossing:
    """What servernic did to one direction's packets, as the two captures beside it show."""

    lost: int
    duplicated: int
    late: int
    """More than half of the hold-back behind the delay."""

    @classmethod
    def of(cls, arrived: list[Captured], left: list[Captured], delay_s: float) -> Crossing:
        came, went = _times(arrived), _times(left)
        assert went.keys() <= came.keys()
        return cls(
            lost=sum(max(0, len(times) - len(went[name])) for name, times in came.items()),
            duplicated=sum(max(0, len(went[name]) - len(times)) for name, times in came.items()),
            late=sum(
                max(went[name]) - max(times) > delay_s for name, times in came.items() if went[name]
            ),
        )


def _times(packets: list[Captured]) -> dict[bytes, list[float]]:
    times: dict[bytes, list[float]] = defaultdict(list)
    for packet in packets:
        times[name_of(packet)].append(packet.time)
    return times


def name_of(packet: Captured) -> bytes:
    """The packet but for what changes on its way: the TTL and the checksums (offloads)."""
    raw = packet.raw
    header = 20 if raw[0] >> 4 == 4 else 40
    ip = raw[:8] + raw[9:10] + raw[12:20] if header == 20 else raw[:7] + raw[8:40]
    return ip + raw[header : header + 16] + raw[header + 18 :]


def crossings(captures: Captures, hold_s: float) -> list[Crossing]:
    """Return what befell the packets towards the server, and those towards the client."""
    wan, lan = captures.packets[WAN], captures.packets[LAN]
    return [
        Crossing.of(
            [packet for packet in before if to_server(packet) is up],
            [packet for packet in after if to_server(packet) is up],
            0.010 + hold_s / 2,
        )
        for before, after, up in ((wan, lan, True), (lan, wan, False))
    ]


def to_server(packet: Captured) -> bool:
    header = 20 if packet.raw[0] >> 4 == 4 else 40
    return packet.raw[header + 2 : header + 4] == (9000).to_bytes(2, "big")
