"""Packets of two interfaces of this host, in the order in which the kernel saw them.

They are taken by tcpdump, which captures without a loss what Python could not, knows how to filter
in the kernel, and counts what was lost all the same. One capture of the pseudo interface ``any``,
with the filter letting two interfaces through, has both sides in one order, and says of each packet
whether it came or left.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from typing import Self

from nfq_zerortt import programs
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.observe.capture import CaptureCounts, Spawn, Tcpdump
from nfq_zerortt.tracing.link_layer import LINUX_SLL2, SLL2_HEADER, look
from nfq_zerortt.tracing.packets import Seen

_BUFFER_KIB = 65_536
_PIPE_BYTES = 1 << 20  # what an ordinary user's pipe may be at most; root's more
_F_SETPIPE_SZ = 1031  # fcntl(2)
_FILE_HEADER = 24
_RECORD = struct.Struct("=IIII")
_NANOSECONDS = 0xA1B23C4D


class Taking:
    """A running capture of two interfaces; as a context manager it ends with the block."""

    def __init__(
        self, interfaces: tuple[str, str], filter_: str, snaplen: int, spawn: Spawn | None = None
    ) -> None:
        """Begin. ``snaplen`` is how much of an IP packet is kept, bytes.

        Raises:
            ConfigError: there is no such interface.
            MissingFeatureError: tcpdump is not installed.
            ZeroRttError: it does not start.
        """
        self._taps = {_index(name): tap for tap, name in enumerate(interfaces)}
        here = " or ".join(f"ifindex {index}" for index in self._taps)
        reading, writing = os.pipe()
        self._pipe = reading
        self._waiting = b""
        self.ended = False
        self._has_head = False
        try:
            _enlarge(writing)
            self._tcpdump = Tcpdump(
                " and ".join(interfaces),
                [
                    *("-i", "any", "-y", "LINUX_SLL2"),
                    *("-s", str(snaplen + SLL2_HEADER), "-B", str(_BUFFER_KIB)),
                ],
                f"({here}) and ({filter_})",
                writing,
                spawn or _spawn,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tcpdump.abort()
        os.close(self._pipe)

    def take(self, timeout_s: float) -> Iterator[Seen]:
        """Give what has come; wait for it that long at most. ``ended`` says that no more comes."""
        ready, _, _ = select.select([self._pipe], [], [], timeout_s)
        if not ready:
            return
        piece = os.read(self._pipe, _PIPE_BYTES)
        if not piece:
            self.ended = True
        data = self._waiting + piece
        position = 0
        if not self._has_head:
            if len(data) < _FILE_HEADER:
                self._waiting = data
                return
            _check_head(data)
            self._has_head = True
            position = _FILE_HEADER
        while len(data) >= position + _RECORD.size:
            seconds, nanoseconds, captured, length = _RECORD.unpack_from(data, position)
            begin = position + _RECORD.size
            if len(data) < begin + captured:
                break
            position = begin + captured
            seen = self._seen(seconds * 1_000_000_000 + nanoseconds, data[begin:position], length)
            if seen is not None:
                yield seen
        self._waiting = data[position:]

    def _seen(self, time_ns: int, frame: bytes, length: int) -> Seen | None:
        found = look(LINUX_SLL2, frame)
        tap = self._taps.get(found.interface) if found and found.interface is not None else None
        if found is None or tap is None:
            return None
        return Seen(time_ns, tap, found.outgoing, frame[found.ip :], length - found.ip)

    def stop(self) -> None:
        """Let it end; what it still has is to be taken, until ``ended``."""
        self._tcpdump.ask_to_end()

    def counts(self) -> CaptureCounts:
        """Return what tcpdump said at its end; ZeroRttError when it had failed."""
        return self._tcpdump.counts()


def _spawn(argv: list[str], **keywords: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, env=programs.environment(), **keywords)  # type: ignore[call-overload,no-any-return]


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        there = ", ".join(other for _, other in socket.if_nameindex())
        raise ConfigError(f"interface {name!r}: there is none; there are: {there}") from None


def _check_head(data: bytes) -> None:
    magic, *_, link_type = struct.unpack_from("=IHHiIII", data)
    if magic != _NANOSECONDS or link_type & 0xFFFF != LINUX_SLL2:
        raise ZeroRttError("tcpdump does not write what it was asked for: install libpcap 1.10")


def _enlarge(pipe: int) -> None:
    """Let the pipe hold more, if it may: tcpdump then seldom waits for us."""
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
    except PermissionError:
        return
