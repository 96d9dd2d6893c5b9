"""The moment of the hand-over: what came before is done first."""

from __future__ import annotations

import pytest

from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.handover import WAIT_S
from nfq_zerortt.core.states import State
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK, PSH, RST, SYN
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from tests.core.model.bench import CLIENT, PORT, SERVER, Bench, C, R


def test_packets_wait_until_what_came_before_is_done(bench: Bench) -> None:
    bench.moving()
    first = bench.packet(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    second = bench.packet(Side.CLIENT, PSH | ACK, 101, 1, length=50)
    assert bench.programs.run(first, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    assert bench.programs.run(second, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    bench.decide(first, Side.CLIENT)
    bench.handover.entries.done(first, Side.CLIENT)
    third = bench.packet(Side.CLIENT, ACK, 151, 1)
    assert bench.programs.run(third, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    for raw in (second, third):
        bench.decide(raw, Side.CLIENT)
        bench.handover.entries.done(raw, Side.CLIENT)
    assert bench.send(Side.CLIENT, ACK, 151, 1) == layout.MARK_TRANSLATED
    assert bench.send(Side.SERVER, ACK, 1, 151) == layout.MARK_LEFT  # the other direction


def test_a_process_that_is_late_is_not_waited_for(bench: Bench) -> None:
    bench.moving()
    raw = bench.packet(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    assert bench.programs.run(raw, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    bench.now += layout.LEAVE_FOR_S - 0.001
    assert bench.programs.run(raw, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    bench.now += 0.002
    assert bench.programs.run(raw, Side.CLIENT, bench.now)[1] == layout.MARK_TRANSLATED


@pytest.mark.parametrize("ipv6", [False, True])
def test_what_is_done_is_counted_in_bytes_of_data(bench: Bench, ipv6: bool) -> None:
    """One for a packet without; padding behind the packet does not count."""
    told: list[int] = []

    def publish(flow: Flow, side: Side, amount: int) -> None:
        assert side is Side.SERVER
        told.append(amount)

    client, server = (bytes(15) + b"\1", bytes(15) + b"\2") if ipv6 else (CLIENT, SERVER)

    def segment(side: Side, flags: int, seq: int, ack: int, length: int = 0) -> bytes:
        of_client = side is Side.CLIENT
        return Segment(
            src=client if of_client else server,
            dst=server if of_client else client,
            sport=PORT if of_client else 80,
            dport=80 if of_client else PORT,
            seq=seq,
            ack=ack,
            flags=flags,
            window=9000,
            options=(opt.mss(1460),) if flags & SYN else (opt.NOP_OPTION,) * 4,
            payload=bytes(length),
        ).emit()

    bench.give(segment(Side.CLIENT, SYN, C, 0), Side.CLIENT)
    spoofed = bench.spoofed[PORT]
    bench.give(segment(Side.CLIENT, ACK, C + 1, add(spoofed, 1)), Side.CLIENT)
    bench.give(segment(Side.SERVER, SYN | ACK, R, C + 1), Side.SERVER)
    bench.wait(WAIT_S)
    bench.carrier.publish = publish  # type: ignore[method-assign]
    assert len(bench.maps) == 1
    for length in (100, 0, 1):
        bench.handover.entries.done(
            segment(Side.SERVER, ACK, R + 1, C + 1, length) + bytes(6), Side.SERVER
        )
    assert told == [100, 101, 102]


def test_the_end_of_what_was_done_is_told_too(bench: Bench) -> None:
    """What came before the hand-over reaches the entry by what the process tells."""
    bench.moving()
    early = bench.packet(Side.SERVER, PSH | ACK, 1, 1, length=900)
    late = bench.packet(Side.SERVER, ACK, 901, 1)
    bench.programs.run(late, Side.SERVER, bench.now)
    for raw in (early, late):
        bench.decide(raw, Side.SERVER)
    assert bench.entry().to_client.octets == 0
    bench.handover.entries.done(late, Side.SERVER)
    assert bench.send(Side.SERVER, ACK, 901, 1) == layout.MARK_TRANSLATED
    assert bench.entry().to_client.next_seq == add(R, 901)
    assert bench.entry().to_client.octets == 900
    bench.send(Side.SERVER, RST | ACK, 901, 1)  # believed, since its number is known
    assert bench.entry().state is State.RESET
