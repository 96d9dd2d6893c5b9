"""The numbers that a spoofed SYN-ACK starts with."""

from __future__ import annotations

import hashlib
import struct

_MASK = 0xFFFFFFFF
_ISN_TICKS_PER_SECOND = 250_000  # one tick each 4 microseconds (RFC 6528, section 3)
_TIMESTAMP_TICKS_PER_SECOND = 1000  # 1 ms, as most hosts have it (RFC 7323, section 5.4)
_NUMBERS = struct.Struct(">II")


class InitialNumbers:
    """Initial sequence numbers and timestamps after RFC 6528, section 3.

    A keyed hash of the 4-tuple plus a clock: not to be guessed from outside, and never
    running back for the same 4-tuple. The initial timestamp is made alike (RFC 7323, 5.4).
    """

    def __init__(self, secret: bytes) -> None:
        """``secret``: at least 16 random bytes, kept for the life of the process."""
        if len(secret) < 16:
            raise ValueError("a secret of at least 16 bytes is needed")
        self._secret = secret

    def draw(self, four_tuple: bytes, now: float) -> tuple[int, int]:
        """Return (ISN, TSval) for a flow; ``now`` in seconds of a clock that never runs back."""
        digest = hashlib.blake2s(four_tuple, digest_size=8, key=self._secret).digest()
        isn, tsval = _NUMBERS.unpack(digest)
        return (
            (isn + int(now * _ISN_TICKS_PER_SECOND)) & _MASK,
            (tsval + int(now * _TIMESTAMP_TICKS_PER_SECOND)) & _MASK,
        )
