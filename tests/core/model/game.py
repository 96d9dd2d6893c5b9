"""What can happen in a world, as moves: by applications, network, strangers, operator.

Hypothesis makes the moves in tests/core/test_stateful.py; :func:`play` makes them as a string of
bytes says, for the coverage-guided run in fuzz/ and for replaying what that found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Side
from nfq_zerortt.wire import flags as fl
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from tests.core.model.mutation import KINDS, mutated
from tests.core.model.tcp import Profile, Tcp
from tests.core.model.world import CLOSED_PORT, OPEN_PORT, Faults, World

PROFILES = (
    Profile(),
    Profile(window=4_000_000, scale=10, mss=8960),
    Profile(stamps=False),
    Profile(sack=False, stamps=False),
    Profile(scale=None),
    Profile(scale=None, stamps=False, sack=False, mss=536),
    Profile(scale=2, mss=300),
    Profile(scale=14, window=1 << 20),
    Profile(window=3000, scale=0),
    Profile(window=2000, scale=7, stamps=False),
)
CHANGES: tuple[dict[str, int], ...] = (
    {},
    {"max_flows": 2},
    {"max_half_open": 1},
    {"held_bytes_per_flow": 4000},
    {"held_bytes_total": 5000},
    {"syn_retries": 3, "time_wait_s": 5, "reset_linger_s": 1},
    {"idle_timeout_s": 900, "half_open_timeout_s": 4},
)
STRATEGIES = ("hold", "hold", "observe", "auto")
PORTS = (40_001, 40_002, 40_003)
TARGETS = (OPEN_PORT, OPEN_PORT, OPEN_PORT, CLOSED_PORT)
FAMILIES = (4, 6)
DELAYS = (0.02, 0.0005, 0.15, 0.6)
ISNS = (0xFFFF_0000, 5, 0x7FFF_FF00)
WAITS = (0.0004, 0.001, 0.01, 0.05, 0.3, 1.0, 2.5, 8.0, 70.0)
SIZES = (1, 100, 1400, 6000, 40_000)
ANSWERS = (0, 20_000, 300)
FATES = ("ok", "lose", "double", "late")
LOSSES = (0.0, 0.05, 0.3, 1.0)
BLIND_FLAGS = (
    fl.RST,
    fl.RST | fl.ACK,
    fl.SYN,
    fl.SYN | fl.ACK,
    fl.ACK,
    fl.FIN | fl.ACK,
    fl.PSH | fl.ACK,
    fl.FIN,
    0,
)
ENDING_FLAGS = BLIND_FLAGS[:4]
NEAREST, FURTHEST = 0x2000_0000, 0xE000_0000
"""How far a stranger's guess is from the true number: outside every window that there can be."""

T = TypeVar("T")


def limits_of(changes: dict[str, int]) -> Limits:
    """Return limits of which some are not the defaults; idle flows end within the game."""
    return Limits(**{"idle_timeout_s": 3600, **changes})


