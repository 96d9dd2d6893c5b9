"""Laws of the translation, and of what is promised and granted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.negotiation import make_offer, settle, whitelisted
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK
from nfq_zerortt.wire.options import OptionSet
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import look
from tests import strategies

with_ack = st.integers(0, 0x1FF).map(lambda flags: flags | ACK)


def shifted(direction: Direction, segment: Segment) -> Segment:
    """The translation again, field by field: slow, and obviously right."""
    listed: list[opt.Option] = []
    for kind, data in segment.options:
        if kind == opt.TIMESTAMPS:
            tsval, tsecr = OptionSet.read(((kind, data),)).timestamps or (0, 0)
            echoed = add(tsecr, direction.tsecr_shift) if segment.flags & ACK else tsecr
            listed.append(opt.timestamps(add(tsval, direction.tsval_shift), echoed))
        elif kind == opt.SACK:
            blocks = OptionSet.read(((kind, data),)).sack_blocks
            shift = direction.ack_shift
            listed.append(opt.sack(*((add(a, shift), add(b, shift)) for a, b in blocks)))
        else:
            listed.append((kind, data))
    return replace(
        segment,
        seq=add(segment.seq, direction.seq_shift),
        ack=add(segment.ack, direction.ack_shift) if segment.flags & ACK else segment.ack,
        window=direction.rescaled(segment.window) if direction.window_shift else segment.window,
        options=tuple(listed),
    )


def to_server(delta: int, tau: int, window_shift: int = 0) -> Direction:
    direction, _ = Direction.pair(0)
    direction.ack_shift, direction.tsecr_shift, direction.window_shift = delta, tau, window_shift
    return direction


def to_client(delta: int, tau: int, window_shift: int = 0) -> Direction:
    _, direction = Direction.pair(0)
    direction.seq_shift, direction.tsval_shift = -delta, -tau
    direction.window_shift = window_shift
    return direction


@given(
    strategies.segments(),
    strategies.uint32,
    strategies.uint32,
    st.integers(-14, 14),
    st.booleans(),
)
def test_translation_is_field_by_field_arithmetic(
    segment: Segment, delta: int, tau: int, window_shift: int, from_client: bool
) -> None:
    make = to_server if from_client else to_client
    direction = make(delta, tau, window_shift)
    raw = segment.emit()
    assert direction.translate(raw, look(raw).tcp) == shifted(direction, segment).emit()


@given(
    strategies.uint32,
    strategies.uint32,
    strategies.uint32,
    strategies.uint32,
    strategies.uint32,
    strategies.uint32,
)
def test_the_everyday_segment(
    seq: int, ack: int, tsval: int, tsecr: int, delta: int, tau: int
) -> None:
    segment = Segment(
        src=bytes(4),
        dst=bytes((1, 2, 3, 4)),
        sport=1,
        dport=2,
        seq=seq,
        ack=ack,
        flags=ACK,
        window=77,
        options=(opt.NOP_OPTION, opt.NOP_OPTION, opt.timestamps(tsval, tsecr)),
        payload=b"abc",
    )
    for direction in (to_server(delta, tau), to_client(delta, tau)):
        raw = segment.emit()
        assert direction.translate(raw, 20) == shifted(direction, segment).emit()
        assert direction.next_seq == add(seq, 3) or not direction.octets


@given(strategies.segments(with_ack), strategies.uint32, strategies.uint32)
def test_translation_inverts(segment: Segment, delta: int, tau: int) -> None:
    raw = segment.emit()
    tcp = look(raw).tcp
    there = to_server(delta, tau)
    back, _ = Direction.pair(0)
    back.ack_shift, back.tsecr_shift = -delta, -tau
    assert back.translate(there.translate(raw, tcp), tcp) == raw


@given(strategies.segments(), strategies.uint32, st.integers(1, 0xFFFF))
def test_a_wrong_checksum_stays_wrong(segment: Segment, delta: int, error: int) -> None:
    raw = bytearray(segment.emit())
    view = look(bytes(raw))
    right = view.checksum
    wrong = (right + error) & 0xFFFF
    if wrong % 0xFFFF == right % 0xFFFF:
        return  # 0xFFFF and 0 are the same number in one's complement
    raw[view.tcp + 16 : view.tcp + 18] = wrong.to_bytes(2, "big")
    result = look(to_server(delta, 0).translate(bytes(raw), view.tcp))
    assert result.checksum != look(Segment.from_view(result).emit()).checksum


@given(st.binary(min_size=0, max_size=40))
def test_any_options_are_translated_without_an_error(data: bytes) -> None:
    data += bytes(-len(data) % 4)
    plain = Segment(
        src=bytes(4), dst=bytes(4), sport=1, dport=2, seq=3, ack=4, flags=ACK, window=5
    ).emit()
    raw = bytearray(plain + data)
    raw[32] = (5 + len(data) // 4) << 4
    raw[2:4] = len(raw).to_bytes(2, "big")
    direction = to_server(12345, 678)
    direction.strip_sack = len(data) % 3 == 0
    assert len(direction.translate(bytes(raw), 20)) == len(raw)


def plain(seq: int, length: int, ack: int, window: int = 500) -> bytes:
    return Segment(
        src=bytes(4),
        dst=bytes(4),
        sport=1,
        dport=2,
        seq=seq,
        ack=ack,
        flags=ACK,
        window=window,
        payload=bytes(length),
    ).emit()


@given(
    strategies.uint32,
    strategies.uint32,
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 1500))),
)
def test_octets_count_what_is_new(isn: int, delta: int, pieces: list[tuple[int, int]]) -> None:
    up, down = Direction.pair(isn)
    up.ack_shift = delta
    down.last_ack = isn
    up.last_ack = down.next_seq = delta
    highest = 0
    for offset, length in pieces:
        up.translate(plain(add(isn, offset), length, 0), 20)
        highest = max(highest, offset + length if length else 0)
    assert up.octets == highest
    assert up.next_seq == add(isn, highest)


@pytest.mark.parametrize("stamped", [False, True], ids=["plain", "stamped"])
@pytest.mark.parametrize(
    ("ack", "counts"),
    [(0, True), (1000, True), (-65536, True), (66536, True), (-65537, False), (66537, False)],
)
def test_data_counts_only_with_an_acknowledgement_that_fits(
    ack: int, counts: bool, stamped: bool
) -> None:
    """A stranger has to guess it: the server has sent 1000 bytes that are not acknowledged."""
    up, down = Direction.pair(5)
    down.last_ack = 5
    up.last_ack, down.next_seq = 100, 1100
    options = (opt.NOP_OPTION, opt.NOP_OPTION, opt.timestamps(1, 2)) if stamped else ()
    raw = Segment.parse(plain(5, 10, add(100, ack)))
    up.translate(replace(raw, options=options).emit(), 20)
    assert up.octets == (10 if counts else 0)


@given(strategies.uint32, strategies.uint32, strategies.uint32, strategies.uint32)
def test_what_a_stranger_says_is_not_believed(isn: int, delta: int, seq: int, ack: int) -> None:
    """Up to the slack of a megabyte; whoever guesses nearer than that has the window, too."""
    up, down = Direction.pair(isn)
    up.ack_shift, down.next_seq, down.last_ack = delta, add(delta, 1), isn
    up.last_ack, up.window = down.next_seq, 777
    up.translate(plain(seq, 1, ack, window=9), 20)
    near = (seq - isn) % 2**32 < 1 << 20
    assert (up.next_seq, up.octets) == (isn, 0) or near
    assert up.last_ack == down.next_seq
    assert up.window == (9 if ack == 1 else 777)


@pytest.mark.parametrize(
    ("shift", "field", "expected"),
    [
        (-7, 64240, 501),
        (-7, 127, 1),  # rounding must not close the window
        (-7, 0, 0),
        (7, 502, 64256),
        (7, 600, 65535),  # what does not fit is cut off
        (-14, 0xFFFF, 3),
    ],
)
def test_rescaled_window(shift: int, field: int, expected: int) -> None:
    direction, _ = Direction.pair(0)
    direction.window_shift = shift
    assert direction.rescaled(field) == expected


@given(st.integers(0, 14), st.integers(0, 14), strategies.uint16)
def test_the_client_is_never_promised_a_larger_window(
    promised: int, granted: int, field: int
) -> None:
    client = OptionSet(window_scale=7, kinds=(opt.WINDOW_SCALE,))
    offer = make_offer(client, None, 0.0, ipv6=False)._replace(window_scale=promised)
    up, down = Direction.pair(0)
    settle(offer, client, OptionSet(window_scale=granted), up, down)
    seen = (down.rescaled(field) if down.window_shift else field) << promised
    real = field << granted
    assert seen <= max(real, 1 << promised if field else 0)
    assert bool(seen) == bool(field)
    assert up.window_shift == 0


@given(strategies.options)
def test_the_server_is_asked_only_for_what_was_promised(listed: opt.Options) -> None:
    data = opt.emit(listed)
    try:
        client = OptionSet.read(listed)
    except ValueError:
        return
    offer = make_offer(client, None, 0.0, ipv6=False)
    result = whitelisted(data, client, offer)
    assert len(result) == len(data)
    promised = {opt.MSS, *(kind for kind, _ in opt.parse(offer.options(0, 0)))}
    assert {kind for kind, _ in opt.parse(result)} <= promised | {opt.NOP, opt.END}
