"""The moment of the hand-over: packets are left to the process until it has done all before.

For 100 ms at most, and by side: what a side sent waits for nothing of the other's. What is left has
its own mark and is counted, in bytes of data, or as 1 if it has none: the queue cuts up what was
joined, and bytes are the same before and after that. It is seen, too: how far it brings both sides,
and FIN and RST. What only the process has seen comes with its word that all is done.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from bpf import generator
from bpf.differential import UNSPEC, Pair
from bpf.loaded import Programs, loaded, object_under_test
from bpf.packets import ACK, FIN, KINDS, PSH, RST, SYN, Fate, Packet, key_of
from bpf.record import (
    CLIENT,
    HANDLED_SLOTS,
    LEAVE_FOR_NS,
    MARK_TRANSLATED,
    PASSING,
    SERVER,
    SUPERSEDED,
    Entry,
    Handled,
)

TICKET = 0xFEDCBA98
SIDES = pytest.mark.parametrize("side", [CLIENT, SERVER], ids=["client", "server"])

LATE_NS = LEAVE_FOR_NS + 10**7
"""Surely later than the programs wait: their clock is a tick of the kernel behind, at most."""


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """The object under test."""
    with loaded(object_under_test()) as made:
        yield made


class Moved:
    """A flow that was handed over just now."""

    def __init__(
        self, programs: Programs, entry: Entry | None = None, *, ipv6: bool = False
    ) -> None:
        begun = entry or generator.entry(random.Random(1))
        begun.ticket = begun.ticket if entry else TICKET
        for numbers in (begun.to_server, begun.to_client):
            numbers.settled = numbers.left = 0
        self._programs = programs
        self._pair = Pair(programs, begun, ipv6=ipv6)
        programs.publish(Handled((begun.ticket + HANDLED_SLOTS) % (1 << 32)))

    @property
    def entry(self) -> Entry:
        return self._pair.entry

    def done(self, *amount: int, ticket: int | None = None) -> Handled:
        """The process has done so much of what was left to it, and knows what the kernel knows."""
        handled = Handled.of(self.entry, (amount[0], amount[1]))
        handled.ticket = self.entry.ticket if ticket is None else ticket % (1 << 32)
        self._programs.publish(handled)
        return handled

    def settle(self, side: int, handled: Handled | None = None) -> None:
        self._pair.settle(side, handled)

    def sends(self, packet: Packet, *, left: bool, age_ns: int = 0) -> None:
        """Let a packet through, so long after the hand-over; it must be left, or translated."""
        assert self._pair.compare(packet, left=left, age_ns=age_ns) == [], packet


def test_the_first_packets_are_left_and_counted_by_side(programs: Programs) -> None:
    moved = Moved(programs)
    for packet in (
        *(Packet(side=CLIENT), Packet(side=CLIENT, payload=10), Packet(side=SERVER, payload=7)),
        *(Packet(side=CLIENT, payload=1448), Packet(side=SERVER), Packet(side=SERVER, mark=5)),
    ):
        moved.sends(packet, left=True)
    assert moved.entry.to_server.left == 1 + 10 + 1448
    assert moved.entry.to_client.left == 7 + 1 + 1


def test_what_was_joined_counts_as_what_it_is_made_of(programs: Programs) -> None:
    moved = Moved(programs)
    segments = moved.entry.to_client.segments
    moved.sends(Packet(side=SERVER, payload=3000, gso_size=1448, flags=ACK | PSH), left=True)
    assert moved.entry.to_client.left == 3000
    assert moved.entry.to_client.segments == segments + 3


@SIDES
def test_translated_once_all_that_was_left_is_done(programs: Programs, side: int) -> None:
    moved = Moved(programs)
    moved.sends(Packet(side=side, payload=10), left=True)
    moved.sends(Packet(side=side), left=True)
    moved.done(*((11, 0) if side == CLIENT else (0, 11)))
    moved.settle(side)
    moved.sends(Packet(side=side, payload=5), left=False)
    moved.sends(Packet(side=1 - side), left=True)


@SIDES
@pytest.mark.parametrize("amount", [0, 1, 9, 11, 20, 10 | 1 << 16])
def test_not_before_and_not_by_another_number(programs: Programs, side: int, amount: int) -> None:
    moved = Moved(programs)
    moved.sends(Packet(side=side, payload=10), left=True)
    moved.done(*((amount, 10) if side == CLIENT else (10, amount)))
    moved.sends(Packet(side=side), left=True)


@pytest.mark.parametrize("ticket", [TICKET + HANDLED_SLOTS, TICKET - HANDLED_SLOTS])
def test_not_by_another_flow_with_the_same_slot(programs: Programs, ticket: int) -> None:
    moved = Moved(programs)
    moved.sends(Packet(payload=10), left=True)
    moved.done(10, 10, ticket=ticket)
    moved.sends(Packet(), left=True)


@SIDES
def test_not_because_nothing_was_left_yet(programs: Programs, side: int) -> None:
    """Packets from before may still be in the queue, although none was left since."""
    moved = Moved(programs)
    moved.done(0, 0)
    moved.sends(Packet(side=side), left=True)


@SIDES
def test_nothing_is_left_after_100_ms(programs: Programs, side: int) -> None:
    moved = Moved(programs)
    moved.sends(Packet(side=side), left=True, age_ns=LEAVE_FOR_NS // 2)
    moved.settle(side)
    moved.sends(Packet(side=side), left=False, age_ns=LATE_NS)
    moved.sends(Packet(side=1 - side), left=True)


@SIDES
def test_once_settled_it_stays_so(programs: Programs, side: int) -> None:
    moved = Moved(programs)
    moved.sends(Packet(side=side), left=True)
    moved.done(1, 1)
    moved.settle(side)
    moved.sends(Packet(side=side), left=False)
    moved.done(0, 0, ticket=TICKET + HANDLED_SLOTS)  # another flow has the slot now
    moved.sends(Packet(side=side), left=False)


@SIDES
@pytest.mark.parametrize("flags", [FIN | ACK, RST, RST | ACK, FIN | RST | ACK])
def test_an_end_that_is_left_is_noted(programs: Programs, side: int, flags: int) -> None:
    """The process sees it as well, or takes the flow back when it is told."""
    moved = Moved(programs)
    seq, own = moved.entry.of(1 - side).last_ack, moved.entry.of(side)
    ack = (own.last_ack - own.ack_shift) % (1 << 32)
    moved.sends(Packet(side=side, seq=seq, ack=ack, flags=flags), left=True)
    assert moved.entry.flags


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.fate is Fate.LEFT])
def test_what_is_not_understood_is_not_counted(programs: Programs, kind: str) -> None:
    for ipv6 in KINDS[kind].families:
        moved = Moved(programs, ipv6=ipv6)
        packet = Packet(kind=kind, ipv6=ipv6, payload=100, options=b"\1\1\1\1", detail=0x123456)
        moved.sends(packet, left=False)


@SIDES
@pytest.mark.parametrize("flags", [SYN, SYN | ACK, SYN | FIN, SYN | RST])
def test_a_syn_is_not_counted(programs: Programs, side: int, flags: int) -> None:
    Moved(programs).sends(Packet(side=side, flags=flags, payload=3), left=False)


# --- what only the process has seen -------------------------------------------------------


@SIDES
@pytest.mark.parametrize("of", [CLIENT, SERVER])
@pytest.mark.parametrize("by", [1, 1000, (1 << 31) - 1, 0, -1, -1000, 1 << 31])
@pytest.mark.parametrize("what", ["next_seq", "last_ack"])
@pytest.mark.parametrize("late", [False, True], ids=["done", "100 ms"])
def test_numbers_that_are_further_are_taken(
    programs: Programs, side: int, of: int, by: int, what: str, late: bool
) -> None:
    """Those of both sides, whoever settles first and why; what is behind is not."""
    moved = Moved(programs)
    moved.sends(Packet(side=side, seq=moved.entry.of(side).next_seq, payload=9), left=True)
    handled = Handled.of(moved.entry, (8, 8) if late else (9, 9))
    pair = list(getattr(handled, what))
    pair[of] = (pair[of] + by) % (1 << 32)
    setattr(handled, what, (pair[0], pair[1]))
    handled.window = (1111, 2222)
    programs.publish(handled)
    moved.settle(side, handled)
    moved.sends(Packet(side=side, flags=0), left=False, age_ns=LATE_NS if late else 0)


def test_numbers_of_another_flow_are_not_taken(programs: Programs) -> None:
    moved = Moved(programs)
    handled = Handled.of(moved.entry, (0, 0))
    handled.ticket = TICKET + HANDLED_SLOTS & 0xFFFFFFFF
    handled.next_seq = (handled.next_seq[0] + 100, handled.next_seq[1] + 100)
    programs.publish(handled)
    moved.settle(CLIENT)
    moved.sends(Packet(flags=0), left=False, age_ns=LATE_NS)


# --- after a long silence -----------------------------------------------------------------


def silent_for(seconds: float, flags: int = 0) -> Entry:
    entry = generator.entry(random.Random(2))
    entry.flags, entry.isn_client, entry.isn_server = flags, 1000, 2000
    entry.last_seen = time.monotonic_ns() - int(seconds * 1e9)
    return entry


@SIDES
def test_a_connection_that_passes_is_forgotten_after_two_minutes(
    programs: Programs, side: int
) -> None:
    packet = Packet(side=side, payload=100)
    for seconds, marked in ((115, True), (121, False)):
        entry = silent_for(seconds, flags=PASSING)
        for numbers in (entry.to_server, entry.to_client):
            numbers.settled = 1
        programs.write(key_of(False), entry.pack())
        frame = packet.frame()
        verdict, out, mark = programs.run(packet)
        assert (verdict, out) == (UNSPEC, frame)
        assert bool(mark & MARK_TRANSLATED) is marked
        kept = Entry.unpack(programs.read(key_of(False))).last_seen
        assert (kept != entry.last_seen) is marked


@pytest.mark.parametrize(
    ("seconds", "ack", "isn", "superseded"),
    [
        (61, 5001, 7000, True),
        (55, 5001, 7000, False),  # a live one: perhaps a stranger's SYN
        (61, 5002, 7000, False),  # an answer to something else
        (61, 5001, 2000, False),  # the SYN-ACK of the flow itself
    ],
)
def test_a_server_that_has_forgotten_the_flow_begins_another_connection(
    programs: Programs, seconds: float, ack: int, isn: int, superseded: bool
) -> None:
    key = key_of(False)
    programs.write(key, silent_for(seconds).pack())
    programs.run(Packet(side=CLIENT, flags=SYN, seq=5000))
    assert not Entry.unpack(programs.read(key)).flags & SUPERSEDED
    programs.run(Packet(side=SERVER, flags=SYN | ACK, seq=isn, ack=ack))
    assert bool(Entry.unpack(programs.read(key)).flags & SUPERSEDED) is superseded


def test_a_syn_ack_alone_begins_nothing(programs: Programs) -> None:
    key = key_of(False)
    programs.write(key, silent_for(61).pack())
    programs.run(Packet(side=SERVER, flags=SYN | ACK, seq=7000, ack=0))
    assert not Entry.unpack(programs.read(key)).flags & SUPERSEDED


# --- all of it ----------------------------------------------------------------------------


def test_any_order_of_packets_and_of_what_is_done(programs: Programs) -> None:
    """A model of both sides: what is left, what is done and known, and who has settled."""
    for seed in range(250):
        rng = random.Random(f"hand-over:{seed}")
        ipv6 = rng.random() < 0.5
        entry = generator.entry(rng)
        entry.ticket = generator.number(rng)
        entry.flags |= PASSING if rng.random() < 0.1 else 0
        moved = Moved(programs, entry, ipv6=ipv6)
        left, settled = [0, 0], [False, False]
        handled = Handled()
        for _ in range(15):
            if rng.random() < 0.3:
                off = 0 if rng.random() < 0.7 else rng.choice((-1, 1))
                ticket = entry.ticket if rng.random() < 0.8 else entry.ticket + HANDLED_SLOTS
                handled = moved.done(max(left[0] + off, 0), max(left[1] + off, 0), ticket=ticket)
                for name in ("next_seq", "last_ack"):
                    further = [
                        (each + rng.choice((0, 0, -100, rng.randint(1, 3000)))) % (1 << 32)
                        for each in getattr(handled, name)
                    ]
                    setattr(handled, name, (further[0], further[1]))
                handled.window = (rng.getrandbits(16), rng.getrandbits(16))
                programs.publish(handled)
            packet = generator.packet(rng, moved.entry, ipv6, calm=True)
            packet = replace(packet, kind="plain", flags=packet.flags & ~SYN)
            side = packet.side
            expired = rng.random() < 0.02
            known = handled.ticket == entry.ticket and 0 < left[side] == handled.amount[side]
            if not settled[side] and (expired or known):
                settled[side] = True
                moved.settle(side, handled if handled.ticket == entry.ticket else None)
            if not settled[side]:
                left[side] += packet.payload or 1
            age_ns = LEAVE_FOR_NS * 2 if expired else 0
            moved.sends(packet, left=not settled[side], age_ns=age_ns)
