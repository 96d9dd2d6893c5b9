"""Captured packets as scapy reads them, sorted into connections.

scapy is the oracle here: nothing of the product's own reading of packets is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from scapy.layers.inet import IP, TCP

from support.captures import Captured

CLIENT_ADDRESS, SERVER_ADDRESS = "10.0.1.2", "10.0.3.2"
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

Option = tuple[str | int, object]


class Read:
    """One TCP packet, as scapy reads it."""

    def __init__(self, captured: Captured) -> None:
        self.time = captured.time
        self.raw = captured.raw
        self.ip = IP(captured.raw)
        self.tcp = self.ip[TCP]
        self.seq: int = self.tcp.seq
        self.ack: int = self.tcp.ack
        self.flags = int(self.tcp.flags)
        self.window: int = self.tcp.window
        header = self.ip.ihl * 4 + self.tcp.dataofs * 4
        self.payload = captured.raw[header : self.ip.len]
        self.options: list[Option] = list(self.tcp.options)

    @property
    def upward(self) -> bool:
        """It goes from the client to the server."""
        return bool(self.ip.src == CLIENT_ADDRESS)

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
            f"{self.time % 1000:.6f} {self.ip.src}:{self.tcp.sport}>{self.ip.dst}:{self.tcp.dport}"
            f" [{self.tcp.flags}] seq={self.seq} ack={self.ack} win={self.window}"
            f" len={len(self.payload)} ttl={self.ip.ttl} {self.options}"
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
