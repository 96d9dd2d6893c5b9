"""Ending processes, and only the right ones.

A process is held by a pidfd before it is looked at, so that the process that
was checked is the one that gets the signal, even if its number is used again.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for certain: its number and when it started (clock ticks since boot)."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Identify the process that has the number now; None when there is none, or a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The command's name, in parentheses, may contain anything (proc_pid_stat(5)).
        fields = stat[stat.rindex(")") + 2 :].split()
        if fields[0] in "ZX":
            return None
        return cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Say whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; False when it runs no more."""
        fd = _open(self.pid)
        if fd is None:
            return False
        try:
            if not self.alive():
                return False
            return _send(fd, number)
        finally:
            os.close(fd)


def pids_in(namespace_file: Path) -> set[int]:
    """Return the processes in a network namespace (as ``ip netns pids``), ourselves excepted."""
    pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    pids.discard(os.getpid())
    return {pid for pid in pids if _is_in(pid, namespace_file)}


def end_all_in(namespace_files: Iterable[Path], *, grace_s: float = 1.0) -> None:
    """End every process in these network namespaces: SIGTERM first, SIGKILL after ``grace_s``."""
    files = tuple(namespace_files)
    deadline = time.monotonic() + grace_s
    # Several rounds, for a process may have forked while we looked.
    for _ in range(100):
        pids = {(pid, file) for file in files for pid in pids_in(file)}
        if not pids:
            return
        remaining = deadline - time.monotonic()
        number = signal.SIGTERM if remaining > 0 else signal.SIGKILL
        fds = [
            fd
            for pid, file in pids
            if (fd := _signal_if(pid, number, partial(_is_in, pid, file))) is not None
        ]
        _wait_for(fds, remaining if remaining > 0 else 1.0)


def end(process: ProcessId) -> None:
    """End this very process at once (SIGKILL), and wait until it is gone."""
    fd = _signal_if(process.pid, signal.SIGKILL, process.alive)
    if fd is not None:
        _wait_for([fd], 5.0)


def _is_in(pid: int, namespace_file: Path) -> bool:
    try:
        own, wanted = os.stat(f"/proc/{pid}/ns/net"), os.stat(namespace_file)
    except OSError:  # it has just ended, or it is a zombie, which has no namespace any more
        return False
    return (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _send(fd: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    return True


def _signal_if(pid: int, number: signal.Signals, condition: Callable[[], bool]) -> int | None:
    """Signal the process if the condition holds; return its pidfd to wait on, else None."""
    fd = _open(pid)
    if fd is not None and condition() and _send(fd, number):
        return fd
    if fd is not None:
        os.close(fd)
    return None


def _wait_for(fds: list[int], timeout_s: float) -> None:
    """Wait until the processes have ended, or the time is over; close the pidfds."""
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    waiting = set(fds)
    for fd in fds:
        poll.register(fd, select.POLLIN)
    try:
        while waiting and (remaining := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(remaining * 1000):
                poll.unregister(fd)
                waiting.discard(fd)
    finally:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
