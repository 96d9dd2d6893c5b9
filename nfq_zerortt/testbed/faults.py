"""What happens to which packet: losses, duplicates and reordering, drawn or aimed.

The fate of a TCP packet is drawn from the seed, the client's port, the
direction and the packet's number in that direction of its connection, and from
nothing else. So a run can be repeated, and two connections from the same
client port to two ports of a server meet the same faults at the same places:
that is how two ways are compared without luck deciding. All other packets are
drawn for one after the other.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from nfq_zerortt.testbed.wan import First, WanSettings

_IPV4_HEADER, _IPV6_HEADER = 20, 40
_TCP = 6
_TCP_HEADER = struct.Struct(">HHIIBB")
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_SCALE = 2**32
# Connections remembered; beyond, the oldest is forgotten.
_MOST_CONNECTIONS = 65_536

Path = tuple[bytes, int, bytes, int]
"""Source and destination, address and port each."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What shall become of one packet."""

    lost: bool = False
    held_back: bool = False
    doubled: bool = False


@dataclass(slots=True)
class Counts:
    """What has been done to how many packets. ``first``: of ``lost``, those that were aimed at."""

    packets: int = 0
    lost: int = 0
    reordered: int = 0
    duplicated: int = 0
    first: dict[str, int] = field(default_factory=lambda: dict.fromkeys(First, 0))


@dataclass(slots=True)
class _Connection:
    """A TCP connection since its latest SYN. ``numbers``: packets seen, from client and server."""

    isn: int
    hit: set[First] = field(default_factory=set)
    client_spoke: bool = False
    numbers: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True, slots=True)
class _Segment:
    path: Path
    seq: int
    flags: int
    length: int

    @property
    def reverse(self) -> Path:
        return (*self.path[2:], *self.path[:2])


class Faults:
    """Decides each packet's fate by the WAN's settings, and counts."""

    def __init__(self, settings: WanSettings) -> None:
        self.counts = Counts()
        self._settings = settings
        self._shares = tuple(
            percent / 100 * _SCALE
            for percent in (
                settings.loss_percent,
                settings.reorder_percent,
                settings.duplicate_percent,
            )
        )
        self._connections: dict[Path, _Connection] = {}
        self._others = 0

    def fate(self, packet: bytes) -> Fate:
        """Decide about an IP packet."""
        counts = self.counts
        counts.packets += 1
        segment = _read(packet)
        if segment is None:
            self._others += 1
            drawn = self._draw(b"other", self._others)
        else:
            from_server = int(segment.reverse in self._connections)
            connection = self._connection(segment, from_server)
            aimed = self._aimed_at(segment, connection, from_server)
            if aimed is not None:
                counts.lost += 1
                counts.first[aimed] += 1
                return Fate(lost=True)
            number = connection.numbers[from_server]
            connection.numbers[from_server] += 1
            client_port = segment.path[3 if from_server else 1]
            drawn = self._draw(struct.pack(">BH", from_server, client_port), number)
        lost, held_back, doubled = (
            value < share for value, share in zip(drawn, self._shares, strict=True)
        )
        if lost:
            counts.lost += 1
            return Fate(lost=True)
        counts.reordered += held_back
        counts.duplicated += doubled
        return Fate(held_back=held_back, doubled=doubled)

    def _draw(self, whose: bytes, number: int) -> tuple[int, int, int]:
        text = b"%d %d " % (self._settings.seed, number) + whose
        one, two, three = struct.unpack(">III", hashlib.blake2b(text, digest_size=12).digest())
        return one, two, three

    def _connection(self, segment: _Segment, from_server: int) -> _Connection:
        path = segment.reverse if from_server else segment.path
        found = self._connections.get(path)
        is_syn = segment.flags & (_SYN | _ACK) == _SYN
        # A SYN with another number is a new connection; with the same it is sent again.
        if found is None or (is_syn and not from_server and found.isn != segment.seq):
            self._connections.pop(path, None)
            while len(self._connections) >= _MOST_CONNECTIONS:
                del self._connections[next(iter(self._connections))]
            found = self._connections[path] = _Connection(segment.seq)
        return found

    def _aimed_at(
        self, segment: _Segment, connection: _Connection, from_server: int
    ) -> First | None:
        if not self._settings.lose_first:
            return None
        kind = _kind(segment, connection, from_server)
        if not from_server and not segment.flags & _SYN:
            connection.client_spoke = True
        if kind is None or kind in connection.hit:
            return None
        connection.hit.add(kind)
        return kind if kind in self._settings.lose_first else None


def _kind(segment: _Segment, connection: _Connection, from_server: int) -> First | None:
    handshake = segment.flags & (_SYN | _ACK)
    if from_server:
        return First.SYN_ACK if handshake == _SYN | _ACK else None
    if handshake == _SYN:
        return First.SYN
    if segment.length:
        return First.DATA
    bare = segment.flags & (_SYN | _FIN | _RST | _ACK) == _ACK
    return First.ACK if bare and not connection.client_spoke else None


def _read(packet: bytes) -> _Segment | None:
    """Read an unfragmented TCP packet without IPv6 extension headers; None for all others."""
    version = packet[0] >> 4
    if version == 4:
        header = (packet[0] & 0x0F) * 4
        whole = not int.from_bytes(packet[6:8], "big") & 0x3FFF
        protocol, addresses, end = packet[9], packet[12:20], int.from_bytes(packet[2:4], "big")
    else:
        header = _IPV6_HEADER
        whole = True
        protocol, addresses = packet[6], packet[8:40]
        end = header + int.from_bytes(packet[4:6], "big")
    if protocol != _TCP or not whole or len(packet) < header + _IPV4_HEADER:
        return None
    sport, dport, seq, _, offset, flags = _TCP_HEADER.unpack_from(packet, header)
    half = len(addresses) // 2
    return _Segment(
        (addresses[:half], sport, addresses[half:], dport),
        seq,
        flags,
        end - header - (offset >> 4) * 4,
    )
