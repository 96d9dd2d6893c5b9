"""What can be asked of a running service over its control socket."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from nfq_zerortt.core import descriptions, remembered
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.observe.control import Request
from nfq_zerortt.workers.crew import Crew
from nfq_zerortt.workers.merging import merged

Record = dict[str, Any]


def of_process(engine: Engine) -> Mapping[str, Callable[[], Iterator[Any]]]:
    """Return what one process answers by itself: records, by the name of the request.

    And a ``fingerprint``, which is another one when something was learned or forgotten since.
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

    return {
        "flows": flows,
        "learned": learned,
        "clear_learned": clear_learned,
        "fingerprint": fingerprint,
    }


class Answers:
    """What the service answers: this process, its workers if it has any, and the kernel."""

    def __init__(
        self,
        engine: Engine,
        crew: Crew,
        carried: Callable[[], Iterator[Flow]],
        cleared: Callable[[dict[str, int]], None],
    ) -> None:
        """``carried`` gives the flows that are only the kernel's.

        ``cleared`` is told what was forgotten when one asked for it.
        """
        self._ours = of_process(engine)
        self._crew = crew
        self._carried = carried
        self._cleared = cleared

    def requests(self) -> Mapping[str, Request]:
        """Return the requests by name."""
        return {
            "flows": Request(self._flows),
            "learned": Request(self.learned),
            "clear_learned": Request(self._clear_learned),
        }

    async def _flows(self) -> AsyncIterator[Record]:
        """Give each flow once: a worker's that the kernel has by now, as the kernel knows it."""
        theirs: set[int] = set()
        for record in self._ours["flows"]():
            yield record
        async for record in self._crew.ask("flows"):
            if record["data_path"] != "kernel":
                theirs.add(record["flow_id"])
                yield record
        for flow in self._carried():
            if flow.number not in theirs:
                yield descriptions.describe_flow(flow, time.monotonic())

    async def learned(self) -> AsyncIterator[Record]:
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
        self._cleared(forgotten)
        return forgotten
