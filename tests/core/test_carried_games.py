"""The games of test_stateful.py with a kernel data path, and a process that is late, ends or dies.

Whatever happens: established connections that were handed over complete, byte for byte; no packet
overtakes another at the hand-over; every end is reported once, with the right counts; in the end
nothing is left, neither here nor there. What needed a process that died may fail, but no end takes
a byte that was not written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.model.carried import CarriedWorld, Kernel
from tests.core.model.game import FAIR_MOVES, KERNEL_MOVES, Game, play
from tests.core.test_stateful import endings, games, played

DEEP = os.environ.get("FUZZ") == "deep"
FIRST_SEED = 1000
PARTS, GAMES_OF_A_PART = 4, 48
PAIRS = 20
PORT = 40_001
SPOKEN = 20


def carried(
    data: bytes, kernel: Kernel | bool = True, moves: Sequence[int] = KERNEL_MOVES
) -> tuple[Game, CarriedWorld]:
    try:
        game = play(data, moves=moves, kernel=kernel)
    except Exception as error:
        error.add_note(f"the game: {data.hex()}, moves {moves}, kernel {kernel}")
        raise
    assert isinstance(game.world, CarriedWorld)
    return game, game.world


@pytest.mark.parametrize("part", range(PARTS))
def test_all_ends_well(part: int) -> None:
    count: Counter[str] = Counter()
    for data in games(FIRST_SEED + part, GAMES_OF_A_PART):
        _, world = carried(data)
        count["handed over"] += world.handed_over
        count["left"] += world.left
        count["outlived"] += len(world.outlived - world.orphans)
        count["counted"] += world.counted
    assert count["handed over"] > GAMES_OF_A_PART, "these games show little"
    assert count["left"] > GAMES_OF_A_PART / 2
    assert count["outlived"] > 2
    assert count["counted"] > GAMES_OF_A_PART


def test_what_completes_without_the_kernel_completes_with_it() -> None:
    compared = 0
    for data in games(FIRST_SEED + PARTS, PAIRS):
        python = endings(played(data, moves=FAIR_MOVES))
        kernel = endings(carried(data, Kernel(), FAIR_MOVES)[0])
        worse = [one for one in python if python[one] and not kernel.get(one, True)]
        assert not worse, f"{worse}, the game: {data.hex()}"
        compared += sum(python[one] for one in python.keys() & kernel.keys())
    assert compared > PAIRS


def one_connection(dies_at: int, down: float, wait: float) -> CarriedWorld:
    """A request and a longer answer, a conversation, and the end."""
    world = CarriedWorld(kernel=Kernel(wait=wait), answer=5000)
    world.dies_at = (dies_at, down)
    client = world.connect(PORT)
    assert client is not None
    client.write(700, world.now)
    for _ in range(SPOKEN):
        world.run(0.02)
        client.write(300, world.now)
        for end in world.ends_of(client):
            end.write(500, world.now)
    client.close(world.now)
    for end in world.ends_of(client):
        end.close(world.now)
    world.finish()
    return world


@pytest.mark.parametrize(("down", "wait"), [(0.0, 0.0001), (0.03, 0.03), (0.4, 0.002)])
def test_a_process_may_die_at_any_moment(down: float, wait: float) -> None:
    """One connection; at each arrival of a packet after its hand-over, the process dies once."""
    whole = one_connection(0, 0.0, wait)
    assert whole.handed_over == 1
    assert whole.left
    assert whole.packets > whole.first_at + 10
    for moment in range(whole.first_at + 1, whole.packets + 1):
        world = one_connection(moment, down, wait)
        (client,) = world.client.all()
        (end,) = world.ends_of(client)
        assert not world.orphans, f"died at packet {moment}"
        assert (end.delivered, client.delivered) == (client.written, end.written)
        assert client.fin_received
        assert end.fin_received


def test_a_game_is_the_same_each_time() -> None:
    (data,) = games(FIRST_SEED + PARTS + 1, 1)
    traces = [carried(data)[1].trace for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0]) > 30


if DEEP:

    @given(st.binary(min_size=60, max_size=700))
    @settings(
        max_examples=20_000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def test_new_games_end_well(data: bytes) -> None:
        carried(data)
