"""Ending in order on the signals that ask for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASK_TO_END = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def orderly_end() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit (128 + number) inside the block.

    SIGINT is KeyboardInterrupt already. From the first of them on, further ones are ignored
    until the process's end, so that what is being cleaned up is cleaned up.
    """

    came = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (*_ASK_TO_END, signal.SIGINT)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        if not came:
            for number, handler in before.items():
                signal.signal(number, handler)
