"""What happened to a flow, in words, from a capture of both sides.

Nothing is said that the packets do not show; where they leave it open, that is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nfq_zerortt.explaining.explanation import Line
from nfq_zerortt.explaining.holes import late
from nfq_zerortt.explaining.round_trip import of_data_ms
from nfq_zerortt.readable import counted
from nfq_zerortt.tracing.conversations import HELD_S, Conversation
from nfq_zerortt.tracing.packets import Packet, Role, segment_of
from nfq_zerortt.tracing.words import milliseconds
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import distance

ANSWER_MS = 1000.0
"""If a capture ends sooner, it does not show that there is no answer (RFC 6298, section 2)."""
_MOST_NAMED = 6


def tell(flow: Conversation, packets: Sequence[Packet], end_ns: int) -> list[Line]:
    """Return the lines in order of time; those of the whole flow come last.

    ``end_ns``: when the last packet of the capture was seen.
    """
    if not packets:
        return []
    story = _Story(flow, packets, end_ns)
    lines = [*story.handshake(), *story.early_data(), *story.answer(), *story.ends()]
    lines += story.whole()
    return sorted(lines, key=lambda line: float("inf") if line.time_ms is None else line.time_ms)


class _Story:
    def __init__(self, flow: Conversation, packets: Sequence[Packet], end_ns: int) -> None:
        self._flow = flow
        self._packets = packets
        self._end_ns = end_ns
        self._start_ns = packets[0].time_ns

    def _at(self, packet: Packet) -> float:
        return (packet.time_ns - self._start_ns) / 1e6

    def _line(self, packet: Packet, text: str) -> Line:
        return Line(self._at(packet), text)

    def _between(self, first: Packet, second: Packet) -> str:
        return milliseconds((second.time_ns - first.time_ns) / 1e6)

    def _until_end(self, packet: Packet) -> str | None:
        """Say how long the capture goes on after a packet, if that is too short for an answer."""
        rest_ms = (self._end_ns - packet.time_ns) / 1e6
        return milliseconds(rest_ms) if rest_ms < ANSWER_MS else None

    # The handshakes.

    def handshake(self) -> list[Line]:
        flow = self._flow
        if flow.syn is None:
            return [Line(None, "The capture begins in the middle: the handshake is not in it.")]
        lines = []
        if flow.spoofed is not None:
            lines.append(
                self._line(
                    flow.spoofed,
                    f"The client was answered after {self._between(flow.syn, flow.spoofed)}, in "
                    f"the server's name ({flow.spoofed.tag}): it believes that it is connected.",
                )
            )
        lines += self._syns()
        lines += self._answer_to_syn()
        lines += self._elsewhere()
        return lines

    def _syns(self) -> list[Line]:
        flow = self._flow
        assert flow.syn is not None
        if not flow.syns_left:
            why = "" if flow.spoofed is None else " The client was answered all the same."
            rest = self._until_end(flow.syn)
            if rest is not None:
                why += f" The capture ends {rest} after it came."
            return [
                self._line(flow.syn, "The SYN is not seen leaving for the server." + why),
            ]
        first, *again = flow.syns_left
        segment = segment_of(first)
        waited_s = first.time_s - flow.syn.time_s
        lines = []
        if segment.payload_length:
            lines.append(
                self._line(
                    first,
                    f"The SYN left for the server with {counted(segment.payload_length, 'byte')} "
                    "of the client's first data (TCP Fast Open), "
                    f"{milliseconds(waited_s * 1000)} after it came.",
                )
            )
        elif waited_s > HELD_S:
            lines.append(
                self._line(
                    first,
                    f"The SYN left for the server {milliseconds(waited_s * 1000)} after it came, "
                    "without data.",
                )
            )
        if again and flow.spoofed is not None:
            times = [milliseconds(self._at(one)) for one in again[:_MOST_NAMED]]
            more = " and on" if len(again) > _MOST_NAMED else ""
            lines.append(
                self._line(
                    again[0],
                    f"No answer to the SYN had come by then: it was sent again, "
                    f"{counted(len(again), 'time')}: at {', '.join(times)}{more}.",
                )
            )
        return lines

    def _answer_to_syn(self) -> list[Line]:
        flow = self._flow
        answer = flow.answered
        assert flow.syn is not None
        if answer is None:
            if not flow.syns_left or flow.refusal or flow.unreachable:
                return []
            rest = self._until_end(flow.syns_left[0])
            if rest is not None:
                said = "No SYN-ACK of the server is in the capture, but that ends "
                return [Line(None, f"{said}{rest} after the SYN had left.")]
            return [
                Line(
                    None,
                    "No SYN-ACK of the server is in the capture: the server does not answer, its "
                    "answer gets lost, or it takes another way than through this host.",
                )
            ]
        if not flow.syns_left:
            return []
        rtt_ms = (answer.time_ns - flow.syns_left[0].time_ns) / 1e6
        text = (
            f"The server's SYN-ACK came {milliseconds(rtt_ms)} after the SYN had left "
            f"({answer.tag})"
        )
        if flow.spoofed is None:
            return [self._line(answer, f"{text}, and was passed on.")]
        earlier_ms = (answer.time_ns - flow.spoofed.time_ns) / 1e6
        text += f"; the client had been connected for {milliseconds(earlier_ms)} by then."
        if earlier_ms < 0:
            text = f"{text.split(';', maxsplit=1)[0]}, earlier than the spoofed one left."
        return [self._line(answer, text)]

    def _elsewhere(self) -> list[Line]:
        """Whether something has reached the client that did not come through this host."""
        flow = self._flow
        if flow.spoofed is None or flow.answered is not None:
            return []
        acknowledged = flow.spoofed
        met = False
        sent_to: int | None = None
        for packet in self._packets:
            segment = packet.segment
            if segment is None or packet.tap != 0:
                continue
            if not packet.to_server:
                acknowledged, met = packet, False
                continue
            if sent_to is None or distance(sent_to, segment.end_seq) > 0:
                sent_to = segment.end_seq
            # A probe, as of keepalive, answers nothing: it has a number from before (RFC 9293,
            # section 3.8.4).
            is_probe = distance(segment.seq, sent_to) > 0
            if not segment.payload_length and not segment.flags & ~tcp.ACK and not is_probe:
                if met:
                    return [
                        self._line(
                            packet,
                            f"The client acknowledged once more ({packet.tag}), though nothing had "
                            f"been sent to it from here since {acknowledged.tag}: something has "
                            "reached it on a way that does not lead through this host. If that is "
                            "the server's SYN-ACK, the routes are asymmetric.",
                        )
                    ]
                met = True
        return []

    # Data.

    def early_data(self) -> list[Line]:
        flow = self._flow
        if flow.spoofed is None:
            return []
        answer = flow.answered
        held = [
            packet
            for packet in self._packets
            if packet.to_server
            and packet.tap == 0
            and _length(packet)
            and (answer is None or packet.time_ns < answer.time_ns)
        ]
        lines = []
        with_syn = next((p for p in flow.syns_left if _length(p)), None)
        if with_syn is not None and answer is not None:
            took = distance(segment_of(with_syn).seq, segment_of(answer).ack) - 1
            size = _length(with_syn)
            if took >= size:
                said = f"The server took all {counted(size, 'byte')} that the SYN carried."
            elif took > 0:
                said = (
                    f"The server took {took} of the {counted(size, 'byte')} that the SYN carried."
                )
            else:
                said = "The server did not take the data in the SYN."
            lines.append(self._line(answer, said))
        fresh = [p for p in held if p.repeats is None]
        if not fresh:
            return lines
        size = sum(map(_length, fresh))
        what = f"{counted(size, 'byte')} of early data in {counted(len(fresh), 'segment')}"
        left = [o for p in fresh for o in p.onward if not segment_of(o).flags & tcp.SYN]
        if left:
            waited = self._between(fresh[0], left[0])
            which = "it" if with_syn is None else "what the server had not got with the SYN"
            lines.append(
                self._line(
                    left[0],
                    f"{what} came before the server had answered; {which} was held, and left "
                    f"{waited} after the first of it had come.",
                )
            )
        elif with_syn is None:
            rest = self._until_end(fresh[0]) if answer is None and not self._reset() else None
            said = (
                "came, and never left for the server."
                if rest is None
                else f"came; the capture ends {rest} later, and it has not left by then."
            )
            lines.append(self._line(fresh[0], f"{what} {said}"))
        return lines

    def _reset(self) -> bool:
        return any(p.segment is not None and p.segment.flags & tcp.RST for p in self._packets)

    def answer(self) -> list[Line]:
        first = next(
            (p for p in self._packets if not p.to_server and p.tap == 0 and _length(p)), None
        )
        syn = self._flow.syn
        if first is None or syn is None:
            return []
        return [
            self._line(
                first,
                f"The first byte from the server left for the client {self._between(syn, first)} "
                "after the client's SYN.",
            )
        ]

    # Ends.

    def ends(self) -> list[Line]:
        lines = self._icmp_errors()
        told: set[str] = set()
        for packet in self._packets:
            if packet.segment is None:
                continue
            flags = packet.segment.flags
            whose = "client" if packet.to_server else "server"
            if flags & tcp.RST and (packet.came or packet.role is Role.MADE):
                key = f"{whose} {packet.role is Role.MADE}"
                if key in told:
                    continue
                told.add(key)
                if packet.role is Role.MADE:
                    lines.append(
                        self._line(
                            packet,
                            f"The {'server' if packet.to_server else 'client'} got a RST that was "
                            f"made here ({packet.tag}): {'; '.join(packet.because)}.",
                        )
                    )
                elif packet is self._flow.refusal:
                    lines.append(
                        self._line(packet, f"The server refused: RST for the SYN ({packet.tag}).")
                    )
                else:
                    onward = "" if packet.onward else "; it is not seen on the other side"
                    lines.append(
                        self._line(
                            packet, f"The {whose} reset the connection ({packet.tag}){onward}."
                        )
                    )
            elif flags & tcp.FIN and packet.came and whose not in told:
                told.add(whose)
                lines.append(self._line(packet, f"The {whose} sent its FIN ({packet.tag})."))
        return lines

    def _icmp_errors(self) -> list[Line]:
        """Tell of each kind once; the others like it are named."""
        alike: dict[tuple[str, bool], list[Packet]] = defaultdict(list)
        for packet in self._packets:
            if packet.quote is not None and packet.role is not Role.LEFT:
                alike[packet.quote.error, bool(packet.onward)].append(packet)
        lines = []
        for (error, was_passed), (first, *others) in alike.items():
            passed = ", and was passed on" if was_passed else ""
            more = f" Likewise: {_named(others)}." if others else ""
            what = f"An ICMP error came, {error} ({first.tag}){passed}.{more}"
            lines.append(self._line(first, what))
        return lines

    # The whole.

    def whole(self) -> list[Line]:
        flow = self._flow
        lines = []
        if flow.translated and flow.delta is not None:
            lines.append(Line(None, f"Numbers were shifted by {flow.shifts()}."))
        elif flow.knows_both_sides and flow.delta == 0:
            lines.append(
                Line(None, "The flow passed untouched: the numbers are the same on both sides.")
            )
        lines += self._repetitions()
        ended = any(
            p.segment is not None and p.segment.flags & (tcp.RST | tcp.FIN) for p in self._packets
        )
        if not ended:
            lines.append(Line(None, "Its end is not in the capture."))
        return lines

    def _repetitions(self) -> list[Line]:
        lines = []
        for to_server, whose in ((True, "client"), (False, "server")):
            again = [p for p in self._packets if p.to_server == to_server and p.came and p.repeats]
            kept = [p for p in again if not p.onward]
            if kept:
                text = (
                    f"Repetitions of the {whose}'s that were not passed on: {_named(kept)}. What "
                    "they bring had come before."
                )
                lines.append(Line(None, text))
            lines += self._late(to_server=to_server, whose=whose)
            passed = [p for p in again if p.onward]
            if passed:
                text = f"Repetitions of the {whose}'s that were passed on: {_named(passed)}. "
                lines.append(Line(None, text + self._why_again(passed[0])))
        return lines

    def _late(self, *, to_server: bool, whose: str) -> list[Line]:
        """Tell of data that was missing here for a while."""
        found = list(late(p for p in self._packets if p.to_server == to_server and p.came))
        if not found:
            return []
        longest = milliseconds(max(waited_ms for _, waited_ms in found))
        return [
            Line(
                None,
                f"{counted(len(found), 'segment')} of the {whose}'s came after data behind it: "
                f"{_named([packet for packet, _ in found])}. That was lost before this host and "
                f"sent again, or overtaken there; what came behind it waited {longest} at most.",
            )
        ]

    def _why_again(self, again: Packet) -> str:
        """Say what the packets show of the reason."""
        first = again.repeats
        assert first is not None
        if not first.onward:
            return f"Of {first.tag}, which {again.tag} repeats, nothing is seen on the other side."
        left = first.onward[-1]
        waited = self._between(left, again)
        round_trip = self._round_trip_ms() if again.to_server else None
        about = f"{again.tag} came {waited} after {left.tag} had left with the same data"
        if round_trip is None:
            return (
                f"{about}: that, or its acknowledgement, was lost or overtaken behind this host, "
                "or late."
            )
        if (again.time_ns - left.time_ns) / 1e6 < round_trip:
            told = next((p for p in self._between_packets(left, again) if p.quote), None)
            if told is not None and told.quote is not None:
                return (
                    f"{about}: an ICMP error had told the client, {told.quote.error} ({told.tag})."
                )
            return (
                f"{about}, sooner than an answer can be here (a round trip takes "
                f"{milliseconds(round_trip)}): no answer can have been missing yet."
            )
        return (
            f"{about}, more than a round trip ({milliseconds(round_trip)}): that, or its "
            "acknowledgement, was lost behind this host, or overtaken there, or the server was "
            "slow to acknowledge it."
        )

    def _between_packets(self, first: Packet, last: Packet) -> list[Packet]:
        """Return what left for the client between the two."""
        return [
            p
            for p in self._packets
            if first.time_ns < p.time_ns < last.time_ns and p.tap == 0 and not p.to_server
        ]

    def _round_trip_ms(self) -> float | None:
        """Return how far the server is, None if nothing shows it; of two SYNs one is answered."""
        answer, syns = self._flow.answered, self._flow.syns_left
        if answer is None or len(syns) != 1:
            return of_data_ms(self._packets)
        return (answer.time_ns - syns[0].time_ns) / 1e6


def _length(packet: Packet) -> int:
    return packet.segment.payload_length if packet.segment is not None else 0


def _named(packets: Sequence[Packet]) -> str:
    named = ", ".join(packet.tag for packet in packets[:_MOST_NAMED])
    return named + (", …" if len(packets) > _MOST_NAMED else "")
