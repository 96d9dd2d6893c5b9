"""Asks the service again and again, beside the screen: a slow answer never holds up a key.

What the service counts is asked for once a second. The list of flows is asked for beside that: of
a full table it takes seconds, and is then asked for less often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.live.flow import FlowRecord, kept
from nfq_zerortt.observe.control_client import ask, ask_each

EVERY_S = 1.0
_SHARE = 4
"""An answer about very many flows takes seconds: so many times as long, nothing is asked."""
_TELL_EVERY = 4096  # flows

Record = dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """What the service told at one time.

    Attributes:
        at: when, seconds of the monotonic clock.
        flows: as they were told of last.
        events: of the flow that is looked into, the oldest first.
        problem: why there is nothing new, if so; then the rest is of earlier.
        flows_at: when the flows were asked for; None: their first list is still on its way.
        coming: how many of it are here.
    """

    at: float
    stats: Record
    flows: Sequence[FlowRecord]
    events: list[Record] = field(default_factory=list)
    problem: str = ""
    flows_at: float | None = 0.0
    coming: int = 0


class Feed:
    """Two threads that ask.

    Attributes:
        latest: what was told last.
        paused: nothing is asked meanwhile, unless at once.
    """

    def __init__(self, path: Path, told: Callable[[], None]) -> None:
        """Ask once, at once; ``told`` is called, by a thread, when something new is there.

        Raises:
            ZeroRttError: no service answers.
        """
        self.paused = False
        self._path = path
        self._told = told
        self._flow: int | None = None
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()
        self.latest = Snapshot(time.monotonic(), ask(path, "stats"), [], flows_at=None)
        self._counts = _Repeated(self, self._ask_for_counts)
        self._flows = _Repeated(self, self._ask_for_flows)

    def start(self) -> None:
        """Ask until the process ends."""
        self._flows.start()
        self._counts.start()

    def look_into(self, flow_id: int | None) -> None:
        """Ask for the events of a flow as well, and do not wait for that; None: no longer."""
        self._flow = flow_id
        self._counts.hurry.set()

    def take(self, name: str, problem: str = "", **news: Any) -> None:
        """Take in what was told by one of the threads, or why it has nothing to tell."""
        with self._lock:
            self._problems[name] = problem
            problem = next(filter(None, self._problems.values()), "")
            self.latest = replace(self.latest, problem=problem, **news)
        self._told()

    def _ask_for_counts(self) -> Record:
        events: list[Record] = []
        stats = ask(self._path, "stats")
        at = time.monotonic()
        if self._flow is not None:
            events = ask(self._path, "events", flow_id=self._flow)
            events.sort(key=lambda event: str(event["timestamp"]))  # each process has its own
        return {"at": at, "stats": stats, "events": events}

    def _ask_for_flows(self) -> Record:
        at = time.monotonic()
        flows = []
        for flow in ask_each(self._path, "flows", kept):
            flows.append(flow)
            if self.latest.flows_at is None and not len(flows) % _TELL_EVERY:
                self.take("flows", coming=len(flows))
        return {"flows": flows, "flows_at": at}


class _Repeated(threading.Thread):
    """Asks one thing again and again: once a second, unless the answer takes long."""

    def __init__(self, feed: Feed, asking: Callable[[], Record]) -> None:
        super().__init__(name=asking.__name__, daemon=True)
        self.hurry = threading.Event()
        self._feed = feed
        self._asking = asking

    def run(self) -> None:
        took = 0.0
        wanted = True
        while True:
            if wanted or not self._feed.paused:
                began = time.monotonic()
                try:
                    self._feed.take(self.name, **self._asking())
                except ZeroRttError as error:
                    self._feed.take(self.name, str(error))
                took = time.monotonic() - began
            wanted = self.hurry.wait(max(EVERY_S - took, took * _SHARE))
            self.hurry.clear()
