"""What applications write: bytes that tell which stream they belong to, and where they stand."""

from __future__ import annotations

import random

_SIZE = 1 << 16
_BLOCKS = {side: random.Random(side).randbytes(_SIZE) * 2 for side in (False, True)}
GREETINGS = (
    b"GET / HTTP/1.1\r\n",
    bytes.fromhex("16030100c8010000c40303"),  # a TLS ClientHello
    b"POST / HTTP/1.1\r\n",
    b"",
)
"""How clients begin: the first two may be said twice."""
REPEATABLE = 2


def greeting_of(name: int) -> int:
    """Return which of the greetings the client's stream ``name`` begins with."""
    return (name * 2_654_435_761 >> 16) % len(GREETINGS)


def content(name: int, position: int, length: int, *, from_client: bool) -> bytes:
    """Return ``length`` bytes of a stream from ``position`` on.

    ``name`` is the client's ISN, so streams of different connections differ.
    """
    if length <= 0:
        return b""
    first = (position + name * 40_503) % _SIZE
    data = _BLOCKS[from_client][first : first + length]
    said = GREETINGS[greeting_of(name)][position : position + length] if from_client else b""
    return said + data[len(said) :]
