"""Flows are handed over, and taken back."""

from __future__ import annotations

import pytest

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Drop, Replace, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.entries import SETTLED_S
from nfq_zerortt.core.flow import reverse_key
from nfq_zerortt.core.handover import AGAIN_S, WAIT_S
from nfq_zerortt.core.states import State
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK, FIN, PSH, RST, SYN
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import look
from tests.core.model.bench import CLIENT, PORT, SERVER, Bench, C, R
from tests.core.model.mutation import mutated

# --- over ---------------------------------------------------------------------------------


def test_a_flow_is_handed_over_when_it_has_needed_nothing_for_a_while(bench: Bench) -> None:
    bench.establish()
    assert bench.fields("flow.established")["data_path"] == "kernel"
    bench.wait(WAIT_S - 0.001)
    assert not len(bench.maps)
    bench.wait(0.002)
    assert len(bench.maps) == 1
    assert len(bench.engine.table) == 1
    bench.wait(SETTLED_S)
    assert not len(bench.engine.table)


def test_a_short_connection_never_leaves_the_process(bench: Bench) -> None:
    bench.establish()
    bench.send(Side.CLIENT, FIN | ACK, 1, 1)
    bench.send(Side.SERVER, FIN | ACK, 1, 2)
    bench.send(Side.CLIENT, ACK, 2, 2)
    assert bench.said() == ["flow.closed"]
    bench.send(Side.SERVER, FIN | ACK, 1, 2)
    bench.wait(66)
    assert not len(bench.maps)
    assert not len(bench.engine.table)


def test_the_wait_is_not_begun_anew(bench: Bench) -> None:
    bench.establish()
    bench.wait(WAIT_S - 0.01)
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.wait(0.01)
    assert len(bench.maps) == 1


def test_a_flow_that_still_needs_more_is_not_handed_over(bench: Bench) -> None:
    """A D-SACK is due for what the client has repeated too early."""
    bench.send(Side.CLIENT, SYN, 0)
    bench.send(Side.CLIENT, ACK, 1, 1)
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    bench.now += 0.05
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.now += 0.01
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    assert bench.verdict == Drop("spurious_retransmission")
    bench.now += 0.04
    bench.send(Side.SERVER, ACK, 1, 1)
    bench.wait(WAIT_S + 0.01)
    assert not len(bench.maps)
    bench.send(Side.SERVER, ACK, 1, 11)
    bench.wait(WAIT_S + 0.01)
    assert len(bench.maps) == 1


def test_each_hand_over_has_a_ticket_of_its_own(bench: Bench) -> None:
    tickets = {bench.moving(PORT + number).ticket for number in range(3)}
    assert len(tickets) == 3


def test_a_half_closed_flow_is_handed_over(bench: Bench) -> None:
    bench.establish()
    bench.send(Side.CLIENT, FIN | ACK, 1, 1)
    bench.wait(WAIT_S)
    assert bench.entry().state is State.CLIENT_CLOSED
    assert bench.entry().client_fin_end == add(C, 2)


@pytest.mark.parametrize("policy", [Policy("observe"), Policy("direct")])
def test_what_is_not_translated_is_not_handed_over(policy: Policy) -> None:
    bench = Bench(policy)
    bench.establish()
    bench.send(Side.CLIENT, ACK, 1, 1)
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.wait(WAIT_S + 1)
    assert not len(bench.maps)


def test_a_flow_whose_segments_are_cut_up_stays_here(bench: Bench) -> None:
    bench.send(Side.CLIENT, SYN, 0)
    bench.send(Side.CLIENT, ACK, 1, 1)
    small = Segment(
        src=SERVER,
        dst=CLIENT,
        sport=80,
        dport=PORT,
        seq=R,
        ack=add(C, 1),
        flags=SYN | ACK,
        window=50_000,
        options=(opt.mss(500),),
    )
    bench.give(small.emit(), Side.SERVER)
    assert bench.fields("flow.established")["data_path"] == "python"
    bench.wait(WAIT_S + 1)
    assert not len(bench.maps)


def test_nothing_is_handed_over_when_that_was_taken_away(bench: Bench) -> None:
    bench.carried()
    bench.handover.entries.enabled = False
    bench.establish(PORT + 1)
    assert bench.fields("flow.established")["data_path"] == "python"
    bench.wait(1.0)
    assert len(bench.maps) == 1
    assert bench.send(Side.CLIENT, ACK, 1, 1) == layout.MARK_TRANSLATED


def test_it_may_be_taken_away_and_given_again_while_a_flow_waits(bench: Bench) -> None:
    bench.establish()
    bench.handover.entries.enabled = False
    bench.wait(WAIT_S + 0.01)
    assert not len(bench.maps)
    bench.handover.entries.enabled = True
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.wait(WAIT_S + 0.01)
    assert len(bench.maps) == 1


def test_flows_that_have_become_plain_meanwhile_are_handed_over_when_it_is_given(
    bench: Bench,
) -> None:
    bench.handover.enable(False, bench.now)
    bench.establish()
    bench.wait(1.0)
    bench.handover.enable(True, bench.now)
    bench.wait(WAIT_S)
    assert len(bench.maps) == 1


