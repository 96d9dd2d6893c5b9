"""Captures by tcpdump: started on an interface, stopped without loss, read by scapy.

tcpdump and scapy share no code with the product, so what they show is a second opinion. Only
headers are kept. The timestamps are the kernel's, with nanoseconds.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nfq_zerortt import programs
from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.observe.records import PacketRecord, Tap

Spawn = Callable[..., "subprocess.Popen[Any]"]
"""Starts a command where the interface is: called with argv and subprocess.Popen's keywords."""

_SNAPLEN = 192  # Ethernet, IPv4 or IPv6 with some extension headers, TCP with all its options
_LEAST_DATA_OFFSET = 5  # RFC 9293, section 3.1
_BUFFER_KIB = 4096
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0
_GREETING = re.compile(r"tcpdump: (listening on|data link type) ")


@dataclass(frozen=True, slots=True)
class CaptureCounts:
    """What tcpdump said at its end."""

    captured: int
    dropped: int
    """Packets that the kernel could not hand over in time; the capture lacks them."""


def require_tcpdump() -> None:
    """Raise MissingFeatureError when tcpdump is not installed."""
    if programs.found("tcpdump") is None:
        raise MissingFeatureError("missing program tcpdump: apt-get install tcpdump")


class Tcpdump:
    """A running tcpdump, that writes a capture of nanosecond timestamps."""

    def __init__(
        self, place: str, options: Sequence[str], filter_: str, out: int, spawn: Spawn
    ) -> None:
        """Start it and return once it captures.

        ``place`` is where, for messages; ``options`` tell it to tcpdump. ``filter_`` is an
        expression of pcap-filter(7), ``out`` the file descriptor that it writes to: our own, for
        it gives up its right to create files.

        Raises:
            MissingFeatureError: it is not installed.
            ZeroRttError: it does not start.
        """
        require_tcpdump()
        self._place = place
        self._process = spawn(
            [
                *("tcpdump", "-n", "-p", "-U", "--immediate-mode"),
                *("--time-stamp-precision=nano", "-w", "-", *options, filter_),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._said = b""
        try:
            self._await_listening()
        except BaseException:
            self.abort()
            raise

    def _await_listening(self) -> None:
        stderr = self._stderr
        deadline = time.monotonic() + _START_TIMEOUT_S
        while b"listening on" not in self._said:
            remaining = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([stderr], [], [], remaining)
            part = os.read(stderr.fileno(), 4096) if ready else b""
            if not part:
                raise ZeroRttError(f"tcpdump on {self._place} did not start: {self._last_words()}")
            self._said += part

    def ask_to_end(self) -> None:
        """Let it write what it has, and end."""
        self._process.send_signal(signal.SIGINT)

    def counts(self) -> CaptureCounts:
        """Wait for its end and return what it said then; ZeroRttError when it had failed."""
        try:
            _, said = self._process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.abort()
            raise ZeroRttError(f"tcpdump on {self._place} did not end") from None
        self._said += said
        captured, dropped = self._count(b"captured"), self._count(b"dropped by kernel")
        status = self._process.returncode
        if status < 0:
            by = f"signal {-status} ({signal.strsignal(-status)})"
            raise ZeroRttError(f"tcpdump on {self._place} was ended by {by}")
        if status != 0 or captured is None or dropped is None:
            said = f"tcpdump on {self._place} failed with status {status}: {self._last_words()}"
            raise ZeroRttError(said)
        return CaptureCounts(captured, dropped)

    def abort(self) -> None:
        """End it at once, whatever is lost; does nothing when it has ended."""
        self._process.kill()
        self._process.communicate()

    @property
    def _stderr(self) -> IO[bytes]:
        stderr = self._process.stderr
        assert stderr is not None
        return stderr

    def _count(self, what: bytes) -> int | None:
        match = re.search(rb"(\d+) packets? " + what, self._said)
        return int(match[1]) if match else None

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines()]
        about = [line for line in lines if line and not _GREETING.match(line)]
        return about[-1] if about else "it did not say why"


class Capture:
    """A running tcpdump on one interface. ``filter`` is an expression of pcap-filter(7)."""

    def __init__(self, tap: Tap, file: Path, filter_: str, spawn: Spawn) -> None:
        """Start it and return once it captures; errors as of Tcpdump."""
        require_tcpdump()
        self.tap = tap
        self._file = file
        options = ("-s", str(_SNAPLEN), "-B", str(_BUFFER_KIB), "-i", tap.interface)
        with file.open("wb") as out:
            self._tcpdump = Tcpdump(str(tap), options, filter_, out.fileno(), spawn)

    def stop(self) -> CaptureCounts:
        """End it once it has written what it had; ZeroRttError when it had failed."""
        self._tcpdump.ask_to_end()
        return self._tcpdump.counts()

    def abort(self) -> None:
        """End it at once, whatever is lost; does nothing when it has ended."""
        self._tcpdump.abort()

    def read(self) -> list[PacketRecord]:
        """Return the captured packets, in the order of the file."""
        return list(read(self._file, self.tap))


def read(file: Path, tap: Tap) -> Iterator[PacketRecord]:
    """Read the TCP packets of a pcap or pcapng file with scapy; others are left out.

    IPv6 extension headers are passed over. Left out are later fragments, which have no TCP
    header; TCP headers that an ICMP error quotes; and what is too short or malformed to be read.
    """
    from scapy.layers.inet import IP, TCP  # noqa: PLC0415 - scapy takes long to load
    from scapy.layers.inet6 import IPv6  # noqa: PLC0415
    from scapy.utils import PcapReader  # noqa: PLC0415

    with PcapReader(str(file)) as packets:
        for packet in packets:
            if TCP not in packet:
                continue
            segment = packet[TCP]
            ip = segment.underlayer
            while ip is not None and not isinstance(ip, IP | IPv6):
                ip = ip.underlayer  # an extension header
            if ip is None:
                continue
            # From the lengths in the headers, for the captured bytes are cut off.
            length = ip.len if isinstance(ip, IP) else 40 + ip.plen
            payload_bytes = length - (len(ip) - len(segment)) - 4 * segment.dataofs
            if segment.dataofs < _LEAST_DATA_OFFSET or payload_bytes < 0:
                continue
            yield PacketRecord(
                time_s=float(packet.time),
                tap=tap,
                source=(ip.src, segment.sport),
                destination=(ip.dst, segment.dport),
                flags=int(segment.flags),
                seq=segment.seq,
                ack=segment.ack,
                payload_bytes=payload_bytes,
                fast_open=_cookie_bytes(segment.options),
            )


def _cookie_bytes(options: Sequence[tuple[Any, Any]]) -> int | None:
    """Return the length of the Fast Open cookie, 0 for a request, None without the option."""
    for name, value in options:
        if name == "TFO":
            # scapy gives a cookie of 8 bytes as two numbers, any other as bytes.
            return 8 if isinstance(value, tuple) else len(value)
    return None
