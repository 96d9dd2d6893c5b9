"""A TCP segment as a plain record: what we build packets from and compare them as."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.checksum import PROTOCOL_TCP, internet_checksum, tcp_checksum
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.view import TCP_HEADER, SegmentView, look

_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_TCP = struct.Struct(">HHIIHHHH")
_DONT_FRAGMENT = 0x4000


def packet(
    *,
    src: bytes,
    dst: bytes,
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes = b"",
    payload: bytes = b"",
    urgent: int = 0,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 0,
    flow_label: int = 0,
    dont_fragment: bool = True,
) -> bytes:
    """Return a whole IP packet with both checksums filled in.

    The fields are those of :class:`Segment`; ``options`` as they stand in the header, their
    length a multiple of four.

    Raises:
        WireError: more data than a packet has room for.
    """
    tcp = (
        _TCP.pack(
            sport,
            dport,
            seq,
            ack,
            (TCP_HEADER + len(options) << 10) | flags,
            window,
            0,
            urgent,
        )
        + options
        + payload
    )
    tcp = tcp[:16] + tcp_checksum(src, dst, tcp).to_bytes(2, "big") + tcp[18:]
    length = len(tcp)
    if len(src) == 16:
        if length > 0xFFFF:
            raise WireError(f"{length} bytes in one packet")
        first = (6 << 28) | (tos << 20) | flow_label
        return _IPV6.pack(first, length, PROTOCOL_TCP, ttl, src, dst) + tcp
    total = _IPV4.size + length
    if total > 0xFFFF:
        raise WireError(f"{total} bytes in one packet")
    fragment = _DONT_FRAGMENT if dont_fragment else 0
    header = _IPV4.pack(0x45, tos, total, ident, fragment, ttl, PROTOCOL_TCP, 0, src, dst)
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + tcp


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One TCP segment and what its IP header says.

    Attributes:
        src, dst: addresses in network order, 4 bytes (IPv4) or 16 bytes (IPv6).
        sport, dport: ports.
        seq, ack: sequence and acknowledgement number, unsigned 32-bit.
        flags: the nine flag bits of :mod:`nfq_zerortt.wire.flags`.
        window: the 16-bit window field as it stands on the wire, not scaled.
        options: the option list, in order.
        payload: the data.
        urgent: the urgent pointer.
        ttl: time to live, or hop limit.
        tos: type of service, or traffic class.
        ident: IPv4 identification; 0 for IPv6.
        dont_fragment: IPv4's DF bit; always True for IPv6.
        flow_label: IPv6 flow label; 0 for IPv4.
    """

    src: bytes
    dst: bytes
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    options: opt.Options = ()
    payload: bytes = b""
    urgent: int = 0
    ttl: int = 64
    tos: int = 0
    ident: int = 0
    dont_fragment: bool = True
    flow_label: int = 0

    def emit(self) -> bytes:
        """Return the whole IP packet with both checksums filled in.

        Raises:
            WireError: more options or data than a packet has room for.
        """
        return packet(
            src=self.src,
            dst=self.dst,
            sport=self.sport,
            dport=self.dport,
            seq=self.seq,
            ack=self.ack,
            flags=self.flags,
            window=self.window,
            options=opt.emit(self.options),
            payload=self.payload,
            urgent=self.urgent,
            ttl=self.ttl,
            tos=self.tos,
            ident=self.ident,
            flow_label=self.flow_label,
            dont_fragment=self.dont_fragment,
        )

    @classmethod
    def parse(cls, raw: bytes) -> Segment:
        """Return the segment in the bytes of an IP packet.

        IPv4 options and IPv6 extension headers are not part of the record and are lost.

        Raises:
            WireError: the bytes are no complete TCP segment, or its options are malformed.
        """
        return cls.from_view(look(raw))

    @classmethod
    def from_view(cls, view: SegmentView) -> Segment:
        """Return the segment of a checked view.

        Raises:
            WireError: the options are malformed.
        """
        raw = view.raw
        if len(view.src) == 16:
            (first,) = struct.unpack_from(">I", raw)
            ip = {"ttl": raw[7], "tos": (first >> 20) & 0xFF, "flow_label": first & 0xFFFFF}
            dont_fragment = True
        else:
            ip = {"ttl": raw[8], "tos": raw[1], "ident": (raw[4] << 8) | raw[5]}
            dont_fragment = bool(raw[6] & 0x40)
        return cls(
            src=view.src,
            dst=view.dst,
            sport=view.sport,
            dport=view.dport,
            seq=view.seq,
            ack=view.ack,
            flags=view.flags,
            window=view.window,
            options=opt.parse(view.option_bytes),
            payload=view.payload,
            urgent=view.urgent,
            dont_fragment=dont_fragment,
            **ip,
        )

    def __str__(self) -> str:
        return (
            f"{ip_address(self.src)}:{self.sport}>{ip_address(self.dst)}:{self.dport}"
            f" seq={self.seq} ack={self.ack}"
        )
