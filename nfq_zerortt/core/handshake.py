"""The moves of a handshake, from which a strategy puts its play together.

Each move changes the flow and returns the actions that belong to it. What
all moves share (the numbers, the memory of servers, the bounds on held data)
lives here, so a strategy needs no state of its own.
"""

from __future__ import annotations

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Action, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.held import cost_of
from nfq_zerortt.core.isn import InitialNumbers
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.negotiation import learned_from, make_offer, mss_of, settle
from nfq_zerortt.core.prefixes import Prefixes
from nfq_zerortt.core.states import Event, State
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.flags import FIN
from nfq_zerortt.wire.seqnum import add, distance
from nfq_zerortt.wire.view import TCP_HEADER, SegmentView

SPOOFED_SYN_ACK = "spoofed_syn_ack"
"""The reason of the Send on which everything rests: if it fails, the SYN must go on untouched."""
_FORWARDED_TIMEOUT_S = 130.0  # Linux repeats a SYN for 127 s
_QUIET_ROUND_TRIPS = 1.25
_LONGEST_ROUND_TRIP_S = 3.0
_STEADY_S = 1.0
_STEADY_UNTIL = 5  # repetitions


def report(flow: Flow, event: str, **fields: object) -> Report:
    """Return a report about a flow."""
    return Report(event, flow.number, flow.name, fields)


