"""ICMP errors that quote the head of a TCP segment (RFC 792, RFC 4443).

A router or a host that cannot deliver a segment sends it back in part. The
sender's TCP believes the error only if the quoted sequence number is one of
its own (RFC 5927, section 4.1), so whoever renumbers segments has to renumber
their quotations, too. All fields are big-endian.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from nfq_zerortt.wire.checksum import PROTOCOL_TCP, updated
from nfq_zerortt.wire.errors import NotTcpError, WireError
from nfq_zerortt.wire.seqnum import add

_ICMP, _ICMPV6 = 1, 58
_HEADER = 8
_QUOTED_TCP = 8  # RFC 792: the IP header and at least 64 bits of what it carries
_UINT32 = struct.Struct(">I")
_FRAGMENT_NEEDED = (3, 4)
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options (RFC 8200, section 4.1)


class Kind(enum.Enum):
    """What an error says about the segment that it quotes."""

    UNREACHABLE = "not delivered"
    EXPIRED = "its time to live has run out"
    TOO_BIG = "too big for the next link"
    OTHER = "its header is wrong"


_KINDS_V4 = {3: Kind.UNREACHABLE, 11: Kind.EXPIRED, 12: Kind.OTHER}
_KINDS_V6 = {1: Kind.UNREACHABLE, 2: Kind.TOO_BIG, 3: Kind.EXPIRED, 4: Kind.OTHER}


@dataclass(frozen=True, slots=True)
class QuotedSegment:
    """An ICMP error and the segment in it.

    Attributes:
        raw: the whole IP packet.
        kind: what the error says.
        icmp: offset of the ICMP header; ``tcp`` that of the quoted TCP header.
        end: offset behind the packet.
        src, dst: who sent the quoted segment, and to whom.

    Raises:
        WireError: less of the segment is quoted than its ports and its sequence number.
    """

    raw: bytes
    kind: Kind
    icmp: int
    tcp: int
    end: int
    src: bytes
    dst: bytes

    def __post_init__(self) -> None:
        if self.tcp + _QUOTED_TCP > self.end:
            raise WireError("truncated quotation")

    @property
    def seq(self) -> int:
        """The quoted sequence number, as it stood where the error was made."""
        (number,) = _UINT32.unpack_from(self.raw, self.tcp + 4)
        return int(number)

    @property
    def flow_key(self) -> bytes:
        """The quoted segment's addresses and ports, as in :class:`SegmentView`."""
        return self.src + self.dst + self.raw[self.tcp : self.tcp + 4]

    def renumbered(self, seq_shift: int, ack_shift: int) -> bytes:
        """Return the packet with the quoted SEQ and ACK shifted (modulo 2**32).

        The ICMP checksum is updated (RFC 1624). The quoted TCP checksum stays: what it covers
        is quoted in part at most, and nobody looks at it. An ACK that is not quoted stays out.
        """
        packet = bytearray(self.raw[: self.end])
        change = 0
        for offset, shift in ((4, seq_shift), (8, ack_shift)):
            position = self.tcp + offset
            if position + 4 <= self.end:
                (old,) = _UINT32.unpack_from(packet, position)
                new = add(old, shift)
                _UINT32.pack_into(packet, position, new)
                # In a quotation behind an odd number of bytes the field would count otherwise;
                # headers are of even length, so there is none.
                change += old - new
        (checksum,) = struct.unpack_from(">H", packet, self.icmp + 2)
        struct.pack_into(">H", packet, self.icmp + 2, updated(checksum, change, 0))
        return bytes(packet)


def look_quoted(raw: bytes) -> QuotedSegment:
    """Check the bytes of an IP packet and return the segment that its ICMP error quotes.

    Raises:
        NotTcpError: it is no ICMP error, or one that quotes something else.
        WireError: truncated, or with lengths that contradict each other.
    """
    if raw[:1] and raw[0] >> 4 == 6:
        return _look_ipv6(raw)
    return _look_ipv4(raw)


def _look_ipv4(raw: bytes) -> QuotedSegment:
    if len(raw) < 20:
        raise WireError("truncated IPv4 header")
    icmp = (raw[0] & 0x0F) * 4
    end = (raw[2] << 8) | raw[3]
    if icmp < 20 or end > len(raw):
        raise WireError("IPv4 length")
    if raw[9] != _ICMP or ((raw[6] << 8) | raw[7]) & 0x3FFF:
        raise NotTcpError(f"protocol {raw[9]}")
    if icmp + _HEADER > end or raw[icmp] not in _KINDS_V4:
        raise NotTcpError("no ICMP error")
    kind = _KINDS_V4[raw[icmp]]
    if (raw[icmp], raw[icmp + 1]) == _FRAGMENT_NEEDED:
        kind = Kind.TOO_BIG
    quoted = icmp + _HEADER
    if quoted + 20 > end or raw[quoted] >> 4 != 4:
        raise WireError("truncated quotation")
    header = (raw[quoted] & 0x0F) * 4
    later_fragment = ((raw[quoted + 6] << 8) | raw[quoted + 7]) & 0x1FFF
    if raw[quoted + 9] != PROTOCOL_TCP or later_fragment:
        raise NotTcpError("the ICMP error quotes no TCP header")
    if header < 20:
        raise WireError("quoted IPv4 header length")
    addresses = (raw[quoted + 12 : quoted + 16], raw[quoted + 16 : quoted + 20])
    return QuotedSegment(raw, kind, icmp, quoted + header, end, *addresses)


def _look_ipv6(raw: bytes) -> QuotedSegment:
    if len(raw) < 40:
        raise WireError("truncated IPv6 header")
    end = 40 + ((raw[4] << 8) | raw[5])
    if end > len(raw):
        raise WireError("IPv6 length")
    protocol, icmp = _behind_extensions(raw, 0, end)
    if protocol != _ICMPV6 or icmp + _HEADER > end or raw[icmp] not in _KINDS_V6:
        raise NotTcpError("no ICMP error")
    quoted = icmp + _HEADER
    if quoted + 40 > end or raw[quoted] >> 4 != 6:
        raise WireError("truncated quotation")
    protocol, tcp = _behind_extensions(raw, quoted, end)
    if protocol != PROTOCOL_TCP:
        raise NotTcpError("the ICMP error quotes no TCP header")
    addresses = (raw[quoted + 8 : quoted + 24], raw[quoted + 24 : quoted + 40])
    return QuotedSegment(raw, _KINDS_V6[raw[icmp]], icmp, tcp, end, *addresses)


def _behind_extensions(raw: bytes, header: int, end: int) -> tuple[int, int]:
    """Return the protocol behind an IPv6 header's extensions, and where it begins."""
    protocol, position = raw[header + 6], header + 40
    while protocol in _EXTENSIONS:
        if position + 8 > end:
            raise WireError("truncated extension header")
        protocol, position = raw[position], position + (raw[position + 1] + 1) * 8
    return protocol, position
