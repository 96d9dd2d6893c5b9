"""The run: all contenders side by side, by turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from bench.comparison import generator
from bench.comparison.contenders.contender import Contender
from bench.comparison.figures import bulk, growth, latency
from bench.comparison.figures.handshakes import Handshakes
from bench.comparison.plan import Plan
from bench.comparison.results import Results
from bench.comparison.stand import AbsentError, Stand, standing

_Each = TypeVar("_Each")

Say = Callable[[str], None]
"""Called with what is being done, for who waits."""


class Run:
    """One run of a plan with some contenders."""

    def __init__(self, contenders: Iterable[Contender], plan: Plan, say: Say) -> None:
        self._contenders = list(contenders)
        self._plan = plan
        self._say = say
        self.results = Results()

    def measure(self) -> Results:
        """Measure everything.

        Raises:
            MissingFeatureError: this machine lacks a program of the ends.
            ZeroRttError: the hosts could not be set up.
        """
        with TemporaryDirectory(prefix="nfq-zerortt-comparison-") as directory:
            program = generator.build(Path(directory))
            handshakes = Handshakes(program, self._plan.window_s)
            self._latency()
            self._bulk(handshakes)
            self._growth(handshakes)
        return self.results

    def _latency(self) -> None:
        with self._all(latency.RTT_MS) as stands:
            for stand in stands:
                latency.prepare(stand)
            for number in range(self._plan.repetitions):
                self._say(f"latency, {self._of(number)}")
                repetition = self.results.repetition(number)
                latency.measure(_turned(stands, number), repetition, self._plan.probes)

    def _bulk(self, handshakes: Handshakes) -> None:
        with self._all(None) as stands:
            for stand in stands:
                stand.serve_web(fast_open=False)
                stand.serve_bulk()
            bulk.check(stands, self.results)
            for number in range(self._plan.repetitions):
                self._say(f"handshakes, {self._of(number)}")
                handshakes.measure(_turned(stands, number), self.results.repetition(number))
            for offloads in (True, False):
                for stand in stands:
                    stand.lab.set_offloads(offloads)
                for number in range(self._plan.repetitions):
                    repetition = self.results.repetition(number)
                    for kind in bulk.kinds(offloads=offloads):
                        self._say(f"bulk, {kind.figure(bulk.THROUGHPUT).title}, {self._of(number)}")
                        turned = _turned(stands, number)
                        bulk.measure(turned, repetition, kind, self._plan)
            bulk.check(stands, self.results)

    def _growth(self, handshakes: Handshakes) -> None:
        for number in range(self._plan.growth_repetitions):
            repetition = self.results.repetition(number)
            present = [one for one in self._contenders if one.name not in self.results.absent]
            for contender in _turned(present, number):
                self._say(f"growth, {contender.name}, repetition {number + 1}")
                growth.measure_latency(contender, repetition, self._plan)
                growth.measure_speed(contender, repetition, self._plan, handshakes)

    @contextmanager
    def _all(self, rtt_ms: float | None) -> Iterator[list[Stand]]:
        """Set all contenders up, each on hosts of its own; those that are not measured rest."""
        with ExitStack() as stack:
            stands = []
            for contender in self._contenders:
                if contender.name in self.results.absent:
                    continue
                self._say(f"setting up {contender.name}")
                try:
                    stands.append(stack.enter_context(standing(contender, rtt_ms=rtt_ms)))
                except AbsentError as error:
                    self.results.absent[contender.name] = str(error)
            yield stands

    def _of(self, number: int) -> str:
        return f"repetition {number + 1} of {self._plan.repetitions}"


def _turned(all_of_them: Sequence[_Each], number: int) -> list[_Each]:
    """Return them beginning with another one in each repetition."""
    first = number % len(all_of_them)
    return [*all_of_them[first:], *all_of_them[:first]]
