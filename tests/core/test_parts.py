"""The small parts of the core: states, initial numbers, the table's timers, held data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Accept, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.held import Duplicates, Held
from nfq_zerortt.core.isn import InitialNumbers
from nfq_zerortt.core.learned import Memory, Server
from nfq_zerortt.core.passing import Passing
from nfq_zerortt.core.states import TRANSITIONS, Event, IllegalTransitionError, State, after
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire import flags as fl
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add, distance
from nfq_zerortt.wire.view import SegmentView, look
from tests import strategies
from tests.scenarios.script import Numbers, Run

SECRET = bytes(32)


def segment(seq: int, length: int = 0, flags: int = fl.ACK, port: int = 43210) -> SegmentView:
    return look(
        Segment(
            src=bytes((10, 0, 1, 2)),
            dst=bytes((10, 0, 3, 2)),
            sport=port,
            dport=80,
            seq=seq & 0xFFFFFFFF,
            ack=0,
            flags=flags,
            window=100,
            payload=bytes(length),
        ).emit()
    )


# --- states -------------------------------------------------------------------------------


def test_every_state_can_be_reached_and_left() -> None:
    reached = {target for ways in TRANSITIONS.values() for target in ways.values()}
    assert reached | {State.NEW} == set(State)
    assert [state for state in State if not TRANSITIONS[state]] == [State.CLOSED]


def test_every_state_but_the_first_ends_by_a_timeout() -> None:
    lasting = set(State) - {State.NEW, State.CLOSED}
    assert all(TRANSITIONS[state].get(Event.TIMEOUT) is State.CLOSED for state in lasting)


def test_an_illegal_event_raises() -> None:
    with pytest.raises(IllegalTransitionError, match="CLIENT_FIN in SPOOFED"):
        after(State.SPOOFED, Event.CLIENT_FIN)


# --- initial numbers ----------------------------------------------------------------------


def test_isn_runs_forward_for_one_flow_and_differs_between_flows() -> None:
    numbers = InitialNumbers(SECRET)
    first, stamp = numbers.draw(b"a" * 12, 100.0)
    later, later_stamp = numbers.draw(b"a" * 12, 101.0)
    assert distance(first, later) == 250_000
    assert distance(stamp, later_stamp) == 1000
    assert numbers.draw(b"b" * 12, 100.0) != (first, stamp)
    assert InitialNumbers(bytes(31) + b"x").draw(b"a" * 12, 100.0) != (first, stamp)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        InitialNumbers(b"short")


# --- table --------------------------------------------------------------------------------


def test_a_flow_is_found_by_packets_of_both_sides() -> None:
    table = FlowTable()
    flow = Flow.begun(1, segment(5, flags=fl.SYN), "hold", 0.0)
    table.add(flow)
    assert table.paths[segment(9).flow_key].side is Side.CLIENT
    assert table.paths[flow.server_key].side is Side.SERVER
    assert (len(table), list(table), table.half_open) == (1, [flow], 1)
    table.remove(flow)
    assert (len(table), table.paths, table.half_open) == (0, {}, 0)


def test_timers_fire_once_in_order_and_can_be_moved() -> None:
    table = FlowTable()
    flows = [Flow.begun(n, segment(5, flags=fl.SYN, port=1000 + n), "hold", 0.0) for n in range(3)]
    for flow, deadline in zip(flows, (3.0, 1.0, 2.0), strict=True):
        table.add(flow)
        table.set_timer(flow, deadline, 0.0)
    table.set_timer(flows[1], 5.0, 0.0)
    assert table.next_deadline() == 1.0
    assert list(table.due(1.5)) == []
    assert list(table.due(3.0)) == [flows[2], flows[0]]
    table.remove(flows[1])
    assert list(table.due(100.0)) == []
    assert table.next_deadline() is None


def test_a_flow_that_is_gone_makes_no_more_room() -> None:
    table = FlowTable()
    flow = Flow.begun(1, segment(5, flags=fl.SYN), "hold", 0.0)
    table.add(flow)
    for event in (Event.SYN_ACK_SPOOFED, Event.SERVER_SYN_ACK, Event.CLIENT_RST):
        flow.apply(event)
    table.changed(flow)
    assert table.oldest_ended() is flow
    table.remove(flow)
    assert table.oldest_ended() is None


def test_a_far_timer_does_not_keep_a_flow_in_memory_for_days() -> None:
    table = FlowTable()
    flow = Flow.begun(1, segment(5, flags=fl.SYN), "hold", 0.0)
    table.add(flow)
    table.set_timer(flow, 432_000.0, 0.0)
    assert table.next_deadline() == 60.0
    table.remove(flow)
    assert list(table.due(60.0)) == []
    assert table.next_deadline() is None


# --- held data ----------------------------------------------------------------------------


@given(
    strategies.uint32,
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 100)), max_size=8),
    st.tuples(st.integers(0, 300), st.integers(1, 100)),
)
def test_covers_says_whether_every_byte_is_held(
    start: int, pieces: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    held = Held(start)
    there: set[int] = set()
    for offset, length in pieces:
        held.add(segment(start + offset, length))
        there |= set(range(offset, offset + length))
    offset, length = asked
    wanted = set(range(offset, offset + length))
    assert held.covers(segment(start + offset, length)) == (wanted <= there)
    gap = next(n for n in range(1000) if n not in there)
    assert held.contiguous_end() == add(start, gap)
    released = [distance(start, view.seq) for view in held.release()]
    assert released == sorted(offset for offset, _ in pieces)
    assert (len(held), held.octets) == (0, 0)


def test_duplicates_are_told_once_and_bounded() -> None:
    duplicates = Duplicates()
    for n in range(100):
        duplicates.add(n, n + 1)
    assert duplicates.count == 100
    assert duplicates.acknowledged(5) == [(n, n + 1) for n in range(5)]
    assert duplicates.acknowledged(5) == []
    assert len(duplicates.acknowledged(1000)) == 32 - 5


# --- memory -------------------------------------------------------------------------------


def test_memory_is_bounded_and_forgets_after_an_hour() -> None:
    memory = Memory()
    for n in range(20_000):
        memory.learn(n.to_bytes(6, "big"), Server(1460, 65160, 7, {}, 0.1, 0.0))
    assert len(memory) == 16384
    assert memory.recall((0).to_bytes(6, "big"), 1.0) is None
    newest = (19_999).to_bytes(6, "big")
    assert memory.recall(newest, 3600.0) is not None
    assert memory.recall(newest, 3601.0) is None


# --- connections that pass ----------------------------------------------------------------


def test_passing_connections_are_bounded_and_the_quietest_forgotten() -> None:
    passing = Passing()
    raw = segment(5).raw

    def client(number: int) -> SegmentView:
        return look(raw[:12] + number.to_bytes(4, "big") + raw[16:])

    most = 131_072 // 2
    for number in range(most):
        passing.add(client(number), 1.0)
    assert passing.knows(client(0), 2.0)
    passing.add(client(most), 3.0)
    passing.add(client(most + 1), 3.0)  # two keys each, and the first one's was just seen
    assert passing.knows(client(0), 4.0)
    assert passing.knows(client(most), 4.0)
    assert passing.knows(client(2), 4.0)
    assert not passing.knows(client(1), 4.0)


# --- engine -------------------------------------------------------------------------------


@given(st.binary(max_size=100), st.sampled_from(Side))
def test_any_bytes_get_one_verdict(raw: bytes, side: Side) -> None:
    engine = Engine("hold", Limits(), SECRET)
    verdicts = [a for a in engine.packet(raw, side, 1.0) if isinstance(a, Accept | Drop | Replace)]
    assert len(verdicts) == 1


@given(st.lists(st.tuples(strategies.segments(), st.sampled_from(Side)), max_size=20))
def test_any_segments_get_one_verdict_each(packets: list[tuple[Segment, Side]]) -> None:
    engine = Engine("hold", Limits(), SECRET)
    for number, (one, side) in enumerate(packets):
        actions = engine.packet(one.emit(), side, float(number))
        assert sum(isinstance(a, Accept | Drop | Replace) for a in actions) == 1


LIKELY = [
    "client ACK C+1 ack S+1",
    "client PSH,ACK C+1 ack S+1 len 10",
    "client FIN,ACK C+11 ack S+1",
    "client ACK C+12 ack S+12",
    "client RST,ACK C+11 ack S+1",
    "server SYN,ACK R ack C+1 <mss 1460 sackOK ts TR/TC ws 7>",
    "server SYN,ACK R ack C+1 <mss 536>",
    "server PSH,ACK R+1 ack C+11 len 10",
    "server FIN,ACK R+11 ack C+12",
    "server RST R+1",
]
numbers = st.sampled_from(
    ["0", "C", "C+1", "C+11", "C+101", "S", "S+1", "S+11", "R", "R+1", "R+11"]
)
flag_sets = st.sampled_from(
    ["SYN", "SYN,ACK", "ACK", "PSH,ACK", "FIN,ACK", "RST", "RST,ACK", "FIN", "-", "SYN,RST"]
)
steps = st.one_of(
    st.builds("client {} {} ack {} len {}".format, flag_sets, numbers, numbers, st.integers(0, 20)),
    st.builds("server {} {} ack {} len {}".format, flag_sets, numbers, numbers, st.integers(0, 20)),
    st.sampled_from(LIKELY),
    st.just("tick"),
)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.1, 1.0, 70.0]), steps), max_size=25),
    st.sampled_from(["hold", "observe"]),
)
@settings(max_examples=400, deadline=None)
def test_any_order_of_near_numbers_is_dealt_with(
    happened: list[tuple[float, str]], strategy: str
) -> None:
    """No exception, one verdict each (the runner asserts it), and every flow ends."""
    run = Run(Numbers(c=0xFFFFFFF0, r=5), limits={"idle_timeout_s": 3600}, check_payload=False)
    now, script = 0.0, [f"strategy {strategy}", ">> 0 client SYN C <mss 1460 sackOK ts TC/0 ws 7>"]
    for wait, step in happened:
        now += wait
        script.append(f">> {now} {step}")
    run.play("\n".join(script))
    assert run.engine is not None
    for _ in range(1000):
        deadline = run.engine.next_deadline()
        if deadline is None:
            break
        run.engine.tick(max(deadline, run.now))
    assert len(run.engine.table) == 0
    assert run.engine.table.held_cost == 0
    assert run.engine.table.half_open == 0


def play(*steps: str, **limits: int) -> Run:
    """Play the steps after a client's SYN; the engine is the result's."""
    run = Run(Numbers(c=1_000_000, r=3_000_000_000), limits=limits, check_payload=False)
    run.play("\n".join([">> 0 client SYN C <mss 1460 sackOK ts TC/0 ws 7>", *steps]))
    return run


def established(mss: int = 1460) -> tuple[Engine, bytes]:
    """Return an engine with one established flow, and a segment of its client's, 1200 bytes."""
    run = play(
        ">> 0.001 client ACK C+1 ack S+1",
        f">> 0.1 server SYN,ACK R ack C+1 <mss {mss} ts TR/TC ws 7>",
    )
    assert run.engine is not None
    (flow,) = run.engine.table
    one = Segment(
        src=bytes((10, 0, 1, 2)),
        dst=bytes((10, 0, 3, 2)),
        sport=43210,
        dport=80,
        seq=add(flow.isn_client, 1),
        ack=add(flow.isn_spoofed, 1),
        flags=fl.ACK,
        window=100,
        payload=bytes(range(100)) * 12,
    )
    return run.engine, one.emit()


