"""Captures at a host: tcpdump writes them, scapy's reader reads them."""

from __future__ import annotations

import re
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scapy.utils import RawPcapReader

from bench.lab import Lab
from nfq_zerortt.errors import ZeroRttError

_SNAP = 14 + 20 + 60  # Ethernet, IPv4 without options, the longest TCP header
_TCP = struct.Struct(">4xI4xH")  # sequence number, data offset and flags
_FIN, _SYN, ACK = 0x01, 0x02, 0x10
_MASK = 0xFFFFFFFF
_BLOCK_S = 1.2  # so long the kernel may keep packets back before tcpdump gets them
_HALF = 0x80000000


@dataclass(frozen=True, slots=True)
class Seen:
    """One captured TCP segment over IPv4.

    Attributes:
        at: when, seconds since the epoch.
        path: source, destination, source port and destination port as they stand in the packet.
        seq, flags, length: sequence number, flags, bytes of data.
    """

    at: float
    path: bytes
    seq: int
    flags: int
    length: int

    @property
    def reverse(self) -> bytes:
        """The path of what goes the other way."""
        path = self.path
        return path[4:8] + path[:4] + path[10:12] + path[8:10]

    @property
    def is_syn(self) -> bool:
        """Whether it is the first segment of a handshake."""
        return self.flags & (_SYN | ACK) == _SYN

    @property
    def is_syn_ack(self) -> bool:
        """Whether it answers one."""
        return self.flags & (_SYN | ACK) == _SYN | ACK

    @property
    def sequence_length(self) -> int:
        """What it takes of sequence space."""
        return self.length + bool(self.flags & _SYN) + bool(self.flags & _FIN)


class Capture:
    """tcpdump on one interface of a host, from its start until :meth:`stop`."""

    def __init__(self, lab: Lab, host: str, interface: str, expression: str) -> None:
        """Start it and wait until it captures.

        Raises:
            ZeroRttError: tcpdump did not start.
        """
        self._file = lab.directory / f"{host}-{interface}-{time.monotonic_ns()}.pcap"
        self._said = lab.directory / f"{self._file.name}.log"
        with self._said.open("wb") as log:
            self._process: subprocess.Popen[Any] = lab.background(
                host,
                [
                    *("tcpdump", "-i", interface, "-s", str(_SNAP), "-B", "65536", "-n"),
                    *("-Z", "root", "-w", str(self._file), expression),
                ],
                stderr=log,
            )
        deadline = time.monotonic() + 10
        while "listening on" not in self._said.read_text(encoding="utf-8"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._said.read_text(encoding="utf-8").strip()
                raise ZeroRttError(f"tcpdump on {host} did not start: {said}")
            time.sleep(0.02)

    def stop(self) -> int:
        """End it; return how many packets it has missed."""
        time.sleep(_BLOCK_S)
        self._process.terminate()
        self._process.wait()
        said = self._said.read_text(encoding="utf-8")
        missed = re.search(r"(\d+) packets? dropped by kernel", said)
        if missed is None:
            raise ZeroRttError(f"tcpdump ended early: {said.strip()}")
        return int(missed[1])

    def segments(self) -> Iterator[Seen]:
        """Read what was captured."""
        return _segments(self._file)


def _segments(file: Path) -> Iterator[Seen]:
    with RawPcapReader(str(file)) as packets:
        for data, meta in packets:
            ip = data[14:]
            header = (ip[0] & 0x0F) * 4
            seq, offset_flags = _TCP.unpack_from(ip, header)
            total = int.from_bytes(ip[2:4], "big")
            yield Seen(
                meta.sec + meta.usec / 1e6,
                ip[12:20] + ip[header : header + 4],
                seq,
                offset_flags & 0x1FF,
                total - header - (offset_flags >> 12) * 4,
            )


class _Sequence:
    """What of one path's sequence numbers has been seen: all up to an end, but for gaps."""

    __slots__ = ("end", "gaps")

    def __init__(self, end: int) -> None:
        self.end = end
        self.gaps: list[tuple[int, int]] = []

    def take(self, start: int, length: int) -> bool | None:
        """Take in a segment: None if it is new and in order, else whether it fills a gap."""
        ahead = _ahead(self.end, start)
        end = (start + length) & _MASK
        if ahead >= 0:
            if ahead:
                self.gaps.append((self.end, start))
            self.end = end
            return None
        if _ahead(self.end, end) > 0:
            self.end = end
        for number, (first, last) in enumerate(self.gaps):
            if _ahead(first, start) >= 0 and _ahead(end, last) >= 0:
                left = [(first, start), (end, last)]
                self.gaps[number : number + 1] = [gap for gap in left if gap[0] != gap[1]]
                return True
        return False


def _ahead(start: int, end: int) -> int:
    way = (end - start) & _MASK
    return way - (_MASK + 1) if way & _HALF else way


@dataclass(slots=True)
class Order:
    """How many segments were captured, sent again, or overtaken by later ones."""

    segments: int = 0
    again: int = 0
    overtaken: int = 0


def order_of(segments: Iterator[Seen]) -> Order:
    """Tell segments that were sent again from those that only came late.

    Sent again: all its sequence numbers were seen before. Each connection has a 4-tuple of
    its own, so a path's first segment is its SYN.
    """
    order = Order()
    paths: dict[bytes, _Sequence] = {}
    for segment in segments:
        order.segments += 1
        length = segment.sequence_length
        if not length:
            continue
        seen = paths.get(segment.path)
        if seen is None:
            paths[segment.path] = _Sequence((segment.seq + length) & _MASK)
            continue
        filled = seen.take(segment.seq, length)
        if filled is not None:
            order.overtaken += filled
            order.again += not filled
    return order


def answer_times(segments: Iterator[Seen]) -> list[float]:
    """Return the microseconds from each SYN to its SYN-ACK, both as this interface saw them."""
    asked: dict[bytes, float] = {}
    took: list[float] = []
    for segment in segments:
        if segment.is_syn:
            asked.setdefault(segment.path, segment.at)
        elif segment.is_syn_ack and segment.reverse in asked:
            took.append((segment.at - asked.pop(segment.reverse)) * 1e6)
    return took
