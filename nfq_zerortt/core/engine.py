"""The door of the core: a packet, its side and the time in; actions out.

:meth:`Engine.packet` first tries the short way: a plain segment of an
established flow is translated and done. Everything else goes by the flow's
state. Whatever is not understood passes untouched, with a reason.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.flow import Flow, Path, flow_name
from nfq_zerortt.core.handshake import Handshake, answers_syn, report
from nfq_zerortt.core.isn import InitialNumbers
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.negotiation import reason_to_bypass
from nfq_zerortt.core.states import ENDED, HALF_OPEN, TRANSLATING, Event, State
from nfq_zerortt.core.strategies import Strategy, by_name
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.errors import NotTcpError, WireError
from nfq_zerortt.wire.flags import ACK, FIN, RST, SYN, names
from nfq_zerortt.wire.seqnum import add, within
from nfq_zerortt.wire.view import SegmentView, look

_IPV4 = struct.Struct(">BxHxxHxB")  # version and header length, total length, fragment, protocol
_FRAGMENT = 0x3FFF
_NOT_PLAIN = SYN | FIN | RST
_PASSING_REMEMBERED = 65536
_FORWARDED_TIMEOUT_S = 130.0  # longer than Linux repeats a SYN
_OBSERVED = (Accept("observed"),)


class Engine:
    """All flows of one ClientNIC.

    Times are seconds of one clock that never runs back; the engine never asks for the time.
    """

    def __init__(self, strategy: str, limits: Limits, secret: bytes) -> None:
        """Make an engine without flows; ``secret`` as in :class:`InitialNumbers`.

        Raises:
            ValueError: there is no such strategy, or the secret is too short.
        """
        self.table = FlowTable()
        self.memory = Memory()
        self.draining = False
        self._numbers = InitialNumbers(secret)
        self.configure(strategy, limits)
        self._count = 0
        self._passing: OrderedDict[bytes, int | None] = OrderedDict()
        self._paths = self.table.paths

    def configure(self, strategy: str, limits: Limits) -> None:
        """Set the strategy of new flows, and the bounds of all.

        Raises:
            ValueError: there is no such strategy.
        """
        self.limits = limits
        self._moves = Handshake(limits, self.table, self._numbers, self.memory)
        self._strategy = by_name(strategy, self._moves)

    # --- packets --------------------------------------------------------------------------

    def packet(self, raw: bytes, side: Side, now: float) -> Actions:
        """Decide what becomes of one IP packet that came from ``side``; never raises.

        The result holds exactly one verdict (Accept, Drop or Replace); the actions are to be
        carried out in their order.
        """
        size = len(raw)
        if size >= 40:
            first, total, fragment, protocol = _IPV4.unpack_from(raw)
            if first == 0x45:
                path = self._paths.get(raw[12:24])
                tcp = 20
                plain = protocol == 6 and total == size and not fragment & _FRAGMENT
            elif first >> 4 == 6 and size >= 60:
                path = self._paths.get(raw[8:44])
                tcp = 40
                plain = raw[6] == 6 and (raw[4] << 8 | raw[5]) + 40 == size
            else:
                path = None
            if (
                path is not None
                and path.fast
                and plain
                and not raw[tcp + 13] & _NOT_PLAIN
                and size <= path.max_packet
                and 20 <= (raw[tcp + 12] >> 4) * 4 <= size - tcp
            ):
                flow = path.flow
                flow.last_seen = now
                if flow.observed:
                    path.direction.observe(raw, tcp)
                    return _OBSERVED
                return (Replace(path.direction.translate(raw, tcp)),)
        return self._packet(raw, side, now)

    def _packet(self, raw: bytes, side: Side, now: float) -> Actions:
        try:
            view = look(raw)
        except NotTcpError as error:
            return [Accept(str(error))]
        except WireError as error:
            reason = f"malformed: {error}"
            return [Accept(reason), Report("packet.malformed", 0, "", {"reason": reason})]
        path = self._paths.get(view.flow_key)
        if path is None:
            return self._stranger(view, side, now)
        flow = path.flow
        flow.last_seen = now
        if flow.state in TRANSLATING:
            return self._translating(path, view, now)
        if path.side is Side.CLIENT:
            return self._opening_client(flow, view, side, now)
        return self._opening_server(flow, view, now)

    # --- packets of no known flow ---------------------------------------------------------

    def _stranger(self, view: SegmentView, side: Side, now: float) -> Actions:
        if view.flags & SYN and not view.flags & ACK:
            if self._passing.get(view.flow_key, -1) == view.seq:
                return [Accept("bypassed")]  # again a SYN that was let pass before
            reason = self._reason_to_bypass(view, side)
            if reason is None:
                return self._new_flow(view, now)
            return self._pass(view, reason, view.seq)
        if view.flow_key in self._passing:
            return [Accept("bypassed")]
        return self._pass(view, "mid_stream", None)

    def _reason_to_bypass(self, view: SegmentView, side: Side) -> str | None:
        if side is not Side.CLIENT:
            return "from_server_side"
        if view.flags & (FIN | RST):
            return f"odd_flags {names(view.flags)}"
        if view.fragment:
            return "fragment"
        try:
            options = view.options
        except WireError as error:
            return f"malformed: {error}"
        by_option = reason_to_bypass(options)
        if by_option is not None:
            return by_option
        if view.payload_length:
            return "syn_with_data"
        if self.draining:
            return "service_stopping"
        if len(self.table) >= self.limits.max_flows and not self._make_room():
            return "flow_table_full"
        if self.table.half_open >= self.limits.max_half_open:
            return "too_many_half_open"
        return None

    def _make_room(self) -> bool:
        """Forget the flow that ended first; tell whether there was one."""
        ended = self.table.oldest_ended()
        if ended is None:
            return False
        self._forget(ended)
        return True

    def _pass(self, view: SegmentView, reason: str, isn: int | None) -> Actions:
        """Let a flow pass untouched from now on, and say so once."""
        self._passing[view.flow_key] = isn
        self._passing.move_to_end(view.flow_key)
        answers = view.dst + view.src + view.raw[view.tcp + 2 : view.tcp + 4]
        self._passing.setdefault(answers + view.raw[view.tcp : view.tcp + 2], None)
        while len(self._passing) > _PASSING_REMEMBERED:
            self._passing.popitem(last=False)
        self._count += 1
        said = Report("flow.bypassed", self._count, flow_name(view), {"reason": reason})
        return [Accept(reason), said]

    def _strategy_of(self, flow: Flow) -> Strategy:
        """The strategy that the flow began with, whatever new flows get since."""
        return by_name(flow.strategy, self._moves)

    def _new_flow(self, syn: SegmentView, now: float) -> Actions:
        self._count += 1
        flow = Flow(self._count, syn, self._strategy.name, now)
        self._passing.pop(flow.client_key, None)
        self._passing.pop(flow.server_key, None)
        self.table.add(flow)
        self.table.set_timer(flow, now + _FORWARDED_TIMEOUT_S, now)
        received = report(
            flow,
            "flow.syn_received",
            isn_client=flow.isn_client,
            options=flow.client_options.describe(),
        )
        return [received, *self._strategy.on_syn(flow, syn, now)]

    # --- before both handshakes are complete ----------------------------------------------

    def _opening_client(self, flow: Flow, view: SegmentView, side: Side, now: float) -> Actions:
        flags = view.flags
        if flags & SYN and not flags & ACK:
            return self._syn_again(flow, view, side, now)
        if flow.observed:
            if flow.state is State.ANSWERED and flags & ACK and not flags & RST:
                return self._complete(flow, view, now)
            if flags & RST:
                return [Accept("observed"), *self._close(flow, Event.CLIENT_RST, "client_reset")]
            return self._strategy_of(flow).on_early(flow, view, now)
        if flags & RST:
            return self._opening_client_reset(flow, view, now)
        if not flags & ACK or flags & SYN:
            return [Drop("no_ack")]
        if flow.state is State.ABORTED:
            return [Drop("aborted")]
        if view.ack != add(flow.isn_spoofed, 1):
            return [Drop("unexpected_ack")]
        if flow.state is State.ANSWERED:
            return self._complete(flow, view, now)
        if flow.state is State.SPOOFED:
            flow.apply(Event.CLIENT_ACK)
            self.table.set_timer(flow, flow.syn_sent_at + self._retry_after(flow), now)
        return self._strategy_of(flow).on_early(flow, view, now)

    def _syn_again(self, flow: Flow, view: SegmentView, side: Side, now: float) -> Actions:
        same = view.seq == flow.isn_client
        if flow.observed:
            if same:
                return [Accept("observed")]
            flow.apply(Event.NEW_SYN)
            self._forget(flow)
            return self._stranger(view, side, now)
        if flow.state is State.ABORTED:
            flow.apply(Event.NEW_SYN)
            self._forget(flow)
            return self._stranger(view, side, now)
        if not same:
            # Perhaps a client that started anew, perhaps a stranger's guess: the real one
            # answers this with a RST whose number only it can know (RFC 5961, section 4.2).
            assert flow.offer is not None
            challenge = packets.challenge_ack(flow, flow.offer)
            return [Drop("syn_challenged"), Send(Side.CLIENT, challenge, "challenge_ack")]
        if flow.state is State.HOLDING:
            return [Drop("syn_repeated")]
        try:
            return [Drop("syn_repeated"), *self._moves.repeat_syn_ack(flow, view)]
        except WireError:
            return [Drop("malformed_options")]

    def _opening_client_reset(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        if view.seq not in (flow.held.start, flow.held.end):
            return [Drop("reset_out_of_window")]
        if flow.state is State.ANSWERED:
            data = packets.reset_server(flow, view.seq)
            return [
                Drop("reset"),
                Send(Side.SERVER, data, "reset"),
                *self._reset(flow, Event.CLIENT_RST, "client_reset", now),
            ]
        if flow.state is State.ABORTED:
            return [Drop("reset_again")]
        flow.apply(Event.CLIENT_RST)
        self._moves.forget_held(flow)
        self.table.set_timer(flow, now + self._patience(), now)
        return [Drop("reset"), report(flow, "flow.reset", reason="client_reset", by="client")]

    def _complete(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        """The client's ACK was the last thing missing."""
        flow.third_ack = view
        flow.apply(Event.CLIENT_ACK)
        return [
            *self._moves.established(flow, now),
            *self._translating(flow.from_client, view, now),
        ]

    def _opening_server(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        flags = view.flags
        answer = bool(flags & ACK) and answers_syn(flow, view)
        if flow.observed:
            return self._observed_server(flow, view, answer, now)
        if flags & RST:
            return self._opening_server_reset(flow, view, answer, now)
        if not flags & ACK:
            return [Drop("simultaneous_open")]
        if not answer:
            # A remnant of an earlier connection on this 4-tuple: what the client would do
            # (RFC 9293, section 3.10.7.3). Our timer repeats the SYN.
            reset = packets.reset_server(flow, view.ack)
            return [Drop("unacceptable_ack"), Send(Side.SERVER, reset, "unacceptable_ack")]
        if not flags & SYN:
            return [Drop("ahead_of_syn_ack")]
        if flow.state is State.ANSWERED:
            return [Drop("syn_ack_repeated")]
        if flow.state is State.ABORTED:
            reset = packets.reset_server(flow, view.ack)
            return [
                Drop("aborted"),
                Send(Side.SERVER, reset, "client_aborted"),
                *self._close(flow, Event.SERVER_SYN_ACK, "client_reset"),
            ]
        try:
            return self._strategy_of(flow).on_syn_ack(flow, view, now)
        except WireError:
            return [Drop("malformed_options")]

    def _opening_server_reset(
        self, flow: Flow, view: SegmentView, answer: bool, now: float
    ) -> Actions:
        if flow.state is State.ANSWERED:
            if flow.isn_server is None or view.seq != add(flow.isn_server, 1):
                return [Drop("reset_out_of_window")]
            data = flow.to_client.translate(view.raw[: view.end], view.tcp)
            ended = self._reset(flow, Event.SERVER_RST, "server_reset", now)
            return [Replace(data, "reset"), *ended]
        if not answer:
            return [Drop("reset_out_of_window")]
        if flow.state is State.ABORTED:
            return [Drop("reset"), *self._close(flow, Event.SERVER_RST, "client_reset")]
        data = packets.reset_client(flow)
        return [
            Drop("refused"),
            Send(Side.CLIENT, data, "refused"),
            report(flow, "flow.reset", reason="refused", by="server"),
            *self._close(flow, Event.SERVER_RST, "refused"),
        ]

    def _observed_server(self, flow: Flow, view: SegmentView, answer: bool, now: float) -> Actions:
        if view.flags & RST and answer:
            return [
                Accept("observed"),
                report(flow, "flow.reset", reason="refused", by="server"),
                *self._close(flow, Event.SERVER_RST, "refused"),
            ]
        if view.flags & SYN and answer and flow.state is State.FORWARDED:
            try:
                return self._strategy_of(flow).on_syn_ack(flow, view, now)
            except WireError:
                return [Accept("malformed_options")]
        return [Accept("observed")]

    # --- afterwards -----------------------------------------------------------------------

    def _translating(self, path: Path, view: SegmentView, now: float) -> Actions:
        flow, flags = path.flow, view.flags
        if flags & SYN:
            return self._late_syn(path, view, now)
        from_client = path.side is Side.CLIENT
        if from_client and flow.quiet_until and self._needless(flow, view, now):
            return [Drop("spurious_retransmission")]
        actions = self._carry(path, view)
        if flags & FIN:
            flow.note_fin(path.side, view.end_seq)
        if flags & RST and self._is_valid_reset(flow, view, from_client):
            if flow.state not in ENDED:
                event = Event.CLIENT_RST if from_client else Event.SERVER_RST
                by = "client" if from_client else "server"
                actions += self._reset(flow, event, f"{by}_reset", now)
        elif flow.state is State.CLOSING and flow.fins_acknowledged():
            flow.apply(Event.FINS_ACKED)
            self.table.changed(flow)
            self.table.set_timer(flow, now + self.limits.time_wait_s, now)
            actions += self._ended(flow)
        return actions

    def _carry(self, path: Path, view: SegmentView) -> list[Action]:
        """Translate and pass on, with what goes along."""
        flow = path.flow
        if flow.observed:
            path.direction.observe(view.raw[: view.end], view.tcp)
            return [Accept("observed")]
        if path.side is Side.CLIENT:
            pieces = self._moves.to_server(flow, view)
            if len(pieces) == 1:
                return [Replace(pieces[0])]
            return [Drop("split"), *(Send(Side.SERVER, piece, "split") for piece in pieces)]
        data = path.direction.translate(view.raw[: view.end], view.tcp)
        actions: list[Action] = [Replace(data)]
        if flow.duplicates and view.flags & ACK and not view.flags & RST and not view.fragment:
            blocks = flow.duplicates.acknowledged(view.ack)
            if blocks and flow.offer is not None and flow.offer.sack_permitted:
                actions += [
                    Send(Side.CLIENT, packets.duplicate_sack(data, *block), "duplicate_sack")
                    for block in blocks
                ]
            flow.choose_path()
        return actions

    def _needless(self, flow: Flow, view: SegmentView, now: float) -> bool:
        """Tell whether the client repeats early data whose ACK cannot be here yet."""
        if now >= flow.quiet_until:
            flow.quiet_until = 0.0
            flow.choose_path()
            return False
        start, end = flow.held.start, flow.early_end
        if not view.sequence_length or view.flags & RST:
            return False
        if not (within(view.seq, start, end) and within(view.end_seq, start, end)):
            return False
        flow.duplicates.add(view.seq, view.end_seq)
        flow.choose_path()
        return True

    def _late_syn(self, path: Path, view: SegmentView, now: float) -> Actions:
        flow, flags = path.flow, view.flags
        if flags & ACK and path.side is Side.SERVER:
            if view.seq == flow.isn_server and not flow.observed:
                # Our ACK was lost. The client knows nothing of this SYN-ACK.
                again = flow.third_ack
                if again is None:
                    return [Drop("syn_ack_repeated")]
                data = flow.to_server.translate(again.raw[: again.end], again.tcp)
                return [Drop("syn_ack_repeated"), Send(Side.SERVER, data, "ack_repeated")]
            if view.seq == flow.isn_server:
                return [Accept("observed")]
            if not answers_syn(flow, view):
                # The server answers a new SYN that went through in the middle of a flow that
                # only we still knew: the new connection is not ours.
                return [Accept("new_connection"), *self._abandon(flow)]
            return [Drop("syn_ack_with_other_isn")]
        if not flags & ACK and path.side is Side.CLIENT and flow.state in ENDED:
            flow.apply(Event.NEW_SYN)
            self._forget(flow)
            return self._stranger(view, path.side, now)
        if flow.observed:
            return [Accept("observed")]
        # A SYN in mid-stream: the other end challenges it (RFC 5961, section 4.2).
        return [Replace(path.direction.translate(view.raw[: view.end], view.tcp))]

    def _is_valid_reset(self, flow: Flow, view: SegmentView, from_client: bool) -> bool:
        """Tell whether the other end will believe a RST, as far as that can be known here.

        Between what it has acknowledged and what was sent (RFC 5961, section 3.2). A flow
        that a stranger's lucky guess marks as reset is still translated while it lives.
        """
        if from_client:
            return within(view.seq, flow.to_client.last_ack, flow.to_server.next_seq)
        acknowledged = add(flow.to_server.last_ack, flow.shift)
        return within(view.seq, acknowledged, flow.to_client.next_seq)

    def find(self, raw: bytes) -> Flow | None:
        """Return the flow that a packet belongs to, or None."""
        try:
            path = self._paths.get(look(raw).flow_key)
        except WireError:
            return None
        return path.flow if path is not None else None

    # --- the end --------------------------------------------------------------------------

    def _reset(self, flow: Flow, event: Event, reason: str, now: float) -> list[Action]:
        flow.apply(event)
        self.table.changed(flow)
        self.table.set_timer(flow, now + self.limits.reset_linger_s, now)
        by = reason.removesuffix("_reset")
        return [report(flow, "flow.reset", reason=reason, by=by), *self._ended(flow)]

    def _close(self, flow: Flow, event: Event, reason: str) -> list[Action]:
        flow.apply(event)
        actions = self._ended(flow, reason)
        self._forget(flow)
        return actions

    def _abandon(self, flow: Flow) -> list[Action]:
        actions = self._ended(flow, "superseded")
        self._forget(flow)
        return actions

    def _forget(self, flow: Flow) -> None:
        self._moves.forget_held(flow)
        self.table.remove(flow)

    def _ended(self, flow: Flow, reason: str = "") -> list[Action]:
        if flow.ended:
            return []
        flow.ended = True
        to_server, to_client = flow.to_server, flow.to_client
        fields: dict[str, object] = {
            "duration_ms": round((flow.last_seen - flow.created) * 1000, 3),
            "bytes_to_server": to_server.octets,
            "bytes_to_client": to_client.octets,
            "segments_rewritten": to_server.segments + to_client.segments,
            "retransmissions_suppressed": flow.duplicates.count,
        }
        if reason:
            fields["reason"] = reason
        return [report(flow, "flow.closed", **fields)]

    # --- time -----------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when :meth:`tick` is to be called next, or None."""
        return self.table.next_deadline()

    def tick(self, now: float) -> Actions:
        """Do what is due. The result holds no verdict."""
        actions: list[Action] = []
        for flow in self.table.due(now):
            actions += self._due(flow, now)
        return actions

    def _due(self, flow: Flow, now: float) -> Iterator[Action]:
        state = flow.state
        if state is State.HOLDING:
            if flow.attempts <= self.limits.syn_retries:
                yield from self._moves.repeat_syn(flow, now)
                self.table.set_timer(flow, now + self._retry_after(flow), now)
                return
            yield Send(Side.CLIENT, packets.reset_client(flow), "no_answer")
            yield report(flow, "flow.reset", reason="no_answer", by="clientnic")
            yield from self._close(flow, Event.TIMEOUT, "no_answer")
            return
        linger = {
            State.TIME_WAIT: self.limits.time_wait_s,
            State.RESET: self.limits.reset_linger_s,
        }.get(state, self.limits.idle_timeout_s)
        if state not in HALF_OPEN and flow.last_seen + linger > now:
            self.table.set_timer(flow, flow.last_seen + linger, now)
            return
        if state is State.ANSWERED and not flow.observed:
            reset = packets.reset_server(flow, flow.held.start)
            yield Send(Side.SERVER, reset, "client_silent")
        yield from self._close(flow, Event.TIMEOUT, "timeout")

    def _retry_after(self, flow: Flow) -> float:
        """Seconds from the latest SYN to the next; doubles each time (RFC 6298, 5.5)."""
        known = self.memory.recall(flow.server, flow.last_seen)
        first = max(self.limits.syn_retry_ms / 1000, 1.5 * known.rtt if known else 0.0)
        return float(first * 2 ** (flow.attempts - 1))

    def _patience(self) -> float:
        """How long a server may take to answer a SYN whose client is gone."""
        return float(self.limits.syn_retry_ms / 1000 * 2**self.limits.syn_retries)

    def has_live_flows(self) -> bool:
        """Tell whether a connection depends on us that has not come to its end."""
        return any(flow.state not in ENDED and not flow.observed for flow in self.table)

    def shut_down(self, now: float) -> Actions:
        """End every flow that would die with us, so that both ends learn of it at once."""
        actions: list[Action] = []
        for flow in list(self.table):
            if not flow.observed and flow.state not in ENDED:
                actions += self._shut_down(flow)
            actions += self._ended(flow, "service_stopped")
            self._forget(flow)
        return actions

    def _shut_down(self, flow: Flow) -> Iterator[Action]:
        if flow.state in TRANSLATING:
            to_client = add(flow.to_client.next_seq, -flow.shift)
            data = packets.to_client(
                flow, seq=to_client, ack=flow.to_server.next_seq, flags=RST | ACK
            )
            yield Send(Side.CLIENT, data, "service_stopped")
            reset = packets.reset_server(flow, flow.to_server.next_seq)
            yield Send(Side.SERVER, reset, "service_stopped")
        elif flow.state is not State.ABORTED:
            yield Send(Side.CLIENT, packets.reset_client(flow), "service_stopped")
            yield Send(Side.SERVER, packets.reset_server(flow, flow.held.start), "service_stopped")
        yield report(flow, "flow.reset", reason="service_stopped", by="clientnic")
