"""Packets of a flow whose two handshakes are not both complete.

The client believes it is connected as soon as it has our SYN-ACK, so the
handshake with the server is ours from then on: what a client's TCP would do
about a lost SYN, a refusal or a remnant of an earlier connection (RFC 9293,
section 3.10.7) is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Send, Side
from nfq_zerortt.core.endings import Endings
from nfq_zerortt.core.flow import Flow, report
from nfq_zerortt.core.handshake import Handshake, answers_syn
from nfq_zerortt.core.states import Event, State
from nfq_zerortt.core.strategies import Strategy
from nfq_zerortt.core.stream import FirstPacket, Stream
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.flags import ACK, RST, SYN
from nfq_zerortt.wire.seqnum import add, within
from nfq_zerortt.wire.view import SegmentView

_SILENT_AFTER = 4  # SYNs: after 2.75 s, if the server is not far away
_PATIENCE_S = 64.0
"""How long a server may take to answer a SYN whose client is gone."""


class Opening:
    """Deals with half-open flows; ``strategy_of`` says how each is played."""

    def __init__(
        self,
        *,
        limits: Limits,
        table: FlowTable,
        moves: Handshake,
        endings: Endings,
        stream: Stream,
        strategy_of: Callable[[Flow], Strategy],
        first_packet: FirstPacket,
    ) -> None:
        """``first_packet`` deals with a packet whose flow has just been forgotten."""
        self._limits = limits
        self._table = table
        self._moves = moves
        self._endings = endings
        self._stream = stream
        self._strategy_of = strategy_of
        self._first_packet = first_packet

    # --- from the client ------------------------------------------------------------------

    def from_client(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        """Deal with a client's packet."""
        flags = view.flags
        if flags & SYN and not flags & ACK:
            return self._syn_again(flow, view, now)
        if flow.observed:
            return self._observed_client(flow, view, now)
        if flags & RST:
            return self._client_reset(flow, view, now)
        if not flags & ACK or flags & SYN:
            return [Drop("no_ack")]
        if flow.state is State.ABORTED:
            return [Drop("aborted")]
        if view.ack != add(flow.isn_spoofed, 1):
            if flow.state is not State.SPOOFED:
                return [Drop("unexpected_ack")]
            # Whoever has just sent a SYN acknowledges nothing but its answer, or resets it
            # (RFC 9293, section 3.10.7.3). So either this is a stranger's, or there is another
            # connection and the SYN was a stranger's: let it pass, and wait for our ACK.
            flow.doubtful = True
            return [Accept("other_connection")]
        if flow.state is State.ANSWERED:
            return self._complete(flow, view, now)
        if flow.state is State.SPOOFED:
            flow.apply(Event.CLIENT_ACK)
            self._moves.confirmed(flow, now)
            if flow.attempts:
                again = flow.syn_sent_at + self._moves.syn_wait(flow, now)
                self._table.set_timer(flow, again, now)
        return self._strategy_of(flow).on_early(flow, view, now)

    def _observed_client(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        if view.flags & RST:
            ended = self._endings.close(flow, Event.CLIENT_RST, "client_reset")
            return [Accept("observed"), *ended]
        if flow.state is State.ANSWERED and view.flags & ACK:
            return self._complete(flow, view, now)
        return self._strategy_of(flow).on_early(flow, view, now)

    def _syn_again(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        same = view.seq == flow.isn_client
        if flow.observed and same:
            return [Accept("observed")]
        if flow.observed or flow.state is State.ABORTED:
            flow.apply(Event.NEW_SYN)
            self._endings.forget(flow)
            return self._first_packet(view, Side.CLIENT, now)
        if not same:
            # Perhaps a client that started anew, perhaps a stranger's guess: the real one
            # answers this with a RST whose number only it can know (RFC 5961, section 4.2).
            challenge = packets.challenge_client(flow)
            return [Drop("syn_challenged"), Send(Side.CLIENT, challenge, "challenge_ack")]
        if flow.state is State.HOLDING:
            return [Drop("syn_repeated")]
        return [Drop("syn_repeated"), *self._moves.answer_syn_again(flow, view, now)]

    def _client_reset(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        if not self._may_be_the_clients(flow, view.seq):
            if flow.state is State.SPOOFED and flow.doubtful:
                return [Accept("other_connection")]
            return [Drop("reset_out_of_window")]
        if flow.state is State.ABORTED:
            return [Drop("reset_again")]
        if flow.state is State.ANSWERED:
            data = packets.reset_server(flow, view.seq)
            return [
                Drop("reset"),
                Send(Side.SERVER, data, "reset"),
                *self._endings.reset(flow, Event.CLIENT_RST, now),
            ]
        flow.apply(Event.CLIENT_RST)
        said = report(flow, "flow.reset", reason="client_reset", by="client")
        if not flow.attempts:  # and the server need never know
            return [Drop("reset"), said, *self._endings.abandon(flow, "client_reset")]
        self._endings.drop_held(flow)
        self._table.set_timer(flow, now + _PATIENCE_S, now)
        return [Drop("reset"), said]

    def _may_be_the_clients(self, flow: Flow, seq: int) -> bool:
        """Tell whether a RST lies in the window that the client was promised (RFC 5961, 3.2)."""
        window = flow.offer.window if flow.offer else 0
        return within(seq, flow.held.start, add(flow.held.start, window))

    def _complete(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        """The client's ACK was the last thing missing."""
        if not flow.observed:
            self._moves.confirmed(flow, now)
        flow.third_ack = view
        flow.apply(Event.CLIENT_ACK)
        return [
            *self._moves.established(flow, now),
            *self._stream.carry(flow.from_client, view, now),
        ]

    # --- from the server ------------------------------------------------------------------

    def from_server(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        """Deal with a server's packet."""
        flags = view.flags
        answer = bool(flags & ACK) and answers_syn(flow, view)
        if flow.observed:
            return self._observed_server(flow, view, now, answer=answer)
        if flags & RST:
            return self._server_reset(flow, view, now, answer=answer)
        if not flags & ACK:
            # Its SYN-ACK for our SYN follows (RFC 9293, section 3.5), and says all of it again.
            return [Drop("simultaneous_open")]
        if not answer:
            return self._remnant(flow, view, now)
        if not flags & SYN:
            if flow.state is State.HOLDING and flow.syn_has_data:
                return self._moves.early.keep_ahead(flow, view)
            return [Drop("ahead_of_syn_ack")]
        if flow.state is State.ANSWERED:
            return self._second_syn_ack(flow, view)
        if flow.state is State.ABORTED:
            reset = packets.reset_server(flow, view.ack)
            return [
                Drop("aborted"),
                Send(Side.SERVER, reset, "client_aborted"),
                *self._endings.close(flow, Event.SERVER_SYN_ACK, "client_reset"),
            ]
        actions = self._strategy_of(flow).on_syn_ack(flow, view, now)
        if flow.state is State.CLOSING:  # what was held had both FINs
            self._endings.expect(flow, now)
        return actions

    def _remnant(self, flow: Flow, view: SegmentView, now: float) -> Actions:
        """Deal with what an earlier connection on this 4-tuple has left at the server.

        As the client would (RFC 9293, section 3.10.7.3); and, as Linux does, the SYN that the
        server took for that connection's is repeated right behind the RST, once.
        """
        if flow.state is State.SPOOFED:
            # Not before the client has said that the SYN was its own: a RST with the number that
            # the server waits for must not come of a stranger's SYN.
            return [Accept("other_connection") if flow.doubtful else Drop("unacceptable_ack")]
        reset = packets.reset_server(flow, view.ack)
        actions: list[Action] = [
            Drop("unacceptable_ack"),
            Send(Side.SERVER, reset, "unacceptable_ack"),
        ]
        if flow.attempts == 1 and flow.state is State.HOLDING:
            actions += self._moves.repeat_syn(flow, now)
        return actions

    def _second_syn_ack(self, flow: Flow, view: SegmentView) -> Actions:
        if view.seq == flow.isn_server:
            return [Drop("syn_ack_repeated")]
        # As the client would: the server that has forgotten the first one will answer this with
        # a RST (RFC 5961, section 4.2).
        challenge = packets.challenge_server(flow)
        return [Drop("syn_ack_challenged"), Send(Side.SERVER, challenge, "challenge_ack")]

    def _server_reset(self, flow: Flow, view: SegmentView, now: float, *, answer: bool) -> Actions:
        if flow.state is State.ANSWERED:
            if flow.isn_server is None or view.seq != add(flow.isn_server, 1):
                return [Drop("reset_out_of_window")]
            data = flow.to_client.translate(view.raw[: view.end], view.tcp)
            ended = self._endings.reset(flow, Event.SERVER_RST, now)
            return [Replace(data, "reset"), *ended]
        if not answer:
            doubtful = flow.state is State.SPOOFED and flow.doubtful
            return [Accept("other_connection") if doubtful else Drop("reset_out_of_window")]
        if flow.state is State.ABORTED:
            ended = self._endings.close(flow, Event.SERVER_RST, "client_reset")
            return [Drop("reset"), *ended]
        if flow.fast_open != "none" and flow.attempts == 1 and not (flow.ahead or view.seq):
            # Perhaps it is the option or the data that is refused (RFC 7413, 4.1.3.1).
            return [Drop("refused"), *self._moves.repeat_syn(flow, now)]
        if not (flow.ahead or (view.seq and flow.syn_has_data)):
            # Else it had accepted, and its SYN-ACK is lost: a RST for a SYN alone has SEQ 0.
            self._moves.leave_alone(flow, "refused_lately", now)
        return [
            Drop("refused"),
            Send(Side.CLIENT, packets.reset_client(flow), "refused"),
            report(flow, "flow.reset", reason="refused", by="server"),
            *self._endings.close(flow, Event.SERVER_RST, "refused"),
        ]

    def _observed_server(
        self, flow: Flow, view: SegmentView, now: float, *, answer: bool
    ) -> Actions:
        if view.flags & RST and answer:
            return [
                Accept("observed"),
                report(flow, "flow.reset", reason="refused", by="server"),
                *self._endings.close(flow, Event.SERVER_RST, "refused"),
            ]
        if view.flags & SYN and answer and flow.state is State.FORWARDED:
            return self._strategy_of(flow).on_syn_ack(flow, view, now)
        return [Accept("observed")]

    # --- time -----------------------------------------------------------------------------

    def due(self, flow: Flow, now: float) -> Iterator[Action]:
        """Do what the flow's timer was set for."""
        if not flow.attempts:
            yield from self._moves.send_kept_syn(flow, now)
        elif flow.state is State.HOLDING:
            yield from self._server_is_silent(flow, now)
        elif flow.state in (State.SPOOFED, State.ANSWERED) and not flow.observed:
            yield from self._client_is_silent(flow, now)
        else:
            yield from self._endings.close(flow, Event.TIMEOUT, "timeout")

    def _server_is_silent(self, flow: Flow, now: float) -> Iterator[Action]:
        if flow.attempts == min(_SILENT_AFTER, self._limits.syn_retries + 1):
            # It may still come; but no more clients shall be told that they are connected.
            self._moves.leave_alone(flow, "no_answer_lately", now)
            if flow.fast_open != "none":
                self._moves.memory.fast_open.note_silence(flow.server, now)
        if flow.attempts <= self._limits.syn_retries:
            yield from self._moves.repeat_syn(flow, now)
            return
        yield Send(Side.CLIENT, packets.reset_client(flow), "no_answer")
        yield report(flow, "flow.reset", reason="no_answer", by="clientnic")
        yield from self._endings.close(flow, Event.TIMEOUT, "no_answer")

    def _client_is_silent(self, flow: Flow, now: float) -> Iterator[Action]:
        """Our SYN-ACK or the client's ACK was lost, or there is no client."""
        deadline = flow.created + self._limits.half_open_timeout_s
        if now < deadline:
            if not flow.doubtful:
                yield from self._moves.repeat_syn_ack(flow, now)
            again = now + self._moves.syn_ack_wait(flow)
            self._table.set_timer(flow, min(again, deadline), now)
            return
        if flow.state is State.ANSWERED:
            reset = packets.reset_server(flow, flow.to_client.last_ack)
            yield Send(Side.SERVER, reset, "client_silent")
        yield from self._endings.close(flow, Event.TIMEOUT, "timeout")
