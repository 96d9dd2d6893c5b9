"""Packets that the kernel has left to us, of flows that it carries."""

from __future__ import annotations

import pytest

from nfq_zerortt.core.actions import Accept, Drop, Replace, Side
from nfq_zerortt.core.handover import AGAIN_S
from nfq_zerortt.core.packets import is_intact
from nfq_zerortt.core.states import State
from nfq_zerortt.wire.flags import ACK, FIN, PSH, RST, SYN
from nfq_zerortt.wire.icmp import look_quoted
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import look
from tests.core.model.bench import PORT, TC, TR, Bench, C, R
from tests.core.model.mutation import mutated
from tests.icmp import error_quoting


def test_a_repeated_syn_ack_is_acknowledged(bench: Bench) -> None:
    bench.carried()
    assert bench.send(Side.SERVER, SYN | ACK, 0, 1) == 0
    assert bench.verdict == Drop("syn_ack_repeated")
    (send,) = bench.sent
    view = look(send.data)
    assert (send.side, view.flags) == (Side.SERVER, ACK)
    assert (view.seq, view.ack) == (add(C, 1), add(R, 1))
    assert view.options.timestamps == (TC, TR)
    assert view.window == 50_000
    assert is_intact(view)
    assert len(bench.maps) == 1


def test_the_syn_ack_of_a_client_that_is_gone_is_not_acknowledged(bench: Bench) -> None:
    bench.send(Side.CLIENT, SYN, 0)
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.send(Side.CLIENT, RST, 1)
    assert bench.said() == ["flow.reset", "flow.closed"]
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    assert not [send for send in bench.sent if look(send.data).flags & ACK]


def test_a_syn_on_a_live_flow_is_challenged(bench: Bench) -> None:
    bench.carried()
    bench.send(Side.CLIENT, ACK, 1, 1)
    bench.send(Side.CLIENT, SYN, 0x1000_0000)
    assert bench.verdict == Drop("syn_challenged")
    (send,) = bench.sent
    view = look(send.data)
    assert (send.side, view.flags) == (Side.CLIENT, ACK)
    assert (view.seq, view.ack) == (add(bench.spoofed[PORT], 1), add(C, 1))
    assert bench.entry().state is State.ESTABLISHED


def test_a_late_copy_of_the_syn_is_dropped_when_all_is_over(bench: Bench) -> None:
    bench.carried()
    bench.close()
    bench.hear()
    bench.send(Side.CLIENT, SYN, 0)
    assert bench.verdict == Drop("syn_repeated")
    assert not bench.entry().superseded


def test_a_new_syn_begins_a_new_flow_when_all_is_over(bench: Bench) -> None:
    bench.carried()
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=5)
    bench.send(Side.CLIENT, RST, 6)
    syn = bench.packet(Side.CLIENT, SYN, 0x1000_0000)
    bench.give(syn, Side.CLIENT)
    assert bench.said()[0] == "flow.syn_received"
    assert bench.said()[-2:] == ["flow.reset", "flow.closed"], "of the old flow"
    assert bench.fields("flow.closed")["bytes_to_server"] == 5
    assert not len(bench.maps)
    bench.hear()
    assert bench.said() == []
    assert len(bench.engine.table) == 1
    (flow,) = bench.engine.table
    assert (flow.number, flow.isn_client) == (2, add(C, 0x1000_0000))


@pytest.mark.parametrize("heard", [True, False])
def test_a_new_syn_that_the_kernel_does_not_understand_loses_no_end(
    bench: Bench, heard: bool
) -> None:
    bench.carried()
    bench.close()
    if heard:
        bench.hear()
    syn = bench.packet(Side.CLIENT, SYN, 0x1000_0000)
    bench.give(mutated(syn, "ip_options", 0, 0), Side.CLIENT)
    assert bench.said().count("flow.closed") == (not heard)
    assert not len(bench.maps)
    (flow,) = bench.engine.table
    assert flow.isn_client == add(C, 0x1000_0000)


def test_an_end_is_told_once_though_the_flow_is_taken_over(bench: Bench) -> None:
    bench.carried()
    bench.close()
    late = bench.packet(Side.SERVER, PSH | ACK, 2, 2, length=9)
    bench.give(mutated(late, "ip_options", 0, 0), Side.SERVER)
    assert bench.said() == ["flow.closed"]
    assert len(bench.engine.table) == 1
    bench.hear()
    assert bench.said() == []
    bench.wait(70)
    assert bench.said() == []
    assert not len(bench.engine.table)


