"""What concerns all tests when several run at once (pytest-xdist, as in ``make test``)."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO

import pytest
from hypothesis import settings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

_DOOR = Path(__file__).parent
_ROOM = _DOOR / "kernel"
_SEATS = sorted(_ROOM.glob("*.py"))[: len(os.sched_getaffinity(0))]
"""What is locked is there anyway, so that no lock file is left behind."""

_LOOKS_AGAIN_S = 0.05


def pytest_configure() -> None:
    """Let the programs under test hear SIGINT and SIGHUP, also under nohup or behind a ``&``.

    There both are ignored, which every program would inherit; a handler it does not inherit.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those that wait come first, all into one worker's part, and those that run alone last.

    Nobody waits then for the latter who could go on.
    """
    items.sort(key=lambda item: (_is(item, "alone"), not _is(item, "waits")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test beside those of the other workers, or alone if it is marked so.

    Beside it are as many as there are processors, and those that are marked as waiting: there are
    more workers than processors, and captures lose packets when all of them have much to do.
    """
    alone = _is(item, "alone")
    with _locked(_DOOR, fcntl.LOCK_EX) as door, _locked(_ROOM, _kind(alone=alone)):
        # Who waits to be alone keeps the door shut until those in the room have left.
        fcntl.flock(door, fcntl.LOCK_UN)
        with nullcontext() if alone or _is(item, "waits") else _seat():
            return (yield)


def _is(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None


def _kind(*, alone: bool) -> int:
    return fcntl.LOCK_EX if alone else fcntl.LOCK_SH


@contextmanager
def _seat() -> Iterator[None]:
    """Wait for one of the seats that are free, of which there is one for each processor."""
    with ExitStack() as opened:
        seats = [opened.enter_context(seat.open("rb")) for seat in _SEATS]
        while not any(map(_taken, seats)):
            time.sleep(_LOOKS_AGAIN_S)
        yield


def _taken(seat: IO[bytes]) -> bool:
    """Take a seat if it is free."""
    try:
        fcntl.flock(seat, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(directory: Path, kind: int) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)
