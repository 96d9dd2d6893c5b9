"""A flow's entry in the map, read and written after zerortt.h alone.

On purpose nothing of nfq_zerortt/kernel/bpf/layout.py is used: a mistake there must be seen, and
not repeated. Numbers are in the host's byte order, addresses and ports in the network's.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, field, fields

CLIENT, SERVER = 0, 1

MARK_TRANSLATED = 0x10000000
MARK_LEFT = 0x20000000

FIN_CLIENT, FIN_SERVER, RST_CLIENT, RST_SERVER = 1, 2, 4, 8
FINS_ACKNOWLEDGED, SUPERSEDED, REPORTED, PASSING = 16, 32, 64, 128
ENDED = RST_CLIENT | RST_SERVER | FINS_ACKNOWLEDGED
FINS = (FIN_CLIENT, FIN_SERVER)
FLAGS = {
    "FIN_CLIENT": FIN_CLIENT,
    "FIN_SERVER": FIN_SERVER,
    "RST_CLIENT": RST_CLIENT,
    "RST_SERVER": RST_SERVER,
    "FINS_ACKNOWLEDGED": FINS_ACKNOWLEDGED,
    "SUPERSEDED": SUPERSEDED,
    "REPORTED": REPORTED,
    "PASSING": PASSING,
}

STRIP_TIMESTAMPS, STRIP_SACK = 1, 2

HANDLED_SLOTS = 16384
LEAVE_FOR_NS = 100_000_000

_NUMBERS = struct.Struct("=8I2QHbBBB2x")
_REST = struct.Struct("=3Q8Ii2H4BI")
ENDING = struct.Struct("=36sI")
_HANDLED = struct.Struct("=I2I2I2I2I4x")
ENTRY_SIZE = 2 * _NUMBERS.size + _REST.size


@dataclass
class Numbers:
    """struct direction: what one side sends."""

    seq_shift: int = 0
    ack_shift: int = 0
    tsval_shift: int = 0
    tsecr_shift: int = 0
    next_seq: int = 0
    last_ack: int = 0
    fin_end: int = 0
    left: int = 0
    octets: int = 0
    segments: int = 0
    window: int = 0
    window_shift: int = 0
    scale: int = 0
    strip: int = 0
    settled: int = 0


@dataclass
class Entry:
    """struct flow."""

    to_server: Numbers = field(default_factory=Numbers)
    to_client: Numbers = field(default_factory=Numbers)
    created: int = 0
    handed_over: int = 0
    last_seen: int = 0
    ticket: int = 0
    flags: int = 0
    isn_client: int = 0
    isn_spoofed: int = 0
    isn_server: int = 0
    number: int = 0
    suppressed: int = 0
    server_rtt_us: int = 0
    data_earlier_us: int = 0
    syn_data: int = 0
    carried: int = 0
    attempts: int = 0
    fast_open: int = 0
    strategy: int = 0
    unused: int = 0
    syn_end: int = 0

    def of(self, side: int) -> Numbers:
        """Return the numbers of what a side sends."""
        return self.to_client if side == SERVER else self.to_server

    def pack(self) -> bytes:
        """Return the value as the map holds it."""
        rest = astuple(self)[2:]
        return (
            _NUMBERS.pack(*astuple(self.to_server))
            + _NUMBERS.pack(*astuple(self.to_client))
            + _REST.pack(*rest)
        )

    @classmethod
    def unpack(cls, value: bytes) -> Entry:
        """Read a value of the map."""
        return cls(
            Numbers(*_NUMBERS.unpack_from(value)),
            Numbers(*_NUMBERS.unpack_from(value, _NUMBERS.size)),
            *_REST.unpack_from(value, 2 * _NUMBERS.size),
        )

    def differences(self, other: Entry) -> list[str]:
        """Return, for people, where another entry has other numbers; last_seen is left out."""
        found = []
        for side in ("to_server", "to_client"):
            mine, its = getattr(self, side), getattr(other, side)
            found += [
                f"{side}.{each.name}: {getattr(mine, each.name)} / {getattr(its, each.name)}"
                for each in fields(Numbers)
                if getattr(mine, each.name) != getattr(its, each.name)
            ]
        for each in fields(Entry)[2:]:
            mine, its = getattr(self, each.name), getattr(other, each.name)
            if mine != its and each.name != "last_seen":
                found.append(f"{each.name}: {named(each.name, mine)} / {named(each.name, its)}")
        return found


def named(name: str, value: int) -> str:
    """Return a field's value as people read it."""
    if name != "flags":
        return str(value)
    return "|".join(word for word, bit in FLAGS.items() if value & bit) or "0"


def read_ending(record: bytes) -> tuple[bytes, int]:
    """Return the key and the reason (flags) of a record of the ring buffer."""
    key, how = ENDING.unpack(record)
    return key, how


@dataclass
class Handled:
    """struct handled: what the process has done of what was left to it; pairs by side."""

    ticket: int = 0
    amount: tuple[int, int] = (0, 0)
    next_seq: tuple[int, int] = (0, 0)
    last_ack: tuple[int, int] = (0, 0)
    window: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, entry: Entry, amount: tuple[int, int]) -> Handled:
        """A process that knows just what the entry says of how far both sides have come."""
        both = (entry.to_server, entry.to_client)
        next_seq, last_ack, window = zip(
            *((each.next_seq, each.last_ack, each.window) for each in both), strict=True
        )
        return cls(entry.ticket, amount, next_seq, last_ack, window)

    def words(self) -> tuple[int, ...]:
        """The slot as numbers of 32 bits."""
        data = _HANDLED.pack(
            self.ticket, *self.amount, *self.next_seq, *self.last_ack, *self.window
        )
        return struct.unpack(f"={_HANDLED.size // 4}I", data)


HANDLED_SIZE = _HANDLED.size


def map_key(client: bytes, server: bytes, client_port: int, server_port: int) -> bytes:
    """Return struct flow_key; addresses of 4 or 16 bytes."""
    ports = struct.pack("!HH", client_port, server_port)
    return (
        b"".join(
            address if len(address) == 16 else bytes(10) + b"\xff\xff" + address
            for address in (client, server)
        )
        + ports
    )
