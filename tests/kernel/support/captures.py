"""Captures at every interface of the four hosts, complete or failed."""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from scapy.utils import RawPcapReader

from nfq_zerortt.testbed.network import Testbed
from support.namespaces import inside
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
_LOOK_S = 0.02


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
"""The two ends of each link, one link after the other."""

_NOBODY = bytes.fromhex("0200000000ff")
"""An Ethernet address of no host: what is sent to it is captured, and ignored by the IP layer."""
_RECORD_HEADER = 16
"""Of each packet in a capture file."""


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
        self._mark = _mark(port or 0)
        self._expression = "ip proto 6" if port is None else f"tcp port {port} or {_EXTENDED}"
        if errors:
            self._expression += f" or {_ICMP_ERRORS}"
        self._running: dict[Point, subprocess.Popen[bytes]] = {}
        self._lost_before = _lost_by_the_machine()
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

    @property
    def lost_by_the_machine(self) -> int:
        """How many packets a full backlog has cost since the beginning, in any namespace."""
        return _lost_by_the_machine() - self._lost_before

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
        """Wait until nothing has arrived for a while, as each tcpdump has then written.

        On a busy machine it may be behind: when a mark that is sent after the while is in its
        file, all from before is.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            before = self._quiet(deadline)
            self._send_marks()
            until(lambda b=before: all(map(int.__gt__, self._sizes(), b)), "marks in the files")  # type: ignore[misc]
            added = len(self._mark) + _RECORD_HEADER
            if self._sizes() == [size + added for size in before]:
                return

    def _quiet(self, deadline: float) -> list[int]:
        """Return the sizes of the files when they have been the same for a while."""
        sizes, since = self._sizes(), time.monotonic()
        while (now := time.monotonic()) - since < QUIET_S:
            assert now < deadline, "the network does not come to rest"
            time.sleep(_LOOK_S)
            if (found := self._sizes()) != sizes:
                sizes, since = found, time.monotonic()
        return sizes

    def _send_marks(self) -> None:
        """Send a packet over each link that nobody but tcpdump takes."""
        for point in POINTS[::2]:
            with inside(self._testbed.netns(point.host)):
                wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            with wire:
                wire.bind((point.interface, 0))
                wire.send(self._mark)

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
                if not data.startswith(_NOBODY)
            ]


def _lost_by_the_machine() -> int:
    """Sum the second column of softnet_stat: each processor has one backlog for all namespaces."""
    lines = Path("/proc/net/softnet_stat").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def _mark(port: int) -> bytes:
    """Return a frame that passes the filter of a capture of the server's port."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 1, 6, 0, bytes(4), bytes(4))
    tcp = struct.pack("!HHIIBBHHH", port, port, 0, 0, 5 << 4, 0, 0, 0, 0)
    return _NOBODY + _NOBODY + b"\x08\x00" + ip + tcp
