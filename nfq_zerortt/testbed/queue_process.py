"""A process on servernic that decides when, and whether, packets of an NFQUEUE go on.

The delay line and the fault injector are both such a process. ``testbed up``
starts it inside servernic's namespace; SIGHUP makes it read the testbed's
settings again. It writes its figures into a status file now and then, and at
once when it has read the settings.

Its rule has no ``--queue-bypass``: were the process to die, a bypass would
silently make the WAN a fast and faultless one, and a measurement wrong.
Without it nothing passes, and ``testbed status`` says why.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from types import FrameType
from typing import Any

import netfilterqueue

from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.wan import WanSettings

# 100,000 full frames are 1.2 s of 1 Gbit/s.
_QUEUE_LENGTH = 100_000
_SOCKET_BUFFER_BYTES = 32 * 1024 * 1024
_REALTIME_PRIORITY = 10


class QueueProcess(ABC):
    """The loop that serves one queue of the testbed ``name``."""

    role: str
    """Names its status file."""
    report_interval_s: float
    """How often it writes its figures down, if they have changed."""

    def __init__(self, name: str, queue_number: int, copy_mode: int) -> None:
        self._name = name
        self._queue_number = queue_number
        self._copy_mode = copy_mode
        self._scheduling = be_scheduled_first()
        self._settings = WanSettings()
        self._next_report = 0.0
        self._reported: dict[str, Any] = {}
        self._reread = True

    @abstractmethod
    def arrived(self, packet: netfilterqueue.Packet) -> None:
        """Take a packet. While packets keep coming this alone is called: release in it, too."""

    @abstractmethod
    def release(self, now: float) -> None:
        """Give the verdicts that are due; ``now`` is of time.monotonic()."""

    @abstractmethod
    def next_due(self) -> float | None:
        """Return when the next verdict is due; None when no packet waits."""

    @abstractmethod
    def begin(self, settings: WanSettings) -> None:
        """Take new settings over, and count from zero."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """Return what it has counted, as JSON has it."""

    def run(self) -> None:
        """Serve the queue for ever."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, self._read_settings_soon)
        queue = netfilterqueue.NetfilterQueue()
        queue.bind(
            self._queue_number,
            self.arrived,
            max_len=_QUEUE_LENGTH,
            mode=self._copy_mode,
            sock_len=_SOCKET_BUFFER_BYTES,
        )
        fd = queue.get_fd()
        # Nothing here makes reference cycles, and a collection costs milliseconds.
        gc.freeze()
        gc.disable()
        self._housekeeping(time.monotonic())
        while True:
            now = time.monotonic()
            due = self.next_due()
            wake = self._next_report if due is None else due
            # select() waits in microseconds; epoll would round up to milliseconds.
            readable, _, _ = select.select((fd, wake_read), (), (), max(0.0, wake - now))
            if wake_read in readable:
                os.read(wake_read, 64)
            if fd in readable:
                queue.run(block=False)
            self.release(time.monotonic())
            self.keep_house()

    def keep_house(self) -> None:
        """Read the settings again, and report, where that is due; cheap where it is not."""
        if self._reread or time.monotonic() >= self._next_report:
            self._housekeeping(time.monotonic())

    def _read_settings_soon(self, _signal: int, _frame: FrameType | None) -> None:
        self._reread = True

    def _housekeeping(self, now: float) -> None:
        if self._reread:
            self._reread = False
            stored = state.load(self._name)
            if stored is None:
                sys.exit(f"no testbed {self._name}")
            self._settings = stored.settings
            self._reported = {}
            self.begin(stored.settings)
        self._next_report = now + self.report_interval_s
        figures = self.figures()
        if figures != self._reported:
            self._reported = figures
            state.write_json(
                state.status_file(self._name, self.role),
                {
                    "pid": os.getpid(),
                    "settings": self._settings.document(),
                    "scheduling": self._scheduling,
                    **figures,
                },
            )


def be_scheduled_first() -> str:
    """Take real-time scheduling, or the best there is; return what it is called."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
        return f"SCHED_FIFO {_REALTIME_PRIORITY}"
    with suppress(PermissionError):
        return f"nice {os.nice(-20)}"
    return "normal"


def told_to_go() -> bool:
    """Wait for the word of ``up``, which it says once it has written down who we are.

    Should it be killed before that, the pipe closes and we end: nobody would ever find us.
    """
    return sys.stdin.readline() == "go\n"
