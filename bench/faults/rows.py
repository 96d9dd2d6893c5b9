"""The faults, a row each: what is done to the WAN or to an end, and to which connections."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from bench.faults.work import CLOSED, MORTAL, SILENT, SIZES, Kind, offset
from nfq_zerortt.testbed.wan import First, WanSettings

RTT_MS = 40.0
REORDER_MS = 5.0

Job = tuple[int, Kind, int]
"""How far the server's port is behind the way's first one; kind; size."""


class Special(Enum):
    """What goes wrong besides the WAN's packets."""

    NOTHING = auto()
    CLOSED_PORT = auto()
    SILENT_SERVER = auto()
    UNREACHABLE_HOST = auto()
    SERVER_DIES = auto()
    CLIENT_DIES = auto()
    LINK_DOWN = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """One fault.

    Attributes:
        title: what the table calls it.
        says: what it is, in a sentence.
        loss_percent, reorder_percent, duplicate_percent, lose_first: of the WAN.
        special: what else goes wrong.
        outage_s: of a link that goes down; ``outage_begins_s`` after the beginning.
        large: transfers of 64 kB and more only, for what shall happen in the midst of them.
        at_a_time: connections of each way; None: the usual number.
        times: so many times the usual number of connections.
    """

    title: str
    says: str
    loss_percent: float = 0.0
    reorder_percent: float = 0.0
    duplicate_percent: float = 0.0
    lose_first: tuple[First, ...] = ()
    special: Special = Special.NOTHING
    outage_s: float = 0.0
    outage_begins_s: float = 0.3
    large: bool = False
    at_a_time: int | None = None
    times: int = 1

    def settings(self, seed: int) -> WanSettings:
        """Return the WAN of this row."""
        return WanSettings(
            rtt_ms=RTT_MS,
            loss_percent=self.loss_percent,
            seed=seed,
            reorder_percent=self.reorder_percent,
            reorder_ms=REORDER_MS,
            duplicate_percent=self.duplicate_percent,
            lose_first=self.lose_first,
        )

    @property
    def should_complete(self) -> bool:
        """Whether TCP can mend it, so that every connection has to complete."""
        return self.special in (Special.NOTHING, Special.LINK_DOWN)

    @property
    def is_drawn(self) -> bool:
        """Whether chance has a part in which packets are hit."""
        return bool(self.loss_percent or self.reorder_percent or self.duplicate_percent)

    def jobs(self, number: int) -> Sequence[Job]:
        """Return the connections of one way, the same each time."""
        draw = random.Random(self.title)
        sizes = _LARGE if self.large else _MIXED
        drawn = [(kind, size) for size, share in sizes for kind in Kind for _ in range(share)]
        jobs: list[Job] = []
        while len(jobs) < number:
            draw.shuffle(drawn)
            jobs += [(self._offset(kind, size), kind, size) for kind, size in drawn]
        return jobs[:number]

    def _offset(self, kind: Kind, size: int) -> int:
        if self.special is Special.CLOSED_PORT:
            return CLOSED
        if self.special is Special.SILENT_SERVER:
            return SILENT
        mortal = MORTAL if self.special is Special.SERVER_DIES else 0
        return offset(kind, size) + mortal


# How many of each size, for each kind, in the first 60 connections, and the next, and so on.
_MIXED = tuple(zip(SIZES, (2, 3, 5, 5, 4, 1), strict=True))
_LARGE = ((64_000, 3), (1_000_000, 1))

ROWS = (
    Row("no fault", "Nothing goes wrong."),
    Row(
        "loss 1 %",
        "Each packet is lost with 1 %, in both directions.",
        loss_percent=1,
        times=2,  # its time is judged, and chance has less part in the sum of more
    ),
    Row("loss 5 %", "Each packet is lost with 5 %, in both directions.", loss_percent=5),
    Row(
        "reordering",
        f"5 % of the packets are held back for {REORDER_MS:g} ms, so that others overtake.",
        reorder_percent=5,
    ),
    Row("duplication", "5 % of the packets arrive twice.", duplicate_percent=5),
    Row(
        "all at once",
        "1 % lost, 5 % held back, 5 % doubled.",
        loss_percent=1,
        reorder_percent=5,
        duplicate_percent=5,
    ),
    Row("SYN lost", "The first SYN of each connection is lost.", lose_first=(First.SYN,)),
    Row("SYN-ACK lost", "The server's first SYN-ACK is lost.", lose_first=(First.SYN_ACK,)),
    Row("first data lost", "The client's first data is lost.", lose_first=(First.DATA,)),
    Row("third ACK lost", "The bare ACK of the handshake is lost.", lose_first=(First.ACK,)),
    Row(
        "link down 3 s",
        "While 40 of each way are busy, nothing crosses the WAN for 3 s.",
        special=Special.LINK_DOWN,
        outage_s=3.0,
        at_a_time=40,  # that many are hit
    ),
    Row(
        "closed port", "Nobody listens: the server's host answers RST.", special=Special.CLOSED_PORT
    ),
    Row(
        "unreachable host",
        "A router behind the WAN answers ICMP host unreachable.",
        special=Special.UNREACHABLE_HOST,
    ),
    Row(
        "server dies",
        "The server's process is killed (kill -9) in the midst of the transfer.",
        special=Special.SERVER_DIES,
        large=True,
    ),
    Row(
        "client dies",
        "The client's process is killed (kill -9) in the midst of the transfer.",
        special=Special.CLIENT_DIES,
        large=True,
    ),
    Row(
        "silent server",
        "The server's host drops the SYNs.",
        special=Special.SILENT_SERVER,
        at_a_time=300,
    ),
)
