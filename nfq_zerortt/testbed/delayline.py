"""A WAN's delay and loss without netem: a process that keeps packets for half an RTT.

Runs inside servernic's namespace, started by ``testbed up``. An iptables rule
in mangle FORWARD hands it each packet that crosses servernic, of either
direction, either IP version and any protocol. Only the packet's number comes
up from the kernel (COPY_META); the packet itself waits in the kernel's queue
until the verdict, half an RTT after it arrived.

One queue and one FIFO serve both directions, since both have the same delay:
the order of arrival is the order of release, and the kernel, which looks for a
packet from the head of its queue, finds each one at once. (A lost packet is
dropped when its time comes, not before, for the same reason.)

The rule has no ``--queue-bypass``: were this process to die, a bypass would
silently make the WAN fast, and a measurement wrong. Without it nothing passes,
and ``testbed status`` says why.

SIGHUP makes it read its settings again. Its own lateness goes into the status
file each second.
"""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import FrameType

import netfilterqueue

from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.lateness import Lateness
from nfq_zerortt.testbed.wan import QUEUE_NUMBER, WanSettings

# 100,000 full frames are 1.2 s of 1 Gbit/s.
_QUEUE_LENGTH = 100_000
_SOCKET_BUFFER_BYTES = 32 * 1024 * 1024
_REPORT_INTERVAL_S = 1.0
_REALTIME_PRIORITY = 10
_SO_TIMESTAMP = 29  # asm-generic/socket.h; the socket module does not name it
_OLDEST_TIMESTAMP_S = 1.0


class DelayLine:
    """The FIFO between arrival and release, and the loop that serves it."""

    def __init__(self, name: str, scheduling: str) -> None:
        self._name = name
        self._scheduling = scheduling
        # (planned release, the verdict to give then); times are of time.monotonic(), seconds.
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._last_planned = 0.0
        self._next_report = 0.0
        self._reported = -1
        self._reread = True
        self._settings = WanSettings()
        self._delay_s = 0.0
        self._loss = 0.0
        self._random = random.Random()
        self._clear_figures()

    def read_settings_soon(self, _signal: int, _frame: FrameType | None) -> None:
        """Signal handler: the settings have changed."""
        self._reread = True

    def run(self) -> None:
        """Serve the queue for ever."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, self.read_settings_soon)
        queue = netfilterqueue.NetfilterQueue()
        queue.bind(
            QUEUE_NUMBER,
            self._arrived,
            max_len=_QUEUE_LENGTH,
            mode=netfilterqueue.COPY_META,
            sock_len=_SOCKET_BUFFER_BYTES,
        )
        fd = queue.get_fd()
        self._housekeeping(time.monotonic())
        while True:
            now = time.monotonic()
            wake = self._waiting[0][0] if self._waiting else self._next_report
            # select() waits in microseconds; epoll would round up to milliseconds.
            readable, _, _ = select.select((fd, wake_read), (), (), max(0.0, wake - now))
            if wake_read in readable:
                os.read(wake_read, 64)
            if fd in readable:
                queue.run(block=False)
            self._release()

    def _arrived(self, packet: netfilterqueue.Packet) -> None:
        arrival = time.monotonic()
        # The kernel's time of arrival, where it can be had, takes our own wake-up out of the
        # delay. It is of the wall clock, which may be set, so an odd age is not believed.
        stamp = packet.get_timestamp()
        if stamp and 0.0 < (age := time.time() - stamp) < _OLDEST_TIMESTAMP_S:
            arrival -= age
        # Never before the packet ahead of it, also when the delay has just become shorter.
        planned = max(arrival + self._delay_s, self._last_planned)
        self._last_planned = planned
        lost = self._loss and self._random.random() < self._loss
        self._waiting.append((planned, packet.drop if lost else packet.accept))
        if lost:
            self._lost += 1
        # While packets keep coming in, queue.run() does not return.
        self._release()

    def _release(self) -> None:
        waiting = self._waiting
        while True:
            now = time.monotonic()
            if not waiting or now < waiting[0][0]:
                break
            planned, verdict = waiting.popleft()
            verdict()
            self._lateness.add(now - planned)
            self._packets += 1
        if self._reread or now >= self._next_report:
            self._housekeeping(now)

    def _housekeeping(self, now: float) -> None:
        if self._reread:
            self._reread = False
            self._read_settings()
        self._next_report = now + _REPORT_INTERVAL_S
        if self._packets != self._reported:
            self._reported = self._packets
            self._report()

    def _read_settings(self) -> None:
        stored = state.load(self._name)
        if stored is None:
            sys.exit(f"no testbed {self._name}")
        self._settings = stored.settings
        self._delay_s = stored.settings.one_way_ms / 1000
        self._loss = stored.settings.loss_percent / 100
        self._random = random.Random(stored.settings.seed)
        self._clear_figures()

    def _clear_figures(self) -> None:
        self._lateness = Lateness()
        self._packets = 0
        self._lost = 0
        self._reported = -1

    def _report(self) -> None:
        state.write_json(
            state.status_file(self._name),
            {
                "pid": os.getpid(),
                "settings": asdict(self._settings),
                "scheduling": self._scheduling,
                "packets": self._packets,
                "lost": self._lost,
                "lateness": asdict(self._lateness.figures()),
            },
        )


def _be_scheduled_first() -> str:
    """Take real-time scheduling, or the best there is; return what it is called."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
        return f"SCHED_FIFO {_REALTIME_PRIORITY}"
    with suppress(PermissionError):
        return f"nice {os.nice(-20)}"
    return "normal"


def main() -> None:
    """Run the delay line of the testbed named by the only argument."""
    (name,) = sys.argv[1:]
    # `up` says "go" once it has written down who we are. Should it be killed before that, the
    # pipe closes and we end: nobody would ever find us.
    if sys.stdin.readline() != "go\n":
        return
    # As long as any socket asks for time stamps, the kernel notes each packet's arrival.
    stamps = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stamps.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    line = DelayLine(name, _be_scheduled_first())
    # Nothing here makes reference cycles, and a collection costs milliseconds.
    gc.freeze()
    gc.disable()
    line.run()


if __name__ == "__main__":
    main()