@pytest.mark.parametrize("seen", [True, False], ids=["old data", "new data"])
def test_a_fragment_is_translated_here(bench: Bench, seen: bool) -> None:
    """What it brings further is taken over: the kernel does not count it."""
    bench.carried()
    raw = bench.packet(Side.SERVER, ACK, 1, 1, length=24)
    if seen:
        bench.give(raw, Side.SERVER)
    first = mutated(raw, "fragment", 0, 0x2000)
    assert bench.give(first, Side.SERVER) == 0
    assert isinstance(bench.verdict, Replace)
    view = look(bench.verdict.data)
    assert (view.seq, view.ack) == (add(bench.spoofed[PORT], 1), add(C, 1))
    assert (len(bench.engine.table), len(bench.maps)) == ((0, 1) if seen else (1, 0))
    bench.wait(AGAIN_S)
    assert bench.entry().to_client.octets == 24, "the kernel has it again"


def test_a_reset_that_the_kernel_does_not_understand_ends_the_flow_here(bench: Bench) -> None:
    bench.carried()
    raw = mutated(bench.packet(Side.CLIENT, RST, 1), "ip_options", 0, 0)
    assert bench.give(raw, Side.CLIENT) == 0
    assert isinstance(bench.verdict, Replace)
    assert bench.said() == ["flow.reset", "flow.closed"]
    assert not len(bench.maps)
    (flow,) = bench.engine.table
    assert flow.state is State.RESET
    assert bench.engine.table.half_open == 0
    assert bench.send(Side.SERVER, ACK, 1, 1) == 0
    assert isinstance(bench.verdict, Replace)
    bench.wait(1.0)
    assert not len(bench.maps), "not handed over again"
    bench.wait(11)
    assert not len(bench.engine.table)


def test_half_of_an_end_that_the_kernel_does_not_understand_is_taken_over(bench: Bench) -> None:
    bench.carried()
    raw = mutated(bench.packet(Side.CLIENT, FIN | ACK, 1, 1), "ip_options", 0, 0)
    for _ in range(2):
        bench.give(raw, Side.CLIENT)
        bench.wait(1.0)
        assert not len(bench.maps)
    bench.send(Side.SERVER, FIN | ACK, 1, 2)
    bench.send(Side.CLIENT, ACK, 2, 2)
    assert bench.said() == ["flow.closed"]


@pytest.mark.parametrize("side", Side)
def test_an_icmp_error_is_renumbered(bench: Bench, side: Side) -> None:
    """What one end says about a segment of the other's; it reads it with its own numbers."""
    bench.carried()
    flow = bench.entry()
    seen_by_sender = {
        Side.SERVER: (add(C, 1), add(bench.spoofed[PORT], 1)),
        Side.CLIENT: (add(R, 1), add(C, 1)),
    }[side]
    other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    quoted = bench.packet(other, ACK, 1, 1, length=40)
    path = flow.from_client if other is Side.CLIENT else flow.from_server
    translated = path.direction.translate(quoted, look(quoted).tcp)
    assert bench.give(error_quoting(translated, "too_big"), side) == 0
    assert isinstance(bench.verdict, Replace)
    error = look_quoted(bench.verdict.data)
    raw = bench.verdict.data
    assert (error.seq, int.from_bytes(raw[error.tcp + 8 : error.tcp + 12], "big")) == (
        seen_by_sender
    )
    assert len(bench.maps) == 1


def test_an_icmp_error_about_no_flow_passes(bench: Bench) -> None:
    quoted = bench.packet(Side.CLIENT, ACK, 1, 1)
    bench.give(error_quoting(quoted, "too_big"), Side.SERVER)
    assert bench.verdict == Accept("icmp")


def test_what_is_too_long_for_the_queue_is_dropped(bench: Bench) -> None:
    bench.carried()
    raw = mutated(bench.packet(Side.SERVER, ACK, 1, 1, length=100), "total", 0, 5000)
    bench.decide(raw, Side.SERVER)
    assert bench.verdict == Drop("too_long")
    bench.decide(mutated(raw, "total", 0, 5000), Side.SERVER)
    assert bench.said() == ["packet.malformed"] * 2


def test_an_icmp_error_about_what_follows_an_ended_flow_passes(bench: Bench) -> None:
    """The entry says that another connection has the 4-tuple: its numbers are not ours."""
    bench.carried()
    bench.close()
    bench.hear()
    syn = bench.packet(Side.CLIENT, SYN, 0x1000_0000)
    assert bench.programs.run(syn, Side.CLIENT, bench.now) == (syn, 0)
    bench.give(error_quoting(syn, "unreachable"), Side.SERVER)
    assert bench.verdict == Accept("icmp")
