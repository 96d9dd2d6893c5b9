"""Connections that pass untouched, in the kernel."""

from __future__ import annotations

from nfq_zerortt.core.actions import Accept, Side
from nfq_zerortt.core.entries import SETTLED_S
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.wire.flags import ACK, PSH, SYN
from tests.core.model.bench import PORT, Bench
from tests.core.model.mutation import mutated


def passing(bench: Bench) -> None:
    """Let a connection pass whose beginning nobody has seen."""
    bench.engine.passing.max_carried = 10
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    assert bench.fields("flow.bypassed")["reason"] == "mid_stream"
    bench.send(Side.SERVER, PSH | ACK, 1, 11, length=10)
    assert bench.verdict == Accept("bypassed")


def test_a_passing_connection_does_not_come_here_any_more(bench: Bench) -> None:
    passing(bench)
    for side in Side:
        assert bench.send(side, ACK, 11, 11) == layout.MARK_LEFT
        assert bench.verdict == Accept("bypassed")
        raw = bench.packet(side, PSH | ACK, 11, 11, length=700)
        assert bench.programs.run(raw, side, bench.now) == (raw, layout.MARK_TRANSLATED)
    assert bench.carrier.survey() == (0, 0)
    assert list(bench.carrier.flows()) == []
    assert not bench.handover.look_after(bench.key(), bench.now)
    assert len(bench.maps) == 1


def test_little_is_remembered_of_a_passing_connection(bench: Bench) -> None:
    passing(bench)
    bench.now += SETTLED_S + 0.01
    for flags in (PSH | ACK, ACK):
        bench.send(Side.CLIENT, flags, 1, 1, port=PORT + 1)
    assert len(bench.maps) == 2
    assert list(bench.handover.entries.moving) == [bench.key(PORT + 1)]


def test_a_flow_s_entry_is_not_taken_by_a_connection_that_passes(bench: Bench) -> None:
    """A stranger can make us take a connection for a passing one; not at a flow's cost."""
    passing(bench)
    bench.carried(PORT + 1)
    bench.engine.passing.hand_over(bench.key(PORT + 1), bench.now)
    assert not bench.entry(PORT + 1).passing


def test_fragments_hand_nothing_over(bench: Bench) -> None:
    """They come here in any case."""
    bench.engine.passing.max_carried = 10
    raw = mutated(bench.packet(Side.CLIENT, PSH | ACK, 1, 1, length=24), "fragment", 0, 0x2000)
    for _ in range(2):
        assert bench.give(raw, Side.CLIENT) == 0
    assert bench.verdict == Accept("bypassed")
    assert not len(bench.maps)


def test_none_passes_there_when_that_was_taken_away(bench: Bench) -> None:
    bench.handover.entries.enabled = False
    passing(bench)
    assert not len(bench.maps)


def test_a_passing_connection_goes_on_without_a_process(bench: Bench) -> None:
    passing(bench)
    bench.start()
    bench.now += 100
    raw = bench.packet(Side.SERVER, PSH | ACK, 11, 11, length=700)
    assert bench.programs.run(raw, Side.SERVER, bench.now) == (raw, layout.MARK_TRANSLATED)
    bench.now += 100
    bench.send(Side.CLIENT, SYN, 0)
    assert bench.verdict == Accept("bypassed"), "perhaps a stranger's"


def test_a_new_connection_begins_where_one_has_passed(bench: Bench) -> None:
    passing(bench)
    bench.now += 121
    bench.send(Side.CLIENT, SYN, 0)
    assert bench.said()[0] == "flow.syn_received"
    assert not len(bench.maps)


def test_so_many_connections_pass_and_no_more(bench: Bench) -> None:
    passing(bench)
    bench.engine.passing.max_carried = 1
    for _ in range(3):
        assert bench.send(Side.CLIENT, ACK, 1, 1, port=PORT + 1) == 0
        assert isinstance(bench.verdict, Accept)
    assert len(bench.maps) == 1
    bench.now += 121
    bench.take(bench.handover.look_after(bench.key(), bench.now))
    assert not len(bench.maps)


def test_what_is_too_long_for_the_queue_passes_where_all_passes(bench: Bench) -> None:
    passing(bench)
    raw = mutated(bench.packet(Side.SERVER, ACK, 11, 11, length=100), "total", 0, 5000)
    bench.decide(raw, Side.SERVER)
    assert bench.verdict == Accept("too_long")
