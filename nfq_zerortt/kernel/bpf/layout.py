"""What ``zerortt.h`` says, in Python: numbers in the host's byte order, addresses as on the wire.

The programs are compiled for little-endian machines, and so is this.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MARK_TRANSLATED = 0x10000000
MARK_LEFT = 0x20000000
HANDLED_SLOTS = 16384
LEAVE_FOR_S = 0.1

CLIENT, SERVER = 0, 1

FIN_CLIENT = 0x01
FIN_SERVER = 0x02
RST_CLIENT = 0x04
RST_SERVER = 0x08
FINS_ACKNOWLEDGED = 0x10
SUPERSEDED = 0x20
REPORTED = 0x40
PASSING = 0x80
ENDED = RST_CLIENT | RST_SERVER | FINS_ACKNOWLEDGED

STRIP_TIMESTAMPS = 0x01
STRIP_SACK = 0x02

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, section 2.5.5.2
KEY_BYTES = 36
_DIRECTION = "8I2QHbBBB2x"
_FLOW = struct.Struct(f"<{_DIRECTION}{_DIRECTION}3Q8Ii2H3BxI")
FLOW_BYTES = _FLOW.size
_GLANCE = struct.Struct("<Q4xI")  # last_seen, (ticket), flags
_GLANCE_AT = 2 * struct.calcsize(f"<{_DIRECTION}") + 16
_NUMBER = struct.Struct("<I")
_NUMBER_AT = _GLANCE_AT + 8 + 5 * 4
ENDING_BYTES = KEY_BYTES + 4

# ``struct handled`` in words of four bytes; each but the ticket is there for both sides.
AMOUNT, NEXT_SEQ, LAST_ACK, WINDOW = 1, 3, 5, 7
HANDLED_BYTES = 40


class DirectionEntry(NamedTuple):
    """``struct direction``."""

    seq_shift: int
    ack_shift: int
    tsval_shift: int
    tsecr_shift: int
    next_seq: int
    last_ack: int
    fin_end: int
    left: int
    octets: int
    segments: int
    window: int
    window_shift: int
    scale: int
    strip: int
    settled: int


class FlowEntry(NamedTuple):
    """``struct flow`` behind its two directions.

    ``fast_open`` and ``strategy`` are places in the tuples of :mod:`nfq_zerortt.flow_entry`.
    """

    created: int
    handed_over: int
    last_seen: int
    ticket: int
    flags: int
    isn_client: int
    isn_spoofed: int
    isn_server: int
    number: int
    suppressed: int
    server_rtt_us: int
    data_earlier_us: int
    syn_data: int
    carried: int
    attempts: int
    fast_open: int
    strategy: int
    syn_end: int = 0


class Glance(NamedTuple):
    """As much of a flow as tells whether to look at it."""

    last_seen: int
    flags: int


_FIELDS = len(DirectionEntry._fields)


def pack(to_server: DirectionEntry, to_client: DirectionEntry, flow: FlowEntry) -> bytes:
    """Return the bytes of a ``struct flow``.

    Raises:
        struct.error: a number does not fit.
    """
    return _FLOW.pack(*to_server, *to_client, *flow)


def unpack(data: bytes) -> tuple[DirectionEntry, DirectionEntry, FlowEntry]:
    """Take the bytes of a ``struct flow`` apart.

    Raises:
        struct.error: they are too many or too few.
    """
    fields = _FLOW.unpack(data)
    return (
        DirectionEntry._make(fields[:_FIELDS]),
        DirectionEntry._make(fields[_FIELDS : 2 * _FIELDS]),
        FlowEntry._make(fields[2 * _FIELDS :]),
    )


def glance(data: bytes) -> Glance:
    """Read a ``struct flow`` no further than to see whether it ended, and when it was seen."""
    return Glance._make(_GLANCE.unpack_from(data, _GLANCE_AT))


def number(data: bytes) -> int:
    """Read the number that the flow has in the log."""
    return int(_NUMBER.unpack_from(data, _NUMBER_AT)[0])


def key(client_key: bytes) -> bytes:
    """Return the ``struct flow_key`` of a 4-tuple, which is addresses and ports, client first."""
    if len(client_key) == KEY_BYTES:
        return client_key
    return _MAPPED + client_key[:4] + _MAPPED + client_key[4:8] + client_key[8:]


def client_key(data: bytes) -> bytes:
    """Return the 4-tuple of a ``struct flow_key``."""
    if data[:12] == _MAPPED and data[16:28] == _MAPPED:
        return data[12:16] + data[28:32] + data[32:36]
    return data[:KEY_BYTES]
