"""What applications write: bytes that tell which stream they belong to, and where they stand."""

from __future__ import annotations

import random

_SIZE = 1 << 16
_BLOCKS = {side: random.Random(side).randbytes(_SIZE) * 2 for side in (False, True)}


def content(name: int, position: int, length: int, *, from_client: bool) -> bytes:
    """Return ``length`` bytes of a stream from ``position`` on.

    ``name`` is the client's ISN, so streams of different connections differ.
    """
    if length <= 0:
        return b""
    first = (position + name * 40_503) % _SIZE
    return _BLOCKS[from_client][first : first + length]