class Game:
    """A world and the moves in it. Ends are picked by a number, the living ones in their order."""

    def __init__(
        self,
        strategy: str,
        changes: dict[str, int],
        server: Profile,
        delay: float,
        isn: int,
        answer: int,
    ) -> None:
        self.world = World(
            strategy=strategy,
            limits=limits_of(changes),
            server=server,
            delay=delay,
            isn=isn,
            answer=answer,
        )

    def pick(self, number: int) -> Tcp | None:
        """Return one of the ends that live."""
        ends = [*self.world.client.all(), *self.world.server.all()]
        alive = [tcp for tcp in ends if not tcp.ended]
        return alive[number % len(alive)] if alive else None

    # --- applications ---------------------------------------------------------------------

    def connect(self, port: int, to: int, family: int, profile: Profile, size: int) -> None:
        """The client connects, and sends at once."""
        tcp = self.world.connect(port, to=to, family=family, profile=profile)
        if tcp is not None and size:
            tcp.write(size, self.world.now)

    def write(self, number: int, size: int) -> None:
        """An application sends."""
        tcp = self.pick(number)
        if tcp is not None:
            tcp.write(size, self.world.now)

    def close(self, number: int) -> None:
        """An application has no more to send."""
        tcp = self.pick(number)
        if tcp is not None:
            tcp.close(self.world.now)

    def abort(self, number: int) -> None:
        """An application dies."""
        tcp = self.pick(number)
        if tcp is not None:
            tcp.abort(self.world.now)

    def stall(self, number: int, *, stalled: bool) -> None:
        """An application stops reading, or reads again."""
        tcp = self.pick(number)
        if tcp is not None:
            tcp.stall(self.world.now, stalled=stalled)

    def keepalive(self, number: int) -> None:
        """An end asks whether the other is there."""
        tcp = self.pick(number)
        if tcp is not None:
            tcp.keepalive(self.world.now)

    # --- strangers ------------------------------------------------------------------------

    def blind(self, number: int, flags: int, off_seq: int, off_ack: int, length: int) -> None:
        """A packet in the name of one end, by someone who knows the 4-tuple but no number."""
        ends = [*self.world.client.all(), *self.world.server.all()]
        if not ends:
            return
        tcp = ends[number % len(ends)]
        self.world.inject(
            Segment(
                src=tcp.local[0],
                sport=tcp.local[1],
                dst=tcp.peer[0],
                dport=tcp.peer[1],
                seq=add(tcp.iss, off_seq),
                ack=add(tcp.irs or 0, off_ack) if flags & fl.ACK else 0,
                flags=flags,
                window=1000,
                payload=bytes(length),
            ).emit(),
            Side.CLIENT if tcp.is_client else Side.SERVER,
        )

    def damage(self, number: int, kind: str, place: int, value: int) -> None:
        """A packet seen before comes again, damaged on its way (its checksum shows it)."""
        if not self.world.trace:
            return
        _, side, raw = self.world.trace[-1 - number % min(len(self.world.trace), 64)]
        self.world.damaged = True
        if kind == "quote" and place & 1:  # a router's error comes from the other side, mostly
            side = Side.SERVER if side is Side.CLIENT else Side.CLIENT
        self.world.inject(mutated(raw, kind, place, value), side)

    # --- the operator ---------------------------------------------------------------------

    def configure(self, strategy: str, changes: dict[str, int]) -> None:
        """The configuration is read again."""
        self.world.configure(strategy, limits_of(changes))


class Source:
    """Choices as a string of bytes makes them; when it is used up, all of them are the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def number(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``."""
        size = max((high - low).bit_length() + 7 >> 3, 1)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return low + int.from_bytes(taken, "big") % (high - low + 1)

    def choice(self, among: Sequence[T]) -> T:
        """Return one of several."""
        return among[self.number(0, len(among) - 1)]

    def take(self, size: int) -> bytes:
        """Return bytes as they stand."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken


def play(data: bytes) -> Game:
    """Play a game to its end.

    Raises:
        AssertionError: something happened that must not; so does any other exception.
    """
    source = Source(data)
    game = Game(
        source.choice(STRATEGIES),
        source.choice(CHANGES),
        source.choice(PROFILES),
        source.choice(DELAYS),
        source.choice(ISNS),
        source.choice(ANSWERS),
    )
    while not source.is_empty:
        _move(game, source)
    game.world.finish()
    return game


def _move(game: Game, source: Source) -> None:
    world = game.world
    match source.number(0, 19):
        case 0 | 1:
            game.connect(
                source.choice(PORTS),
                source.choice(TARGETS),
                source.choice(FAMILIES),
                source.choice(PROFILES),
                source.choice((0, *SIZES)),
            )
        case 2 | 3:
            game.write(source.number(0, 11), source.choice(SIZES))
        case 4:
            game.close(source.number(0, 11))
        case 5:
            if source.number(0, 3) == 3:
                game.abort(source.number(0, 11))
        case 6:
            game.stall(source.number(0, 11), stalled=bool(source.number(0, 1)))
        case 7:
            game.keepalive(source.number(0, 11))
        case 8 | 9 | 10 | 11:
            world.run(source.choice(WAITS))
        case 12:
            faults = Faults(
                source.choice(LOSSES), source.choice((0.0, 0.1)), source.choice((0.0, 0.3))
            )
            world.make_bad(faults, source.number(0, 255))
        case 13:
            world.heal()
        case 14:
            world.fates.extend(source.choice(FATES) for _ in range(source.number(0, 7)))
        case 15:
            game.blind(
                source.number(0, 11),
                source.choice(BLIND_FLAGS),
                source.number(NEAREST, FURTHEST),
                source.number(NEAREST, FURTHEST),
                source.choice((0, 0, 1, 1000)),
            )
        case 16:
            game.damage(
                source.number(0, 63),
                source.choice(KINDS),
                source.number(0, 0xFFFF),
                source.number(0, 0xFFFF),
            )
        case 17:
            game.configure(source.choice(STRATEGIES), source.choice(CHANGES))
        case 18:
            world.unsendable = source.number(0, 2)
        case _:
            choice = source.number(0, 7)
            if choice == 7 and world.packets > 30 and not world.stopped:
                world.stop()
            elif choice < 4:
                world.inject(source.take(source.number(0, 80)), source.choice(tuple(Side)))
