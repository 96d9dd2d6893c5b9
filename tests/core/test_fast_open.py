"""Fast Open: cookies, habits, what may be said twice, and how the SYN is built."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Drop, Replace, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.fast_open import COOKIE_KEEP_S, FastOpenMemory, Outcome
from nfq_zerortt.core.first_data import repeatable
from nfq_zerortt.core.strategies.fastopen import SERVER_SPEAKS_FIRST
from nfq_zerortt.ports import PortSet
from nfq_zerortt.wire import flags as fl
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.view import look
from tests import strategies

SECRET = bytes(range(32))
CLIENT, SERVER = bytes((10, 0, 1, 2)), bytes((10, 0, 3, 2))
ENDPOINT = SERVER + (80).to_bytes(2, "big")
COOKIE = bytes(range(8))
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)
LINUX_OPTIONS = (
    opt.mss(1460),
    opt.SACK_PERMITTED_OPTION,
    opt.timestamps(5, 0),
    opt.NOP_OPTION,
    opt.window_scale(7),
)


def outcome(
    *, data: bool = True, accepted: bool = False, cookie: bytes = b"", lost: bool = False
) -> Outcome:
    return Outcome(data, accepted, cookie, lost)


# --- cookies ------------------------------------------------------------------------------


def test_a_cookie_belongs_to_one_client_and_one_server() -> None:
    memory = FastOpenMemory()
    memory.note_cookie(CLIENT, ENDPOINT, COOKIE, 0.0)
    assert memory.cookie(CLIENT, ENDPOINT, 1.0) == COOKIE
    assert memory.cookie(bytes((10, 0, 1, 3)), ENDPOINT, 1.0) == b""
    assert memory.cookie(CLIENT, SERVER + b"\1\xbb", 1.0) == b""


def test_a_cookie_is_replaced_and_does_not_live_for_ever() -> None:
    memory = FastOpenMemory()
    memory.note_cookie(CLIENT, ENDPOINT, COOKIE, 0.0)
    memory.note_cookie(CLIENT, ENDPOINT, COOKIE[::-1], 10.0)
    assert memory.cookie(CLIENT, ENDPOINT, COOKIE_KEEP_S + 10.0) == COOKIE[::-1]
    assert memory.cookie(CLIENT, ENDPOINT, COOKIE_KEEP_S + 10.1) == b""
    assert not memory.cookies


@pytest.mark.parametrize("length", [0, 1, 3, 17, 38])
def test_a_cookie_of_a_length_that_cannot_be_is_none(length: int) -> None:
    memory = FastOpenMemory()
    memory.note_cookie(CLIENT, ENDPOINT, bytes(length), 0.0)
    assert memory.cookie(CLIENT, ENDPOINT, 0.0) == b""


def test_cookies_and_habits_are_bounded() -> None:
    memory = FastOpenMemory()
    for number in range(20_000):
        server = number.to_bytes(6, "big")
        memory.note_cookie(CLIENT, server, COOKIE, 0.0)
        memory.note_early(server, 0.001, 0.0)
    assert len(memory.cookies) == len(memory.servers) == 16_384
    assert memory.cookie(CLIENT, (19_999).to_bytes(6, "big"), 0.0)
    memory.clear()
    assert not memory.cookies
    assert not memory.servers


# --- habits -------------------------------------------------------------------------------


def test_a_server_that_never_accepts_is_asked_less_and_less() -> None:
    memory, now, waits = FastOpenMemory(), 0.0, []
    for _ in range(5):
        memory.note_outcome(CLIENT, ENDPOINT, outcome(), now)
        waits.append(memory.habits(ENDPOINT).ask_after - now)
        now += waits[-1]
        assert memory.may_be_asked(ENDPOINT, now)
        assert not memory.may_be_asked(ENDPOINT, now - 0.1)
    assert waits == [600.0, 1200.0, 2400.0, 3600.0, 3600.0]


def test_a_server_that_has_no_room_for_once_is_asked_again_soon() -> None:
    memory = FastOpenMemory()
    memory.note_outcome(CLIENT, ENDPOINT, outcome(accepted=True), 0.0)
    memory.note_outcome(CLIENT, ENDPOINT, outcome(), 10.0)
    assert memory.habits(ENDPOINT).ask_after == 11.0
    memory.note_outcome(CLIENT, ENDPOINT, outcome(accepted=True), 12.0)
    assert memory.may_be_asked(ENDPOINT, 12.0)


def test_a_server_that_has_changed_its_mind_is_believed_in_the_end() -> None:
    memory, now = FastOpenMemory(), 0.0
    memory.note_outcome(CLIENT, ENDPOINT, outcome(accepted=True), now)
    for _ in range(9):
        now = memory.habits(ENDPOINT).ask_after + 1.0
        memory.note_outcome(CLIENT, ENDPOINT, outcome(), now)
    assert not memory.habits(ENDPOINT).accepts
    assert now < 3600.0


def test_a_bad_cookie_is_no_refusal_when_a_good_one_comes_back() -> None:
    memory = FastOpenMemory()
    memory.note_cookie(CLIENT, ENDPOINT, COOKIE, 0.0)
    memory.note_outcome(CLIENT, ENDPOINT, outcome(cookie=COOKIE[::-1]), 1.0)
    assert memory.cookie(CLIENT, ENDPOINT, 1.0) == COOKIE[::-1]
    assert memory.may_be_asked(ENDPOINT, 1.0)


def test_a_cookie_that_is_refused_for_nothing_is_forgotten() -> None:
    memory = FastOpenMemory()
    memory.note_cookie(CLIENT, ENDPOINT, COOKIE, 0.0)
    memory.note_outcome(CLIENT, ENDPOINT, outcome(), 1.0)
    assert memory.cookie(CLIENT, ENDPOINT, 1.0) == b""


def test_one_lost_syn_is_chance_two_are_trouble() -> None:
    memory = FastOpenMemory()
    memory.note_outcome(CLIENT, ENDPOINT, outcome(lost=True), 0.0)
    assert memory.may_be_asked(ENDPOINT, 0.0)
    memory.note_outcome(CLIENT, ENDPOINT, outcome(lost=True), 1.0)
    assert memory.habits(ENDPOINT).ask_after == 3601.0


def test_trouble_with_a_server_that_has_accepted_is_shorter_at_first() -> None:
    memory = FastOpenMemory()
    memory.note_outcome(CLIENT, ENDPOINT, outcome(accepted=True), 0.0)
    for _ in range(2):
        memory.note_outcome(CLIENT, ENDPOINT, outcome(lost=True), 1.0)
    assert memory.habits(ENDPOINT).ask_after == 61.0
    memory.note_outcome(CLIENT, ENDPOINT, outcome(lost=True), 61.0)
    assert memory.habits(ENDPOINT).ask_after == 181.0


def test_a_syn_that_arrived_is_no_trouble_however_often_it_was_sent() -> None:
    memory = FastOpenMemory()
    for _ in range(5):
        memory.note_outcome(CLIENT, ENDPOINT, outcome(accepted=True, lost=True), 0.0)
    assert memory.habits(ENDPOINT).troubles == 0


def test_a_path_that_swallows_the_option_for_all_servers_is_noticed() -> None:
    memory = FastOpenMemory()
    for number in range(3):
        for _ in range(2):
            memory.note_outcome(CLIENT, SERVER + bytes((number, 1)), outcome(lost=True), 0.0)
    assert not memory.may_be_asked(ENDPOINT, 3599.0)
    assert memory.may_be_asked(ENDPOINT, 3600.0)


def test_one_server_that_is_reached_tells_that_it_is_not_the_path() -> None:
    memory = FastOpenMemory()
    for number in range(4):
        for _ in range(2):
            memory.note_outcome(CLIENT, SERVER + bytes((number, 1)), outcome(lost=True), 0.0)
        memory.note_outcome(CLIENT, ENDPOINT, outcome(accepted=True), 0.0)
    assert memory.may_be_asked(ENDPOINT, 1.0)


def test_a_burst_counts_once_and_no_count_overflows() -> None:
    memory = FastOpenMemory()
    memory.note_outcome(CLIENT, ENDPOINT, outcome(accepted=True), 0.0)
    for _ in range(2000):
        burst = Outcome(data=True, accepted=False, cookie=b"", lost=False, left_at=1.0)
        memory.note_outcome(CLIENT, ENDPOINT, burst, 1.1)
    assert memory.habits(ENDPOINT).ask_after == 2.1
    assert memory.habits(ENDPOINT).accepts
    for number in range(2000):
        memory.note_outcome(CLIENT, ENDPOINT, outcome(lost=bool(number & 1)), 10_000.0 * number)
    assert memory.habits(ENDPOINT).refusals <= 16


def test_a_server_whose_cookies_are_never_good_is_left_alone() -> None:
    memory = FastOpenMemory()
    for number in range(3):
        assert memory.may_be_asked(ENDPOINT, 1.0 + number)
        memory.note_outcome(CLIENT, ENDPOINT, outcome(cookie=COOKIE), 1.0 + number)
    assert not memory.may_be_asked(ENDPOINT, 600.0)


def test_a_path_that_lets_nothing_through_after_the_option_is_noticed_at_once() -> None:
    memory = FastOpenMemory()
    memory.note_silence(ENDPOINT, 0.0)
    assert not memory.may_be_asked(ENDPOINT, 3599.0)


def test_one_silent_client_does_not_count_among_others_that_speak() -> None:
    memory = FastOpenMemory()
    memory.note_early(ENDPOINT, 0.001, 0.0)
    memory.note_late(ENDPOINT, 1.0)
    assert (memory.habits(ENDPOINT).gap, memory.habits(ENDPOINT).late_until) == (0.001, 0.0)
    memory.note_late(ENDPOINT, 2.0)
    assert (memory.habits(ENDPOINT).gap, memory.habits(ENDPOINT).late_until) == (None, 62.0)


# --- what may be said twice ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"HEAD /x HTTP/1.0\r\n", True),
        (b"OPTIONS * HTTP/1.1\r\n", True),
        (CLIENT_HELLO, True),
        (b"POST / HTTP/1.1\r\n", False),
        (b"DELETE /x HTTP/1.1\r\n", False),
        (b"GETTING", False),
        (b"", False),
        (b"\x16\x03", False),
        (CLIENT_HELLO[:5], False),
        (b"\x17" + CLIENT_HELLO[1:], False),  # application data
        (CLIENT_HELLO[:5] + b"\x02" + CLIENT_HELLO[6:], False),
        (b"\x16\x02" + CLIENT_HELLO[2:], False),
        (b"*1\r\n$4\r\nINCR\r\n", False),
    ],
)
def test_what_may_be_repeated(data: bytes, expected: bool) -> None:
    assert repeatable(data) == (data if expected else b"")


def test_only_the_first_request_and_the_first_record_are_repeatable() -> None:
    get, post = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /pay HTTP/1.1\r\n\r\n"
    assert repeatable(get + post) == get
    hello = CLIENT_HELLO[:3] + (len(CLIENT_HELLO) - 5).to_bytes(2, "big") + CLIENT_HELLO[5:]
    early = bytes((23, 3, 3, 0, 4)) + b"data"
    assert repeatable(hello + early) == hello


# --- the SYN ------------------------------------------------------------------------------


def plain_syn(options: opt.Options = LINUX_OPTIONS, sport: int = 5000, dport: int = 80) -> bytes:
    return Segment(
        src=CLIENT,
        dst=SERVER,
        sport=sport,
        dport=dport,
        seq=7,
        ack=0,
        flags=fl.SYN,
        window=64240,
        options=options,
    ).emit()


def test_the_syn_is_as_long_as_the_path_allows_and_no_longer() -> None:
    made = packets.syn_with(plain_syn(), COOKIE, bytes(3000), 1460)
    assert made is not None
    packet, size = made
    assert len(packet) == 1500
    assert size == 1460 - 32
    segment = Segment.parse(packet)
    assert (opt.FAST_OPEN, COOKIE) in segment.options
    assert segment.flags == fl.SYN
    assert look(segment.emit()).checksum == look(packet).checksum


@given(
    strategies.options,
    st.binary(max_size=16).filter(lambda c: not len(c) % 2),
    st.integers(0, 1500),
    st.integers(48, 1460),
)
def test_the_plain_syn_stays_as_it_was_beside_the_option(
    listed: opt.Options, cookie: bytes, length: int, mss: int
) -> None:
    try:
        syn = plain_syn(tuple(one for one in listed if one[0] != opt.FAST_OPEN))
    except WireError:
        return
    made = packets.syn_with(syn, cookie, bytes(length), mss)
    real = [one for one in Segment.parse(syn).options if one[0] not in (opt.NOP, opt.END)]
    if made is None:
        assert sum(map(opt.size, real)) + 2 + len(cookie) > opt.MAX_OPTIONS_LENGTH
        return
    packet, size = made
    view = look(packet)
    found = [one for one in opt.parse(view.option_bytes) if one[0] not in (opt.NOP, opt.END)]
    assert found == [*real, (opt.FAST_OPEN, cookie)]
    assert view.payload_length == size == min(length, max(mss - len(view.option_bytes), 0))
    assert (view.seq, view.window, view.flags) == (7, 64240, fl.SYN)


# --- which ports --------------------------------------------------------------------------


def verdict(engine: Engine, port: int, sport: int = 5000) -> type:
    """Return what became of a SYN: Drop if it was kept back, Replace if it went on."""
    actions = engine.packet(plain_syn(sport=sport, dport=port), Side.CLIENT, 1.0)
    return next(type(one) for one in actions if isinstance(one, Drop | Replace))


@pytest.mark.parametrize("port", sorted(SERVER_SPEAKS_FIRST))
def test_a_syn_never_waits_for_a_client_whose_server_speaks_first(port: int) -> None:
    assert verdict(Engine("fastopen", Limits(), SECRET), port) is Replace


def test_fastopen_keeps_the_syn_back_on_every_other_port() -> None:
    assert verdict(Engine("fastopen", Limits(), SECRET), 6379) is Drop


def test_without_a_wait_fastopen_is_hold() -> None:
    assert verdict(Engine("fastopen", Limits(fast_open_wait_ms=0), SECRET), 80) is Replace


@pytest.mark.parametrize(("port", "expected"), [(80, Drop), (6379, Replace)])
def test_auto_keeps_a_syn_back_on_its_ports_alone(port: int, expected: type) -> None:
    engine = Engine("auto", Limits(), SECRET)
    server = SERVER + port.to_bytes(2, "big")
    engine.memory.fast_open.note_early(server, 0.001, 0.5)
    assert verdict(engine, port) is expected


@pytest.mark.parametrize(
    ("gap", "cookie", "expected"),
    [(0.0015, b"", Drop), (0.004, b"", Replace), (0.004, COOKIE, Drop), (0.012, COOKIE, Replace)],
)
def test_auto_waits_longer_where_a_cookie_promises_something(
    gap: float, cookie: bytes, expected: type
) -> None:
    engine = Engine("auto", Limits(), SECRET)
    engine.memory.fast_open.note_early(ENDPOINT, gap, 0.5)
    engine.memory.fast_open.note_cookie(CLIENT, ENDPOINT, cookie, 0.5)
    assert verdict(engine, 80) is expected


@pytest.mark.parametrize("late", [False, True])
def test_auto_never_waits_where_it_does_not_know_that_the_client_speaks(late: bool) -> None:
    engine = Engine("auto", Limits(), SECRET)
    engine.memory.fast_open.note_cookie(CLIENT, ENDPOINT, COOKIE, 0.5)
    if late:
        engine.memory.fast_open.note_early(ENDPOINT, 0.001, 0.5)
        engine.memory.fast_open.note_late(ENDPOINT, 0.6)
        engine.memory.fast_open.note_late(ENDPOINT, 0.6)
    assert verdict(engine, 80) is Replace


@pytest.mark.parametrize(
    ("data", "carried"), [(b"GET / HTTP/1.1\r\n\r\n", 18), (b"POST / HTTP/1.1\r\n\r\n", 0)]
)
def test_auto_carries_only_what_may_be_said_twice(data: bytes, carried: int) -> None:
    engine = Engine("auto", Limits(), SECRET)
    engine.configure(Policy("auto", fast_open_ports=PortSet.parse("80")), Limits())
    engine.memory.fast_open.note_early(ENDPOINT, 0.001, 0.5)
    spoofed = engine.packet(plain_syn(), Side.CLIENT, 1.0)
    number = next(look(one.data).seq for one in spoofed if isinstance(one, Send))
    request = Segment(
        src=CLIENT,
        dst=SERVER,
        sport=5000,
        dport=80,
        seq=8,
        ack=number + 1,
        flags=fl.ACK | fl.PSH,
        window=500,
        payload=data,
    ).emit()
    sent = [a for a in engine.packet(request, Side.CLIENT, 1.001) if isinstance(a, Send)]
    (syn,) = (look(one.data) for one in sent)
    assert (syn.flags, syn.payload_length) == (fl.SYN, carried)
    assert (opt.FAST_OPEN in syn.options.kinds) is bool(carried)


def test_fastopen_does_not_wait_for_clients_that_are_known_to_take_longer() -> None:
    engine = Engine("fastopen", Limits(), SECRET)
    engine.memory.fast_open.note_early(ENDPOINT, 0.02, 0.5)
    assert verdict(engine, 80) is Replace
    engine.memory.fast_open.note_early(ENDPOINT, 0.002, 0.6)
    assert verdict(engine, 80, sport=5001) is Drop
    engine.memory.fast_open.note_early(ENDPOINT, 0.03, 0.7)  # one alone
    assert verdict(engine, 80, sport=5002) is Drop
    engine.memory.fast_open.note_early(ENDPOINT, 0.03, 0.7)
    assert verdict(engine, 80, sport=5003) is Replace


def test_one_client_that_says_nothing_does_not_count_when_the_next_one_speaks() -> None:
    engine = Engine("fastopen", Limits(), SECRET)
    engine.memory.fast_open.note_late(ENDPOINT, 0.5)
    assert verdict(engine, 80) is Replace
    engine.memory.fast_open.note_early(ENDPOINT, 0.002, 0.6)
    assert verdict(engine, 80, sport=5001) is Drop


@pytest.mark.parametrize(("mtu", "longest"), [(1500, 1500), (1492, 1492), (9000, 1500)])
def test_the_syn_fits_into_the_link(mtu: int, longest: int) -> None:
    engine = Engine("fastopen", Limits(), SECRET)
    engine.link_mtu = mtu
    engine.configure(Policy("fastopen"), Limits())
    spoofed = engine.packet(plain_syn(), Side.CLIENT, 1.0)
    answer = next(look(one.data) for one in spoofed if isinstance(one, Send))
    assert (answer.options.mss or 0) + 60 <= longest
    request = Segment(
        src=CLIENT,
        dst=SERVER,
        sport=5000,
        dport=80,
        seq=8,
        ack=answer.seq + 1,
        flags=fl.ACK,
        window=500,
        payload=bytes(1460),
    ).emit()
    (sent,) = (a for a in engine.packet(request, Side.CLIENT, 1.001) if isinstance(a, Send))
    assert len(sent.data) == longest


def test_urgent_data_is_not_carried_for_a_syn_cannot_say_so() -> None:
    engine = Engine("fastopen", Limits(), SECRET)
    spoofed = engine.packet(plain_syn(), Side.CLIENT, 1.0)
    number = next(look(one.data).seq for one in spoofed if isinstance(one, Send))
    urgent = Segment(
        src=CLIENT,
        dst=SERVER,
        sport=5000,
        dport=80,
        seq=8,
        ack=number + 1,
        flags=fl.ACK | fl.URG,
        window=500,
        payload=b"abc",
        urgent=3,
    ).emit()
    (sent,) = (a for a in engine.packet(urgent, Side.CLIENT, 1.001) if isinstance(a, Send))
    assert look(sent.data).payload_length == 0


def test_new_clients_that_had_no_cookie_yet_say_nothing_against_the_server() -> None:
    """Their first data is refused, and each gets its cookie (RFC 7413, section 4.1)."""
    memory = FastOpenMemory()
    refused = Outcome(data=True, accepted=False, cookie=b"12345678", lost=False)
    for number in range(6):
        client = bytes((10, 0, 1, number))
        memory.note_outcome(client, ENDPOINT, replace(refused, with_cookie=False), float(number))
    assert memory.habits(ENDPOINT).accepts
    assert memory.habits(ENDPOINT).ask_after == 0.0
    for number in range(6):  # but who is refused with its cookie, each time, gets nowhere
        memory.note_outcome(bytes((10, 0, 1, 1)), ENDPOINT, refused, 10.0 + number)
    assert memory.habits(ENDPOINT).ask_after > 16.0