def test_no_more_than_256_segments_are_held_for_a_flow() -> None:
    run = play(
        *(f">> 0.1 client ACK C+{1 + n} ack S+1 len 1" for n in range(300)),
        held_bytes_per_flow=1 << 30,
    )
    assert run.engine is not None
    (flow,) = run.engine.table
    assert len(flow.held) == 256


def test_a_packet_that_the_queue_has_cut_off_is_dropped_where_it_would_be_translated() -> None:
    engine, raw = established()
    cut_off, other = raw[:1000], raw[:12] + bytes((10, 9, 9, 9)) + raw[16:1000]
    verdict, said = engine.packet(cut_off, Side.CLIENT, 1001.0)
    assert verdict == Drop("too_long")
    assert isinstance(said, Report)
    assert said.event == "packet.malformed"
    assert engine.packet(other, Side.CLIENT, 1001.0) == [Accept("too_long")]


@pytest.mark.parametrize("words", [0, 4])
def test_a_header_length_that_cannot_be_is_left_alone_on_the_short_way_too(words: int) -> None:
    engine, raw = established()
    assert isinstance(engine.packet(raw, Side.CLIENT, 1001.0)[0], Replace)
    odd = raw[:32] + bytes((words << 4,)) + raw[33:]
    assert isinstance(engine.packet(odd, Side.CLIENT, 1001.0)[0], Accept)


