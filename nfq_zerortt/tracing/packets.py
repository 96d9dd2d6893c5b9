"""A captured packet: when and where it was seen, its TCP header, and what became of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from nfq_zerortt.observe.records import Endpoint
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.view import SegmentView

SOON_S = 0.05
"""What an answer of the service's own follows at most after its cause."""

_IPV4 = struct.Struct(">BxHxxHxBxx4s4s")
_TCP, _ICMP, _ICMPV6 = 6, 1, 58
_FRAGMENT = 44
_EXTENSIONS = frozenset({0, 43, _FRAGMENT, 60})  # RFC 8200, section 4.1
_LEAST_TCP = 20
_QUOTED_TCP = 8  # ports and SEQ; an ICMP error may quote no more (RFC 792)
_ERRORS = {
    (_ICMP, 3): "destination unreachable",
    (_ICMP, 11): "time exceeded",
    (_ICMP, 12): "parameter problem",
    (_ICMPV6, 1): "destination unreachable",
    (_ICMPV6, 2): "packet too big",
    (_ICMPV6, 3): "time exceeded",
    (_ICMPV6, 4): "parameter problem",
}
_TOO_BIG = (_ICMP, 3, 4)  # a code of its own (RFC 1191)


class Role(Enum):
    """What became of a packet, as far as both sides of the capture show it."""

    UNKNOWN = "it came; nothing is seen on the other side (yet)"
    PASSED = "it came, and left on the other side"
    LEFT = "it left, and had come on the other side"
    MADE = "it left, and had not come: one of the service's own"
    BEFORE = "the capture began too late to say where it came from, or became of it"


class Quote(NamedTuple):
    """The segment that an ICMP error is about, as far as it is quoted; ``error`` is its kind."""

    error: str
    source: Endpoint
    destination: Endpoint
    seq: int
    ack: int | None


@dataclass(slots=True, eq=False)
class Packet:
    """One packet at one interface.

    Attributes:
        number: its place in the capture, from 1.
        time_ns: since 1970.
        tap: 0 for the interface towards the clients, 1 for that towards the servers.
        data: from the IP header on, as much as was captured; ``length`` is what there was.
        segment: its TCP header; None for an ICMP error, which has a ``quote``.
        source, destination: addresses and ports; of the quoted segment for an ICMP error.
        to_server: it travels towards the server.
        role: what became of it; ``origin`` is what it was when it came, ``onward`` what left.
        because: why, in words, as far as both sides of the capture show it.
        repeats: an earlier packet that had all of its data.
        settled: nothing more will be learned about it.
    """

    number: int
    time_ns: int
    tap: int
    outgoing: bool | None
    data: bytes
    length: int
    segment: SegmentView | None
    source: Endpoint
    destination: Endpoint
    quote: Quote | None = None
    to_server: bool = True
    role: Role = Role.UNKNOWN
    origin: Packet | None = None
    onward: list[Packet] = field(default_factory=list)
    because: list[str] = field(default_factory=list)
    repeats: Packet | None = None
    settled: bool = False

    @property
    def time_s(self) -> float:
        """When it was seen, in seconds since 1970."""
        return self.time_ns / 1e9

    @property
    def tag(self) -> str:
        """What comments call it."""
        return f"#{self.number}"

    @property
    def ident(self) -> int | None:
        """IPv4's identification, by which packets of one sender differ; None if it has none."""
        if self.data[0] >> 4 != 4:
            return None
        return int.from_bytes(self.data[4:6], "big") or None

    @property
    def came(self) -> bool:
        """Whether the service's host got it; else it sent it."""
        return self.to_server == (self.tap == 0)


class Seen(NamedTuple):
    """A captured IP packet as it was taken.

    Attributes:
        time_ns: since 1970.
        tap: 0 for the interface towards the clients, 1 for that towards the servers.
        outgoing: whether the host has sent it; None if that is not known.
        data: from the IP header on, perhaps cut off behind the headers.
        length: of the whole packet; with segmentation offload more than its IP header may say.
    """

    time_ns: int
    tap: int
    outgoing: bool | None
    data: bytes
    length: int