class Handshake:
    """The moves, for all flows of one engine."""

    def __init__(
        self,
        limits: Limits,
        table: FlowTable,
        numbers: InitialNumbers,
        memory: Memory,
        prefixes: Prefixes,
    ) -> None:
        self._limits = limits
        self._table = table
        self._numbers = numbers
        self._memory = memory
        self._prefixes = prefixes

    # --- towards the client ---------------------------------------------------------------

    def spoof_syn_ack(self, flow: Flow, now: float) -> list[Action]:
        """Answer the client's SYN in the server's name."""
        known = self._memory.recall(flow.server, now)
        flow.offer = make_offer(flow.client_options, known, now, ipv6=flow.ipv6)
        flow.isn_spoofed, flow.tsval_spoofed = self._numbers.draw(flow.client_key, now)
        flow.apply(Event.SYN_ACK_SPOOFED)
        stamps = flow.client_options.timestamps
        actions = self._send_syn_ack(flow, stamps[0] if stamps else 0)
        again = min(self.syn_ack_wait(flow), self._limits.half_open_timeout_s)
        self._table.set_timer(flow, now + again, now)
        return actions

    def answer_syn_again(self, flow: Flow, syn: SegmentView, now: float) -> list[Action]:
        """Send the same SYN-ACK again, for a SYN that came again with a newer timestamp."""
        stamps = syn.readable_options.timestamps
        return self._repeat_syn_ack(flow, stamps[0] if stamps else 0, now)

    def repeat_syn_ack(self, flow: Flow, now: float) -> list[Action]:
        """Send the SYN-ACK for the flow's first SYN again, unasked."""
        stamps = flow.client_options.timestamps
        return self._repeat_syn_ack(flow, stamps[0] if stamps else 0, now)

    def _repeat_syn_ack(self, flow: Flow, tsecr: int, now: float) -> list[Action]:
        if not self._prefixes.take(flow.client, now):
            return []
        return self._send_syn_ack(flow, tsecr)

    def confirmed(self, flow: Flow, now: float) -> None:
        """The client is there: it has acknowledged a number that only it was told."""
        self._prefixes.give_back(flow.client, flow.syn_acks, now)

    def syn_ack_wait(self, flow: Flow) -> float:
        """Seconds until the SYN-ACK is to be repeated: 1, 2, 4, … (RFC 6298, 2.1 and 5.5)."""
        return float(2 ** (flow.syn_acks - 1))

    def _send_syn_ack(self, flow: Flow, tsecr: int) -> list[Action]:
        offered = flow.offer
        assert offered is not None
        flow.syn_acks += 1
        return [
            Send(Side.CLIENT, packets.syn_ack(flow, offered, tsecr), SPOOFED_SYN_ACK),
            report(
                flow,
                "flow.synack_spoofed",
                isn_spoofed=flow.isn_spoofed,
                options={
                    "mss": offered.mss,
                    "window": offered.window,
                    "window_scale": offered.window_scale,
                    "sack_permitted": offered.sack_permitted,
                    "timestamps": offered.timestamps,
                },
            ),
        ]

    # --- towards the server ---------------------------------------------------------------

    def forward_syn(self, flow: Flow, syn: SegmentView, now: float) -> list[Action]:
        """Let the SYN go on to the server, with no more options than the client was promised."""
        assert flow.offer is not None
        flow.syn = packets.server_syn(syn, flow.offer)
        flow.attempts = 1
        flow.syn_sent_at = now
        return [
            Replace(flow.syn, "syn"),
            report(flow, "flow.syn_forwarded", attempt=1, fast_open="none", data_bytes=0),
        ]

    def repeat_syn(self, flow: Flow, now: float) -> list[Action]:
        """Send the SYN to the server again: the handshake is ours, the client is past it."""
        flow.attempts += 1
        flow.syn_sent_at = now
        return [
            Send(Side.SERVER, flow.syn, "syn_repeated"),
            report(
                flow, "flow.syn_forwarded", attempt=flow.attempts, fast_open="none", data_bytes=0
            ),
        ]

    def syn_wait(self, flow: Flow, now: float) -> float:
        """Seconds from the latest SYN to the next.

        They double (RFC 6298, section 5.5), but stay at a second for a few times, as with
        Linux: or a connection would start later than a direct one after a short outage.
        """
        known = self._memory.recall(flow.server, now)
        first = max(self._limits.syn_retry_ms / 1000, 1.5 * known.rtt if known else 0.0)
        longest = max(first, _STEADY_S)
        doubled = flow.attempts - 1 - _STEADY_UNTIL
        if doubled <= 0:
            return float(min(first * 2 ** (flow.attempts - 1), longest))
        return float(longest * 2**doubled)

    def leave_alone(self, flow: Flow, reason: str, now: float) -> None:
        """Let connections to the flow's server pass untouched for a while."""
        self._memory.refusals.note(flow.server, reason, self._limits.leave_alone_s, now)

    def await_answer(self, flow: Flow, now: float) -> None:
        """Wait for the answer to a SYN that went on untouched, for as long as it is repeated."""
        self._table.set_timer(flow, now + _FORWARDED_TIMEOUT_S, now)

    # --- early data -----------------------------------------------------------------------

    def hold(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Keep what the client sends until its numbers can be translated."""
        if flow.third_ack is None:
            flow.third_ack = view
        if not view.sequence_length:
            return [Drop("ack_held" if flow.third_ack is view else "ack_repeated")]
        if flow.held.covers(view):
            flow.duplicates.add(view.seq, view.end_seq)
            return [Drop("spurious_retransmission")]
        cost = cost_of(view)
        limits = self._limits
        if (
            flow.held.is_full
            or flow.held.cost + cost > limits.held_bytes_per_flow
            or self._table.held_cost + cost > limits.held_bytes_total
            or distance(flow.held.start, view.end_seq) > limits.held_bytes_per_flow
        ):
            return [Drop("hold_is_full")]  # not taken: the client will repeat it
        flow.held.add(view)
        self._table.held_cost += cost
        if flow.held_since is not None:
            return [Drop("held")]
        flow.held_since = now
        return [
            Drop("held"),
            report(flow, "flow.data_held", segments=1, bytes=view.payload_length, held_ms=0.0),
        ]

    def release(self, flow: Flow, now: float) -> list[Action]:
        """Send what was held, the bare third ACK first where no data does its work."""
        segments, size = len(flow.held), flow.held.octets
        self._table.held_cost -= flow.held.cost
        flow.early_end = flow.held.contiguous_end()
        views = flow.held.release()
        if flow.third_ack is not None and not flow.third_ack.sequence_length:
            views.insert(0, flow.third_ack)
        actions: list[Action] = []
        for view in views:
            pieces = self.to_server(flow, view)
            actions += [Send(Side.SERVER, piece, "released") for piece in pieces]
            if view.flags & FIN:
                flow.note_fin(Side.CLIENT, view.end_seq)
        if segments:
            # From the latest SYN: if that was not the one answered, the time is too short, and
            # a repetition crosses the WAN in vain; too long, and a needed one would not.
            flow.quiet_until = now + _QUIET_ROUND_TRIPS * (now - flow.syn_sent_at)
            flow.choose_path()
            since = now if flow.held_since is None else flow.held_since
            actions.append(
                report(
                    flow,
                    "flow.data_released",
                    segments=segments,
                    bytes=size,
                    held_ms=round((now - since) * 1000, 3),
                )
            )
        return actions

    def to_server(self, flow: Flow, view: SegmentView) -> list[bytes]:
        """Translate one of the client's segments, and cut it where the server's MSS asks for it."""
        path = flow.from_client
        data = path.direction.translate(view.raw[: view.end], view.tcp)
        if view.end <= path.max_packet or view.fragment:
            return [data]
        return packets.split(data, path.max_packet - view.tcp - TCP_HEADER)

    # --- the server's answer --------------------------------------------------------------

    def capture_syn_ack(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Take the real numbers and options from the server's SYN-ACK, and drop it."""
        assert flow.offer is not None
        granted = view.readable_options
        flow.isn_server = view.seq
        flow.server_rtt = now - flow.created
        delta = add(flow.isn_server, -flow.isn_spoofed)
        to_server, to_client = flow.to_server, flow.to_client
        to_server.ack_shift = delta
        to_client.seq_shift = -delta
        to_client.next_seq = add(view.seq, 1)
        to_client.last_ack = view.ack
        to_server.last_ack = to_client.next_seq
        if flow.offer.timestamps and granted.timestamps is not None:
            # The client echoes the spoofed timestamp in its early segments. Shifted, that is
            # the very value of the SYN-ACK; a server with SYN cookies reads its options back
            # from it.
            tau = add(granted.timestamps[0], -flow.tsval_spoofed)
            to_server.tsecr_shift = tau
            to_client.tsval_shift = -tau
        settle(flow.offer, flow.client_options, granted, to_server, to_client)
        flow.note_scales(granted)
        to_client.window = view.window >> to_client.scale  # never scaled in a SYN-ACK
        mss = mss_of(granted, ipv6=flow.ipv6)
        if mss < flow.offer.mss:
            flow.from_client.max_packet = (40 if flow.ipv6 else 20) + TCP_HEADER + mss
        known = self._memory.recall(flow.server, now)
        rtt = min(flow.server_rtt, _LONGEST_ROUND_TRIP_S)
        if flow.attempts > 1 and known is not None:
            rtt = known.rtt  # which SYN was answered is not known (RFC 6298, section 3)
        self._memory.learn(flow.server, learned_from(flow.offer, view, rtt, now, known))
        flow.apply(Event.SERVER_SYN_ACK)
        return [
            Drop("syn_ack_captured"),
            self.syn_ack_report(flow, view, delta),
        ]

    def syn_ack_report(self, flow: Flow, view: SegmentView, delta: int) -> Report:
        """Return the report of the server's SYN-ACK."""
        return report(
            flow,
            "flow.synack_captured",
            isn_server=view.seq,
            delta=delta,
            server_rtt_ms=round(flow.server_rtt * 1000, 3),
            options=view.readable_options.describe(),
            fast_open="none",
        )

    def established(self, flow: Flow, now: float) -> list[Action]:
        """Both handshakes are complete."""
        assert flow.state is State.ESTABLISHED
        self._table.changed(flow)
        self._table.set_timer(flow, now + self._limits.idle_timeout_s, now)
        path = "none" if flow.observed else "python"
        return [report(flow, "flow.established", strategy=flow.strategy, data_path=path)]


def answers_syn(flow: Flow, view: SegmentView) -> bool:
    """Tell whether a segment of the server's acknowledges the SYN (RFC 9293, 3.10.7.3)."""
    return distance(add(flow.isn_client, 1), view.ack) == 0
