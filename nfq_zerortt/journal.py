"""The log as one process writes it: what happens is kept, and written when packets leave time."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from nfq_zerortt.observe.hints import Hints
from nfq_zerortt.observe.log import EventLog
from nfq_zerortt.observe.recent import Recent
from nfq_zerortt.observe.tally import Tally

_SLICE = 32  # events: what is written at a time must not keep a SYN waiting
_DELAY_S = 0.02
_LONGEST_FAULT = 3000
"""Characters of a traceback: as a line it is one write, which no other process's line can part."""


class Journal:
    """Where a process of the service says what happens. For the thread of its event loop.

    Attributes:
        debug: whether events about single packets are wanted.
        tally: counts what happens, whatever the log's level is.
        recent: the last events, likewise.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._writing = False
        self.debug = log.debug
        self.tally = Tally()
        self.recent = Recent()
        self._hints = Hints()

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        """Say what has happened. It is written in a moment; without an event loop, at the end."""
        self.tally.note(event, fields)
        self.recent.add(event, fields)
        self._log.add(event, fields)
        if not self._writing:
            with suppress(RuntimeError):
                asyncio.get_running_loop().call_later(_DELAY_S, self._write)
                self._writing = True
        if (hint := self._hints.note(event, fields)) is not None:
            self.warn(*hint)

    def _write(self) -> None:
        later = self._log.flush(_SLICE)
        self._writing = later is not None
        if later is not None:
            asyncio.get_running_loop().call_later(later, self._write)

    def warn(self, about: str, warning: str, remedy: str) -> None:
        """Say what keeps connections from working, or cannot be had."""
        self.event("service.warning", {"about": about, "warning": warning, "remedy": remedy})

    def fault(self) -> None:
        """Say which exception is being handled: a bug of ours, that must not stop the loop."""
        self.event("service.fault", {"error": traceback.format_exc()[-_LONGEST_FAULT:]})

    async def guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work beside the packets; a bug in it ends that work alone, and is told."""
        try:
            await work
        except Exception:
            self.fault()

    def set_level(self, level: str) -> None:
        """Write events of ``level`` and above from now on."""
        self._log.set_level(level)
        self.debug = self._log.debug

    @property
    def suppressed(self) -> int:
        """How many events the log has not written, and will not."""
        return self._log.suppressed

    def close(self) -> None:
        """Write what is left, as far as somebody reads it, and close the log."""
        self._log.close()
