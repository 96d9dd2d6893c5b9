"""Flows that are made for one packet leave nothing to Python's collector: it rests in a service.

They have cycles, so somebody has to break them (``Flow.dissolve``).
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from nfq_zerortt.core.actions import Accept, Drop, Side
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.wire.flags import ACK, PSH, SYN
from tests.core.model.bench import PORT, Bench
from tests.core.model.mutation import mutated
from tests.icmp import error_quoting

AGAIN = 5


def flows_left_by(step: Callable[[], object]) -> int:
    """Return how many more flows there are after a few times, with the collector at rest."""

    def count() -> int:
        return sum(isinstance(one, Flow) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        for _ in range(AGAIN):
            step()
        return count() - before
    finally:
        gc.enable()


def from_server(bench: Bench, kind: str, position: int) -> bytes:
    raw = bench.packet(Side.SERVER, ACK, 1, 1, length=24)
    bench.give(raw, Side.SERVER)
    return mutated(raw, kind, 0, position)


def test_that_flows_are_counted(bench: Bench) -> None:
    bench.carried()
    assert flows_left_by(bench.entry) == AGAIN


@pytest.mark.parametrize(("kind", "position"), [("fragment", 0x2000), ("total", 5000)])
def test_a_packet_that_the_kernel_leaves(bench: Bench, kind: str, position: int) -> None:
    bench.carried()
    odd = from_server(bench, kind, position)
    assert flows_left_by(lambda: bench.decide(odd, Side.SERVER)) == 0
    assert kind == "fragment" or bench.verdict == Drop("too_long")


def test_an_icmp_error(bench: Bench) -> None:
    bench.carried()
    error = error_quoting(bench.packet(Side.CLIENT, ACK, 1, 1), "too_big")
    assert flows_left_by(lambda: bench.decide(error, Side.SERVER)) == 0


def test_an_end(bench: Bench) -> None:
    for port in range(PORT, PORT + AGAIN):
        bench.carried(port)
        bench.close(port)
    keys = iter([layout.client_key(record) for record in bench.maps.endings(AGAIN)])
    assert flows_left_by(lambda: bench.handover.look_after(next(keys), bench.now)) == 0
    bench.now += 100
    assert flows_left_by(lambda: bench.engine.tick(bench.now)) <= 0
    assert not len(bench.maps)


def test_a_new_syn_that_the_kernel_leaves(bench: Bench) -> None:
    """What is left of the old flow: there are as many new ones."""
    for port in range(PORT, PORT + AGAIN):
        bench.carried(port)
        bench.close(port)
        bench.hear()
    syns = iter(
        [
            mutated(bench.packet(Side.CLIENT, SYN, 0x1000_0000, port=port), "ip_options", 0, 0)
            for port in range(PORT, PORT + AGAIN)
        ]
    )
    assert flows_left_by(lambda: bench.engine.packet(next(syns), Side.CLIENT, bench.now)) == AGAIN
    assert len(bench.engine.table) == AGAIN


@pytest.mark.parametrize("room", [1, 2])
def test_a_passing_connection(room: int) -> None:
    """It may find room, or none."""
    bench = Bench(room=room)
    bench.carried()
    bench.engine.passing.max_carried = 10
    raw = bench.packet(Side.CLIENT, PSH | ACK, 1, 1, port=PORT + 1)
    for _ in range(2):
        bench.decide(raw, Side.CLIENT)
    assert bench.verdict == Accept("bypassed")
    assert len(bench.maps) == room
    assert flows_left_by(lambda: bench.decide(raw, Side.CLIENT)) == 0