# --- back ---------------------------------------------------------------------------------


def test_a_flow_whose_end_begins_while_it_moves_is_taken_back(bench: Bench) -> None:
    flow = bench.moving()
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    assert bench.send(Side.CLIENT, PSH | ACK, 11, 1, length=20) == layout.MARK_TRANSLATED
    assert bench.send(Side.SERVER, FIN | ACK, 1, 31) == layout.MARK_LEFT
    assert not len(bench.maps)
    assert flow.handed_over is None
    assert flow.state is State.SERVER_CLOSED
    assert flow.to_server.next_seq == add(C, 31), "what only the kernel has seen"
    assert bench.send(Side.CLIENT, FIN | ACK, 31, 2) == 0
    assert bench.send(Side.SERVER, ACK, 2, 32) == 0
    assert bench.said() == ["flow.closed"]
    assert bench.fields("flow.closed")["bytes_to_server"] == 30
    assert bench.fields("flow.closed")["segments_rewritten"] == 6
    bench.wait(70)
    assert not len(bench.engine.table)
    assert not len(bench.maps)


def test_a_flow_that_is_taken_back_closing_does_not_wait_for_days(bench: Bench) -> None:
    bench.moving()
    bench.send(Side.CLIENT, ACK, 1, 1)
    assert bench.send(Side.CLIENT, FIN | ACK, 1, 1) == layout.MARK_TRANSLATED
    assert bench.send(Side.SERVER, FIN | ACK, 1, 1) == layout.MARK_LEFT
    assert not len(bench.maps)
    (flow,) = bench.engine.table
    assert flow.state is State.CLOSING
    bench.wait(130)
    assert not len(bench.engine.table)
    assert bench.fields("flow.closed")["reason"] == "timeout"


def test_an_end_that_the_kernel_has_seen_is_told_while_it_moves(bench: Bench) -> None:
    bench.moving()
    bench.send(Side.CLIENT, ACK, 1, 1)
    assert bench.send(Side.CLIENT, RST, 1) == layout.MARK_TRANSLATED
    bench.hear()
    assert bench.said() == ["flow.reset", "flow.closed"]
    assert bench.fields("flow.reset") == {"reason": "client_reset", "by": "client"}
    assert not len(bench.maps)
    bench.wait(11)
    assert not len(bench.engine.table)


def test_both_fins_that_the_kernel_has_seen_are_told_while_it_moves(bench: Bench) -> None:
    bench.moving()
    for side in Side:
        bench.send(side, ACK, 1, 1)
    bench.close()
    assert bench.entry().state is State.TIME_WAIT
    bench.hear()
    assert bench.said() == ["flow.closed"]
    assert "reason" not in bench.fields("flow.closed")
    assert not len(bench.maps)


def test_a_flow_that_was_taken_back_is_not_handed_over_again(bench: Bench) -> None:
    bench.moving()
    for _ in range(2):
        bench.send(Side.CLIENT, FIN | ACK, 1, 1)
        bench.wait(AGAIN_S + 1)
        assert not len(bench.maps)


def test_a_flow_that_was_taken_back_for_an_odd_packet_is_handed_over_again(bench: Bench) -> None:
    """The kernel does not see such packets: perhaps there are others."""
    bench.moving()
    odd = mutated(bench.packet(Side.CLIENT, PSH | ACK, 1, 1, length=5), "ip_options", 0, 0)
    assert bench.give(odd, Side.CLIENT) == 0
    assert not len(bench.maps)
    bench.wait(AGAIN_S - 0.1)
    assert not len(bench.maps)
    bench.wait(0.2)
    assert bench.entry().to_server.octets == 5


def test_what_another_process_has_reported_is_not_reported_again(bench: Bench) -> None:
    bench.moving()
    for side in Side:
        bench.send(side, ACK, 1, 1)
    bench.close()
    bench.carrier.mark_reported(bench.entry())
    bench.hear()
    assert not len(bench.maps)
    assert bench.said() == []


def test_what_is_taken_back_makes_room() -> None:
    bench = Bench(room=1)
    bench.moving()
    bench.establish(PORT + 1)
    bench.wait(WAIT_S)
    assert bench.handover.entries.is_full
    bench.send(Side.CLIENT, FIN | ACK, 1, 1)
    assert not bench.handover.entries.is_full


# --- no room ------------------------------------------------------------------------------


def test_a_flow_that_finds_no_room_stays_here() -> None:
    bench = Bench(room=1)
    bench.carried()
    bench.establish(PORT + 1)
    bench.wait(WAIT_S + 0.001)
    assert bench.said() == ["service.kernel_full"]
    bench.establish(PORT + 2)
    bench.wait(WAIT_S + 0.001)
    assert bench.said() == [], "said once"
    assert bench.handover.entries.is_full
    assert bench.send(Side.CLIENT, PSH | ACK, 1, 1, port=PORT + 1, length=9) == 0
    assert isinstance(bench.verdict, Replace)
    bench.wait(SETTLED_S)
    assert len(bench.engine.table) == 2
    bench.carrier.remove(bench.key())
    bench.send(Side.SERVER, SYN | ACK, 0, 1, port=PORT + 1)
    bench.wait(1.0)
    assert not len(bench.maps), "it is asked once"


