"""A program on a terminal: a pseudo-terminal, and an emulator that shows what stands on it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from typing import Any, Self

import pyte

from support.service import ENVIRONMENT
from support.waiting import PATIENCE_S, until

WHOLE_SCREEN, AS_BEFORE = b"\x1b[?1049h", b"\x1b[?1049l"


class OnTerminal:
    """A program with a terminal of its own; ended with the block, if it has not ended.

    Attributes:
        written: all that it wrote.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        **variables: str,
    ) -> None:
        """``variables``: of the environment, besides TERM."""
        self.written = b""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._hung_up = threading.Event()
        self._ours, theirs = pty.openpty()
        self._set_size(columns, lines)
        self.modes = termios.tcgetattr(self._ours)
        without = {"NO_COLOR", "COLUMNS", "LINES"}
        plain = {name: value for name, value in ENVIRONMENT.items() if name not in without}
        self.process = subprocess.Popen(
            ("setsid", "--ctty", *argv),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**plain, "TERM": "xterm-256color", **variables},
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """Close our end, as when a connection by ssh breaks."""
        if self._ours >= 0:
            self._hung_up.set()
            self._reader.join(PATIENCE_S)
            os.close(self._ours)
            self._ours = -1

    def _read(self) -> None:
        while not self._hung_up.is_set():
            if not select.select([self._ours], [], [], 0.05)[0]:
                continue
            try:
                piece = os.read(self._ours, 4096)
            except OSError:  # EIO: nobody has the other end any more
                return
            with self._lock:
                self.written += piece
                self._stream.feed(piece)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the window; the kernel tells the program."""
        with self._lock:
            self._screen.resize(lines, columns)
            self._screen.reset()
        self._set_size(columns, lines)

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._ours, keys.encode())

    def lines(self) -> list[str]:
        """Return what stands on the screen."""
        with self._lock:
            return list(self._screen.display)

    def styles(self, line: int) -> list[Any]:
        """Return the characters of a line with their colours."""
        with self._lock:
            return [self._screen.buffer[line][column] for column in range(self._screen.columns)]

    def text(self) -> str:
        """Return what stands on the screen as one text."""
        return "\n".join(line.rstrip() for line in self.lines())

    def wait_for(self, *words: str) -> str:
        """Wait until all of these stand on the screen, and return what stands there."""

        def there() -> str:
            shown = self.text()
            return shown if all(word in shown for word in words) else ""

        return until(there, lambda: f"{words} on the screen:\n{self.text()}")

    def wait_until_gone(self, word: str) -> None:
        """Wait until that stands on the screen no more."""
        until(lambda: word not in self.text(), lambda: f"no {word}:\n{self.text()}")

    def ends(self) -> int:
        """Wait for the end of the program, and return its status; all was written then."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def modes_now(self) -> list[Any]:
        """Return how the terminal is set."""
        return termios.tcgetattr(self._ours)
