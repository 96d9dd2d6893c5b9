"""Captures at every interface of the four hosts, complete or failed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from scapy.utils import RawPcapReader

from nfq_zerortt.testbed.network import Testbed
from support.waiting import PATIENCE_S, until

ETHERNET_HEADER = 14
_EXTENDED = "(ip6 and ip6[6] != 6 and ip6[40] == 6)"
"""TCP behind one extension header, whose ports tcpdump does not find."""
_ICMP_ERRORS = (
    "(icmp and (icmp[0] == 3 or icmp[0] == 11 or icmp[0] == 12))"
    " or (icmp6 and ip6[6] == 58 and ip6[40] < 128)"
)
QUIET_S = 0.2
"""So long without a packet anywhere, many round trips of the test network: all is said."""


@dataclass(frozen=True, order=True)
class Point:
    """A place to capture at: an interface of a host."""

    host: str
    interface: str

    def __str__(self) -> str:
        return f"{self.host}.{self.interface}"


CLIENT = Point("client", "eth0")
CLIENT_SIDE = Point("clientnic", "eth0")
SERVER_SIDE = Point("clientnic", "eth1")
WAN = Point("servernic", "eth1")
LAN = Point("servernic", "eth2")
SERVER = Point("server", "eth2")
POINTS = (CLIENT, CLIENT_SIDE, SERVER_SIDE, WAN, LAN, SERVER)


@dataclass(frozen=True)
class Captured:
    """One captured IP packet. ``time`` is the kernel's, in seconds, comparable across hosts."""

    time: float
    raw: bytes

    @property
    def is_icmp(self) -> bool:
        """Whether it is ICMP; for IPv6 only without extension headers."""
        return self.raw[9] == 1 if self.raw[0] >> 4 == 4 else self.raw[6] == 58


class Captures:
    """tcpdump at every interface while the block runs; afterwards ``packets`` has what passed.

    Leaving the block waits until the network is quiet. A packet that tcpdump lost fails the
    test, since a checker that did not see everything has checked nothing.
    """

    def __init__(
        self, testbed: Testbed, directory: Path, port: int | None = None, *, errors: bool = False
    ) -> None:
        """``port`` is the server's, to leave out what an earlier test's sockets still say.

        ``errors``: ICMP errors, too, in ``errors``.
        """
        self._testbed = testbed
        self._directory = directory
        self._expression = "ip proto 6" if port is None else f"tcp port {port} or {_EXTENDED}"
        if errors:
            self._expression += f" or {_ICMP_ERRORS}"
        self._running: dict[Point, subprocess.Popen[bytes]] = {}
        self.packets: dict[Point, list[Captured]] = defaultdict(list)
        self.errors: dict[Point, list[Captured]] = defaultdict(list)

    def __enter__(self) -> Self:
        try:
            for point in POINTS:
                self._start(point)
            for point in POINTS:
                until(
                    lambda p=point: "listening on" in self._said(p),  # type: ignore[misc]
                    lambda p=point: f"tcpdump at {p}: {self._said(p)}",  # type: ignore[misc]
                )
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None:
                self._settle()
        finally:
            self._end_all()
        if exc is None:
            for point in POINTS:
                self._require_complete(point)
                for captured in self._read(point):
                    kept = self.errors if captured.is_icmp else self.packets
                    kept[point].append(captured)

    def _file(self, point: Point, suffix: str) -> Path:
        return self._directory / f"{point}.{suffix}"

    def _said(self, point: Point) -> str:
        return self._file(point, "tcpdump").read_text(encoding="utf-8")

    def _start(self, point: Point) -> None:
        argv = ["tcpdump", "-i", point.interface, "-n", "-s", "0", "-B", "16384", "-Z", "root"]
        argv += ["--immediate-mode", "-U", "-w", str(self._file(point, "pcap")), self._expression]
        with self._file(point, "tcpdump").open("wb") as said:
            self._running[point] = self._testbed.popen(point.host, argv, stderr=said)

    def _end_all(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        for process in self._running.values():
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running = {}

    def _settle(self) -> None:
        """Wait until nothing has arrived for a while, at tcpdump or at an interface."""
        deadline = time.monotonic() + PATIENCE_S
        before, since = self._sizes(), time.monotonic()
        while time.monotonic() - since < QUIET_S:
            time.sleep(0.02)
            if (now := self._sizes()) != before:
                before, since = now, time.monotonic()
            assert time.monotonic() < deadline, "the network does not come to rest"

    def _sizes(self) -> list[int]:
        return [self._file(point, "pcap").stat().st_size for point in POINTS]

    def _require_complete(self, point: Point) -> None:
        said = self._said(point)
        # "received by filter" is no help: it counts what came before the filter was set, too.
        # That none is missing at the end, the quiet and the comparison of each link's ends show.
        dropped = re.search(r"(\d+) packets? dropped by kernel", said)
        assert dropped, said
        assert int(dropped.group(1)) == 0, f"tcpdump at {point} lost packets: {said}"

    def _read(self, point: Point) -> list[Captured]:
        with RawPcapReader(str(self._file(point, "pcap"))) as reader:
            return [
                Captured(meta.sec + meta.usec / 1e6, data[ETHERNET_HEADER:])
                for data, meta in reader
            ]
