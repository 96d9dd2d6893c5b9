"""A WAN's delay without netem: a process that keeps packets for half an RTT.

Runs inside servernic's namespace (see queue_process). An iptables rule in
mangle FORWARD hands it each packet that crosses servernic, of either
direction, either IP version and any protocol. Only the packet's number comes
up from the kernel (COPY_META); the packet itself waits in the kernel's queue
until the verdict, half an RTT after it arrived.

One queue and one FIFO serve both directions, since both have the same delay:
the order of arrival is the order of release, and the kernel, which looks for a
packet from the head of its queue, finds each one at once.
"""

from __future__ import annotations

import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import netfilterqueue

from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.lateness import Lateness
from nfq_zerortt.testbed.queue_process import QueueProcess, told_to_go
from nfq_zerortt.testbed.wan import QUEUE_NUMBER, WanSettings

_SO_TIMESTAMP = 29  # asm-generic/socket.h; the socket module does not name it
_OLDEST_TIMESTAMP_S = 1.0


class DelayLine(QueueProcess):
    """The FIFO between arrival and release."""

    role = state.DELAY_LINE
    report_interval_s = 1.0

    def __init__(self, name: str) -> None:
        super().__init__(name, QUEUE_NUMBER, netfilterqueue.COPY_META)
        # (planned release, the verdict to give then); times are of time.monotonic(), seconds.
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._last_planned = 0.0
        self._delay_s = 0.0
        self._lateness = Lateness()
        self._packets = 0

    def arrived(self, packet: netfilterqueue.Packet) -> None:
        """Plan a packet's release."""
        arrival = time.monotonic()
        # The kernel's time of arrival, where it can be had, takes our own wake-up out of the
        # delay. It is of the wall clock, which may be set, so an odd age is not believed.
        stamp = packet.get_timestamp()
        if stamp and 0.0 < (age := time.time() - stamp) < _OLDEST_TIMESTAMP_S:
            arrival -= age
        # Never before the packet ahead of it, also when the delay has just become shorter.
        planned = max(arrival + self._delay_s, self._last_planned)
        self._last_planned = planned
        self._waiting.append((planned, packet.accept))
        self.release(time.monotonic())
        self.keep_house()

    def release(self, now: float) -> None:
        """Let the packets go whose time has come."""
        waiting = self._waiting
        while waiting and now >= waiting[0][0]:
            planned, verdict = waiting.popleft()
            verdict()
            self._lateness.add(now - planned)
            self._packets += 1
            now = time.monotonic()

    def next_due(self) -> float | None:
        """Return the planned release of the packet in front."""
        return self._waiting[0][0] if self._waiting else None

    def begin(self, settings: WanSettings) -> None:
        """Take the delay over."""
        self._delay_s = settings.one_way_ms / 1000
        self._lateness = Lateness()
        self._packets = 0

    def figures(self) -> dict[str, Any]:
        """Return how many packets there were, and how late they were let go."""
        return {"packets": self._packets, "lateness": asdict(self._lateness.figures())}


def main() -> None:
    """Run the delay line of the testbed named by the only argument."""
    (name,) = sys.argv[1:]
    if not told_to_go():
        return
    # As long as any socket asks for time stamps, the kernel notes each packet's arrival.
    stamps = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stamps.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    DelayLine(name).run()


if __name__ == "__main__":
    main()
