"""TCP options (RFC 9293, section 3.2).

An option list is a tuple of ``(kind, data)`` pairs in the order of the wire,
no-operations included, so that emitting what was parsed gives the same bytes.
:class:`OptionSet` is the same list read for its meaning.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

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
    return TIMESTAMPS, struct.pack(">II", tsval, tsecr)


def sack(*blocks: tuple[int, int]) -> Option:
    """Return a SACK option with the given (left edge, right edge) blocks."""
    return SACK, b"".join(struct.pack(">II", *block) for block in blocks)


NOP_OPTION: Option = (NOP, b"")
SACK_PERMITTED_OPTION: Option = (SACK_PERMITTED, b"")


@dataclass(frozen=True, slots=True)
class OptionSet:
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
    def read(cls, options: Options, *, strict: bool = True) -> OptionSet:
        """Read the meaning of an option list.

        Where not ``strict``, a known option of a wrong length is left out, as Linux does.

        Raises:
            WireError: an option that is known has a length that it cannot have.
        """
        found: dict[str, Any] = {}
        kinds: list[int] = []
        for kind, data in options:
            if kind in (NOP, END):
                continue
            try:
                found |= _meaning(kind, data)
            except struct.error:
                if strict:
                    raise WireError(f"option {kind} with length {len(data) + 2}") from None
                continue
            kinds.append(kind)
        return cls(kinds=tuple(kinds), **found)

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


def _meaning(kind: int, data: bytes) -> dict[str, Any]:
    """Return what one option says, by the name of its field; struct.error for a wrong length."""
    if kind == MSS:
        return {"mss": struct.unpack(">H", data)[0]}
    if kind == WINDOW_SCALE:
        return {"window_scale": min(struct.unpack(">B", data)[0], MAX_WINDOW_SCALE)}
    if kind == SACK_PERMITTED:
        struct.unpack("", data)
        return {"sack_permitted": True}
    if kind == TIMESTAMPS:
        return {"timestamps": struct.unpack(">II", data)}
    if kind == SACK:
        return {"sack_blocks": tuple(struct.iter_unpack(">II", data))}
    if kind == FAST_OPEN:
        return {"fast_open": data}
    return {}
