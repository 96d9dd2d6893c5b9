"""What concerns all tests when several run at once (pytest-xdist, as in ``make test``)."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

_DOOR = Path(__file__).parent
_ROOM = _DOOR / "kernel"
"""Two directories that are locked, so that no lock file is left behind."""


def pytest_configure() -> None:
    """Let the programs under test hear SIGINT and SIGHUP, also under nohup or behind a ``&``.

    There both are ignored, which every program would inherit; a handler it does not inherit.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that run alone come last: nobody waits for them who could go on."""
    items.sort(key=_is_alone)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test beside those of the other workers, or alone if it is marked so."""
    with _locked(_DOOR, fcntl.LOCK_EX) as door, _locked(_ROOM, _kind(item)):
        # Who waits to be alone keeps the door shut until those in the room have left.
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _kind(item: pytest.Item) -> int:
    return fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH


@contextmanager
def _locked(directory: Path, kind: int) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)
