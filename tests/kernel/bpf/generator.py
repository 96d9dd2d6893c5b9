"""Random flows and random packets for them, near the borders where it matters.

Everything follows from the random.Random that is handed in, so a seed tells the whole story.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from bpf.packets import ACK, FIN, IP_HEADER, KINDS, PSH, RST, SYN, TCP_HEADER, Fate, Packet
from bpf.record import (
    CLIENT,
    FIN_CLIENT,
    FIN_SERVER,
    FINS,
    REPORTED,
    RST_CLIENT,
    SERVER,
    STRIP_SACK,
    STRIP_TIMESTAMPS,
    Entry,
    Numbers,
)

HALF, MASK = 1 << 31, (1 << 32) - 1
SLACK = 1 << 16
FIN_SLACK = 64240
MOST_FRAME = 3600
"""What BPF_PROG_TEST_RUN takes, bytes, with some room."""
OPTIONS_ROOM = 40

_NOP, _END, _SACK, _TIMESTAMPS = 1, 0, 5, 8
_TRANSLATED = [name for name, kind in KINDS.items() if kind.fate is Fate.TRANSLATED]
_LEFT = [name for name, kind in KINDS.items() if kind.fate is Fate.LEFT]


def number(rng: random.Random) -> int:
    """A 32-bit number; often one of those where carries and signs are decided."""
    if rng.random() < 0.5:
        return rng.getrandbits(32)
    near = rng.choice((0, 0xFF, 0xFFFF, 0x10000, 0xFFFFFF, HALF, MASK))
    return (near + rng.randint(-2, 2)) & MASK


def entry(rng: random.Random) -> Entry:
    """An established flow, settled; its numbers make sense, its shifts are anything."""
    shifts = [0 if rng.random() < 0.2 else number(rng) for _ in range(8)]
    to_server, to_client = Numbers(*shifts[:4]), Numbers(*shifts[4:])
    if rng.random() < 0.3:  # as the service really has them
        delta, tau = number(rng), number(rng)
        to_server = Numbers(ack_shift=delta, tsecr_shift=tau)
        to_client = Numbers(seq_shift=-delta & MASK, tsval_shift=-tau & MASK)
    for own in (to_server, to_client):
        own.next_seq = number(rng)
        own.octets = rng.choice((0, rng.getrandbits(20), MASK - 100))
        own.segments = rng.choice((0, rng.getrandbits(10)))
        own.window = rng.choice((0, 1, 0xFFFF, rng.getrandbits(16), rng.getrandbits(10)))
        own.window_shift = rng.choice((0, 0, 7, -7, rng.randint(-14, 14)))
        own.scale = rng.choice((0, 7, rng.randint(0, 14)))
        own.strip = rng.choice((0, 0, 0, STRIP_TIMESTAMPS, STRIP_SACK, 3))
        own.settled = 1
    for own, other in ((to_server, to_client), (to_client, to_server)):
        under_way = rng.choice((0, 0, rng.randint(0, 4000), rng.getrandbits(20)))
        other.last_ack = (own.next_seq - under_way) & MASK
    flags = 0
    if rng.random() < 0.15:  # handed over, or adopted, after a FIN
        flags = rng.choice((FIN_CLIENT, FIN_SERVER, FIN_CLIENT | FIN_SERVER, RST_CLIENT | REPORTED))
        for own in (to_server, to_client):
            own.fin_end = rng.choice((own.next_seq, number(rng)))
    return Entry(
        to_server,
        to_client,
        flags=flags,
        created=rng.getrandbits(40),
        handed_over=rng.getrandbits(30),
        ticket=rng.getrandbits(32),
        isn_client=number(rng),
        isn_spoofed=rng.getrandbits(32),
        isn_server=rng.getrandbits(32),
        number=rng.getrandbits(32),
        suppressed=rng.getrandbits(8),
        server_rtt_us=rng.getrandbits(20),
        data_earlier_us=rng.randint(-1, 1000),
        syn_data=rng.getrandbits(16),
        carried=rng.getrandbits(16),
        attempts=rng.getrandbits(8),
        fast_open=rng.getrandbits(8),
        strategy=rng.getrandbits(8),
        unused=rng.getrandbits(8),
    )


# --- options ------------------------------------------------------------------------------


def _timestamps(rng: random.Random) -> bytes:
    return struct.pack("!BBII", _TIMESTAMPS, 10, number(rng), number(rng))


def _sack(rng: random.Random) -> bytes:
    blocks = rng.randint(1, 4)
    edges = [number(rng) for _ in range(2 * blocks)]
    return struct.pack(f"!BB{2 * blocks}I", _SACK, 2 + 8 * blocks, *edges)


def _unknown(rng: random.Random) -> bytes:
    kind = rng.choice((2, 3, 4, 19, 28, 29, 30, 34, 254, rng.randint(9, 255)))
    length = rng.randint(2, 12)
    return bytes((kind, length)) + rng.randbytes(length - 2)


def _odd(rng: random.Random) -> bytes:
    """An option whose length is not what its kind should have, or is not possible."""
    kind = rng.choice((_TIMESTAMPS, _SACK, _SACK, rng.getrandbits(8)))
    length = rng.choice((0, 1, 2, 3, 5, 6, 9, 10, 11, 12, 38, 39, 40, rng.getrandbits(8)))
    return bytes((kind, length)) + rng.randbytes(min(max(length - 2, 0), rng.randint(0, 38)))


def _fill(rng: random.Random, parts: list[bytes]) -> bytes:
    """Put options one behind the other with no-operations between them, at any alignment."""
    made = b""
    for part in parts:
        gap = rng.choice((0, 0, 0, 1, 2, 3))
        if len(made) + gap + len(part) <= OPTIONS_ROOM:
            made += bytes((_NOP,)) * gap + part
    while len(made) % 4 or (len(made) < OPTIONS_ROOM and rng.random() < 0.1):
        if rng.random() < 0.3:
            rest = -len(made) % 4 or 4
            tail = bytes(rest - 1) if rng.random() < 0.7 else rng.randbytes(rest - 1)
            return made + bytes((_END,)) + tail
        made += bytes((_NOP,))
    return made


def _several(rng: random.Random) -> bytes:
    makers: list[Callable[[random.Random], bytes]] = [_timestamps, _sack, _unknown]
    if rng.random() < 0.3:
        makers.append(_timestamps)
    rng.shuffle(makers)
    return _fill(rng, [make(rng) for make in makers[: rng.randint(1, 4)]])


def _malformed(rng: random.Random) -> bytes:
    way = rng.random()
    if way < 0.2:
        return rng.randbytes(4 * rng.randint(1, 10))
    if way < 0.3:  # the most options that fit
        kind = rng.choice((_SACK, _TIMESTAMPS, 4))
        return bytes((kind, 2)) * (2 * rng.randint(1, 10))
    if way < 0.6:
        whole = bytearray(_several(rng))
        if whole:
            whole[rng.randrange(len(whole))] = rng.choice((0, 1, 2, 5, 8, 10, rng.getrandbits(8)))
        return bytes(whole)
    makers = [_odd, _odd, _timestamps, _sack, _unknown]
    rng.shuffle(makers)
    made = _fill(rng, [make(rng) for make in makers])
    if rng.random() < 0.3:  # an option that reaches the last byte, or one over it
        start = rng.randrange(0, max(len(made) - 1, 1))
        kind = rng.choice((_SACK, _TIMESTAMPS))
        length = len(made) - start + rng.choice((0, 0, 1))
        if len(made) - start >= 2:
            made = made[:start] + bytes((kind, length)) + made[start + 2 :]
    return made


def options(rng: random.Random) -> bytes:
    """The options of one segment: everyday ones, any order and alignment, malformed ones."""
    way = rng.random()
    if way < 0.15:
        return b""
    if way < 0.3:
        return bytes((_NOP, _NOP)) + _timestamps(rng)
    if way < 0.4:
        return _fill(
            rng, [bytes((_NOP, _NOP)) + _timestamps(rng), bytes((_NOP, _NOP)) + _sack(rng)]
        )
    if way < 0.75:
        return _several(rng)
    return _malformed(rng)


# --- packets ------------------------------------------------------------------------------


def _kind(rng: random.Random, ipv6: bool, calm: bool) -> str:
    if rng.random() < (0.95 if calm else 0.7):
        return "plain"
    pool = _LEFT if rng.random() < 0.8 else _TRANSLATED
    return rng.choice([name for name in pool if ipv6 in KINDS[name].families])


def _flags(rng: random.Random, calm: bool) -> int:
    way = rng.random()
    if way < (0.05 if calm else 0.2):
        return rng.getrandbits(9) & ~SYN
    flags = ACK if rng.random() < 0.97 else 0
    if rng.random() < 0.3:
        flags |= PSH
    if rng.random() < (0.06 if calm else 0.03):
        flags |= FIN
    if rng.random() < (0.01 if calm else 0.03):
        flags |= RST
    return flags


def _length(rng: random.Random, most: int) -> int:
    way = rng.random()
    if way < 0.4:
        return 0
    if way < 0.5:
        return 1
    if way < 0.8:
        return min(rng.choice((536, 1220, 1448, 1460)), most)
    return rng.randint(0, most)


def _ack(rng: random.Random, own: Numbers, other: Numbers) -> int:
    """A number that acknowledges: what is new, what was known, or one just too many."""
    way = rng.random()
    under_way = (other.next_seq - own.last_ack) & MASK
    if way < 0.5:
        return other.next_seq
    if way < 0.65:
        return own.last_ack
    if way < 0.8:
        return own.last_ack + (rng.randrange(under_way + 1) if under_way < HALF else 0)
    if way < 0.9:
        return rng.choice((own.last_ack, other.next_seq)) + rng.choice((-1, 1))
    return number(rng)


def _window_end(other: Numbers) -> int:
    return other.last_ack + (other.window << other.scale)


def _seq(rng: random.Random, own: Numbers, other: Numbers, flags: int, length: int) -> int:
    """Where a segment may lie: next, repeated, at a border, or anywhere."""
    way = rng.random()
    near = rng.choice((-2, -1, 0, 0, 1, 2))
    if flags & RST:
        exact = rng.choice((other.last_ack, own.next_seq, own.fin_end - 1))
        return exact + (near if way < 0.3 else 0) if way < 0.9 else number(rng)
    if flags & FIN and way < 0.3:
        return _window_end(other) + 1 + FIN_SLACK - length - 1 + near
    if flags & FIN and way < 0.4:
        return other.last_ack - length - 1 + near
    if way < 0.65:
        return own.next_seq
    if way < 0.75:
        return own.next_seq - rng.randint(0, 4000)
    if way < 0.85:
        return _window_end(other) + SLACK - length + near
    if way < 0.9:
        border = rng.choice((own.next_seq, other.last_ack, own.next_seq + HALF, own.fin_end - 1))
        return border - rng.choice((0, length)) + near
    if way < 0.96:
        return own.next_seq + rng.randint(0, 3000)
    return number(rng)


def packet(rng: random.Random, flow: Entry, ipv6: bool, *, calm: bool) -> Packet:
    """A packet for a flow that has come as far as ``flow`` says.

    ``calm``: mostly what two sound hosts say to each other.
    """
    side = rng.choice((CLIENT, SERVER))
    own, other = flow.of(side), flow.of(1 - side)
    kind = _kind(rng, ipv6, calm)
    flags = _flags(rng, calm)
    listed = options(rng)
    most = MOST_FRAME - 14 - IP_HEADER[ipv6] - TCP_HEADER - OPTIONS_ROOM - 120
    length = _length(rng, most)
    if flow.flags & FINS[side] and rng.random() < 0.7:
        length = 0
        flags |= FIN if rng.random() < 0.2 else 0
    seq = _seq(rng, own, other, flags, length)
    if rng.random() < (0.01 if calm else 0.02):
        flags = rng.choice((SYN, SYN | ACK, SYN, SYN | rng.getrandbits(9)))
        seq = rng.choice((flow.isn_client, flow.isn_client, number(rng)))
        length = rng.choice((0, length))
        kind = "plain"
    padded = kind == "plain" and rng.random() < 0.1
    return Packet(
        kind=kind,
        side=side,
        ipv6=ipv6,
        seq=seq & MASK,
        ack=(_ack(rng, own, other) - own.ack_shift) & MASK,
        flags=flags,
        window=rng.choice((0, 1, 0xFFFF, rng.getrandbits(16), rng.getrandbits(8))),
        urgent=rng.choice((0, 0, 0, rng.getrandbits(16))),
        reserved=rng.choice((0, 0, 0, rng.getrandbits(3))),
        options=listed,
        payload=length,
        padding=rng.randint(1, 60) if padded else 0,
        checksum_error=rng.randrange(1, 0xFFFF) if rng.random() < 0.05 else 0,
        mark=rng.choice((0, 0, rng.getrandbits(28))),
        gso_size=rng.choice((536, 1220, 1448)) if length > 1448 and rng.random() < 0.5 else 0,
        detail=rng.getrandbits(32),
    )
