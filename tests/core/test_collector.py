"""Carried flows that are over: reports, and room for others."""

from __future__ import annotations

import pytest

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Report, Side
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.entries import SETTLED_S
from nfq_zerortt.core.handover import WAIT_S
from nfq_zerortt.core.states import State
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK, FIN, PSH, RST, SYN
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from tests.core.model.bench import CLIENT, PORT, SERVER, Bench, C, R

# --- ends ---------------------------------------------------------------------------------


def test_an_end_is_reported_once_and_forgotten_later(bench: Bench) -> None:
    bench.carried()
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    bench.send(Side.SERVER, PSH | ACK, 1, 101, length=2000)
    bench.send(Side.CLIENT, FIN | ACK, 101, 2001)
    bench.send(Side.SERVER, FIN | ACK, 2001, 102)
    bench.send(Side.CLIENT, ACK, 102, 2002)
    bench.hear()
    assert bench.said() == ["flow.closed"]
    told = bench.fields("flow.closed")
    assert (told["bytes_to_server"], told["bytes_to_client"]) == (100, 2000)
    assert "reason" not in told
    bench.take(bench.handover.look_after(bench.key(), bench.now))
    assert bench.said() == ["flow.closed"]
    assert bench.send(Side.SERVER, FIN | ACK, 2001, 102) == layout.MARK_TRANSLATED
    bench.wait(64)
    assert len(bench.maps) == 1
    bench.wait(2)
    assert not len(bench.maps)
    assert bench.said() == []
    assert bench.engine.next_deadline() is None


def test_an_end_stays_as_long_as_something_comes(bench: Bench) -> None:
    bench.carried()
    bench.close()
    bench.hear()
    for _ in range(3):
        bench.wait(40)
        assert bench.send(Side.SERVER, FIN | ACK, 1, 2) == layout.MARK_TRANSLATED
    bench.wait(64)
    assert len(bench.maps) == 1
    bench.wait(2)
    assert not len(bench.maps)


def test_an_end_is_forgotten_at_the_very_moment(bench: Bench) -> None:
    """Deadlines are sums of floating-point numbers, and these are rounded."""
    bench.carried()
    for number in range(400):
        bench.wait(30.7001)
        bench.carried(PORT + 1)
        bench.send(Side.CLIENT, RST, 1, port=PORT + 1)
        bench.hear()
        deadline = bench.handover.collector.next_deadline()
        assert deadline is not None
        bench.engine.tick(deadline)
        assert bench.carrier.find(bench.key(PORT + 1)) is None, f"the {number}th"


def test_a_silent_flow_is_forgotten(bench: Bench) -> None:
    bench.carried()
    bench.now += bench.limits.idle_timeout_s - 1
    assert not bench.handover.look_after(bench.key(), bench.now)
    bench.now += 1.1
    bench.take(bench.handover.look_after(bench.key(), bench.now))
    assert bench.fields("flow.closed")["reason"] == "timeout"
    assert not len(bench.maps)


@pytest.mark.parametrize(
    ("state", "reported", "silent", "due"),
    [
        (State.ESTABLISHED, False, 432_000.0, True),
        (State.ESTABLISHED, False, 431_999.0, False),
        (State.CLOSING, False, 121.0, True),
        (State.CLOSING, False, 119.0, False),
        (State.TIME_WAIT, False, 0.0, True),
        (State.TIME_WAIT, True, 1.0, False),
        (State.TIME_WAIT, True, 65.0, True),
        (State.RESET, False, 0.0, True),
        (State.RESET, True, 9.0, False),
        (State.RESET, True, 10.0, True),
    ],
)
def test_what_is_due(bench: Bench, state: State, reported: bool, silent: float, due: bool) -> None:
    assert bench.handover.collector.is_due(state, reported=reported, silent=silent) == due


# --- room ---------------------------------------------------------------------------------


