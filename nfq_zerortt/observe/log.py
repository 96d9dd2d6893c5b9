"""The structured log: one JSON object a line, or coloured lines for people.

A packet never waits for the log: :meth:`EventLog.add` only keeps the event
with its time, and :meth:`EventLog.flush` renders and writes it when the
packets that have arrived are dealt with.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import structlog

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.observe.events import CAPPED, LEVELS

_RANK = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_MAX_PENDING = 100_000
_CAP_PER_SECOND = 200


class EventLog:
    """Where events go. Not for several threads."""

    def __init__(self, form: str = "json", level: str = "info", file: str = "") -> None:
        """``form`` is json or console; ``file`` a path to append to, empty for stderr.

        Raises:
            ConfigError: the file cannot be opened.
        """
        self._stream = _open(file)
        self._owned = bool(file)
        self._rank = _RANK[level]
        self._pending: deque[tuple[float, str, Mapping[str, Any]]] = deque()
        self._lost = 0
        self._broken = False
        self._second: dict[str, tuple[int, int]] = {}
        renderer: Any
        if form == "console":
            colors = not file and self._stream.isatty()
            renderer = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)
        else:
            renderer = structlog.processors.JSONRenderer()
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(self._stream),
            processors=[_order, renderer],
            wrapper_class=structlog.BoundLogger,
        )

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

    def flush(self, most: int = _MAX_PENDING) -> bool:
        """Write up to ``most`` pending events; tell whether some are left.

        Where nothing can be written any more (the reader of a pipe is gone, the disk is full)
        the events are given up: packets are worth more than their log.
        """
        pending = self._pending
        if self._broken:
            pending.clear()
            return False
        try:
            return self._flush(pending, most)
        except OSError:
            self._broken = True
            return False

    def _flush(self, pending: deque[tuple[float, str, Mapping[str, Any]]], most: int) -> bool:
        for _ in range(min(most, len(pending))):
            when, event, fields = pending.popleft()
            self._write(when, event, fields)
        if self._lost and not pending:
            lost, self._lost = self._lost, 0
            self._write(time.time(), "log.suppressed", {"events": lost})
        self._stream.flush()
        return bool(pending)

    def _write(self, when: float, event: str, fields: Mapping[str, Any]) -> None:
        stamp = datetime.fromtimestamp(when, UTC).isoformat(timespec="microseconds")
        level = LEVELS[event]
        self._log.bind(timestamp=stamp.replace("+00:00", "Z"), level=level).msg(event, **fields)

    def close(self) -> None:
        """Write what is pending and close the file."""
        self.flush()
        if self._owned and not self._broken:
            self._stream.close()


def _open(file: str) -> TextIO:
    if not file:
        return sys.stderr
    try:
        return Path(file).open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"option --log-file {file}: {error.strerror}") from None


def _order(
    _logger: Any, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Put what every line has in front."""
    head = {key: event_dict.pop(key) for key in ("timestamp", "level", "event")}
    return {**head, **event_dict}
