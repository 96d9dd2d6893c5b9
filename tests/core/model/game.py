"""What can happen in a world, as moves: by applications, network, strangers, operator.

Hypothesis makes the moves in tests/core/test_stateful.py; :func:`play` makes them as a string of
bytes says, for the coverage-guided run in fuzz/ and for replaying what that found.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.states import ENDED, HALF_OPEN, State
from nfq_zerortt.destinations import Destination
from nfq_zerortt.ports import PortSet
from nfq_zerortt.wire import flags as fl
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from tests.core.model.carried import CarriedWorld, Kernel
from tests.core.model.fast_open import FastOpen
from tests.core.model.mutation import KINDS, mutated
from tests.core.model.network import Faults
from tests.core.model.tcp import Profile, Tcp
from tests.core.model.world import (
    CLOSED_PORT,
    OPEN_PORT,
    OTHER_PORT,
    SERVER_ADDRESSES,
    SPEAKING_PORT,
    World,
)

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
    {"syn_retries": 6, "time_wait_s": 5, "reset_linger_s": 1},
    {"idle_timeout_s": 900, "half_open_timeout_s": 4},
    {"fast_open_wait_ms": 0},
    {"fast_open_wait_ms": 1},
    {"fast_open_wait_ms": 200, "held_bytes_per_flow": 9000},
    {"fast_open_wait_ms": 1000},
)
_SERVER_4 = ipaddress.ip_network(SERVER_ADDRESSES[4])
POLICIES = (
    Policy("fastopen"),
    Policy("auto"),
    Policy("hold"),
    Policy("auto", fast_open_ports=PortSet.parse(f"{SPEAKING_PORT},{OTHER_PORT}")),
    Policy("observe"),
    Policy("auto", (Destination("fastopen", (_SERVER_4,)),)),
    Policy("hold", (Destination("auto", ports=PortSet.parse(str(OPEN_PORT))),)),
    Policy("fastopen", (Destination("direct", (_SERVER_4,)),)),
    Policy("observe", (Destination("fastopen", ports=PortSet.parse(str(OTHER_PORT))),)),
)
SERVERS = (
    FastOpen(cookies=True),
    FastOpen(any_data=True),
    FastOpen(),
    FastOpen(any_data=True, most=50),
    FastOpen(cookies=True, full_every=2),
    FastOpen(any_data=True, full_every=3),
    FastOpen(any_data=True, eaten="data"),
    FastOpen(cookies=True, eaten="option"),
)
PORTS = (40_001, 40_002, 40_003, 40_004)
TARGETS = (OPEN_PORT, OPEN_PORT, OPEN_PORT, OPEN_PORT, OTHER_PORT, SPEAKING_PORT, CLOSED_PORT)
FAMILIES = (4, 6)
DELAYS = (0.02, 0.0005, 0.15, 0.6)
ISNS = (0xFFFF_0000, 5, 0x7FFF_FF00)
WAITS = (0.0004, 0.001, 0.01, 0.05, 0.3, 1.0, 2.5, 8.0, 70.0)
SIZES = (1, 100, 1400, 6000, 40_000)
ANSWERS = (0, 20_000, 300)
_VISITORS = 41_000
_SOON_S = 0.002
_ENDINGS = {"at once": 0.0, "soon": 0.1, "later": 2.0, "late": 70.0}
ENDINGS = (*_ENDINGS, "open", "abort")
HANDSHAKES: tuple[tuple[str, ...], ...] = (
    (),
    (),
    ("ok", "lose"),
    ("ok", "lose", "lose", "lose"),
    ("ok", "ok", "lose", "ok", "lose"),
    ("double", "late"),
)
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
NEAREST, FURTHEST = 0x2000_0000, 0xE000_0000
"""How far a stranger's guess is from the true number: outside every window that there can be."""

VISITS = (21, 22, 23, 23, 23, 24, 8)
FAIR_MOVES = (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 14, 20, 21, 22, 24)
MOVES = (*FAIR_MOVES, 5, 23, 11, 12, 13, 15, 16, 17, 18, 19)
"""The numbers of all moves, see :func:`_move`; the fair ones break nothing off, and visits are
little else than handshakes."""
KERNEL_MOVES = (*MOVES, 21, 22, 25, 26)
DOWN = (0.0, 0.02, 0.5, 5.0)
STALLS = (0.005, 0.05, 0.12, 0.4)
QUEUE_WAITS = (0.0001, 0.0, 0.002, 0.03)
ROOMS = (1 << 16, 1 << 16, 1 << 16, 3, 1)
RING_ROOMS = (1 << 12, 1 << 12, 1)

T = TypeVar("T")


def limits_of(changes: dict[str, int]) -> Limits:
    """Return limits of which some are not the defaults; idle flows end within the game."""
    return Limits(**{"idle_timeout_s": 3600, **changes})


