"""Writes lines to a file, a pipe, a terminal or a socket, and never waits for it.

Whoever reads the log may have stopped reading. O_NONBLOCK belongs to the open
file, which for stderr others share (the shell, for one), so it is not set on
it. Instead, a pipe or a terminal is opened once more, for this process alone;
where that cannot be (a socket, as systemd gives), little enough is written at
a time to fit when poll(2) says that there is room.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import deque
from pathlib import Path

_PIECE = select.PIPE_BUF
"""A pipe takes so much as a whole when there is room at all (pipe(7)), a Unix socket too."""

_FILE_PIECE = 1 << 16
_GONE = frozenset({errno.EPIPE, errno.EBADF, errno.ECONNRESET, errno.ENOTCONN, errno.ENXIO})


class GoneError(Exception):
    """Nothing can be written there any more: the reader has closed, or it was never open."""


class Outlet:
    """Lines on their way into one open file."""

    def __init__(self, descriptor: int, *, own: bool) -> None:
        """Write to ``descriptor``; ``own`` if nobody else has it, then it is closed by us.

        An own one shall be O_NONBLOCK. One that is not open is as one whose reader is gone.
        """
        self._descriptor, self._own = descriptor, own
        self._lines: deque[bytes] = deque()
        self._begun = False  # the first line is the rest of one
        self._torn = False  # what was written last is the beginning of a line given up
        self._piece = _PIECE
        self._poll: select.poll | None = None
        self.terminal = False
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            self._descriptor = -1  # the number may soon be that of something else
            return
        self.terminal = os.isatty(descriptor)
        if stat.S_ISREG(mode):
            self._piece = _FILE_PIECE
            return
        if not own and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            self._open_again()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLOUT)

    @classmethod
    def to_file(cls, path: Path) -> Outlet:
        """Append to the file at ``path``.

        Raises:
            OSError: it cannot be opened; ENXIO for a named pipe that nobody reads.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return cls(os.open(path, flags, 0o666), own=True)

    def _open_again(self) -> None:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self._descriptor = os.open(f"/proc/self/fd/{self._descriptor}", flags)
        except OSError:
            return  # another user's pipe, or no /proc: poll(2) has to do
        self._own = True

    def __len__(self) -> int:
        """Return how many lines wait, one begun among them."""
        return len(self._lines)

    def add(self, line: str) -> None:
        """Keep a line, given without its line feed, to be written."""
        self._lines.append(line.encode("utf-8", "backslashreplace") + b"\n")

    def wait(self, seconds: float) -> bool:
        """Wait until there is room to write, no longer than ``seconds``; tell whether there is."""
        return self._poll is None or bool(self._poll.poll(seconds * 1000))

    def write(self) -> bool:
        """Write as much as there is room for; tell whether that was all.

        Raises:
            GoneError: nothing can ever be written there again.
            OSError: it cannot be now, with a full disk for one; the lines are kept.
        """
        while self._lines:
            if not self.wait(0):
                return False
            try:
                written = os.write(self._descriptor, self._next_piece())
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _GONE:
                    raise GoneError from error
                raise
            self._strike(written)
        return True

    def give_up(self) -> int:
        """Forget the lines that wait; return how many they were."""
        count = len(self._lines)
        self._lines.clear()
        self._torn = self._torn or self._begun
        self._begun = False
        return count

    def close(self) -> None:
        """Close the file, if it is ours."""
        if self._own:
            os.close(self._descriptor)

    def _next_piece(self) -> bytes:
        pieces = [b"\n"] if self._torn else []
        size = len(pieces)
        for line in self._lines:
            size += len(line)
            if pieces and size > self._piece:
                break
            pieces.append(line)
        return b"".join(pieces)[: self._piece]

    def _strike(self, written: int) -> None:
        if self._torn:
            self._torn = False
            written -= 1
        while written:
            line = self._lines.popleft()
            self._begun = written < len(line)
            if self._begun:
                self._lines.appendleft(line[written:])
                return
            written -= len(line)