def test_a_header_longer_than_its_packet_is_left_alone_on_the_short_way_too() -> None:
    engine, raw = established()
    short = bytearray(raw[:44])
    short[2:4] = (44).to_bytes(2, "big")
    short[32] = 15 << 4
    assert isinstance(engine.packet(bytes(short), Side.CLIENT, 1001.0)[0], Accept)


def test_a_damaged_segment_is_not_cut_for_the_pieces_would_look_sound() -> None:
    engine, raw = established(mss=600)
    assert engine.packet(raw, Side.CLIENT, 1001.0)[0] == Drop("split")
    damaged = raw[:-1] + bytes((raw[-1] ^ 1,))
    assert engine.packet(damaged, Side.CLIENT, 1001.0) == [Drop("wrong_checksum")]


def test_a_damaged_packet_decides_nothing() -> None:
    """A RST, a SYN-fl.ACK and data that the wire has changed: no end would take them."""
    engine = Engine("hold", Limits(), SECRET)
    client, server = bytes((10, 0, 1, 2)), bytes((10, 0, 3, 2))
    up: dict[str, Any] = {"src": client, "dst": server, "sport": 5000, "dport": 80, "window": 500}
    down: dict[str, Any] = {"src": server, "dst": client, "sport": 80, "dport": 5000, "window": 500}
    spoofed = engine.packet(Segment(**up, seq=7, ack=0, flags=fl.SYN).emit(), Side.CLIENT, 1000.0)
    number = next(look(one.data).seq for one in spoofed if isinstance(one, Send))
    for side, segment in (
        (Side.CLIENT, Segment(**up, seq=8, ack=number + 1, flags=fl.ACK, payload=b"request")),
        (Side.CLIENT, Segment(**up, seq=8, ack=0, flags=fl.RST)),
        (Side.SERVER, Segment(**down, seq=99, ack=8, flags=fl.SYN | fl.ACK)),
        (Side.SERVER, Segment(**down, seq=0, ack=8, flags=fl.RST | fl.ACK)),
    ):
        damaged = bytearray(segment.emit())
        damaged[27] ^= 4  # in the sequence number
        actions = engine.packet(bytes(damaged), side, 1000.1)
        assert actions == [Drop("wrong_checksum")], segment
    flow = next(iter(engine.table))
    assert (flow.state, len(flow.held), flow.isn_server) == (State.SPOOFED, 0, None)