class Game:
    """A world and the moves in it. Ends are picked by a number, the living ones in their order."""

    def __init__(
        self,
        policy: Policy,
        changes: dict[str, int],
        server: Profile,
        delay: float,
        isn: int,
        answer: int,
        fast_open: FastOpen,
        kernel: Kernel | None,
    ) -> None:
        self._visits = 0
        make = World if kernel is None else partial(CarriedWorld, kernel=kernel)
        self.world = make(
            policy=policy,
            limits=limits_of(changes),
            server=server,
            delay=delay,
            isn=isn,
            answer=answer,
            fast_open=replace(fast_open, given={}),
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

    def visit(
        self, fates: tuple[str, ...], wait: float, size: int, answer: int, ending: str
    ) -> None:
        """A client with a port of its own connects, and speaks ``wait`` seconds later.

        ``fates``: what becomes of the handshake on the WAN; ``ending`` names how it ends.
        """
        world = self.world
        self._visits += 1
        port, family = _VISITORS + self._visits, FAMILIES[self._visits % 3 == 0]
        world.network.handshake_fates.extend(fates)
        tcp = world.connect(port, to=OPEN_PORT, family=family)
        if tcp is None:
            return
        if wait:
            world.run(wait)
        tcp.write(size, world.now)
        world.run(world.network.delay + _SOON_S)
        for end in world.ends_of(tcp):
            end.write(answer, world.now)
        if ending == "abort":
            world.run(world.network.delay + _SOON_S)
            tcp.abort(world.now)
        elif ending != "open":
            world.run(_ENDINGS[ending])
            tcp.close(world.now)
            for end in world.ends_of(tcp):
                end.close(world.now)

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
        raw = Segment(
            src=tcp.local[0],
            sport=tcp.local[1],
            dst=tcp.peer[0],
            dport=tcp.peer[1],
            seq=add(tcp.iss, off_seq),
            ack=add(tcp.irs or 0, off_ack) if flags & fl.ACK else 0,
            flags=flags,
            window=1000,
            payload=bytes(length),
        ).emit()
        flow = self.world.find(raw)
        gone = flow is None or flow.state in ENDED or (flow.observed and flow.state in HALF_OPEN)
        spoofed = flow is not None and flow.state is State.SPOOFED and flags & fl.ACK
        if isinstance(self.world, CarriedWorld) and self.world.is_behind:
            gone = spoofed = True  # nobody can say what it will meet
        if tcp.is_client and ((flags & fl.SYN and gone) or spoofed):
            self.world.hit.add(tcp.name)
        self.world.inject(raw, Side.CLIENT if tcp.is_client else Side.SERVER)

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

    def configure(self, policy: Policy, changes: dict[str, int]) -> None:
        """The configuration is read again."""
        self.world.configure(policy, limits_of(changes))

    def kill(self, down: float) -> None:
        """The process dies, and is started again after ``down`` seconds."""
        if isinstance(self.world, CarriedWorld):
            self.world.kill(down)

    def be_slow(self, seconds: float) -> None:
        """The process gets no processor for a while."""
        if isinstance(self.world, CarriedWorld):
            self.world.stall(seconds)

    def change_server(self, fast_open: FastOpen, *, key: bool) -> None:
        """The server host gets another key, or is started anew with other settings."""
        if key:
            self.world.server.fast_open.change_key()
        else:
            self.world.server.fast_open.become(fast_open)


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


def begin(
    source: Source,
    policy: Policy | None,
    fast_open: FastOpen | None,
    kernel: Kernel | bool | None = None,
) -> Game:
    """Begin a game; what is given here holds, whatever ``source`` says."""
    first = source.choice(POLICIES)
    given = (
        source.choice(CHANGES),
        source.choice(PROFILES),
        source.choice(DELAYS),
        source.choice(ISNS),
        source.choice(ANSWERS),
        fast_open or source.choice(SERVERS),
    )
    if not isinstance(kernel, bool):
        return Game(policy or first, *given, kernel)
    when_full = source.choice(("python", "python", "pass"))
    made = Kernel(source.choice(QUEUE_WAITS), source.choice(ROOMS), source.choice(RING_ROOMS))
    return Game(replace(policy or first, kernel_full=when_full), *given, made)


def play(
    data: bytes,
    *,
    policy: Policy | None = None,
    fast_open: FastOpen | None = None,
    moves: Sequence[int] = MOVES,
    kernel: Kernel | bool | None = None,
) -> Game:
    """Play a game to its end.

    ``policy`` and ``fast_open``: the ones to begin with; ``moves``: those that there may be;
    ``kernel``: there is a kernel data path, like that or (True) as ``data`` says.

    Raises:
        AssertionError: something happened that must not; so does any other exception.
    """
    source = Source(data)
    game = begin(source, policy, fast_open, kernel)
    # Not all kinds of moves in each game: so some come often enough to meet.
    kinds = source.number(0, (1 << len(moves)) - 1)
    chosen = [move for place, move in enumerate(moves) if kinds >> place & 1] or moves
    while not source.is_empty:
        _move(game, source, source.choice(chosen))
    game.world.finish()
    return game


def _move(game: Game, source: Source, move: int) -> None:
    world = game.world
    match move:
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
            world.network.make_bad(faults, source.number(0, 255), world.now)
        case 13:
            world.network.heal(world.now)
        case 14:
            world.network.fates.extend(source.choice(FATES) for _ in range(source.number(0, 7)))
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
            game.configure(source.choice(POLICIES), source.choice(CHANGES))
        case 18:
            world.unsendable = source.number(0, 2)
        case 21 | 22 | 23:
            game.visit(
                source.choice(HANDSHAKES),
                source.choice((0.0, 0.0, 0.0, 0.005, 0.03, 0.5)),
                source.choice(SIZES[1:4]),
                source.choice((0, 100, 10_000)),
                source.choice(ENDINGS if move == 23 else ENDINGS[:-1]),
            )
        case 24:
            world.network.handshake_fates.extend(
                source.choice(FATES) for _ in range(source.number(0, 5))
            )
        case 20:
            game.change_server(source.choice(SERVERS), key=bool(source.number(0, 1)))
        case 25:
            game.kill(source.choice(DOWN))
        case 26:
            game.be_slow(source.choice(STALLS))
        case _:
            choice = source.number(0, 7)
            if choice == 7 and world.packets > 30 and not world.stopped:
                world.stop()
            elif choice < 4:
                world.inject(source.take(source.number(0, 80)), source.choice(tuple(Side)))
