"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

One's complement addition of 16-bit words is addition modulo 65535 (RFC 1071,
section 2, and its note on the two zeros). Because 2**16 is 1 modulo 65535, a
field of any width counts with its plain integer value, as long as it begins at
an even offset. So a whole rewrite is one subtraction:

    new_checksum = (old_checksum + old_fields - new_fields) % 65535

The two representations of zero are no danger: a sum over a TCP segment is
never 0 (the pseudo-header is not all zero), so a full computation never gives
0xFFFF, and neither does the remainder modulo 65535. RFC 1624, section 3, asks
for exactly this.
"""

from __future__ import annotations

MODULUS = 0xFFFF
PROTOCOL_TCP = 6


def ones_complement_sum(data: bytes) -> int:
    """Return the one's complement sum of ``data`` as an integer modulo 65535.

    Data of odd length is padded with a zero byte on the right (RFC 1071, section 1).
    """
    if len(data) & 1:
        data += b"\0"
    return int.from_bytes(data, "big") % MODULUS


def internet_checksum(data: bytes) -> int:
    """Return the checksum to be put into a header whose checksum field is zero in ``data``."""
    return MODULUS - (ones_complement_sum(data) or MODULUS)


def tcp_checksum(src: bytes, dst: bytes, segment: bytes) -> int:
    """Return the TCP checksum of ``segment`` (its checksum field zero) between two addresses.

    ``src`` and ``dst`` are 4 bytes (pseudo-header of RFC 9293, section 3.1) or 16 bytes
    (RFC 8200, section 8.1), in network order.
    """
    length = len(segment)
    if length & 1:
        segment += b"\0"
    # Addresses have an even length, so all of it is one number.
    total = (int.from_bytes(src + dst + segment, "big") + PROTOCOL_TCP + length) % MODULUS
    return MODULUS - (total or MODULUS)


def is_right(src: bytes, dst: bytes, segment: bytes) -> bool:
    """Tell whether the TCP checksum that stands in ``segment`` is right, as its receiver would.

    Addresses as for :func:`tcp_checksum`. With the checksum in it the sum is zero.
    """
    length = len(segment)
    if length & 1:
        segment += b"\0"
    total = int.from_bytes(src + dst + segment, "big") + PROTOCOL_TCP + length
    return total % MODULUS == 0


def updated(checksum: int, old: int, new: int) -> int:
    """Return ``checksum`` after a field at an even offset changed from ``old`` to ``new``.

    Fields of 16 or 32 bits, or the sum of several of them, are all the same here.
    """
    return (checksum + old - new) % MODULUS
