"""Captured packets as scapy reads them, sorted into connections.

scapy is the oracle here: nothing of the product's own reading of packets is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from support.addresses import FAMILIES, IPV4
from support.captures import Captured

CLIENT_ADDRESS, SERVER_ADDRESS = IPV4.client, IPV4.server
_CLIENTS = {family.client for family in FAMILIES}
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

Option = tuple[str | int, object]


def read_ip(raw: bytes) -> IP | IPv6:
    """Return a packet as scapy reads it, whichever its family."""
    return IP(raw) if raw[0] >> 4 == 4 else IPv6(raw)


def tcp_part(ip: IP | IPv6) -> tuple[int, int]:
    """Return where in a packet its TCP segment begins and ends."""
    if ip.version == 4:
        return ip.ihl * 4, ip.len
    end = 40 + ip.plen
    return end - len(ip[TCP].original), end


class Read:
    """One TCP packet, as scapy reads it."""

    def __init__(self, captured: Captured) -> None:
        self.time = captured.time
        self.raw = captured.raw
        self.ip = read_ip(captured.raw)
        self.tcp = self.ip[TCP]
        self.source: str = self.ip.src
        self.seq: int = self.tcp.seq
        self.ack: int = self.tcp.ack
        self.flags = int(self.tcp.flags)
        self.window: int = self.tcp.window
        start, end = tcp_part(self.ip)
        self.payload = captured.raw[start + self.tcp.dataofs * 4 : end]
        self.options: list[Option] = list(self.tcp.options)

    @property
    def upward(self) -> bool:
        """It goes from the client to the server."""
        return self.source in _CLIENTS

    @property
    def ttl(self) -> int:
        """Time to live, or hop limit."""
        return int(self.ip.ttl if self.ip.version == 4 else self.ip.hlim)

    @property
    def ip_fields(self) -> tuple[int | bytes, ...]:
        """What the IP header says beside addresses, length and TTL: nobody may change that.

        For IPv6 with the extension headers.
        """
        ip = self.ip
        if ip.version == 4:
            return (ip.id, ip.tos, int(ip.flags), ip.frag)
        start, _ = tcp_part(ip)
        return (ip.tc, ip.fl, ip.nh, self.raw[40:start])

    @cached_property
    def named(self) -> dict[str | int, object]:
        """The options by name; with no duplicates there."""
        return dict(self.options)

    @property
    def timestamps(self) -> tuple[int, int] | None:
        """TSval and TSecr."""
        found = self.named.get("Timestamp")
        assert found is None or isinstance(found, tuple)
        return found

    @property
    def sack(self) -> tuple[int, ...]:
        """The edges of the SACK blocks in the order of the wire."""
        found = self.named.get("SAck", ())
        assert isinstance(found, tuple)
        return found

    def number(self, name: str) -> int | None:
        """Return the value of an option that is a number."""
        value = self.named.get(name)
        assert value is None or isinstance(value, int)
        return value

    def __str__(self) -> str:
        return (
            f"{self.time % 1000:.6f} {self.source}:{self.tcp.sport}>{self.ip.dst}:{self.tcp.dport}"
            f" [{self.tcp.flags}] seq={self.seq} ack={self.ack} win={self.window}"
            f" len={len(self.payload)} ttl={self.ttl} {self.options}"
        )


@dataclass
class Side:
    """What one side of clientnic saw of a connection."""

    up: list[Read] = field(default_factory=list)
    """From the client."""
    down: list[Read] = field(default_factory=list)
    """From the server."""

    @property
    def syns(self) -> list[Read]:
        return [packet for packet in self.up if packet.flags & (SYN | ACK) == SYN]

    @property
    def syn_acks(self) -> list[Read]:
        return [packet for packet in self.down if packet.flags & (SYN | ACK) == SYN | ACK]

    def all(self) -> Iterator[Read]:
        yield from self.up
        yield from self.down


Key = tuple[int, int, int]
"""Client port, server port, and which connection on these ports it is (a reused 4-tuple)."""


def connections(packets: Iterable[Captured]) -> dict[Key, Side]:
    """Sort packets into connections; a SYN with another ISN begins a new one."""
    sides: dict[Key, Side] = {}
    isns: dict[tuple[int, int], list[int]] = {}
    for captured in packets:
        packet = Read(captured)
        upward = packet.upward
        ports = (packet.tcp.sport, packet.tcp.dport)[:: 1 if upward else -1]
        known = isns.setdefault(ports, [])
        if upward and packet.flags & (SYN | ACK) == SYN and packet.seq not in known:
            known.append(packet.seq)
        side = sides.setdefault((*ports, max(len(known), 1)), Side())
        (side.up if upward else side.down).append(packet)
    return sides


def stream(packets: Iterable[Read], isn: int) -> bytes:
    """Put the payloads together; fail if they contradict each other or leave a gap."""
    data = bytearray()
    pieces = sorted(
        ((packet.seq - isn - 1) % 2**32, packet.payload) for packet in packets if packet.payload
    )
    for position, payload in pieces:
        assert position <= len(data), f"bytes {len(data)} to {position} of the stream never came"
        known = bytes(data[position : position + len(payload)])
        assert payload.startswith(known), f"two versions of the stream at {position}"
        data += payload[len(known) :]
    return bytes(data)


def ecn_flags(packet: Read) -> int:
    """Return the packet's ECN flags."""
    return packet.flags & (ECE | CWR)
