"""Faults of a WAN without netem: a process that loses, doubles and holds back packets.

Runs inside servernic's namespace (see queue_process), only while faults are
set. An iptables rule in mangle POSTROUTING hands it each packet behind the
delay. A packet that is held back waits for its verdict, while those behind it
go on. The copy of a packet that is doubled leaves by a raw socket with a mark,
by which the rule leaves it alone.
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
from nfq_zerortt.testbed.faults import Faults
from nfq_zerortt.testbed.injector_control import MARK, QUEUE_NUMBER
from nfq_zerortt.testbed.queue_process import QueueProcess, told_to_go
from nfq_zerortt.testbed.wan import WanSettings


class Injector(QueueProcess):
    """Does to each packet what Faults decides."""

    role = state.INJECTOR
    report_interval_s = 0.2

    def __init__(self, name: str) -> None:
        super().__init__(name, QUEUE_NUMBER, netfilterqueue.COPY_PACKET)
        # All are held back for equally long, so the first is due first.
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._hold_s = 0.0
        self._faults = Faults(WanSettings())
        self._raw = {4: _raw(socket.AF_INET), 6: _raw(socket.AF_INET6)}

    def arrived(self, packet: netfilterqueue.Packet) -> None:
        """Let a packet meet its fate."""
        data = packet.get_payload()
        fate = self._faults.fate(data)
        if fate.lost:
            packet.drop()
        elif fate.held_back:
            self._waiting.append((time.monotonic() + self._hold_s, packet.accept))
        else:
            packet.accept()
        if fate.doubled:
            self._send(data)
        self.release(time.monotonic())
        self.keep_house()

    def release(self, now: float) -> None:
        """Let those go that have been held back for long enough."""
        while self._waiting and now >= self._waiting[0][0]:
            self._waiting.popleft()[1]()

    def next_due(self) -> float | None:
        """Return when the next packet that is held back goes."""
        return self._waiting[0][0] if self._waiting else None

    def begin(self, settings: WanSettings) -> None:
        """Take the faults over; connections are forgotten."""
        for _, verdict in self._waiting:
            verdict()
        self._waiting.clear()
        self._hold_s = settings.reorder_ms / 1000
        self._faults = Faults(settings)

    def figures(self) -> dict[str, Any]:
        """Return what has been done to how many packets."""
        return asdict(self._faults.counts)

    def _send(self, packet: bytes) -> None:
        version = packet[0] >> 4
        if version == 4:
            destination = socket.inet_ntop(socket.AF_INET, packet[16:20])
        else:
            destination = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        self._raw[version].sendto(packet, (destination, 0))


def _raw(family: socket.AddressFamily) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    return opened


def main() -> None:
    """Run the fault injector of the testbed named by the only argument."""
    (name,) = sys.argv[1:]
    if told_to_go():
        Injector(name).run()


if __name__ == "__main__":
    main()
