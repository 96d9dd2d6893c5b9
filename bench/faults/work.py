"""What client and server know of each other: kinds of connections, sizes, ports, data."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
from enum import StrEnum


class Kind(StrEnum):
    """What a connection is for."""

    UPLOAD = "upload"
    """The client sends and closes its side; the server answers with the SHA-256 of what came."""
    DOWNLOAD = "download"
    """The client asks with 16 bytes; the server sends and closes."""
    GREETING = "greeting"
    """The server sends as soon as it is connected, and closes; the client sends nothing."""


KINDS = tuple(Kind)
SIZES = (0, 1, 200, 4_000, 64_000, 1_000_000)
REQUEST = b"send it, please\n"
MORTAL = 50
"""So far behind the port of a server is that of the one that dies in mid-transfer."""
CLOSED, SILENT = 90, 91
"""Nobody listens here; SYNs to the other are dropped."""

OK = "ok"
SHORT = "ended early"
OTHER_DATA = "other data"
NO_END = "no end"

_BLOCK = 1 << 20
_DATA = random.Random(8).randbytes(2 * _BLOCK)
_CHUNK = 1 << 16


def offset(kind: Kind, size: int) -> int:
    """Return how far behind a way's first port its server for this kind and size listens."""
    return KINDS.index(kind) * 10 + SIZES.index(size)


def of_offset(number: int) -> tuple[Kind, int]:
    """Return the kind and the size that ``offset`` has given the number for."""
    return KINDS[number // 10], SIZES[number % 10]


def content(client_port: int, size: int) -> memoryview:
    """Return the data of the connection from this client port."""
    start = client_port * 7919 % _BLOCK
    return memoryview(_DATA)[start : start + size]


def receive(source: socket.socket, most: int) -> bytes:
    """Return what comes until the other side has closed; ``most`` bytes if that is earlier."""
    data = bytearray()
    while len(data) < most:
        piece = source.recv(min(_CHUNK, most - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data)


def judge(got: bytes, wanted: memoryview) -> str:
    """Compare what came, up to the end of the stream, with what was sent."""
    if len(got) < len(wanted):
        return SHORT
    same = hashlib.sha256(got).digest() == hashlib.sha256(wanted).digest()
    return OK if same else OTHER_DATA


def outcome_of(error: OSError) -> str:
    """Name what an application sees: the errno, or that nothing came in time."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return NO_END
    return errno.errorcode.get(error.errno or 0, str(error))
