"""The log never waits for its reader, and says how much it had to leave out."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.observe.log import EventLog
from nfq_zerortt.observe.outlet import GoneError, Outlet

EVENT = "flow.closed"
FIELDS = {"flow": "x" * 100}
SMALLEST_PIPE = 4096


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer, also when it would never end."""

    def late(_number: int, _frame: object) -> None:
        raise AssertionError(f"it waited for longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def named_pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A small pipe with a reader that does not read: its path and the reader's descriptor."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    yield path, reading
    os.close(reading)


def add(log: EventLog, count: int) -> None:
    for number in range(count):
        log.add(EVENT, {**FIELDS, "number": number})


def drained(reading: int, step: Callable[[], float | None]) -> list[dict[str, Any]]:
    """Read while ``step`` writes, until it has nothing more to write; return the events."""
    read = bytearray()
    with within(20):
        while True:
            later = step()
            try:
                read += os.read(reading, 1 << 20)
            except BlockingIOError:
                if later is None:
                    break
    return [json.loads(line) for line in read.splitlines()]


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pipe_that_nobody_empties_does_not_stop_us(named_pipe: tuple[Path, int]) -> None:
    path, reading = named_pipe
    log = EventLog(file=str(path))
    add(log, 1000)
    with within(2):
        assert log.flush(50)
        assert log.flush(50)
    assert len(drained(reading, lambda: log.flush(50))) == 1000
    log.close()


def test_what_is_beyond_the_backlog_is_counted(named_pipe: tuple[Path, int]) -> None:
    path, reading = named_pipe
    log = EventLog(file=str(path))
    total = 30_000
    add(log, total)
    got = drained(reading, lambda: log.flush(500))
    (suppressed,) = [event["events"] for event in got if event["event"] == "log.suppressed"]
    assert 0 < suppressed < total
    assert len(got) - 1 + suppressed == total
    numbers = [event["number"] for event in got if event["event"] == EVENT]
    assert numbers == sorted(numbers)
    log.close()


@pytest.mark.parametrize(("waiting", "written"), [(900, 10), (1500, 40)])
def test_more_is_written_at_a_time_when_many_wait(
    tmp_path: Path, waiting: int, written: int
) -> None:
    path = tmp_path / "log"
    log = EventLog(file=str(path))
    add(log, waiting)
    assert log.flush(10) == 0
    assert len(events(path)) == written
    log.close()
    assert len(events(path)) == waiting


def test_close_waits_a_second_and_no_longer(named_pipe: tuple[Path, int]) -> None:
    path, _ = named_pipe
    log = EventLog(file=str(path))
    add(log, 1000)
    began = time.monotonic()
    with within(3):
        log.close()
    assert 0.9 < time.monotonic() - began < 2


def test_close_writes_to_a_reader_that_reads(named_pipe: tuple[Path, int]) -> None:
    path, reading = named_pipe
    log = EventLog(file=str(path))
    add(log, 1000)
    os.set_blocking(reading, True)
    read = bytearray()

    def run() -> None:
        while piece := os.read(reading, 1 << 16):
            read.extend(piece)

    thread = threading.Thread(target=run)
    thread.start()
    log.close()
    thread.join(5)
    assert len(read.splitlines()) == 1000


def test_reader_that_is_gone_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = EventLog(file=str(path))
    add(log, 10)
    os.close(reading)
    for _ in range(2):
        assert log.flush(5) is None
        add(log, 10)
    with within(0.5):
        log.close()


def test_gone_means_gone() -> None:
    reading, writing = os.pipe()
    outlet = Outlet(writing, own=False)
    os.close(reading)
    outlet.add("x")
    with pytest.raises(GoneError):
        outlet.write()
    outlet.close()
    os.close(writing)
    nothing = Outlet(writing, own=False)
    nothing.add("x")
    with pytest.raises(GoneError):
        nothing.write()


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_stderr_of_others_stays_as_it_was(kind: str) -> None:
    """An unread stderr does not stop us, and does not become O_NONBLOCK for the others."""
    code = (
        "from nfq_zerortt.observe.log import EventLog\n"
        "log = EventLog()\n"
        "for n in range(5000): log.add('flow.closed', {'text': 'x' * 100})\n"
        "for n in range(5): assert log.flush(1000), 'all was written'\n"
        "log.close()\n"
    )
    ends = {"pipe": os.pipe, "socket": _socket_pair, "terminal": pty.openpty}[kind]()
    reading, writing = ends
    before = fcntl.fcntl(writing, fcntl.F_GETFL)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stderr=writing,
            timeout=10,
            check=False,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0
        assert fcntl.fcntl(writing, fcntl.F_GETFL) == before
        os.set_blocking(reading, False)
        text = os.read(reading, 1 << 20)
        assert json.loads(text.splitlines()[0])["event"] == EVENT
    finally:
        os.close(reading)
        os.close(writing)


def _socket_pair() -> tuple[int, int]:
    import socket  # noqa: PLC0415

    one, other = socket.socketpair()
    return one.detach(), other.detach()


def test_full_device_is_tried_again() -> None:
    log = EventLog(file="/dev/full")
    add(log, 10)
    with within(2):
        assert log.flush()
        add(log, 10)
        assert log.flush(), "given up for good"
        log.close()


def test_full_disk_loses_lines_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = EventLog(file=str(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # EFBIG, as ENOSPC
    try:
        add(log, 100)
        assert log.flush(50)
        assert log.flush(50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    add(log, 10)
    log.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    torn = [line for line in lines if not line.endswith("}")]
    assert len(torn) <= 1
    assert whole[-1]["event"] == "log.suppressed"
    assert len(whole) - 1 + whole[-1]["events"] == 110


def test_long_line_comes_whole(named_pipe: tuple[Path, int]) -> None:
    path, reading = named_pipe
    log = EventLog(file=str(path))
    error = "äöü" * 20_000
    log.add("service.fault", {"error": error})
    log.add(EVENT, FIELDS)
    first, second = drained(reading, lambda: log.flush(50))
    assert first["error"] == error
    assert second["event"] == EVENT
    log.close()


def test_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for _ in range(2):
        log = EventLog(file=str(path))
        add(log, 3)
        assert log.flush(2) == 0.0
        assert log.flush(2) is None
        log.close()
    assert [event["number"] for event in events(path)] == [0, 1, 2] * 2


def test_pipe_without_a_reader_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with within(2), pytest.raises(ConfigError, match="nobody reads"):
        EventLog(file=str(path))
