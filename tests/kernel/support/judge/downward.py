"""Server to client: what the server sent, translated and in order, and nothing else."""

from __future__ import annotations

from collections import defaultdict

from support.judge.links import SIMULTANEOUS_S
from support.judge.two_sides import MODULUS, TwoSides
from support.reading import ACK, FIN, RST, SYN, Read


def check_downward(both: TwoSides) -> None:
    expected: dict[tuple[object, ...], list[Read]] = defaultdict(list)
    for packet in both.far.down:
        if packet.flags & (SYN | ACK) != SYN | ACK:
            expected[both.downward(packet)].append(packet)
    latest = 0.0
    seen: list[Read] = []
    for packet in both.near.down:
        if packet.flags & (SYN | ACK) == SYN | ACK:
            continue
        matching = expected[both.as_is(packet)] or expected[_reporting_nothing(both, packet)]
        if matching:
            origin = matching.pop(0)
            both.wrong.require(
                packet.ttl == origin.ttl - 1, "TTL towards the client", origin, packet
            )
            both.wrong.require(
                origin.time > latest - SIMULTANEOUS_S, "packets overtook each other", packet
            )
            latest = max(latest, origin.time)
            both.check_window(packet, origin, upward=False)
            seen.append(packet)
        elif packet.sack and not packet.payload:
            carrier = expected[_without_duplicate_sack(both, packet)]
            if carrier:  # in the server's own ACK
                seen.append(packet)
                latest = max(latest, carrier.pop(0).time)
            check_duplicate_sack(both, packet, seen)
        elif both.may_reset and packet.flags & RST:
            _check_reset(both, packet, seen)
        else:
            both.wrong.add("nothing that the server sent becomes this", packet)
    for left in expected.values():
        for packet in left:
            if not (both.may_reset and _ended_before(both, packet)):
                both.wrong.add("the server's packet did not reach the client", packet)


def check_duplicate_sack(both: TwoSides, packet: Read, seen: list[Read]) -> None:
    """A D-SACK (RFC 2883) of the service's: it repeats an ACK and names what that covers."""
    both.wrong.require(
        _covers_its_block(packet)
        and packet.flags == ACK
        and any(p.ack == packet.ack and p.timestamps == packet.timestamps for p in seen),
        "a D-SACK that does not belong to an ACK of the server's",
        packet,
    )


def _ended_before(both: TwoSides, packet: Read) -> bool:
    """The client was reset by the service before this arrived."""
    return any(p.flags & RST and p.time <= packet.time for p in both.near.all())


def _without_duplicate_sack(both: TwoSides, packet: Read) -> tuple[object, ...]:
    padded_sack = 3  # NOP NOP SACK, the last ones
    return both.fields(packet, packet.seq, packet.ack, packet.options[:-padded_sack])


def _reporting_nothing(both: TwoSides, packet: Read) -> tuple[object, ...]:
    """What the server's bare ACK was before the service put a D-SACK (RFC 2883) into it."""
    *others, first, second, last = [("", None)] * 3 + packet.options
    padding = ("NOP", None)
    covered = _covers_its_block(packet) and packet.flags == ACK and not packet.payload
    if not covered or (first, second, last[0]) != (padding, padding, "SAck"):
        return ("no D-SACK",)
    return both.fields(packet, packet.seq, packet.ack, others[3:])


def _covers_its_block(packet: Read) -> bool:
    block = packet.sack
    if len(block) != 2:
        return False
    start, end = ((packet.ack - edge) % MODULUS for edge in block)
    return 0 < start < MODULUS // 2 and end < MODULUS // 2


def _check_reset(both: TwoSides, packet: Read, seen: list[Read]) -> None:
    ends = {(p.seq + len(p.payload) + bool(p.flags & FIN)) % MODULUS for p in seen}
    ends.add((both.spoofed.seq + 1) % MODULUS)
    both.wrong.require(
        packet.seq in ends, "RST to the client with a SEQ it does not expect", packet
    )
