"""TCP options (RFC 9293, section 3.2).

An option list is a tuple of ``(kind, data)`` pairs in the order of the wire,
no-operations included, so that emitting what was parsed gives the same bytes.
:class:`OptionSet` is the same list read for its meaning.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from nfq_zerortt.wire.errors import WireError

END = 0
NOP = 1
MSS = 2  # RFC 9293, section 3.7.1
WINDOW_SCALE = 3  # RFC 7323, section 2
SACK_PERMITTED = 4  # RFC 2018, section 2
SACK = 5  # RFC 2018, section 3
TIMESTAMPS = 8  # RFC 7323, section 3
MD5 = 19  # RFC 2385
AUTHENTICATION = 29  # RFC 5925
MPTCP = 30  # RFC 8684
FAST_OPEN = 34  # RFC 7413

MAX_OPTIONS_LENGTH = 40
MAX_WINDOW_SCALE = 14  # RFC 7323, section 2.3

_NAMES = {
    MSS: "mss",
    WINDOW_SCALE: "window_scale",
    SACK_PERMITTED: "sack_permitted",
    SACK: "sack",
    TIMESTAMPS: "timestamps",
    MD5: "md5",
    AUTHENTICATION: "tcp_ao",
    MPTCP: "mptcp",
    FAST_OPEN: "fast_open",
}

_LENGTHS = {MSS: 4, WINDOW_SCALE: 3, SACK_PERMITTED: 2, TIMESTAMPS: 10}
_UINT32_PAIR = struct.Struct(">II")
_ALIGNED_TIMESTAMPS = struct.Struct(">BBBBII")

Option = tuple[int, bytes]
Options = tuple[Option, ...]


def parse(data: bytes, *, strict: bool = True) -> Options:
    """Split the option bytes of a TCP header.

    Where not ``strict``, what follows the first malformed option is left out, as Linux does.

    Whatever stands behind an End of Option List is kept as that option's data, so that
    :func:`emit` is exact.

    Raises:
        WireError: an option's length is under 2 or runs out of the header.
    """
    options: list[Option] = []
    position, end = 0, len(data)
    while position < end:
        kind = data[position]
        if kind == NOP:
            options.append((NOP, b""))
            position += 1
            continue
        if kind == END:
            options.append((END, data[position + 1 :]))
            break
        length = data[position + 1] if position + 1 < end else 0
        if length < 2 or position + length > end:
            if strict:
                raise WireError(f"option {kind} with length {length}")
            break
        options.append((kind, data[position + 2 : position + length]))
        position += length
    return tuple(options)


def emit(options: Options) -> bytes:
    """Return the options as bytes, padded with End of Option List to a multiple of four.

    Raises:
        WireError: more than the 40 bytes that a header has room for.
    """
    parts = []
    for kind, data in options:
        if kind == NOP:
            parts.append(b"\x01")
        elif kind == END:
            parts.append(b"\x00" + data)
        else:
            parts.append(bytes((kind, len(data) + 2)) + data)
    packed = b"".join(parts)
    packed += bytes(-len(packed) % 4)
    if len(packed) > MAX_OPTIONS_LENGTH:
        raise WireError(f"{len(packed)} bytes of options")
    return packed


def size(option: Option) -> int:
    """Return how many bytes an option takes on the wire."""
    kind, data = option
    return 1 + len(data) if kind in (NOP, END) else 2 + len(data)


def mss(value: int) -> Option:
    """Return a Maximum Segment Size option; ``value`` in bytes."""
    return MSS, struct.pack(">H", value)


def window_scale(shift: int) -> Option:
    """Return a Window Scale option; ``shift`` in bits, 0 to 14."""
    return WINDOW_SCALE, bytes((shift,))


def timestamps(tsval: int, tsecr: int) -> Option:
    """Return a Timestamps option; both values unsigned 32-bit, in the sender's clock ticks."""
    return TIMESTAMPS, _UINT32_PAIR.pack(tsval, tsecr)


