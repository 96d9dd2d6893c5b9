"""What can be asked of a running service over its control socket."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from nfq_zerortt import measuring
from nfq_zerortt.config import LOG_LEVELS
from nfq_zerortt.core import descriptions, remembered
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.journal import Journal
from nfq_zerortt.observe.control import Request
from nfq_zerortt.observe.metrics import BY_NAME, COUNTER, GAUGE, HISTOGRAM, add
from nfq_zerortt.running import RunningService
from nfq_zerortt.slices import PAUSE_S, slices
from nfq_zerortt.workers.crew import Crew
from nfq_zerortt.workers.merging import merged

Record = dict[str, Any]


def requests_of_process(
    engine: Engine, journal: Journal
) -> Mapping[str, Callable[..., Iterator[Any]]]:
    """Return what one process answers by itself: records, by the name of the request.

    And a ``fingerprint``, which is another one when something was learned or forgotten since; and
    what it ``counted``, and ``measures`` of its flows, both to be added to other processes'.
    """

    def flows() -> Iterator[Record]:
        return descriptions.flows(engine.table, time.monotonic())

    def learned() -> Iterator[Record]:
        return remembered.records(engine.memory, time.monotonic())

    def clear_learned() -> Iterator[Record]:
        forgotten = remembered.counts(engine.memory)
        engine.memory.clear()
        yield forgotten

    def fingerprint() -> Iterator[str]:
        yield repr(remembered.fingerprint(engine.memory))

    def counted() -> Iterator[Record]:
        return measuring.of_process(journal)

    def measures() -> Iterator[Record]:
        return measuring.of_flows(engine)

    return {
        "flows": flows,
        "learned": learned,
        "clear_learned": clear_learned,
        "fingerprint": fingerprint,
        "counted": counted,
        "measures": measures,
        "events": journal.recent.records,
    }


class Answers:
    """What the service answers: this process, its workers if it has any, and the kernel."""

    def __init__(
        self, engine: Engine, journal: Journal, crew: Crew, service: RunningService
    ) -> None:
        """``engine`` and ``journal`` are this process's."""
        self._engine = engine
        self._ours = requests_of_process(engine, journal)
        self._crew = crew
        self._service = service

    def requests(self) -> Mapping[str, Request]:
        """Return the requests by name."""
        return {
            "service": Request(self._service.about),
            "flows": Request(self._flows),
            "events": Request(self._events, frozenset({"flow_id"})),
            "stats": Request(self._stats),
            "learned": Request(self._learned),
            "clear_learned": Request(self._clear_learned),
            "log_level": Request(self._log_level, frozenset({"level"})),
        }

    async def _flows(self) -> AsyncIterator[Record]:
        """Give each flow once: a worker's that the kernel has by now, as the kernel knows it.

        A flow may be handed over to the kernel while this runs, so those are noted that were told
        of already. One that is taken back meanwhile may be missed.
        """
        told = _Numbers()
        carried = self._service.max_entries() > 0
        for record in self._ours["flows"]():
            if carried:
                told.add(record["flow_id"])
            yield record
        async for record in self._crew.ask("flows"):
            if record["data_path"] != "kernel":
                told.add(record["flow_id"])
                yield record
        for flow in self._service.carried():
            if flow.number in told:
                await asyncio.sleep(0)  # there may be many in a row
            else:
                yield descriptions.describe_flow(flow, time.monotonic())

    def _events(self, flow_id: int | None = None) -> AsyncIterator[Record]:
        if flow_id is not None and (isinstance(flow_id, bool) or not isinstance(flow_id, int)):
            raise ZeroRttError(f"events: flow_id = {flow_id!r}: a whole number is allowed")
        return self._of_all("events", flow_id=flow_id)

    async def _of_all(self, name: str, **parameters: Any) -> AsyncIterator[Record]:
        """Give what this process answers, and then each worker."""
        for record in self._ours[name](**parameters):
            yield record
        async for record in self._crew.ask(name, **parameters):
            yield record

    # --- numbers --------------------------------------------------------------------------

    async def _stats(self) -> Record:
        total: Record = {COUNTER: {}, GAUGE: {}, HISTOGRAM: {}}
        await _add_all(total, self._ours["counted"]())
        if not self._crew:  # else it has no flows, and what it learned is the workers'
            await _add_all(total, self._ours["measures"]())
        for name in ("counted", "measures"):
            async for record in self._crew.ask(name):
                add(total, record)
        service = self._service.about()
        queues = range(service["queue"], service["queue"] + service["workers"])
        await _add_all(total, measuring.of_entries(self._service.entries()))
        add(total, measuring.of_bounds(self._engine.limits, self._service.max_entries()))
        add(total, measuring.of_queues(queues))
        for name, histogram in total[HISTOGRAM].items():
            histogram["bounds"] = list(BY_NAME[name].bounds)
            histogram["sum"] = round(histogram["sum"], 6)
        return {"service": service, **total}

    # --- what was learned -----------------------------------------------------------------

    async def _learned(self) -> AsyncIterator[Record]:
        """Give what is known of each server, by whomever it was learned."""
        if not self._crew:
            for record in self._ours["learned"]():
                yield record
            return
        for record in await merged(self._crew.ask("learned")):
            yield record

    async def _clear_learned(self) -> Record:
        forgotten = Counter(next(self._ours["clear_learned"]()))
        if self._crew:
            forgotten.clear()
            async for counts in self._crew.ask("clear_learned"):
                forgotten.update(counts)
        self._service.learned_cleared(forgotten)
        return forgotten

    # --- the log --------------------------------------------------------------------------

    async def _log_level(self, level: str | None = None) -> Record:
        """Set the level, if one is given; tell what it is, and was."""
        was = self._service.about()["log_level"]
        if level is None:
            return {"level": was, "was": was}
        if level not in LOG_LEVELS:
            raise ZeroRttError(f"log_level: level = {level!r}: allowed are {', '.join(LOG_LEVELS)}")
        await self._service.set_log_level(level)
        return {"level": level, "was": was}


class _Numbers:
    """A set of whole numbers that never takes long to grow: a large one is moved as a whole."""

    def __init__(self) -> None:
        self._parts: tuple[set[int], ...] = tuple(set() for _ in range(64))

    def add(self, number: int) -> None:
        self._parts[number % 64].add(number)

    def __contains__(self, number: int) -> bool:
        return number in self._parts[number % 64]


async def _add_all(total: Record, records: Iterator[Record]) -> None:
    """Add records up as they are made, in slices."""
    for made in slices(records):
        for record in made:
            add(total, record)
        await asyncio.sleep(PAUSE_S)
