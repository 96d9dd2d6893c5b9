"""connect() and the first byte back across a WAN, one connection after the other."""

from __future__ import annotations

from collections.abc import Iterable

from bench.comparison.results import Figure, Repetition
from bench.comparison.stand import Stand
from bench.rows import median
from nfq_zerortt.errors import ZeroRttError

SECTION = "Latency"
RTT_MS = 50.0

CONNECT = Figure(SECTION, "connect()", "ms")
FIRST_BYTE = Figure(SECTION, "first byte back, server as Linux has it", "ms")
FIRST_BYTE_FAST_OPEN = Figure(SECTION, "first byte back, server with Fast Open", "ms")
_LEARN = 2
"""Contacts before the first that counts: the service learns what a server can."""


def prepare(stand: Stand) -> None:
    """Start the servers, and have a first contact."""
    stand.serve_web(fast_open=True)
    for fast_open in (False, True):
        stand.probe(_LEARN, fast_open=fast_open)


def measure(stands: Iterable[Stand], repetition: Repetition, times: int) -> None:
    """Measure each contender once; a value is the median of ``times`` connections."""
    for stand in stands:
        try:
            usual = stand.probe(times)
            fast_open = stand.probe(times, fast_open=True)
        except ZeroRttError as error:
            repetition.failed(error)
            continue
        for figure, samples in (
            (CONNECT, usual["connect_ms"]),
            (FIRST_BYTE, usual["first_byte_ms"]),
            (FIRST_BYTE_FAST_OPEN, fast_open["first_byte_ms"]),
        ):
            repetition.add(figure, stand.name, median(samples))
