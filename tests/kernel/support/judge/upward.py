"""Client to server: what the client sent, translated, once each, and nothing else."""

from __future__ import annotations

from collections import defaultdict

from support.judge.two_sides import MODULUS, TwoSides
from support.reading import ACK, FIN, PSH, RST, SYN, Read


def check_upward(both: TwoSides) -> set[int]:
    """Check what the server got; return the ids of the client's packets that it was."""
    expected: dict[tuple[object, ...], list[Read]] = defaultdict(list)
    for packet in both.near.up:
        if packet.flags & (SYN | ACK) != SYN:
            expected[both.upward(packet)].append(packet)
    sent_before: set[tuple[object, ...]] = set()
    carried: set[int] = set()
    for packet in both.far.up:
        if packet.flags & (SYN | ACK) == SYN:
            continue
        key = both.as_is(packet)
        if expected[key]:
            origin = expected[key].pop(0)
            carried.add(id(origin))
            sent_before.add(key)
            both.wrong.require(
                packet.ttl == origin.ttl - 1, "TTL towards the server", origin, packet
            )
            both.wrong.require(
                packet.time >= origin.time, "before the client sent it", origin, packet
            )
            both.check_window(packet, origin, upward=True)
        elif key in sent_before and not packet.payload:
            continue  # the third ACK again, for a SYN-ACK that came again
        elif (whole := _whole_of(both, packet)) is not None:
            carried.add(id(whole))
        elif packet.flags == ACK and not packet.payload and both.answers_syn_ack(packet):
            continue  # ours, for a flow in the kernel whose SYN-ACK came again
        elif packet.flags == RST and packet.seq in {old.ack for old in both.remnants}:
            continue  # the answer to a remnant (RFC 9293, section 3.10.7.3)
        elif both.may_reset and packet.flags & RST:
            _check_reset(both, packet)
        else:
            both.wrong.add("nothing that the client sent becomes this", packet)
    return carried


def check_not_carried(both: TwoSides, carried: set[int]) -> None:
    """What did not reach the server must have brought nothing new."""
    reached: set[tuple[int, int]] = set()
    given_up = both.may_reset and any(packet.flags & RST for packet in both.near.up)
    first, end = (both.syn.seq + 1) % MODULUS, 0
    for packet in both.near.up:
        if packet.flags & SYN:
            continue
        start = (packet.seq - first) % MODULUS
        if id(packet) not in carried:
            repeated = packet.payload and start + len(packet.payload) <= end
            idle = not packet.payload and not packet.flags & (FIN | RST)
            early = packet.time <= both.real.time
            fin_again = packet.flags & FIN and (start, 1) in reached
            both.wrong.require(
                bool(repeated or (idle and early) or given_up or fin_again),
                "the client's packet did not reach the server",
                packet,
            )
        if packet.payload:
            end = max(end, start + len(packet.payload))
        if packet.flags & FIN:
            reached.add((start + len(packet.payload), 1))


def _whole_of(both: TwoSides, piece: Read) -> Read | None:
    """Find the segment of the client's that was too long for the server, and was cut."""
    size = both.real.number("MSS") or 536
    if not piece.payload or len(piece.payload) > size:
        return None
    for whole in both.near.up:
        at = (piece.seq - whole.seq) % MODULUS
        if len(whole.payload) <= size - 12 or at >= len(whole.payload):
            continue
        last = at + len(piece.payload) == len(whole.payload)
        flags = whole.flags if last else whole.flags & ~(FIN | PSH)
        if (
            whole.payload[at : at + len(piece.payload)] == piece.payload
            and piece.ack == (whole.ack + both.delta) % MODULUS
            and piece.flags == flags
            and both.upward(whole)[5] == tuple(piece.options)
        ):
            return whole
    return None


def _check_reset(both: TwoSides, packet: Read) -> None:
    acknowledged = {down.ack for down in both.far.down if down.flags & ACK}
    both.wrong.require(
        packet.seq in acknowledged, "RST to the server with a SEQ it does not expect", packet
    )