def read(number: int, seen: Seen) -> Packet | None:
    """Read a packet; None if it is neither TCP nor an ICMP error about TCP, or is malformed."""
    time_ns, tap, outgoing, data, length = seen
    try:
        where = _transport(data, length)
        if where is None:
            return None
        protocol, at, end, src, dst, fragment = where
        if protocol == _TCP:
            segment = SegmentView(data, src, dst, at, end, fragment=fragment)
            source = (_address(src), segment.sport)
            destination = (_address(dst), segment.dport)
            return Packet(
                number, time_ns, tap, outgoing, data, length, segment, source, destination
            )
        quote = _quote(protocol, data, at)
    except (WireError, struct.error, IndexError):
        return None
    if quote is None:
        return None
    return Packet(
        *(number, time_ns, tap, outgoing, data, length, None, quote.source, quote.destination),
        quote=quote,
    )


def _transport(data: bytes, length: int) -> tuple[int, int, int, bytes, bytes, bool] | None:
    """Return protocol, where it begins, where the packet ends, addresses, whether a fragment."""
    version = data[0] >> 4
    if version == 4:
        first, total, fragment, protocol, src, dst = _IPV4.unpack_from(data)
        if fragment & 0x1FFF:
            return None
        end = total or length  # 0: longer than the field can say
        return protocol, (first & 0x0F) * 4, end, src, dst, fragment & 0x3FFF != 0
    if version != 6:
        return None
    stated = (data[4] << 8) | data[5]
    end = 40 + stated if stated else length
    protocol, at, is_fragment = data[6], 40, False
    while protocol in _EXTENSIONS:
        if protocol == _FRAGMENT:
            is_fragment = True
            if (data[at + 2] << 8 | data[at + 3]) >> 3:
                return None
            size = 8
        else:
            size = (data[at + 1] + 1) * 8
        protocol = data[at]
        at += size
    return protocol, at, end, data[8:24], data[24:40], is_fragment


def _quote(protocol: int, data: bytes, at: int) -> Quote | None:
    error = _ERRORS.get((protocol, data[at]))
    if error is None:
        return None
    if (protocol, data[at], data[at + 1]) == _TOO_BIG:
        error = "packet too big"
    inner = data[at + 8 :]
    where = _transport(inner, len(inner))
    if where is None or where[0] != _TCP or len(inner) < where[1] + _QUOTED_TCP:
        return None
    _, tcp, _, src, dst, _ = where
    sport, dport, seq = struct.unpack_from(">HHI", inner, tcp)
    ack = struct.unpack_from(">I", inner, tcp + 8)[0] if len(inner) >= tcp + 12 else None
    return Quote(error, (_address(src), sport), (_address(dst), dport), seq, ack)


def headers_end(packet: Packet) -> int:
    """Return where the headers of a packet end: its own, or those that an ICMP error quotes."""
    if packet.segment is not None:
        return packet.segment.payload_at
    data = packet.data
    outer = _transport(data, packet.length)
    assert outer is not None  # it was read as one
    quoted = outer[1] + 8
    inner = _transport(data[quoted:], len(data) - quoted)
    assert inner is not None
    tcp = quoted + inner[1]
    return tcp + (data[tcp + 12] >> 4) * 4 if len(data) > tcp + 12 else len(data)


_names: dict[bytes, str] = {}


def _address(packed: bytes) -> str:
    name = _names.get(packed)
    if name is None:
        if len(_names) > 65_536:
            _names.clear()
        name = _names[packed] = str(ip_address(packed))
    return name


def likely_client(packet: Packet) -> Endpoint:
    """Return which end of a packet is the client, going by the packet alone."""
    segment = packet.segment
    if segment is not None and segment.flags & tcp.SYN:
        return packet.destination if segment.flags & tcp.ACK else packet.source
    # Nothing tells; servers mostly have the lower port.
    return max(packet.source, packet.destination, key=lambda end: end[1])


def segment_of(packet: Packet) -> SegmentView:
    """Return the TCP header of a packet that has one."""
    assert packet.segment is not None
    return packet.segment


def follows_soon(before: Packet, after: Packet) -> bool:
    """Whether one may be what the service did because of the other."""
    return 0 <= after.time_s - before.time_s <= SOON_S
