"""Bulk streams without a WAN: as much as the machine can, and the processor time for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.comparison.machine import Usage
from bench.comparison.plan import Plan
from bench.comparison.results import Figure, Repetition, Results
from bench.comparison.stand import Stand
from bench.lab import Conversation
from nfq_zerortt.errors import ZeroRttError

THROUGHPUT, CPU, OWN_CPU = "Bulk throughput", "Processor time for bulk", "The process' own share"
STREAMS = (1, 16)
DIRECTIONS = ("up", "down")

_COUNT_S = 10.0
_UNDISTURBED = 0.05  # so much of the processors may be others'
_ATTEMPTS = 2
# Bytes up and down of transfers that are checked by hash, all at once.
_CHECKED = [(3_000_000, 0), (0, 3_000_000), (1_000_000, 1_000_000)] * 4


@dataclass(frozen=True, slots=True)
class Kind:
    """Streams of one kind, with so many other connections open meanwhile."""

    offloads: bool
    streams: int
    direction: str
    flows: int = 0

    def figure(self, section: str) -> Figure:
        """Return the figure of a section for this kind."""
        title = f"{self.direction}, {self.streams} stream{'s' if self.streams > 1 else ''}, "
        title += f"offloads {'on' if self.offloads else 'off'}"
        return Figure(section, title, "Gbit/s" if section == THROUGHPUT else "s/GB", 2, self.flows)


@dataclass(frozen=True, slots=True)
class Window:
    """What the receivers got in a while, seconds, and what it cost."""

    gigabytes: float
    took_s: float
    used: Usage


def kinds(*, offloads: bool) -> list[Kind]:
    """Return the kinds that are measured with offloads on, or off."""
    return [Kind(offloads, streams, way) for streams in STREAMS for way in DIRECTIONS]


def check(stands: Iterable[Stand], results: Results) -> None:
    """Let each carry some transfers whose data are checked by SHA-256 at the receiver."""
    for stand in stands:
        right, failures = stand.check_transfers(_CHECKED)
        results.check(stand.name, right, len(_CHECKED))
        results.failures += [f"{stand.name}: {failure}" for failure in failures]


def measure(stands: Sequence[Stand], repetition: Repetition, kind: Kind, plan: Plan) -> None:
    """Measure each contender once."""
    for stand in stands:
        try:
            run(stand, repetition, kind, plan)
        except ZeroRttError as error:
            repetition.failed(error)


def run(stand: Stand, repetition: Repetition, kind: Kind, plan: Plan) -> None:
    """Let streams run for a while; note throughput and processor time.

    A window in which other programs had much of the processors is measured again; what was
    disturbed the least is taken.

    Raises:
        ZeroRttError: the streams could not begin, or bytes were lost.
    """
    windows: list[Window] = []
    with stand.streams(kind.streams, kind.direction) as receiver:
        time.sleep(plan.begin_s)
        while len(windows) < _ATTEMPTS:
            windows.append(_window(stand, receiver, plan.window_s))
            if windows[-1].used.strangers_share <= _UNDISTURBED:
                break
    best = min(windows, key=lambda window: window.used.strangers_share)
    if not best.gigabytes:
        raise ZeroRttError(f"{stand.name}: {kind.figure(THROUGHPUT).title}: nothing arrived")
    repetition.add(kind.figure(THROUGHPUT), stand.name, best.gigabytes * 8 / best.took_s)
    repetition.add(kind.figure(CPU), stand.name, best.used.forwarding_s / best.gigabytes)
    if stand.has_process:
        repetition.add(kind.figure(OWN_CPU), stand.name, best.used.own_s / best.gigabytes)
    repetition.results.strangers.append(best.used.strangers_share)


def _window(stand: Stand, receiver: Conversation, window_s: float) -> Window:
    counted, used = receiver.ask({"do": "count"}, _COUNT_S), stand.usage()
    time.sleep(window_s)
    after, used = receiver.ask({"do": "count"}, _COUNT_S), stand.usage().since(used)
    gigabytes = (after["bytes"] - counted["bytes"]) / 1e9
    return Window(gigabytes, after["at"] - counted["at"], used)