@pytest.mark.parametrize("when_full", ["python", "pass"])
def test_what_becomes_of_new_connections_when_it_is_full(when_full: str) -> None:
    bench = Bench(Policy("hold", kernel_full=when_full), room=1)
    bench.carried()
    bench.establish(PORT + 1)
    bench.wait(WAIT_S + 0.001)
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 2)
    if when_full == "pass":
        assert bench.fields("flow.bypassed")["reason"] == "kernel_full"
    else:
        assert [send.reason for send in bench.sent] == ["spoofed_syn_ack"]
    bench.close()
    bench.hear()
    assert not bench.handover.entries.is_full, "the flow that ended can make room"
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 3)
    assert [send.reason for send in bench.sent] == ["spoofed_syn_ack"]


# --- the life of processes ----------------------------------------------------------------


def test_a_new_process_goes_on(bench: Bench) -> None:
    bench.carried()
    bench.carried(PORT + 1)
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    bench.close(PORT + 1)
    bench.start()
    assert bench.send(Side.CLIENT, PSH | ACK, 101, 1, length=50) == layout.MARK_TRANSLATED
    bench.hear()
    assert bench.said() == ["flow.closed"]
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 2)
    (flow,) = bench.engine.table
    assert flow.number == 3, "no number is given twice"
    bench.send(Side.CLIENT, RST, 151)
    bench.hear()
    assert bench.fields("flow.closed")["bytes_to_server"] == 150


def test_a_new_process_hears_of_a_flow_that_was_left(bench: Bench) -> None:
    """It does not know that the old one was to settle it, so 100 ms have to pass."""
    bench.moving()
    bench.start()
    assert bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=100) == layout.MARK_LEFT
    assert isinstance(bench.verdict, Replace)
    assert not len(bench.engine.table)
    bench.now += layout.LEAVE_FOR_S + 0.001
    assert bench.send(Side.CLIENT, PSH | ACK, 101, 1, length=5) == layout.MARK_TRANSLATED
    assert bench.entry().to_server.octets == 105


def test_shutting_down_leaves_carried_flows_alone(bench: Bench) -> None:
    bench.carried()
    bench.moving(PORT + 1)
    bench.establish(PORT + 2)
    assert bench.engine.has_live_flows()
    bench.events, bench.sent = [], []
    bench.take(bench.engine.shut_down(bench.now))
    assert {look(send.data).flags & RST for send in bench.sent} == {RST}
    assert {bench.key(PORT + 2), reverse_key(bench.key(PORT + 2))} == {
        look(send.data).flow_key for send in bench.sent
    }
    assert bench.said() == ["flow.reset", "flow.closed"]
    assert not len(bench.engine.table)
    assert len(bench.maps) == 2
    bench.now += layout.LEAVE_FOR_S + 0.001
    for port in (PORT, PORT + 1):
        assert bench.send(Side.CLIENT, ACK, 1, 1, port=port) == layout.MARK_TRANSLATED


def test_nothing_waits_for_carried_flows(bench: Bench) -> None:
    bench.carried()
    bench.moving(PORT + 1)
    assert not bench.engine.has_live_flows()


def test_draining_takes_on_no_flow_and_carries_on(bench: Bench) -> None:
    bench.carried()
    bench.establish(PORT + 1)
    bench.engine.drain()
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 2)
    assert bench.fields("flow.bypassed")["reason"] == "service_stopping"
    bench.wait(WAIT_S)
    assert bench.entry(PORT + 1).state is State.ESTABLISHED, "this one will live on"
    assert bench.send(Side.CLIENT, ACK, 1, 1) == layout.MARK_TRANSLATED


@pytest.mark.parametrize("stage", ["waiting", "moving", "carried", "ended"])
def test_a_new_configuration_keeps_what_there_is(bench: Bench, stage: str) -> None:
    bench.establish()
    if stage != "waiting":
        bench.wait(WAIT_S)
    if stage in ("carried", "ended"):
        bench.wait(SETTLED_S)
    if stage == "ended":
        bench.close()
        bench.hear()
    limits = Limits(idle_timeout_s=600, time_wait_s=3, reset_linger_s=2)
    bench.engine.configure(Policy("fastopen"), limits)
    bench.wait(WAIT_S + SETTLED_S + 0.1)
    assert len(bench.maps) == 1, "handed over, and there"
    assert not len(bench.engine.table), "and settled"
    if stage == "ended":
        assert bench.send(Side.SERVER, FIN | ACK, 1, 2) == layout.MARK_TRANSLATED
        return
    assert bench.send(Side.CLIENT, ACK, 1, 1) == layout.MARK_TRANSLATED
    bench.close()
    bench.hear()
    assert bench.said() == ["flow.closed"]
    bench.wait(3.1)
    assert not len(bench.maps), "by the new limits"
    bench.carried(PORT + 1)
    bench.now += 601
    bench.take(bench.handover.look_after(bench.key(PORT + 1), bench.now))
    assert bench.fields("flow.closed")["reason"] == "timeout"
