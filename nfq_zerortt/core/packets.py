"""The packets of our own: the spoofed SYN-ACK, resets, acknowledgements with D-SACK."""

from __future__ import annotations

import struct
from dataclasses import replace

from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.negotiation import Offer, whitelisted
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.checksum import tcp_checksum, updated
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, ECN, FIN, PSH, RST, SYN, URG
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import TCP_HEADER, SegmentView, look


def _split_endpoint(endpoint: bytes) -> tuple[bytes, int]:
    return endpoint[:-2], int.from_bytes(endpoint[-2:], "big")


def to_client(
    flow: Flow, *, seq: int, ack: int, flags: int, window: int = 0, options: opt.Options = ()
) -> bytes:
    """Build a packet that the client takes for one of the server's."""
    src, sport = _split_endpoint(flow.server)
    dst, dport = _split_endpoint(flow.client)
    return Segment(
        src=src,
        dst=dst,
        sport=sport,
        dport=dport,
        seq=seq,
        ack=ack,
        flags=flags,
        window=window,
        options=options,
    ).emit()


def syn_ack(flow: Flow, offer: Offer, tsecr: int) -> bytes:
    """Build the spoofed SYN-ACK; ``tsecr`` is the timestamp of the SYN that it answers."""
    return to_client(
        flow,
        seq=flow.isn_spoofed,
        ack=add(flow.isn_client, 1),
        flags=SYN | ACK,
        window=offer.window,
        options=offer.options(flow.tsval_spoofed, tsecr),
    )


def challenge_client(flow: Flow) -> bytes:
    """Build the answer to a SYN whose number may be a stranger's guess (RFC 5961, section 4.2).

    It says nothing new: what is held here has been acknowledged by nobody.
    """
    if flow.isn_server is None:
        offer = flow.offer
        scale = (offer.window_scale or 0) if offer else 0
        window = offer.window >> scale if offer else 0
        return to_client(
            flow, seq=add(flow.isn_spoofed, 1), ack=flow.held.start, flags=ACK, window=window
        )
    theirs = flow.to_client
    return to_client(
        flow,
        seq=add(theirs.next_seq, -flow.shift),
        ack=theirs.last_ack,
        flags=ACK,
        window=theirs.rescaled(theirs.window),
    )


def reset_client(flow: Flow) -> bytes:
    """Build a RST with the numbers that the client expects next (RFC 5961, section 3.2)."""
    return to_client(
        flow, seq=add(flow.isn_spoofed, 1), ack=flow.held.end, flags=RST | ACK, window=0
    )


def reset_server(flow: Flow, seq: int) -> bytes:
    """Build the client's RST for the server; ``seq`` is what the server acknowledged."""
    src, sport = _split_endpoint(flow.client)
    dst, dport = _split_endpoint(flow.server)
    return Segment(
        src=src, dst=dst, sport=sport, dport=dport, seq=seq, ack=0, flags=RST, window=0
    ).emit()


def challenge_server(flow: Flow) -> bytes:
    """Build the client's answer to a SYN-ACK with another number than the first one's."""
    src, sport = _split_endpoint(flow.client)
    dst, dport = _split_endpoint(flow.server)
    return Segment(
        src=src,
        dst=dst,
        sport=sport,
        dport=dport,
        seq=flow.held.start,
        ack=flow.to_client.next_seq,
        flags=ACK,
        window=0,
    ).emit()


def server_syn(syn: SegmentView, offer: Offer) -> bytes:
    """Return the client's SYN as the server gets it: only options that were promised, no ECN.

    ECN (RFC 3168, section 6.1.1) is not negotiated, because the spoofed SYN-ACK cannot know
    whether the server does it.
    """
    (offset_flags,) = struct.unpack_from(">H", syn.raw, syn.tcp + 12)
    old = syn.option_bytes
    new = whitelisted(old, syn.options, offer)
    if new == old and not offset_flags & ECN:
        return syn.raw[: syn.end]
    plain = offset_flags & ~ECN
    checksum = updated(
        syn.checksum,
        offset_flags + int.from_bytes(old, "big"),
        plain + int.from_bytes(new, "big"),
    )
    raw = bytearray(syn.raw[: syn.end])
    struct.pack_into(">H", raw, syn.tcp + 12, plain)
    struct.pack_into(">H", raw, syn.tcp + 16, checksum)
    raw[syn.tcp + TCP_HEADER : syn.payload_at] = new
    return bytes(raw)


def duplicate_sack(acknowledgement: bytes, start: int, end: int) -> bytes:
    """Build a pure ACK that tells the client of a needless retransmission (RFC 2883, 4.1).

    ``acknowledgement`` is the packet, as the client gets it, whose ACK covers the range.
    """
    covering = Segment.parse(acknowledgement)
    stamps = tuple(option for option in covering.options if option[0] == opt.TIMESTAMPS)
    padding = (opt.NOP_OPTION, opt.NOP_OPTION)
    options = (padding + stamps if stamps else ()) + (*padding, opt.sack((start, end)))
    ends_with_fin = bool(covering.flags & FIN)
    return replace(
        covering,
        seq=add(covering.seq, len(covering.payload) + ends_with_fin),
        flags=ACK,
        options=options,
        payload=b"",
        urgent=0,
    ).emit()


def bare_ack(packet: bytes) -> bytes:
    """Return the acknowledgement that a segment carries, without its data.

    With options that cannot be read, the segment is returned as it is.
    """
    try:
        whole = Segment.parse(packet)
    except WireError:
        return packet
    return replace(whole, flags=ACK, payload=b"", urgent=0).emit()


def split(packet: bytes, limit: int) -> list[bytes]:
    """Cut a segment into several with at most ``limit`` bytes of options and data each.

    The client was promised a larger MSS than the server has (RFC 9293, section 3.7.1: the
    MSS counts data and options). FIN and PSH go with the last piece. What cannot be cut is
    returned as it is.
    """
    try:
        whole = Segment.parse(packet)
    except WireError:
        return [packet]
    view = look(packet)
    room = limit - (view.payload_at - view.tcp - TCP_HEADER)
    if room <= 0 or len(whole.payload) <= room:
        return [packet]
    return [
        _piece(whole, position, whole.payload[position : position + room])
        for position in range(0, len(whole.payload), room)
    ]


def _piece(whole: Segment, position: int, payload: bytes) -> bytes:
    flags = whole.flags
    if position + len(payload) < len(whole.payload):
        flags &= ~(FIN | PSH)
    urgent = whole.urgent - position  # relative to the segment (RFC 9293, section 3.1)
    if not flags & URG or urgent <= 0:
        flags &= ~URG
        urgent = 0
    return replace(
        whole, seq=add(whole.seq, position), payload=payload, flags=flags, urgent=urgent
    ).emit()


def is_intact(view: SegmentView) -> bool:
    """Tell whether the TCP checksum of a packet is right."""
    segment = bytearray(view.raw[view.tcp : view.end])
    segment[16:18] = bytes(2)
    return tcp_checksum(view.src, view.dst, bytes(segment)) == view.checksum % 0xFFFF