def aligned_timestamps(tsval: int, tsecr: int) -> bytes:
    """Return the options of a header that has no other, padded as in RFC 7323, appendix A."""
    return _ALIGNED_TIMESTAMPS.pack(NOP, NOP, TIMESTAMPS, 10, tsval, tsecr)


def sack(*blocks: tuple[int, int]) -> Option:
    """Return a SACK option with the given (left edge, right edge) blocks."""
    return SACK, b"".join(_UINT32_PAIR.pack(*block) for block in blocks)


NOP_OPTION: Option = (NOP, b"")
SACK_PERMITTED_OPTION: Option = (SACK_PERMITTED, b"")


class OptionSet(NamedTuple):
    """What a header's options mean. A value of None, False or () says: not there.

    Attributes:
        mss: the sender's maximum segment size, bytes.
        window_scale: the shift of the sender's window field, capped at 14 (RFC 7323, 2.3).
        sack_permitted: the sender takes SACK blocks.
        timestamps: (TSval, TSecr).
        sack_blocks: (left edge, right edge) pairs, in the order of the wire.
        fast_open: the Fast Open cookie, empty for a request.
        kinds: every kind that occurs, no-operations and the end left out.
    """

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None
    sack_blocks: tuple[tuple[int, int], ...] = ()
    fast_open: bytes | None = None
    kinds: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: bytes, *, strict: bool = True) -> OptionSet:
        """Read the meaning of the option bytes of a TCP header.

        Where not ``strict``, what cannot be read is left out, as Linux does: a known option of a
        wrong length, and everything from a length on that is under 2 or runs out of the header.

        Raises:
            WireError: one of these, where ``strict``.
        """
        mss = window_scale = timestamps = fast_open = None
        sack_permitted = False
        sack_blocks: tuple[tuple[int, int], ...] = ()
        kinds: list[int] = []
        position, end = 0, len(data)
        while position < end:
            kind = data[position]
            if kind == NOP:
                position += 1
                continue
            if kind == END:
                break
            length = data[position + 1] if position + 1 < end else 0
            begin, position = position + 2, position + length
            if length < 2 or position > end:
                if strict:
                    raise WireError(f"option {kind} with length {length}")
                break
            if _LENGTHS.get(kind, length) != length or (kind == SACK and length & 7 != 2):
                if strict:
                    raise WireError(f"option {kind} with length {length}")
                continue
            kinds.append(kind)
            if kind == TIMESTAMPS:
                timestamps = _UINT32_PAIR.unpack_from(data, begin)
            elif kind == MSS:
                mss = data[begin] << 8 | data[begin + 1]
            elif kind == SACK_PERMITTED:
                sack_permitted = True
            elif kind == WINDOW_SCALE:
                window_scale = min(data[begin], MAX_WINDOW_SCALE)
            elif kind == SACK:
                sack_blocks = tuple(_UINT32_PAIR.iter_unpack(data[begin:position]))
            elif kind == FAST_OPEN:
                fast_open = data[begin:position]
        return cls(
            mss,
            window_scale,
            sack_permitted,
            timestamps,
            sack_blocks,
            fast_open,
            tuple(kinds),
        )

    @classmethod
    def read(cls, options: Options, *, strict: bool = True) -> OptionSet:
        """Read the meaning of an option list, as :meth:`of` does.

        Raises:
            WireError: as there; or there is more than a header has room for.
        """
        return cls.of(emit(options), strict=strict)

    def describe(self) -> dict[str, object]:
        """Return the options by name, for the log: only what is there."""
        found: dict[str, object] = {}
        for kind in self.kinds:
            name = _NAMES.get(kind)
            value = getattr(self, name, True) if name else True
            if isinstance(value, bytes):
                value = value.hex()
            found[name or f"kind_{kind}"] = value
        return found
