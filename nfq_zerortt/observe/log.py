"""The structured log: one JSON object a line, or coloured lines for people.

A packet never waits for the log: :meth:`EventLog.add` only keeps the event
with its time, and :meth:`EventLog.flush` renders and writes it when the
packets that have arrived are dealt with. Where nothing can be written, so many
events are kept; the rest is counted, and ``log.suppressed`` says how many.
"""

from __future__ import annotations

import errno
import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.observe.events import CAPPED, LEVELS
from nfq_zerortt.observe.outlet import GoneError, Outlet

_RANK = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_MAX_PENDING = 20_000
_MANY_PENDING = 1000
_HURRY = 4
"""So many times as much is written at a time when many wait: or, under full load, they got lost."""
_CAP_PER_SECOND = 200
_LATER_S = 0.05  # the reader is slow
_MUCH_LATER_S = 1.0  # the disk is full
_CLOSE_S = 1.0
_SLICE = 100


class EventLog:
    """Where events go. Not for several threads.

    Attributes:
        suppressed: how many events were not written, and will not be.
    """

    def __init__(self, form: str = "json", level: str = "info", file: str = "") -> None:
        """``form`` is json or console; ``file`` a path to append to, empty for stderr.

        Raises:
            ConfigError: the file cannot be opened.
        """
        self._outlet = _open(file)
        self._rank = _RANK[level]
        self._pending: deque[tuple[float, str, Mapping[str, Any]]] = deque()
        self.suppressed = 0
        self._lost = 0  # of these, those that no line has told of
        self._told = 0  # of those lost, the ones in a line that is not written yet
        self._gone = False
        self._second: dict[str, tuple[int, int]] = {}
        self._stamps = Timestamps()
        # Renderers are called as they are: a bound logger around them takes longer than they do.
        self._rendered: Any
        if form == "console":
            colors = not file and self._outlet.terminal
            self._rendered = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)
        else:
            self._rendered = structlog.processors.JSONRenderer(serializer=_as_json)

    @property
    def debug(self) -> bool:
        """Whether events about single packets are wanted."""
        return self._rank <= _RANK["debug"]

    def add(self, event: str, fields: Mapping[str, Any]) -> None:
        """Keep an event for the log, with the time of now."""
        if _RANK[LEVELS[event]] < self._rank:
            return
        now = time.time()
        if len(self._pending) >= _MAX_PENDING or (
            event in CAPPED and not self._under_cap(event, int(now))
        ):
            self._lost += 1
            self.suppressed += 1
            return
        self._pending.append((now, event, fields))

    def set_level(self, level: str) -> None:
        """Write events of ``level`` and above from now on."""
        self._rank = _RANK[level]

    def _under_cap(self, event: str, second: int) -> bool:
        current, count = self._second.get(event, (second, 0))
        count = count + 1 if current == second else 1
        self._second[event] = (second, count)
        return count <= _CAP_PER_SECOND

    def flush(self, most: int = _MAX_PENDING) -> float | None:
        """Write up to ``most`` pending events, without waiting for anybody.

        More at a time, if very many wait.
        Return None when all is written, otherwise after how many seconds to try again: 0 when
        there was only more to do. Once the reader of a pipe is gone all events are given up:
        packets are worth more than their log.
        """
        if self._gone:
            self._pending.clear()
            return None
        try:
            if len(self._outlet) and not self._outlet.write():
                return _LATER_S
            self._told = 0
            self._render(most if len(self._pending) < _MANY_PENDING else most * _HURRY)
            if not self._outlet.write():
                return _LATER_S
        except GoneError:
            self._gone = True
            return None
        except OSError:
            given_up = self._outlet.give_up() - bool(self._told)
            self.suppressed += given_up
            self._lost += given_up + self._told
            self._told = 0
            return _MUCH_LATER_S
        self._told = 0
        return 0.0 if self._pending else None

    def _render(self, most: int) -> None:
        pending = self._pending
        for _ in range(min(most, len(pending))):
            when, event, fields = pending.popleft()
            self._write(when, event, fields)
        if self._lost and not pending:
            self._told, self._lost = self._lost, 0
            self._write(time.time(), "log.suppressed", {"events": self._told})

    def _write(self, when: float, event: str, fields: Mapping[str, Any]) -> None:
        line = {"timestamp": self._stamps.of(when), "level": LEVELS[event], "event": event}
        line.update(fields)
        self._outlet.add(self._rendered(None, "", line))

    def close(self) -> None:
        """Write what is pending, for a second at most, and close the file."""
        until = time.monotonic() + _CLOSE_S
        while (later := self.flush(_SLICE)) is not None and time.monotonic() < until:
            if later == _MUCH_LATER_S:
                break
            if later:
                self._outlet.wait(max(until - time.monotonic(), 0.0))
        self._outlet.close()


class Timestamps:
    """Points in time as RFC 3339 has them; those of one second differ at their ends only."""

    def __init__(self) -> None:
        self._second = -1
        self._begin = ""

    def of(self, when: float) -> str:
        """Write ``when``, seconds since the epoch, in UTC and with microseconds."""
        second, microseconds = divmod(round(when * 1_000_000), 1_000_000)
        if second != self._second:
            self._second = second
            self._begin = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._begin}.{microseconds:06d}Z"


_encoder = json.JSONEncoder(default=repr)


def _as_json(line: Mapping[str, Any], **_: Any) -> str:
    """Write an event. json.dumps() would make an encoder for each."""
    return _encoder.encode(line)


def _open(file: str) -> Outlet:
    if not file:
        # Without a stderr of its own, 2 is the number of whatever was opened next.
        return Outlet(-1 if sys.__stderr__ is None else sys.__stderr__.fileno(), own=False)
    try:
        return Outlet.to_file(Path(file))
    except OSError as error:
        why = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
        raise ConfigError(f"option --log-file {file}: {why}") from None
