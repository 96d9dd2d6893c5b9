"""ICMP errors about a flow's segments: what they quote is renumbered, or they end the flow.

An error tells the sender of a segment what became of it; path MTU discovery
(RFC 1191, RFC 8201) lives on that. The sender believes it only if the number
quoted is one of its own. And an error for the SYN, for which a connecting TCP
would give up at once, means nothing to a client that is connected already: it
gets a RST instead.
"""

from __future__ import annotations

from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Send, Side
from nfq_zerortt.core.endings import Endings
from nfq_zerortt.core.flow import Flow, Path, report
from nfq_zerortt.core.handshake import Handshake
from nfq_zerortt.core.states import HALF_OPEN, TRANSLATING, Event, State
from nfq_zerortt.wire.icmp import Kind, QuotedSegment
from nfq_zerortt.wire.seqnum import within

_ABOUT_ITS_FORM = frozenset({Kind.TOO_BIG, Kind.UNREACHABLE})
"""What may be said of a SYN with the Fast Open option or data, and not of a plain one: it does not
fit, or a filter does not like it (RFC 7413, section 4.1.3.1)."""


class Quotations:
    """Deals with ICMP errors that quote a segment of a known flow."""

    def __init__(self, moves: Handshake, endings: Endings) -> None:
        self._moves = moves
        self._endings = endings

    def deal(self, path: Path, error: QuotedSegment, side: Side, now: float) -> Actions:
        """Deal with an error that came from ``side`` about a segment of ``path``.

        This router's own come as from the server's side. Those about segments that the server has
        sent quote numbers that are right as they are; but the kernel has renumbered what it
        carries by the time that an error is made.
        """
        flow = path.flow
        if side is path.side and flow.handed_over is None:
            return [Accept("icmp_from_its_own_side")]
        if flow.observed:
            return [Accept("observed")]
        if flow.state in TRANSLATING:
            return self._renumbered(path, error)
        if path.side is Side.SERVER:
            # It quotes our SYN-ACK, of which the server knows nothing; our timers do the rest.
            return [Drop("icmp_for_spoofed")]
        if flow.state is State.ANSWERED or error.seq != flow.isn_client:
            return [Accept("icmp_not_about_the_syn")]
        return self._about_the_syn(flow, error, now)

    def _renumbered(self, path: Path, error: QuotedSegment) -> Actions:
        flow = path.flow
        if error.kind is Kind.TOO_BIG and flow.quiet_until and self._is_sent(path, error.seq):
            # The client sends early data again in smaller pieces, and that is no repetition.
            flow.quiet_until = 0.0
            flow.duplicates.forget()
            flow.choose_path()
        direction = path.direction
        data = error.renumbered(-direction.seq_shift, -direction.ack_shift)
        return [Replace(data, "quotation_renumbered")]

    @staticmethod
    def _is_sent(path: Path, seq: int) -> bool:
        """Whether the client sent it and has no acknowledgement yet (RFC 5927, section 4.1)."""
        sent = path.direction
        unacknowledged = within(seq, sent.other.last_ack, sent.next_seq)
        return path.side is Side.CLIENT and unacknowledged

    def _about_the_syn(self, flow: Flow, error: QuotedSegment, now: float) -> Actions:
        assert flow.state in HALF_OPEN
        another_try = flow.state is not State.ABORTED and flow.attempts == 1
        if another_try and flow.fast_open != "none" and error.kind in _ABOUT_ITS_FORM:
            return [Drop("syn_not_taken"), *self._moves.repeat_syn(flow, now)]
        if error.kind not in (Kind.UNREACHABLE, Kind.EXPIRED):
            return [Accept("icmp_soft")]
        if error.kind is Kind.UNREACHABLE:
            self._moves.leave_alone(flow, "unreachable_lately", now)
        actions: list[Action] = [Drop("unreachable")]
        if flow.state is not State.ABORTED:
            actions += [
                Send(Side.CLIENT, packets.reset_client(flow), "unreachable"),
                report(flow, "flow.reset", reason="unreachable", by="clientnic"),
            ]
        return [*actions, *self._endings.close(flow, Event.UNREACHABLE, "unreachable")]
