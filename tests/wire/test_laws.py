"""Laws of the wire room: what holds for every segment and every option list."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from nfq_zerortt.wire import checksum, options, seqnum
from nfq_zerortt.wire.errors import NotTcpError, WireError
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.view import look
from tests import strategies


@given(strategies.segments())
def test_parse_of_emit_is_the_segment(segment: Segment) -> None:
    assert Segment.parse(segment.emit()) == segment


@given(strategies.segments())
def test_emit_of_parse_is_the_packet(segment: Segment) -> None:
    raw = segment.emit()
    assert Segment.parse(raw).emit() == raw


@given(strategies.segments())
def test_scapy_computes_the_same_checksums(segment: Segment) -> None:
    raw = segment.emit()
    packet = (IP if len(segment.src) == 4 else IPv6)(raw)
    there = packet[TCP].chksum
    del packet[TCP].chksum
    if IP in packet:
        ip_there = packet[IP].chksum
        del packet[IP].chksum
    again = packet.__class__(bytes(packet))
    assert again[TCP].chksum == there
    if IP in packet:
        assert again[IP].chksum == ip_there


@given(strategies.options)
def test_options_survive(listed: options.Options) -> None:
    assert options.parse(options.emit(listed)) == listed


@given(st.binary(max_size=40))
def test_any_option_bytes_are_parsed_exactly_or_refused(data: bytes) -> None:
    try:
        listed = options.parse(data)
    except WireError:
        return
    padded = data + bytes(-len(data) % 4)
    assert options.emit(listed) == padded


@given(st.binary(max_size=120))
def test_any_bytes_are_looked_at_safely(raw: bytes) -> None:
    try:
        view = look(raw)
    except WireError:
        return
    assert view.tcp + 20 <= view.payload_at <= view.end <= len(raw)


@given(strategies.segments(), st.data())
def test_any_cut_of_a_packet_is_refused(segment: Segment, data: st.DataObject) -> None:
    raw = segment.emit()
    with pytest.raises(WireError):
        look(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(strategies.segments(), strategies.uint32, st.integers(0, 2))
def test_incremental_checksum_is_the_full_one(segment: Segment, value: int, which: int) -> None:
    raw = bytearray(segment.emit())
    view = look(bytes(raw))
    offset, form = ((4, ">I"), (8, ">I"), (14, ">H"))[which]
    new = value & (0xFFFFFFFF if form == ">I" else 0xFFFF)
    (old,) = struct.unpack_from(form, raw, view.tcp + offset)
    struct.pack_into(form, raw, view.tcp + offset, new)
    struct.pack_into(">H", raw, view.tcp + 16, 0)
    full = checksum.tcp_checksum(view.src, view.dst, bytes(raw[view.tcp :]))
    assert checksum.updated(view.checksum, old, new) == full


@given(strategies.uint32, strategies.uint32)
def test_distance_is_the_way_there(start: int, end: int) -> None:
    way = seqnum.distance(start, end)
    assert -(1 << 31) <= way < 1 << 31
    assert seqnum.add(start, way) == end


@given(strategies.uint32, st.integers(0, 1 << 31), st.integers(0, 1 << 31))
def test_within_across_the_wrap(start: int, length: int, position: int) -> None:
    number, end = seqnum.add(start, position), seqnum.add(start, length)
    assert seqnum.within(number, start, end) == (position <= length)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", WireError),
        (bytes(40), WireError),
        (bytes((0x45, 0, 0, 40)) + bytes(36), NotTcpError),  # protocol 0
        (bytes((0x41, 0, 0, 40, 0, 0, 0, 0, 64, 6)) + bytes(30), WireError),  # header of 4 bytes
        (bytes((0x45, 0, 0, 40, 0, 0, 0, 5, 64, 6)) + bytes(30), NotTcpError),  # later fragment
        (bytes((0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6)) + bytes(30), WireError),  # data offset 0
        (bytes((0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6)) + bytes(22) + b"\xf0" + bytes(7), WireError),
        (bytes((0x60, 0, 0, 0, 0, 20, 59, 64)) + bytes(52), NotTcpError),  # no next header
        (bytes((0x60, 0, 0, 0, 0, 4, 0, 64)) + bytes(36), WireError),  # extension header cut off
    ],
)
def test_what_is_no_segment(raw: bytes, error: type[WireError]) -> None:
    with pytest.raises(error):
        look(raw)


def test_ipv6_extension_headers_are_skipped() -> None:
    plain = Segment(
        src=bytes(16), dst=bytes(16), sport=1, dport=2, seq=3, ack=4, flags=16, window=5
    ).emit()
    hop_by_hop = bytes((60, 0)) + bytes(6)
    destination = bytes((6, 1)) + bytes(14)
    raw = bytearray(plain[:40] + hop_by_hop + destination + plain[40:])
    struct.pack_into(">HB", raw, 4, len(raw) - 40, 0)
    view = look(bytes(raw))
    assert (view.tcp, view.sport, view.seq) == (64, 1, 3)


@pytest.mark.parametrize(
    "data", [b"\x02\x03\x05", b"\x03\x04\x01\x02", b"\x08\x06\0\0\0\0", b"\x05\x06\0\0\0\0"]
)
def test_known_options_of_a_wrong_length(data: bytes) -> None:
    with pytest.raises(WireError):
        options.OptionSet.read(options.parse(data))
