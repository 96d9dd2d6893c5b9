"""Whole connections through the engine, over a network that loses, repeats, delays and reorders.

Hypothesis plays the applications, the network, the strangers and the operator; the two hosts are
small honest TCPs (:mod:`tests.core.model`). Whatever happens: one verdict for each packet, no
exception, the bounds hold, no end gets a number that it cannot know or a byte that was not
written, and in the end every connection is complete or has failed for a reason, and nothing of it
is left.

``FUZZ=deep`` in the environment plays far more and longer games, and new ones each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nfq_zerortt.core.actions import Side
from tests.core.model import game as moves
from tests.core.model.game import Game
from tests.core.model.mutation import KINDS
from tests.core.model.tcp import Profile
from tests.core.model.world import Faults

DEEP = os.environ.get("FUZZ") == "deep"

of = st.sampled_from
numbers = st.integers(0, 11)
uint16 = st.integers(0, 0xFFFF)
far = st.integers(moves.NEAREST, moves.FURTHEST)


class Connections(RuleBasedStateMachine):
    """The games."""

    @initialize(
        strategy=of(moves.STRATEGIES),
        changes=of(moves.CHANGES),
        server=of(moves.PROFILES),
        delay=of(moves.DELAYS),
        isn=of(moves.ISNS),
        answer=of(moves.ANSWERS),
    )
    def begin(
        self,
        strategy: str,
        changes: dict[str, int],
        server: Profile,
        delay: float,
        isn: int,
        answer: int,
    ) -> None:
        self.game = Game(strategy, changes, server, delay, isn, answer)
        self.world = self.game.world

    # --- applications ---------------------------------------------------------------------

    @rule(
        port=of(moves.PORTS),
        to=of(moves.TARGETS),
        family=of(moves.FAMILIES),
        profile=of(moves.PROFILES),
        size=of((0, *moves.SIZES)),
    )
    def connect(self, port: int, to: int, family: int, profile: Profile, size: int) -> None:
        self.game.connect(port, to, family, profile, size)

    @rule(number=numbers, size=of(moves.SIZES))
    def write(self, number: int, size: int) -> None:
        self.game.write(number, size)

    @rule(number=numbers)
    def close(self, number: int) -> None:
        self.game.close(number)

    @rule(number=numbers, sure=of([False, False, False, True]))
    def abort(self, number: int, sure: bool) -> None:
        if sure:
            self.game.abort(number)

    @rule(number=numbers, stalled=st.booleans())
    def stall(self, number: int, stalled: bool) -> None:
        self.game.stall(number, stalled=stalled)

    @rule(number=numbers)
    def keepalive(self, number: int) -> None:
        self.game.keepalive(number)

    # --- time and the network -------------------------------------------------------------

    @rule(seconds=of(moves.WAITS))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(
        lose=of(moves.LOSSES),
        double=of((0.0, 0.1)),
        late=of((0.0, 0.3)),
        seed=st.integers(0, 1 << 20),
    )
    def make_bad(self, lose: float, double: float, late: float, seed: int) -> None:
        self.world.make_bad(Faults(lose, double, late), seed)

    @rule()
    def heal(self) -> None:
        self.world.heal()

    @rule(fates=st.lists(of(moves.FATES), max_size=12))
    def decide(self, fates: list[str]) -> None:
        self.world.fates.extend(fates)

    # --- strangers ------------------------------------------------------------------------

    @rule(
        number=numbers,
        flags=of(moves.BLIND_FLAGS),
        off_seq=far,
        off_ack=far,
        length=of((0, 0, 1, 1000)),
    )
    def blind(self, number: int, flags: int, off_seq: int, off_ack: int, length: int) -> None:
        self.game.blind(number, flags, off_seq, off_ack, length)

    @rule(port=of(moves.PORTS), flags=of(moves.ENDING_FLAGS), off_seq=far, number=numbers)
    def blind_while_holding(self, port: int, flags: int, off_seq: int, number: int) -> None:
        """The moment when a flow is easiest to end: the client has spoken, the server has not."""
        self.game.connect(port, moves.TARGETS[0], 4, moves.PROFILES[0], 300)
        self.world.run(0.001)
        self.game.blind(number, flags, off_seq, off_seq, 0)

    @rule(number=st.integers(0, 63), kind=of(KINDS), place=uint16, value=uint16)
    def damage(self, number: int, kind: str, place: int, value: int) -> None:
        self.game.damage(number, kind, place, value)

    @rule(raw=st.binary(max_size=80), side=of(Side))
    def noise(self, raw: bytes, side: Side) -> None:
        self.world.inject(raw, side)

    # --- the operator ---------------------------------------------------------------------

    @rule(strategy=of(moves.STRATEGIES), changes=of(moves.CHANGES))
    def configure(self, strategy: str, changes: dict[str, int]) -> None:
        self.game.configure(strategy, changes)

    @rule(count=st.integers(1, 2))
    def cannot_send(self, count: int) -> None:
        self.world.unsendable = count

    @precondition(lambda self: not self.world.stopped and self.world.packets > 30)
    @rule(sure=of([False, False, False, True]))
    def stop(self, sure: bool) -> None:
        if sure:
            self.world.stop()

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "world"):
            self.world.check_bounds()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


Connections.TestCase.settings = settings(
    max_examples=5000 if DEEP else 500,
    stateful_step_count=120 if DEEP else 40,
    derandomize=not DEEP,
    deadline=None,
    database=None,
    # A failure comes again as it was found; making it small takes minutes.
    phases=[Phase.generate, Phase.shrink] if DEEP else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestConnections = Connections.TestCase
