"""The packets of our own: the spoofed SYN-ACK, resets, acknowledgements with D-SACK, pieces."""

from __future__ import annotations

import struct
from dataclasses import replace

from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.negotiation import Offer, whitelisted
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.checksum import is_right, updated
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, ECN, FIN, PSH, RST, SYN, URG
from nfq_zerortt.wire.segment import Segment, packet
from nfq_zerortt.wire.seqnum import add, distance
from nfq_zerortt.wire.view import TCP_HEADER, SegmentView, look


def _built(
    sender: bytes,
    receiver: bytes,
    *,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes = b"",
) -> bytes:
    """Build a packet without data; ``sender`` and ``receiver`` are an address and a port each."""
    return packet(
        src=sender[:-2],
        dst=receiver[:-2],
        sport=sender[-2] << 8 | sender[-1],
        dport=receiver[-2] << 8 | receiver[-1],
        seq=seq,
        ack=ack,
        flags=flags,
        window=window,
        options=options,
    )


def to_client(
    flow: Flow, *, seq: int, ack: int, flags: int, window: int = 0, options: bytes = b""
) -> bytes:
    """Build a packet that the client takes for one of the server's."""
    return _built(
        flow.server, flow.client, seq=seq, ack=ack, flags=flags, window=window, options=options
    )


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
    return _built(flow.client, flow.server, seq=seq, ack=0, flags=RST, window=0)


def challenge_server(flow: Flow) -> bytes:
    """Build the client's answer to a SYN-ACK with another number than the first one's."""
    return _built(
        flow.client,
        flow.server,
        seq=flow.held.start,
        ack=flow.to_client.next_seq,
        flags=ACK,
        window=0,
    )


def acknowledge_syn_ack(flow: Flow, syn_ack: SegmentView) -> bytes:
    """Build the client's ACK for a repeated SYN-ACK from nothing but that and the flow's numbers.

    The timestamps are echoed: the server's own is the latest there is, and the one that it
    echoes is the client's SYN's, so nothing that the client has sent is older.
    """
    stamps = syn_ack.readable_options.timestamps
    echo = opt.aligned_timestamps(stamps[1], stamps[0]) if stamps is not None else b""
    theirs = flow.to_server
    return _built(
        flow.client,
        flow.server,
        seq=syn_ack.ack,
        ack=add(syn_ack.seq, 1),
        flags=ACK,
        window=theirs.rescaled(theirs.window),
        options=echo,
    )


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


def syn_with(syn: bytes, cookie: bytes, data: bytes, mss: int) -> tuple[bytes, int] | None:
    """Return a SYN with a Fast Open option and as much of ``data`` as fits, and how much that is.

    ``syn`` is the plain SYN, ``cookie`` may be empty (RFC 7413, section 4.1.1), ``mss`` is the
    server's: it counts options and data (RFC 9293, section 3.7.1). None if there is no room for
    the option.
    """
    plain = Segment.parse(syn)
    added = (opt.FAST_OPEN, cookie)
    padding = (opt.NOP_OPTION,) * (-len(cookie) - 2 & 3)
    kept = tuple(option for option in plain.options if option[0] != opt.END)
    if sum(map(opt.size, (*kept, added, *padding))) > opt.MAX_OPTIONS_LENGTH:
        kept = tuple(option for option in kept if option[0] != opt.NOP)
        left = opt.MAX_OPTIONS_LENGTH - sum(map(opt.size, (*kept, added)))
        if left < 0:
            return None
        padding = (opt.NOP_OPTION,) * (left & 3)
    options = (*kept, *padding, added)
    room = max(mss - len(opt.emit(options)), 0)
    taken = data[:room]
    return replace(plain, options=options, payload=taken).emit(), len(taken)


def acknowledge_early(flow: Flow, syn_ack: SegmentView) -> bytes:
    """Build the ACK for data that the SYN carried: the client knows nothing of the SYN-ACK.

    It echoes the timestamp of the data, from which the client learns the true round trip
    (RFC 7323, section 4.1). Its own is the spoofed SYN-ACK's, so that no data is older.
    """
    options = b""
    stamps = syn_ack.readable_options.timestamps
    if flow.offer is not None and flow.offer.timestamps and stamps is not None:
        first = flow.held.first_stamp()
        tsecr = stamps[1] if first is None else first
        options = opt.aligned_timestamps(flow.tsval_spoofed, tsecr)
    field = syn_ack.window >> flow.to_client.scale  # never scaled in a SYN-ACK
    if syn_ack.window:
        field = max(field, 1)  # rounding must not close it
    return to_client(
        flow,
        seq=add(flow.isn_spoofed, 1),
        ack=syn_ack.ack,
        flags=ACK,
        window=flow.to_client.rescaled(field),
        options=options,
    )


def trimmed(view: SegmentView, start: int) -> SegmentView:
    """Return the segment without what it has before the sequence number ``start``.

    A segment whose options cannot be read is returned whole: the server takes what it lacks.
    """
    cut = distance(view.seq, start)
    if cut <= 0:
        return view
    try:
        whole = Segment.from_view(view)
    except WireError:
        return view
    urgent = max(whole.urgent - cut, 0)
    flags = whole.flags if urgent else whole.flags & ~URG
    return look(
        replace(whole, seq=start, payload=whole.payload[cut:], flags=flags, urgent=urgent).emit()
    )


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


def bare_ack(packet: bytes, seq: int | None = None) -> bytes:
    """Return the acknowledgement that a segment carries, without its data.

    ``seq`` replaces its sequence number. With options that cannot be read, the segment is
    returned as it is.
    """
    try:
        whole = Segment.parse(packet)
    except WireError:
        return packet
    number = whole.seq if seq is None else seq
    return replace(whole, seq=number, flags=ACK, payload=b"", urgent=0).emit()


def for_server(flow: Flow, view: SegmentView) -> list[bytes]:
    """Translate one of the client's segments, and cut it where the server's MSS asks for it."""
    path = flow.from_client
    data = path.direction.translate(view.raw[: view.end], view.tcp)
    if view.end <= path.max_packet or view.fragment:
        return [data]
    return split(data, path.max_packet - view.tcp - TCP_HEADER)


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
    return is_right(view.src, view.dst, view.raw[view.tcp : view.end])
