"""Sequence numbers: unsigned 32-bit integers that wrap around (RFC 9293, section 3.4)."""

from __future__ import annotations

MODULUS = 1 << 32
MASK = MODULUS - 1
HALF = 1 << 31


def add(number: int, amount: int) -> int:
    """Return ``number + amount`` modulo 2**32; ``amount`` may be negative."""
    return (number + amount) & MASK


def distance(start: int, end: int) -> int:
    """Return the signed way from ``start`` to ``end``: positive if ``end`` is later."""
    way = (end - start) & MASK
    return way - MODULUS if way >= HALF else way


def within(number: int, start: int, end: int) -> bool:
    """Tell whether ``start <= number <= end``, all taken modulo 2**32."""
    return ((number - start) & MASK) <= ((end - start) & MASK)
