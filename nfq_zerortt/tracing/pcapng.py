"""Writing pcapng: the four kinds of block that a capture of two interfaces needs.

Own, because scapy's writer has no place for an interface's description nor for what the kernel
dropped, and wants each packet as an object of its own; the format is a few structs. All numbers
are little-endian, as the section header says. Source: draft-ietf-opsawg-pcapng, section 4.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_UNKNOWN_LENGTH = -1
_COMMENT = 1
_SHB_APPLICATION = 4
_IF_NAME, _IF_DESCRIPTION, _IF_RESOLUTION = 2, 3, 9
_NANOSECONDS = 9  # as a negative power of ten
_EPB_FLAGS = 2
_INBOUND, _OUTBOUND = 1, 2
_ISB_RECEIVED, _ISB_DROPPED = 4, 5
_LONGEST_OPTION = 0xFFFF


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface as the file describes it; ``snaplen`` in bytes, 0 for all of a packet."""

    name: str
    description: str
    link_type: int
    snaplen: int


class Out(Protocol):
    """Where it is written."""

    def write(self, data: bytes, /) -> object:
        """Write it."""


class Writer:
    """Writes one section. After each call the file is complete; ``size`` is that of it, bytes."""

    def __init__(
        self, out: Out, interfaces: Sequence[Interface], application: str, comment: str = ""
    ) -> None:
        """Write the section's head; ``application`` is the program's name and version."""
        self._out = out
        self.size = 0
        options = [(_SHB_APPLICATION, application.encode())]
        if comment:
            options.insert(0, (_COMMENT, comment.encode()))
        head = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH)
        self._block(_SECTION, head + _options(options))
        for interface in interfaces:
            described = [
                (_IF_NAME, interface.name.encode()),
                (_IF_DESCRIPTION, interface.description.encode()),
                (_IF_RESOLUTION, bytes((_NANOSECONDS,))),
            ]
            body = struct.pack("<HHI", interface.link_type, 0, interface.snaplen)
            self._block(_INTERFACE, body + _options(described))

    def packet(
        self,
        interface: int,
        time_ns: int,
        data: bytes,
        length: int,
        *,
        outgoing: bool | None,
        comment: str = "",
    ) -> None:
        """Write a packet; ``interface`` counts from 0, ``length`` is that of the whole packet."""
        options = []
        if comment:
            options.append((_COMMENT, comment.encode()))
        if outgoing is not None:
            direction = _OUTBOUND if outgoing else _INBOUND
            options.append((_EPB_FLAGS, struct.pack("<I", direction)))
        head = struct.pack(
            "<IIIII", interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), length
        )
        self._block(_PACKET, head + _padded(data) + _options(options))

    def statistics(self, interface: int, time_ns: int, received: int, dropped: int) -> None:
        """Write how many packets of an interface there were, and how many the kernel dropped."""
        body = struct.pack("<III", interface, time_ns >> 32, time_ns & 0xFFFFFFFF)
        counts = [
            (_ISB_RECEIVED, struct.pack("<Q", received)),
            (_ISB_DROPPED, struct.pack("<Q", dropped)),
        ]
        self._block(_STATISTICS, body + _options(counts))

    def _block(self, kind: int, body: bytes) -> None:
        length = len(body) + 12
        self._out.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))
        self.size += length


def _options(options: Sequence[tuple[int, bytes]]) -> bytes:
    if not options:
        return b""
    made = b""
    for code, value in options:
        kept = value[:_LONGEST_OPTION]
        made += struct.pack("<HH", code, len(kept)) + _padded(kept)
    return made + struct.pack("<HH", 0, 0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
