"""A checked look at the bytes of one IP packet that carries TCP.

:func:`look` does the checks once; after that every offset in the view is known
to lie inside the bytes. Multi-byte fields are big-endian (RFC 791, appendix B).
"""

from __future__ import annotations

import struct
from ipaddress import ip_address

from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.checksum import PROTOCOL_TCP
from nfq_zerortt.wire.errors import CutOffError, NotTcpError, WireError
from nfq_zerortt.wire.flags import FIN, SYN

_IPV4 = struct.Struct(">BxHxxHxBxx4s4s")  # up to the destination address
_TCP = struct.Struct(">HHIIHHHH")
TCP_HEADER = _TCP.size

# IPv6 extension headers that may stand before TCP (RFC 8200, section 4.1).
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60


class SegmentView:
    """One TCP segment inside the bytes ``raw`` of its IP packet.

    Attributes:
        raw: the whole IP packet.
        tcp: offset of the TCP header in ``raw``.
        payload_at: offset of the payload; ``end`` is the offset behind it.
        fragment: the packet is a first fragment, so its payload is not complete.
        sport, dport, seq, ack, flags, window, checksum, urgent: the header's fields.
    """

    sport: int
    dport: int
    seq: int
    ack: int
    window: int
    checksum: int
    urgent: int
    payload_at: int
    end: int

    __slots__ = (
        "_options",
        "_readable",
        "ack",
        "checksum",
        "dport",
        "dst",
        "end",
        "flags",
        "fragment",
        "payload_at",
        "raw",
        "seq",
        "sport",
        "src",
        "tcp",
        "urgent",
        "window",
    )

    def __init__(
        self, raw: bytes, src: bytes, dst: bytes, tcp: int, end: int, *, fragment: bool
    ) -> None:
        """Check the TCP header at ``tcp`` of a packet whose IP part ends at ``end``.

        Raises:
            WireError: the header is truncated, or its data offset is wrong.
        """
        if tcp + TCP_HEADER > end:
            raise WireError("truncated TCP header")
        (
            self.sport,
            self.dport,
            self.seq,
            self.ack,
            offset_flags,
            self.window,
            self.checksum,
            self.urgent,
        ) = _TCP.unpack_from(raw, tcp)
        header = (offset_flags >> 12) * 4
        if header < TCP_HEADER:
            raise WireError(f"TCP data offset {header}")
        if tcp + header > end:
            raise WireError("TCP header longer than the packet")
        self.raw = raw
        self.src = src
        self.dst = dst
        self.tcp = tcp
        self.payload_at = tcp + header
        self.end = end
        self.flags = offset_flags & 0x1FF
        self.fragment = fragment
        self._options: opt.OptionSet | None = None
        self._readable: opt.OptionSet | None = None

    @property
    def flow_key(self) -> bytes:
        """Addresses and ports in the order source, destination, sport, dport: 12 or 36 bytes."""
        return self.src + self.dst + self.raw[self.tcp : self.tcp + 4]

    @property
    def source(self) -> bytes:
        """Address and port of the sender, in network order: 6 or 18 bytes."""
        return self.src + self.raw[self.tcp : self.tcp + 2]

    @property
    def destination(self) -> bytes:
        """Address and port of the receiver, in network order: 6 or 18 bytes."""
        return self.dst + self.raw[self.tcp + 2 : self.tcp + 4]

    @property
    def reply_key(self) -> bytes:
        """The :attr:`flow_key` that the answers have."""
        ports = self.raw[self.tcp : self.tcp + 4]
        return self.dst + self.src + ports[2:] + ports[:2]

    @property
    def payload(self) -> bytes:
        """The segment's data."""
        return self.raw[self.payload_at : self.end]

    @property
    def payload_length(self) -> int:
        """Length of the data in bytes."""
        return self.end - self.payload_at

    @property
    def sequence_length(self) -> int:
        """What the segment takes of sequence space: data, SYN and FIN (RFC 9293, 3.4)."""
        flags = self.flags
        return self.end - self.payload_at + bool(flags & SYN) + bool(flags & FIN)

    @property
    def end_seq(self) -> int:
        """The sequence number behind the segment."""
        return (self.seq + self.sequence_length) & 0xFFFFFFFF

    @property
    def option_bytes(self) -> bytes:
        """The options as they stand in the header."""
        return self.raw[self.tcp + TCP_HEADER : self.payload_at]

    @property
    def readable_options(self) -> opt.OptionSet:
        """The options' meaning as far as they can be read; the malformed ones are left out."""
        if self._readable is None:
            self._readable = opt.OptionSet.of(self.option_bytes, strict=False)
        return self._readable

    @property
    def options(self) -> opt.OptionSet:
        """The options' meaning, read once.

        Raises:
            WireError: the options are malformed.
        """
        if self._options is None:
            self._options = opt.OptionSet.of(self.option_bytes)
        return self._options

    def __str__(self) -> str:
        src, dst = ip_address(self.src), ip_address(self.dst)
        return f"{src}:{self.sport}>{dst}:{self.dport} seq={self.seq} ack={self.ack}"


def look(raw: bytes) -> SegmentView:
    """Check the bytes of an IP packet and return a view of its TCP segment.

    Raises:
        NotTcpError: a valid packet without a TCP header (another protocol, a later fragment).
        CutOffError: its header says that it is longer than ``raw``.
        WireError: truncated, or with lengths that contradict each other.
    """
    if not raw:
        raise WireError("empty packet")
    version = raw[0] >> 4
    if version == 4:
        return _look_ipv4(raw)
    if version == 6:
        return _look_ipv6(raw)
    raise WireError(f"IP version {version}")


def _look_ipv4(raw: bytes) -> SegmentView:
    if len(raw) < 20:
        raise WireError("truncated IPv4 header")
    first, total, fragment, protocol, src, dst = _IPV4.unpack_from(raw)
    header = (first & 0x0F) * 4
    if header < 20 or header > total:
        raise WireError(f"IPv4 header length {header}")
    if total > len(raw):
        raise CutOffError(f"{len(raw)} of {total} bytes")
    if fragment & 0x1FFF:
        raise NotTcpError("later fragment")
    if protocol != PROTOCOL_TCP:
        raise NotTcpError(f"protocol {protocol}")
    return SegmentView(raw, src, dst, header, total, fragment=fragment & 0x3FFF != 0)


def _look_ipv6(raw: bytes) -> SegmentView:
    if len(raw) < 40:
        raise WireError("truncated IPv6 header")
    end = 40 + ((raw[4] << 8) | raw[5])
    if end > len(raw):
        raise CutOffError(f"{len(raw)} of {end} bytes")
    protocol, position, fragment = raw[6], 40, False
    while protocol != PROTOCOL_TCP:
        if protocol not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION):
            raise NotTcpError(f"next header {protocol}")
        if position + 8 > end:
            raise WireError("truncated extension header")
        if protocol == _FRAGMENT:
            field = (raw[position + 2] << 8) | raw[position + 3]
            if field >> 3:
                raise NotTcpError("later fragment")
            fragment = fragment or bool(field & 1)
            length = 8
        else:
            length = (raw[position + 1] + 1) * 8
        protocol = raw[position]
        position += length
    return SegmentView(raw, raw[8:24], raw[24:40], position, end, fragment=fragment)
