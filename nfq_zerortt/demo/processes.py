"""The programs of the demonstration as child processes: their lines, their end."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

_GRACE_S = 5.0


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Give the process; at the end of the block it is ended, if need be by force, and reaped."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


class LineReader:
    """Reads a process's stdout line by line with a time limit, and keeps what stderr says."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._given = 0
        self._partial = b""
        self._said = b""
        self._open: list[IO[bytes]] = [s for s in (process.stdout, process.stderr) if s]

    def next(self, timeout_s: float) -> str | None:
        """Return the next line; None when there is none in time, or stdout has ended."""
        deadline = time.monotonic() + timeout_s
        while self._given == len(self._lines):
            remaining = deadline - time.monotonic()
            if self._process.stdout not in self._open or remaining <= 0:
                return None
            self._read(remaining)
        self._given += 1
        return self._lines[self._given - 1]

    def lines_so_far(self) -> list[str]:
        """Return all lines that have been written until now."""
        while self._open and self._read(0):
            pass
        return list(self._lines)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the process's end and return its exit status; None when it still runs."""
        deadline = time.monotonic() + timeout_s
        while self._open and (remaining := deadline - time.monotonic()) > 0:
            self._read(remaining)
        try:
            return self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """Return the last line of stderr so far."""
        self.lines_so_far()
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "it said nothing")

    def _read(self, timeout_s: float) -> bool:
        """Take in what is there, waiting for it at most so long; False when there was nothing."""
        ready, _, _ = select.select(self._open, [], [], timeout_s)
        for stream in ready:
            part = os.read(stream.fileno(), 65536)
            if not part:
                self._open.remove(stream)
            elif stream is self._process.stdout:
                *whole, self._partial = (self._partial + part).split(b"\n")
                self._lines += [line.decode() for line in whole]
            else:
                self._said += part
        return bool(ready)
