"""A network that loses, repeats, delays and reorders packets."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from dataclasses import dataclass, field

from nfq_zerortt.core.actions import Side
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, SYN
from nfq_zerortt.wire.view import look

_NEAR_S = 0.0003


@dataclass(slots=True)
class Faults:
    """How bad the network is: the share of packets that it loses, doubles or delays."""

    lose: float = 0.0
    double: float = 0.0
    late: float = 0.0


@dataclass(order=True, slots=True)
class Flight:
    """A packet under way; ``name`` is its connection's client's ISN, ``honest``: it is judged."""

    at: float
    order: int
    raw: bytes = field(compare=False)
    side: Side = field(compare=False)
    to_end: bool = field(compare=False)
    name: int = field(compare=False)
    honest: bool = field(compare=False)


class Network:
    """The links on both sides of ClientNIC.

    Attributes:
        delay: seconds that a packet takes between ClientNIC and the server, one way.
        fates: what becomes of the next packets on any link: ok, lose, double or late.
        handshake_fates: the same for the next packets of handshakes, and bare ACKs, on the WAN.
        flights: the packets under way, a heap.
        lost: how many packets of each connection were, by the client's ISN.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.fates: deque[str] = deque()
        self.handshake_fates: deque[str] = deque()
        self.flights: list[Flight] = []
        self.lost: Counter[int] = Counter()
        self._faults = Faults()
        self._dice = random.Random(0)
        self._order = itertools.count()
        self._trouble: list[tuple[float, float]] = []
        self._bad_since: float | None = None

    def make_bad(self, faults: Faults, seed: int, now: float) -> None:
        """Be bad from now on, by dice of that seed."""
        self.heal(now)
        self._faults, self._dice = faults, random.Random(seed)
        self._bad_since = now

    def heal(self, now: float) -> None:
        """Be good from now on."""
        self._faults = Faults()
        self.fates.clear()
        self.handshake_fates.clear()
        if self._bad_since is not None:
            self._trouble.append((self._bad_since, now))
        self._bad_since = None

    def trouble(self, since: float) -> float:
        """Return for how many seconds the network has been bad, and is good again, since then."""
        return sum(max(end - max(start, since), 0.0) for start, end in self._trouble)

    def send(
        self, raw: bytes, side: Side, now: float, *, to_end: bool, name: int, honest: bool
    ) -> None:
        """Put a packet on the link of one side."""
        fates = self.fates
        if self.handshake_fates and side is Side.SERVER and _is_of_handshake(raw):
            fates = self.handshake_fates
        fate = fates.popleft() if fates else self._fate()
        if fate == "lose":
            self.lost[name] += 1
            return
        wait = _NEAR_S if side is Side.CLIENT else self.delay
        for _ in range(2 if fate == "double" else 1):
            late = self._dice.uniform(0, 4 * self.delay + 0.01) if fate == "late" else 0.0
            at = now + wait + late
            flight = Flight(at, next(self._order), raw, side, to_end, name, honest)
            heapq.heappush(self.flights, flight)

    def _fate(self) -> str:
        faults, roll = self._faults, self._dice.random()
        if roll < faults.lose:
            return "lose"
        if roll < faults.lose + faults.double:
            return "double"
        return "late" if roll < faults.lose + faults.double + faults.late else "ok"

    def next_arrival(self) -> float | None:
        """Return when the next packet arrives, or None."""
        return self.flights[0].at if self.flights else None

    def arrived(self, now: float) -> Flight | None:
        """Take the next packet off its link that has arrived by now, if one has."""
        if self.flights and self.flights[0].at <= now:
            return heapq.heappop(self.flights)
        return None


def _is_of_handshake(raw: bytes) -> bool:
    try:
        view = look(raw)
    except WireError:
        return False
    return bool(view.flags & SYN) or (view.flags == ACK and not view.payload_length)
