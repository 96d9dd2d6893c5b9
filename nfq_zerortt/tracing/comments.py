"""The comment on a packet: what was changed, from what to what, and why.

A packet that passed as it was has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.tracing import changes, kept_packets
from nfq_zerortt.tracing.changes import Change
from nfq_zerortt.tracing.conversations import HELD_S, Conversation
from nfq_zerortt.tracing.packets import Packet, Role
from nfq_zerortt.tracing.words import milliseconds

PREFIX = "nfq-zerortt: "
_OTHER_SIDE = ("server", "client")
_LISTED = 8
_WHY_SHIFTED = {
    True: "the client acknowledges numbers of the SYN-ACK that it was given, not of the server's",
    False: "the server counts from its own SYN-ACK, the client from the one that it was given",
}


def comment(packet: Packet, flow: Conversation, names: Sequence[str], waited_ms: float) -> str:
    """Return the comment, '' for none.

    ``names`` are those of the interfaces, ``waited_ms`` for how long it was watched for.
    """
    if packet.role is Role.BEFORE:
        return ""
    if packet.role is Role.MADE:
        has_data = packet.segment is not None and packet.segment.payload_length
        head = "left, and was not seen coming" if has_data else "made by the service"
        return _text(head, packet.because)
    if packet.role is Role.LEFT:
        return _of_departure(packet, flow, names)
    if packet.role is Role.PASSED:
        return _of_arrival(packet, flow, names)
    return _of_kept(packet, flow, waited_ms)


def _of_departure(packet: Packet, flow: Conversation, names: Sequence[str]) -> str:
    came = packet.origin
    if came is None:
        return ""
    changes = _changes(came, packet, flow)
    if not changes and not packet.because:
        return ""
    waited = milliseconds((packet.time_ns - came.time_ns) / 1e6)
    word = "translated" if changes else "passed on unchanged"
    head = f"{word}; it came as {came.tag} on {names[came.tap]}, {waited} before"
    why = []
    if any("Δ" in change.why or "τ" in change.why for change in changes):
        why.append(f"{flow.shifts()}: {_WHY_SHIFTED[packet.to_server]}")
    return _text(head, [*map(str, changes), *why, *packet.because])


def _of_arrival(packet: Packet, flow: Conversation, names: Sequence[str]) -> str:
    left = packet.onward
    if not left:
        return ""
    waited_s = (left[0].time_ns - packet.time_ns) / 1e9
    changed = any(_changes(packet, one, flow) for one in left)
    if not changed and not packet.because and waited_s <= HELD_S:
        return ""
    tags = ", ".join(one.tag for one in left[:_LISTED]) + (", …" if len(left) > _LISTED else "")
    head = (
        f"{'translated' if changed else 'passed on unchanged'}; it left as {tags} on "
        f"{names[left[0].tap]}, {milliseconds(waited_s * 1000)} later"
    )
    if len(left) > 1:
        head += f" ({len(left)} pieces)"
    return _text(head, packet.because)


def _changes(came: Packet, left: Packet, flow: Conversation) -> list[Change]:
    """What was changed: in a flow that passes untouched, nothing but what the kernel cuts up."""
    one, other = came.segment, left.segment
    cut_up = one is not None and other is not None and one.payload_length != other.payload_length
    if cut_up and not flow.translated:
        return []
    return changes.found(came, left, flow.delta, flow.tau)


def _of_kept(packet: Packet, flow: Conversation, waited_ms: float) -> str:
    if packet.segment is not None and not flow.knows_both_sides and not packet.because:
        return ""  # the capture began in the middle, and nobody can tell yet
    where = _OTHER_SIDE[packet.tap]
    head = f"not seen on the {where}s' side within {milliseconds(waited_ms)}"
    return _text(head, packet.because or kept_packets.reason(flow, packet))


def _text(head: str, more: Sequence[str]) -> str:
    return PREFIX + "\n".join([head, *more])
