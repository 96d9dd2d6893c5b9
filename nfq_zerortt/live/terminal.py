"""The terminal, taken for a program that draws the whole screen, and given back as it was.

Given back always: at the end, after an exception, at SIGTERM and SIGHUP, while the program is
stopped (SIGTSTP, as by Ctrl-Z).
"""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

_TAKE = "\x1b[?1049h\x1b[?25l\x1b[2J"
"""The other screen, so that what was there comes back; no cursor; empty."""
_GIVE_BACK = "\x1b[0m\x1b[?25h\x1b[?1049l"
_PIECE = 512
"""Bytes: a terminal that says it has room takes so many without waiting, or nearly."""
_SLOW_S = 1.0
_ESCAPE_S = 0.05
_INPUT_FLAGS = 0  # where tcgetattr() has them
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_DUMB = frozenset({"", "dumb", "unknown"})
_SMALLEST, _USUAL = (20, 5), (80, 24)

_SEQUENCES = {
    **{
        f"\x1b{start}{end}": name
        for start in "[O"
        for end, name in zip("ABHF", ("up", "down", "home", "end"), strict=True)
    },
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x04": "end of input",
}


def can_be_taken() -> bool:
    """Tell whether both stdin and stdout are a terminal that can be drawn on."""
    return os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "") not in _DUMB


class Terminal:
    """The terminal of stdin and stdout; inside the block it is ours.

    Attributes:
        ended: somebody wants the program to end, or the terminal is gone.
    """

    def __init__(self) -> None:
        self.ended = False
        self._shown: list[str] = []  # what each line of the screen is like
        self._size = (0, 0)
        self._handlers: dict[signal.Signals, Any] = {}
        self._waking, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # --- taking and giving back -----------------------------------------------------------

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(0)
        for number in _ENDS:
            self._handle(number, self._end)
        self._handle(signal.SIGTSTP, self._stop)
        self._handle(signal.SIGCONT, self._go_on)
        self._handle(signal.SIGWINCH, self._resized)
        # A signal may come while another thread runs: this wakes the one that waits for keys.
        self._woken_before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            self._take()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN if number in _ENDS else handler)
        self._give_back()
        signal.set_wakeup_fd(self._woken_before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: signal.Signals, handler: Any) -> None:
        self._handlers[number] = signal.signal(number, handler)

    def _take(self) -> None:
        tty.setcbreak(0)
        self._write(_TAKE)
        self._shown = []

    def _give_back(self) -> None:
        with suppress(OSError, termios.error):  # it may be gone
            flowing = termios.tcgetattr(0)
            flowing[_INPUT_FLAGS] &= ~termios.IXON  # what Ctrl-S has stopped goes on
            termios.tcsetattr(0, termios.TCSANOW, flowing)
            self._write(_GIVE_BACK)
            termios.tcsetattr(0, termios.TCSANOW, self._before)

    # --- signals --------------------------------------------------------------------------

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.ended = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # here we stop, until SIGCONT
        signal.signal(signal.SIGTSTP, self._stop)

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        try:
            self._take()
        except (OSError, termios.error):  # it belongs to others by now
            self.ended = True

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self._shown = []

    # --- keys -----------------------------------------------------------------------------

    def wake(self) -> None:
        """Let :meth:`keys` return; from any thread."""
        with suppress(BlockingIOError):
            os.write(self._wake, b"\0")

    def keys(self, patience_s: float) -> list[str]:
        """Return the keys that were pressed: a character each, or a name.

        Waits for one, for a call of :meth:`wake`, for a signal; no longer than ``patience_s``.
        """
        ready, _, _ = select.select([0, self._waking], [], [], patience_s)
        if self._waking in ready:
            with suppress(BlockingIOError):
                os.read(self._waking, 4096)
        if 0 not in ready:
            return []
        read = self._read()
        if read.endswith(b"\x1b") and select.select([0], [], [], _ESCAPE_S)[0]:
            read += self._read()  # a slow line has cut a sequence in two
        return named(read.decode("utf-8", "ignore"))

    def _read(self) -> bytes:
        try:
            read = os.read(0, 1024)
        except OSError:  # EIO: the terminal has hung up
            read = b""
        if not read:
            self.ended = True
        return read

    # --- the screen -----------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            columns, lines = os.get_terminal_size(1)
        except OSError:
            return _USUAL
        if not columns or not lines:  # a serial line does not know
            return _USUAL
        return max(columns, _SMALLEST[0]), max(lines, _SMALLEST[1])

    def show(self, lines: Sequence[str]) -> None:
        """Show these lines, as many as there are on the screen; only what is new is sent."""
        if self.size != self._size:
            self._size, self._shown = self.size, []
        before = self._shown or [""] * len(lines)
        out = "" if self._shown else "\x1b[0m\x1b[2J"
        for number, (line, was) in enumerate(zip(lines, before, strict=False)):
            if line != was:
                out += f"\x1b[{number + 1};1H\x1b[0m{line}\x1b[0m\x1b[K"
        self._shown = list(lines)
        if out and not self._write(out):
            self._shown = []  # half of it is there: all of it next time

    def _write(self, text: str) -> bool:
        """Write, and wait no longer than a moment for a terminal that takes nothing."""
        data = text.encode()
        while data:
            try:
                if not select.select([], [1], [], _SLOW_S)[1]:
                    return False
                data = data[os.write(1, data[:_PIECE]) :]
            except OSError:
                self.ended = True
                return False
        return True


def named(text: str) -> list[str]:
    """Return the keys that a terminal has sent: a character each, or a name."""
    found = []
    while text:
        for length in (4, 3, 1):
            if text[:length] in _SEQUENCES:
                found.append(_SEQUENCES[text[:length]])
                text = text[length:]
                break
        else:
            if text[0].isprintable():
                found.append(text[0])
            text = text[1:]
    return found
