"""ICMP errors: reading and renumbering what they quote."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfq_zerortt.wire.errors import NotTcpError, WireError
from nfq_zerortt.wire.icmp import Kind, look_quoted
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.view import look
from tests.icmp import ERRORS, error_quoting, icmp_checksum_is_right
from tests.strategies import segments, uint32


@given(segments(), st.sampled_from(sorted(ERRORS)), uint32, uint32)
def test_the_quotation_is_renumbered_and_nothing_else(
    segment: Segment, kind: str, seq_shift: int, ack_shift: int
) -> None:
    packet = segment.emit()
    error = error_quoting(packet, kind)
    quoted = look_quoted(error)
    assert quoted.kind is ERRORS[kind]
    assert quoted.seq == segment.seq
    assert quoted.flow_key == look(packet).flow_key
    changed = quoted.renumbered(seq_shift, ack_shift)
    assert icmp_checksum_is_right(changed)
    seq, ack = (segment.seq + seq_shift) % 2**32, (segment.ack + ack_shift) % 2**32
    expected = bytearray(error)
    expected[quoted.tcp + 4 : quoted.tcp + 12] = seq.to_bytes(4, "big") + ack.to_bytes(4, "big")
    expected[quoted.icmp + 2 : quoted.icmp + 4] = changed[quoted.icmp + 2 : quoted.icmp + 4]
    assert changed == bytes(expected)
    assert look_quoted(changed).renumbered(-seq_shift, -ack_shift) == error


@given(segments(), uint32, uint32)
def test_eight_bytes_of_tcp_are_enough(segment: Segment, seq_shift: int, ack_shift: int) -> None:
    packet = segment.emit()
    error = error_quoting(packet, "too_big", quoted=look(packet).tcp + 8)
    changed = look_quoted(error).renumbered(seq_shift, ack_shift)
    assert icmp_checksum_is_right(changed)
    assert len(changed) == len(error)
    assert look_quoted(changed).seq == (segment.seq + seq_shift) % 2**32


@given(segments(), st.sampled_from(sorted(ERRORS)), st.data())
def test_a_packet_that_is_cut_is_an_error_and_no_exception(
    segment: Segment, kind: str, data: st.DataObject
) -> None:
    error = error_quoting(segment.emit(), kind, quoted=60)
    cut = error[: data.draw(st.integers(0, len(error) - 1))]
    with pytest.raises(WireError):
        look_quoted(cut)


@given(st.binary(max_size=120))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    with contextlib.suppress(WireError):
        look_quoted(data)


@given(segments())
def test_a_tcp_segment_is_no_icmp_error(segment: Segment) -> None:
    with pytest.raises(NotTcpError):
        look_quoted(segment.emit())


@pytest.mark.parametrize("ipv6", [False, True])
def test_what_quotes_something_else_is_not_ours(ipv6: bool) -> None:
    address = bytes(15 if ipv6 else 3) + b"\1"
    packet = bytearray(
        Segment(src=address, dst=address, sport=1, dport=2, seq=3, ack=4, flags=2, window=5).emit()
    )
    packet[6 if ipv6 else 9] = 17  # UDP
    with pytest.raises(NotTcpError):
        look_quoted(error_quoting(bytes(packet), "unreachable"))


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("icmp_type", [0, 8, 128, 129])
def test_echoes_are_no_errors(ipv6: bool, icmp_type: int) -> None:
    address = bytes(15 if ipv6 else 3) + b"\1"
    segment = Segment(src=address, dst=address, sport=1, dport=2, seq=3, ack=4, flags=2, window=5)
    packet = bytearray(error_quoting(segment.emit(), "unreachable"))
    packet[40 if ipv6 else 20] = icmp_type
    with pytest.raises(NotTcpError):
        look_quoted(bytes(packet))


@pytest.mark.parametrize("extension", [0, 43, 60])
def test_ipv6_extension_headers_are_passed_over(extension: int) -> None:
    address = bytes(15) + b"\1"
    segment = Segment(
        src=address, dst=address, sport=1, dport=2, seq=3, ack=4, flags=2, window=5
    ).emit()
    header = bytes((6, 1)) + bytes(14)
    packet = segment[:6] + bytes((extension,)) + segment[7:40] + header + segment[40:]
    quoted = look_quoted(error_quoting(packet, "too_big"))
    assert (quoted.kind, quoted.seq, quoted.tcp) == (Kind.TOO_BIG, 3, 40 + 8 + 40 + 16)
