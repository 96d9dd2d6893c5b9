"""Whole connections through the engine, over a network that loses, repeats, delays and reorders.

A string of bytes is a game (:mod:`tests.core.model.game`): it moves the applications, the network,
the strangers and the operator; the hosts are small honest TCPs, and the server's does Fast Open in
several ways. Whatever happens: one verdict for each packet, no exception, the bounds hold, no end
gets a number that it cannot know or a byte that was not written, SYNs leave as they may, and in the
end every connection is complete or has failed for a reason, and nothing of it is left.

The games here are always the same. They are not made by hypothesis, because it also draws from the
constants of whatever modules are loaded: other tests in the same process would change them.
``FUZZ=deep`` in the environment plays new ones for long, and there hypothesis makes those that fail
small. A game that fails is played again, packet by packet, by ``python -m fuzz.replay`` and its
bytes in hexadecimal.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfq_zerortt.core.admission import Policy
from tests.core.model.fast_open import FastOpen
from tests.core.model.game import FAIR_MOVES, MOVES, VISITS, Game, play

DEEP = os.environ.get("FUZZ") == "deep"
PARTS, GAMES_OF_A_PART = 10, 28
PAIRS, HANDSHAKES = 30, 50
SHORTEST, LONGEST = 20, 250

Name = tuple[bytes, int, bytes, int, int]


def games(seed: int, count: int) -> Iterator[bytes]:
    for number in range(count):
        dice = random.Random(seed << 20 | number)
        yield dice.randbytes(dice.randint(SHORTEST, LONGEST))


def played(
    data: bytes,
    policy: Policy | None = None,
    fast_open: FastOpen | None = None,
    moves: Sequence[int] = MOVES,
) -> Game:
    try:
        return play(data, policy=policy, fast_open=fast_open, moves=moves)
    except Exception as error:
        error.add_note(f"the game: {data.hex()}, {policy}, {fast_open}, moves {moves}")
        raise


def endings(game: Game) -> dict[Name, bool]:
    """Whether all was delivered to both ends and they know it, for each connection."""
    count: Counter[Name] = Counter()
    ended = {}
    for tcp in game.world.client.all():
        name = (*tcp.local, *tcp.peer, 0)
        count[name] += 1
        delivered = any(
            end.delivered == tcp.written and tcp.delivered == end.written
            for end in game.world.ends_of(tcp)
        )
        complete = tcp.fin_received and tcp.all_acknowledged
        ended[*name[:4], count[name]] = complete and delivered
    return ended


@pytest.mark.parametrize("part", range(PARTS))
def test_all_ends_well(part: int) -> None:
    with_data = sum(
        played(data).world.departures.with_data for data in games(part, GAMES_OF_A_PART)
    )
    assert with_data > 2, "hardly a SYN carried data: these games show little"


@pytest.mark.parametrize("server", [FastOpen(any_data=True), FastOpen(cookies=True)])
def test_handshakes_end_well(server: FastOpen) -> None:
    """Little else than short connections, whose handshakes and first bytes get lost."""
    with_data = 0
    for data in games(PARTS + 2, HANDSHAKES):
        game = played(data[:110], Policy("fastopen"), server, VISITS)
        with_data += game.world.departures.with_data
    assert with_data > HANDSHAKES / 2


@pytest.mark.parametrize("name", ["fastopen", "auto"])
def test_what_completes_with_hold_completes_with_fast_open(name: str) -> None:
    with_data = compared = 0
    for data in games(PARTS, PAIRS):
        held = endings(played(data, Policy("hold"), moves=FAIR_MOVES))
        game = played(data, Policy(name), moves=FAIR_MOVES)
        fast = endings(game)
        worse = [one for one in held if held[one] and not fast.get(one, True)]
        assert not worse, f"{worse}, the game: {data.hex()}"
        compared += sum(held[one] for one in held.keys() & fast.keys())
        with_data += game.world.departures.with_data
    assert with_data > 2
    assert compared > PAIRS


def test_a_game_is_the_same_each_time() -> None:
    (data,) = games(PARTS + 1, 1)
    traces = [played(data).world.trace for _ in range(2)]
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
        played(data)
