"""Standard output for a trace: it never waits for a reader longer than somebody wants it to."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import NoReturn

from nfq_zerortt.errors import ZeroRttError

_BUFFER = 1 << 16
_PIECE = select.PIPE_BUF
"""What a pipe that says it has room takes at once, without waiting (pipe(7))."""
_TURN_MS = 100
_LAST_WAIT_S = 1.0
"""Once the trace is to end, a reader that has taken nothing for so long is not waited for."""


class StandardOutput:
    """What a :class:`~nfq_zerortt.tracing.pcapng.Writer` writes to.

    A reader that has gone away, or that has stopped reading when the trace is to end, is a
    ZeroRttError of :meth:`write` and :meth:`flush`.
    """

    def __init__(self, to_end: Callable[[], bool], descriptor: int = 1) -> None:
        """``to_end`` tells whether the trace is to end."""
        self._to_end = to_end
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, data: bytes) -> None:
        """Write it, now or soon."""
        self._waiting += data
        if len(self._waiting) > _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Even if nothing does, see that there is a reader."""
        there_is_room = self._has_room(0)
        waiting_since: float | None = None
        while self._waiting:
            if there_is_room:
                self._write_piece()
                waiting_since = None
            elif self._to_end():
                waiting_since = waiting_since or time.monotonic()
                if time.monotonic() - waiting_since > _LAST_WAIT_S:
                    self._give_up("has stopped reading: the trace breaks off where it did")
            there_is_room = self._has_room(_TURN_MS)

    def _has_room(self, timeout_ms: int) -> bool:
        events = [event for _, event in self._poll.poll(timeout_ms)]
        if any(event & (select.POLLERR | select.POLLHUP) for event in events):
            self._give_up("has gone away: the trace is ended")
        return bool(events)

    def _write_piece(self) -> None:
        try:
            written = os.write(self._descriptor, self._waiting[:_PIECE])
        except BrokenPipeError:
            self._give_up("has gone away: the trace is ended")
        except OSError as error:
            self._waiting.clear()
            raise ZeroRttError(
                f"stdout: {error.strerror}: the trace ends there, and can be read up to there"
            ) from None
        del self._waiting[:written]

    def _give_up(self, why: str) -> NoReturn:
        self._waiting.clear()
        raise ZeroRttError(f"the reader of stdout {why}")
