"""The transfer: what both programs know of it.

The client says how much it will send and how much it wants; then both send at
once. The server ends with the SHA-256 of what it got and of what it sent. A
FIN from both sides closes it.
"""

from __future__ import annotations

import random
import socket
import struct
from typing import Protocol

HEADER = struct.Struct(">QQI16s")  # bytes up, bytes down, which data, congestion control
DIGEST = 32
TRAILER = 2 * DIGEST
CHUNK = 65536


class HasOptions(Protocol):
    """A socket, or what asyncio gives for one."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """Set an option."""


_BLOCK = 1 << 20
_DATA = memoryview(random.Random(1).randbytes(_BLOCK) * 2)


def choose_congestion(connection: HasOptions, name: bytes) -> None:
    """Let the connection use this congestion control; empty: the host's own."""
    if name:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)


def chunk(which: int, position: int, size: int) -> memoryview:
    """Return up to 64 kB of the data number ``which``, beginning at ``position``."""
    start = (which * 7919 + position) % _BLOCK
    return _DATA[start : start + min(size - position, CHUNK)]
