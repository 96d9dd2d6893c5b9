"""Asks the service again and again, beside the screen: a slow answer never holds up a key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.observe.control_client import ask

EVERY_S = 1.0
_SHARE = 4
"""An answer about very many flows takes seconds: so many times as long, nothing is asked."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """What the service told at one time.

    Attributes:
        at: when, seconds of the monotonic clock.
        events: of the flow that is looked into, the oldest first.
        problem: why there is nothing new, if so; then the rest is of earlier.
    """

    at: float
    stats: Record
    flows: list[Record]
    events: list[Record] = field(default_factory=list)
    problem: str = ""


class Feed(threading.Thread):
    """A thread that asks.

    Attributes:
        latest: what was told last.
        paused: nothing is asked meanwhile, unless at once.
    """

    def __init__(self, path: Path, told: Callable[[], None]) -> None:
        """Ask once, at once; ``told`` is called, by the thread, when something new is there.

        Raises:
            ZeroRttError: no service answers.
        """
        super().__init__(daemon=True)
        self.paused = False
        self._path = path
        self._told = told
        self._flow: int | None = None
        self._asking = threading.Event()
        self._began = 0.0
        self.latest = self._ask()

    def look_into(self, flow_id: int | None) -> None:
        """Ask for the events of a flow as well; None: no longer."""
        self._flow = flow_id
        self.ask_now()

    def ask_now(self) -> None:
        """Do not wait for the next time."""
        self._asking.set()

    def run(self) -> None:
        """Ask until the process ends."""
        while True:
            took = time.monotonic() - self._began
            wanted = self._asking.wait(max(EVERY_S - took, took * _SHARE))
            self._asking.clear()
            if self.paused and not wanted:
                self._began = time.monotonic()  # the pause is no answer that took so long
                continue
            try:
                self.latest = self._ask()
            except ZeroRttError as error:
                old = self.latest
                self.latest = Snapshot(old.at, old.stats, old.flows, old.events, str(error))
            self._told()

    def _ask(self) -> Snapshot:
        self._began = time.monotonic()
        events: list[Record] = []
        stats = ask(self._path, "stats")
        at = time.monotonic()
        flows = ask(self._path, "flows")
        if self._flow is not None:
            events = ask(self._path, "events", flow_id=self._flow)
            events.sort(key=lambda event: str(event["timestamp"]))  # each process has its own
        return Snapshot(at, stats, flows, events)
