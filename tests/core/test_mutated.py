"""Packets of real connections, changed before they reach the engine.

A connection is played once (:mod:`tests.core.model`), and what ClientNIC saw of it is played again
with some of its packets changed, repeated or left out: with the checksum as it was, as a bad link
does it, or with one that is right, as a mad host or an attacker on the path does it. There is no
connection left to complete then, but no exception may come, each packet gets one verdict, the
account stays true, and in the end nothing is left.
"""

from __future__ import annotations

import functools
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfq_zerortt.core.actions import Side
from tests.core.model.mutation import KINDS, mended, mutated
from tests.core.model.tcp import Profile
from tests.core.model.world import START, Faults, World

DEEP = os.environ.get("FUZZ") == "deep"
PROFILES = (Profile(), Profile(mss=536, scale=None, sack=False), Profile(stamps=False, scale=10))

Packet = tuple[float, Side, bytes]


@functools.cache
def recorded(family: int, profile: int, *, bad: bool) -> tuple[Packet, ...]:
    """Return what ClientNIC sees of three connections; of the last, the client dies."""
    world = World(server=PROFILES[profile])
    if bad:
        world.make_bad(Faults(lose=0.2, double=0.1, late=0.1), 7)
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


changes = st.lists(
    st.tuples(
        st.integers(0, 200),  # how many packets go by before
        st.sampled_from((*KINDS, "repeat", "leave out")),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFF),
        st.booleans(),  # with a checksum that is right
    ),
    min_size=1,
    max_size=12,
)


@given(st.sampled_from([4, 6]), st.integers(0, 2), st.booleans(), changes)
@settings(
    max_examples=20_000 if DEEP else 300,
    derandomize=not DEEP,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_changed_packets_are_dealt_with(
    family: int, profile: int, bad: bool, wanted: list[tuple[int, str, int, int, bool]]
) -> None:
    packets = list(recorded(family, profile, bad=bad))
    position = 0
    for skip, kind, place, value, mend in wanted:
        position = (position + skip) % len(packets)
        at, side, raw = packets[position]
        if kind == "leave out" and len(packets) > 1:
            del packets[position]
            continue
        changed = raw if kind == "repeat" else mutated(raw, kind, place, value)
        packets.insert(position, (at, side, mended(changed) if mend else changed))
        position += 1
    world = World()
    world.damaged = True
    for at, side, raw in packets:
        world.run(max(at - world.now, 0.0))
        world.inject(raw, side)
    world.fall_silent()


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_recorded_is_what_it_says(family: int) -> None:
    """The packets above are of three whole connections, or the test would test little."""
    packets = recorded(family, 0, bad=False)
    assert len(packets) > 30
    assert packets[0][0] > START
    assert {side for _, side, _ in packets} == set(Side)
