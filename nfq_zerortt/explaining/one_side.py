"""What a capture of one side shows of a flow."""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.explaining.explanation import Line
from nfq_zerortt.explaining.story import ANSWER_MS
from nfq_zerortt.tracing.conversations import Conversation
from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.tracing.words import milliseconds
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import distance
from nfq_zerortt.wire.view import SegmentView

_MOST_NAMED = 6


def tell(flow: Conversation, packets: Sequence[Packet], end_ns: int) -> list[Line]:
    """Return what happened, in order of time; what concerns the whole flow comes last.

    ``end_ns``: when the last packet of the capture was seen.
    """
    if not packets:
        return []
    start_ns = packets[0].time_ns
    segments = [(packet, packet.segment) for packet in packets if packet.segment is not None]

    def line(packet: Packet, text: str) -> Line:
        return Line((packet.time_ns - start_ns) / 1e6, text)

    lines: list[Line] = []
    syns = [p for p, s in segments if s.flags & (tcp.SYN | tcp.ACK) == tcp.SYN]
    answers = [(p, s) for p, s in segments if s.flags & tcp.SYN and s.flags & tcp.ACK]
    if syns and answers:
        answer, _ = answers[0]
        waited = milliseconds((answer.time_ns - syns[0].time_ns) / 1e6)
        lines.append(line(answer, f"The SYN was answered after {waited} ({answer.tag})."))
        isns = {segment.seq for _, segment in answers}
        if len(isns) > 1:
            lines.append(
                Line(
                    None,
                    f"There are SYN-ACKs with {len(isns)} different numbers: more than one host "
                    "has answered.",
                )
            )
    elif syns:
        rest_ms = (end_ns - syns[0].time_ns) / 1e6
        ends = f"; it ends {milliseconds(rest_ms)} after the first" * (rest_ms < ANSWER_MS)
        count = f"{len(syns)} SYN{'s'[: len(syns) > 1]}"
        lines.append(Line(None, f"No SYN-ACK is in the capture, for {count}{ends}."))
    else:
        lines.append(Line(None, "The capture begins in the middle: the handshake is not in it."))
    told: set[tuple[str, int]] = set()
    for packet, segment in segments:
        whose = "client" if packet.source == flow.client else "server"
        for flag, text in ((tcp.RST, "reset the connection"), (tcp.FIN, "sent its FIN")):
            if segment.flags & flag and (whose, flag) not in told:
                told.add((whose, flag))
                lines.append(line(packet, f"The {whose} {text} ({packet.tag})."))
    lines.sort(key=lambda one: one.time_ms if one.time_ms is not None else float("inf"))
    for source, whose in ((flow.client, "client"), (flow.server, "server")):
        again = _repeated([(p, s) for p, s in segments if p.source == source])
        if again:
            named = ", ".join(p.tag for p in again[:_MOST_NAMED])
            more = ", …" if len(again) > _MOST_NAMED else ""
            lines.append(
                Line(
                    None,
                    f"Of the {whose}'s segments {len(again)} brought nothing beyond what had come: "
                    f"sent again, or overtaken on the way ({named}{more}).",
                )
            )
    lines.append(
        Line(None, "Whether anything was held, changed or made on the way does not show here.")
    )
    return lines


def _repeated(segments: Sequence[tuple[Packet, SegmentView]]) -> list[Packet]:
    """Return those of one direction that bring nothing new."""
    reached: int | None = None
    found = []
    for packet, segment in segments:
        if not segment.payload_length:
            continue
        end = segment.end_seq
        if reached is not None and distance(reached, end) <= 0:
            found.append(packet)
        else:
            reached = end
    return found