def test_what_ended_first_makes_room() -> None:
    bench = Bench(room=3)
    for port in (PORT, PORT + 1, PORT + 2):
        bench.carried(port)
    bench.send(Side.CLIENT, RST, 1, port=PORT + 1)
    bench.hear()
    bench.now += 1
    bench.close(PORT)
    bench.hear()
    bench.moving(PORT + 3)
    assert bench.carrier.find(bench.key(PORT + 1)) is None
    assert bench.entry(PORT).state is State.TIME_WAIT
    assert bench.entry(PORT + 2).state is State.ESTABLISHED
    bench.moving(PORT + 4)
    assert bench.carrier.find(bench.key(PORT)) is None
    assert bench.entry(PORT + 2).state is State.ESTABLISHED
    assert not bench.handover.entries.is_full


def test_what_another_process_has_reported_makes_room() -> None:
    bench = Bench(room=2)
    for port in (PORT, PORT + 1):
        bench.carried(port)
    bench.send(Side.CLIENT, RST, 1, port=PORT + 1)
    bench.hear()
    bench.start()
    bench.moving(PORT + 2)
    assert bench.carrier.find(bench.key(PORT + 1)) is None
    assert bench.entry().state is State.ESTABLISHED


def test_a_silent_flow_that_is_forgotten_has_made_room() -> None:
    bench = Bench(room=1)
    bench.carried()
    bench.establish(PORT + 1)
    bench.wait(WAIT_S)
    assert bench.handover.entries.is_full
    bench.handover.look_after(bench.key(), bench.now + bench.limits.idle_timeout_s)
    assert not bench.handover.entries.is_full


def again(bench: Bench) -> int:
    """End a carried flow, report it, and let a new one be carried on its 4-tuple."""
    bench.send(Side.CLIENT, RST, 1)
    bench.hear()
    more = 0x1000_0000
    bench.send(Side.CLIENT, SYN, more)
    assert "flow.reset" not in bench.said(), "that was said before"
    bench.send(Side.CLIENT, ACK, more + 1, 1)
    reply = Segment(
        src=SERVER,
        dst=CLIENT,
        sport=80,
        dport=PORT,
        seq=R,
        ack=add(C, more + 1),
        flags=SYN | ACK,
        window=50_000,
        options=(opt.mss(1460), opt.NOP_OPTION, opt.window_scale(0)),
    )
    bench.give(reply.emit(), Side.SERVER)
    bench.wait(WAIT_S + SETTLED_S)
    assert bench.entry().isn_client == add(C, more)
    return more


def test_a_flow_that_follows_an_ended_one_makes_no_room() -> None:
    bench = Bench(room=2)
    bench.carried(PORT + 1)
    bench.carried()
    again(bench)
    bench.establish(PORT + 2)
    bench.wait(WAIT_S)
    assert bench.said() == ["service.kernel_full"]
    assert {flow.state for flow in bench.carrier.flows()} == {State.ESTABLISHED}


def test_an_ended_flow_s_time_is_not_the_next_one_s(bench: Bench) -> None:
    bench.carried()
    more = again(bench)
    bench.now += 9.5
    bench.send(Side.CLIENT, RST, more + 1)
    bench.wait(1.0)
    assert bench.said() == []
    bench.hear()
    assert bench.said() == ["flow.reset", "flow.closed"]


def test_a_reset_that_another_process_has_told_of_is_not_told_again(bench: Bench) -> None:
    bench.moving()
    bench.send(Side.CLIENT, ACK, 1, 1)
    bench.send(Side.CLIENT, RST, 1)
    bench.carrier.mark_reported(bench.entry())
    bench.hear()
    assert bench.said() == []


def test_a_reset_that_nobody_has_told_of_is_told_by_who_takes_the_flow_in(bench: Bench) -> None:
    bench.carried()
    bench.send(Side.CLIENT, RST, 1)
    actions = Engine("hold", Limits(), bytes(32)).take_in(bench.entry(), bench.now)
    assert [one.event for one in actions if isinstance(one, Report)] == [
        "flow.reset",
        "flow.closed",
    ]
