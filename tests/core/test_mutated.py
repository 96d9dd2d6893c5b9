"""Packets of real connections, changed before they reach the engine.

A connection is played once (:mod:`tests.core.model`), and what ClientNIC saw of it is played again
with some of its packets changed, repeated or left out: with the checksum as it was, as a bad link
does it, or with one that is right, as a mad host or an attacker on the path does it. There is no
connection left to complete then, but no exception may come, each packet gets one verdict, the
account stays true, and in the end nothing is left, with a kernel data path as without. Like the
games of test_stateful.py, the changes are the same each time, unless ``FUZZ=deep`` is in the
environment.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from functools import cache, partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.admission import Policy
from tests.core.model.carried import CarriedWorld, Kernel
from tests.core.model.fast_open import FastOpen
from tests.core.model.game import Source
from tests.core.model.mutation import KINDS, mended, mutated
from tests.core.model.network import Faults
from tests.core.model.tcp import Profile
from tests.core.model.world import START, World

DEEP = os.environ.get("FUZZ") == "deep"
PROFILES = (Profile(), Profile(mss=536, scale=None, sack=False), Profile(stamps=False, scale=10))

Packet = tuple[float, Side, bytes]


SETTINGS = (
    (Policy("hold"), FastOpen()),
    (Policy("fastopen"), FastOpen(any_data=True, most=900)),
    (Policy("fastopen"), FastOpen(cookies=True)),
)
FATES = ("ok", "lose", "ok", "late", "ok", "double")
WAYS = (*KINDS, "repeat", "leave out")
TIMES = 450


def a_world(setting: int, profile: int = 0, *, kernel: bool = False) -> World:
    policy, fast_open = SETTINGS[setting]
    # Nothing waits in the queue: initial numbers depend on the time.
    make = partial(CarriedWorld, kernel=Kernel(wait=0.0)) if kernel else World
    return make(
        policy=policy, server=PROFILES[profile], fast_open=replace(fast_open, given={}), answer=700
    )


@cache
def recorded(family: int, profile: int, setting: int, *, bad: bool) -> tuple[Packet, ...]:
    """Return what ClientNIC sees of three connections; of the last, the client dies."""
    world = a_world(setting, profile)
    if bad:
        world.network.make_bad(Faults(lose=0.2, double=0.1, late=0.1), 7, world.now)
        world.network.handshake_fates.extend(FATES)
    for number in range(3):
        tcp = world.connect(40_001 + number, family=family, profile=PROFILES[number])
        assert tcp is not None
        tcp.write(3000 * number, world.now)
    world.run(0.3)
    for number, end in enumerate(world.server.all()):
        end.write(2000 * number, world.now)
    world.run(0.3)
    world.client.all()[0].close(world.now)
    for end in world.server.all()[1:2]:
        end.close(world.now)
    world.client.all()[2].abort(world.now)
    world.run(1.0)
    world.finish()
    return tuple(world.trace)


def changed(packets: list[Packet], source: Source) -> list[Packet]:
    """Return the packets with some of them changed, as ``source`` says."""
    position = 0
    while not source.is_empty:
        position = (position + source.number(0, 200)) % len(packets)
        way, place, value = source.choice(WAYS), source.number(0, 65535), source.number(0, 65535)
        at, side, raw = packets[position]
        if way == "leave out":
            if len(packets) > 1:
                del packets[position]
            continue
        new = raw if way == "repeat" else mutated(raw, way, place, value)
        if source.number(0, 1):
            new = mended(new)
        packets.insert(position, (at, side, new))
        position += 1
    return packets


def play_changed(data: bytes, *, kernel: bool = False) -> None:
    source = Source(data)
    family, profile = source.choice((4, 6)), source.choice((0, 1, 2))
    setting, bad = source.choice((0, 1, 2)), bool(source.number(0, 1))
    packets = changed(list(recorded(family, profile, setting, bad=bad)), source)
    world = a_world(setting, kernel=kernel)
    world.damaged = True
    for at, side, raw in packets:
        world.run(max(at - world.now, 0.0))
        world.inject(raw, side)
    world.fall_silent()


@pytest.mark.parametrize(("kernel", "times"), [(False, TIMES), (True, TIMES // 3)])
def test_changed_packets_are_dealt_with(kernel: bool, times: int) -> None:
    for number in range(times):
        dice = random.Random(number)
        data = dice.randbytes(dice.randint(8, 90))
        try:
            play_changed(data, kernel=kernel)
        except Exception as error:
            error.add_note(f"the changes: {data.hex()}")
            raise


if DEEP:

    @given(st.binary(min_size=8, max_size=90), st.booleans())
    @settings(
        max_examples=20_000, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    def test_new_changes_are_dealt_with(data: bytes, kernel: bool) -> None:
        play_changed(data, kernel=kernel)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_what_is_recorded_is_what_it_says(family: int, setting: int) -> None:
    """The packets above are of three whole connections, or the test would test little."""
    packets = recorded(family, 0, setting, bad=False)
    assert len(packets) > 30
    assert packets[0][0] > START
    assert {side for _, side, _ in packets} == set(Side)
