"""How the figures change from ten to ten thousand connections that are open and alive."""

from __future__ import annotations

import time

from bench.comparison.contenders.contender import Contender
from bench.comparison.figures import bulk, latency
from bench.comparison.figures.handshakes import Handshakes
from bench.comparison.plan import Plan
from bench.comparison.results import Figure, Repetition
from bench.comparison.stand import standing
from bench.rows import median
from nfq_zerortt.errors import ZeroRttError

SECTION = "Growth"
MEMORY = "Memory"


def connect(flows: int) -> Figure:
    """Return the figure: connect() with so many others open."""
    return Figure(SECTION, "connect()", "ms", 2, flows)


def first_byte(flows: int) -> Figure:
    """Return the figure: the first byte back with so many others open."""
    return Figure(SECTION, "first byte back", "ms", 2, flows)


def first_byte_fast_open(flows: int) -> Figure:
    """Return the figure: the same from a server with Fast Open."""
    return Figure(SECTION, "first byte back, server with Fast Open", "ms", 2, flows)


def process_memory(flows: int) -> Figure:
    """Return the figure: what the processes need more for so many."""
    return Figure(MEMORY, "processes", "MB", 2, flows, compared=False)


def kernel_memory(flows: int) -> Figure:
    """Return the figure: what the kernel needs more for so many, both ends included."""
    return Figure(MEMORY, "kernel, all four hosts", "MB", 1, flows, compared=False)


def measure_latency(contender: Contender, repetition: Repetition, plan: Plan) -> None:
    """Measure latency and memory across a WAN, with ever more connections open.

    Raises:
        AbsentError: the contender cannot be set up here.
    """
    with standing(contender, rtt_ms=latency.RTT_MS) as stand:
        latency.prepare(stand)
        stand.serve_echo()
        try:
            stand.crowd(0)
            time.sleep(plan.settle_s)
            memory = stand.memory()
            for flows in plan.levels:
                stand.crowd(flows)
                time.sleep(plan.settle_s)
                for fast_open, figure in ((False, first_byte), (True, first_byte_fast_open)):
                    took = stand.probe(plan.probes, fast_open=fast_open)
                    repetition.add(figure(flows), stand.name, median(took["first_byte_ms"]))
                    if not fast_open:
                        repetition.add(connect(flows), stand.name, median(took["connect_ms"]))
                more = stand.memory().since(memory)
                repetition.add(kernel_memory(flows), stand.name, more.kernel / 1e6)
                if stand.has_process:
                    repetition.add(process_memory(flows), stand.name, more.process / 1e6)
        except ZeroRttError as error:
            repetition.failed(error)


def measure_speed(
    contender: Contender, repetition: Repetition, plan: Plan, handshakes: Handshakes
) -> None:
    """Measure handshakes and a bulk stream without a WAN, with ever more connections open.

    Raises:
        AbsentError: the contender cannot be set up here.
    """
    with standing(contender, rtt_ms=None) as stand:
        stand.serve_web(fast_open=False)
        stand.serve_echo()
        stand.serve_bulk()
        try:
            for flows in plan.levels:
                stand.crowd(flows)
                handshakes.run(stand, repetition, flows)
                bulk.run(stand, repetition, bulk.Kind(True, 1, "down", flows), plan)
        except ZeroRttError as error:
            repetition.failed(error)
