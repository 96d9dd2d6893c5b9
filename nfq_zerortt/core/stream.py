"""Packets of a flow whose handshakes are complete: each is translated and passed on.

What is more than a translation happens here: the D-SACK that goes along with
an acknowledgement, a repetition of early data that is not worth its way, the
marks of the connection's end, and SYNs where none belongs.
"""

from __future__ import annotations

from collections.abc import Callable

from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Send, Side
from nfq_zerortt.core.endings import Endings
from nfq_zerortt.core.flow import Flow, Path
from nfq_zerortt.core.states import ENDED, Event, State
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, FIN, RST, SYN
from nfq_zerortt.wire.seqnum import within
from nfq_zerortt.wire.view import SegmentView

FirstPacket = Callable[[SegmentView, Side, float], Actions]


class Stream:
    """Deals with flows in the states that are called translating."""

    def __init__(self, endings: Endings, first_packet: FirstPacket) -> None:
        """``first_packet`` deals with a packet whose flow has just been forgotten."""
        self._endings = endings
        self._first_packet = first_packet

    def carry(self, path: Path, view: SegmentView, now: float) -> Actions:
        """Deal with one packet."""
        flow, flags, side = path.flow, view.flags, path.side
        if flags & SYN:
            return self._late_syn(path, view, now)
        if flow.quiet_until and self._is_needless(path, view, now):
            return [Drop("spurious_retransmission")]
        actions = self._translated(path, view)
        if flags & FIN and flow.believes_fin(side, view):
            flow.note_fin(side, view.end_seq)
            if flow.state is State.CLOSING:
                self._endings.expect(flow, now)
        if flags & RST:
            if flow.state not in ENDED and flow.is_exact(side, view.seq):
                event = Event.CLIENT_RST if side is Side.CLIENT else Event.SERVER_RST
                actions += self._endings.reset(flow, event, now)
        elif flow.state is State.CLOSING and flow.fins_acknowledged():
            actions += self._endings.finish(flow, now)
        return actions

    def _translated(self, path: Path, view: SegmentView) -> list[Action]:
        flow = path.flow
        if flow.observed:
            path.direction.observe(view.raw[: view.end], view.tcp)
            return [Accept("observed")]
        if path.side is Side.CLIENT:
            pieces = packets.for_server(flow, view)
            if len(pieces) == 1:
                return [Replace(pieces[0])]
            return [Drop("split"), *(Send(Side.SERVER, piece, "split") for piece in pieces)]
        data = path.direction.translate(view.raw[: view.end], view.tcp)
        return self._acknowledged(flow, view, data)

    def _acknowledged(self, flow: Flow, view: SegmentView, data: bytes) -> list[Action]:
        """Tell the client which of its retransmissions were needless, once they are covered.

        A tail-loss probe's D-SACK goes in the very ACK that covers it: Linux takes the probe for
        the repair of a loss, and shrinks its window, when an ACK passes what it had sent by then
        and no D-SACK has come yet (RFC 8985, section 7.4.2). One ACK may cover more, and a packet
        of its own may be overtaken. That of a repeated first segment follows the ACK: the client
        looks for it below what was acknowledged before.
        """
        if not flow.duplicates or not view.flags & ACK or view.flags & RST or view.fragment:
            return [Replace(data)]
        if view.ack != flow.to_client.last_ack:
            return [Replace(data)]  # an older one, or a stranger's
        blocks = flow.duplicates.acknowledged(view.ack)
        flow.choose_path()
        if flow.offer is None or not flow.offer.sack_permitted:
            return [Replace(data)]
        covering = data
        try:
            probe = next((block for block in blocks if block[0] != flow.held.start), None)
            if probe is not None and _has_room(view):
                blocks.remove(probe)
                data = packets.duplicate_sack(covering, *probe)
            return [
                Replace(data),
                *(
                    Send(Side.CLIENT, packets.duplicate_sack(covering, *block), "duplicate_sack")
                    for block in blocks
                ),
            ]
        except WireError:
            return [Replace(covering)]  # its options are odd; without a D-SACK it will do

    def _is_needless(self, path: Path, view: SegmentView, now: float) -> bool:
        """Tell whether the client repeats early data whose acknowledgement cannot be here yet."""
        flow = path.flow
        from_server = path.side is Side.SERVER
        if now >= flow.quiet_until or from_server:
            # The server has spoken: from here on the client knows more than we do.
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

    # --- SYNs where none belongs ----------------------------------------------------------

    def _late_syn(self, path: Path, view: SegmentView, now: float) -> Actions:
        flow, from_client = path.flow, path.side is Side.CLIENT
        if view.flags & ACK and not from_client:
            return self._late_syn_ack(flow, view)
        if not view.flags & ACK and flow.state in ENDED:
            if from_client and view.seq == flow.isn_client:
                return [Drop("syn_repeated")]  # late: that connection is over
            flow.apply(Event.NEW_SYN)
            self._endings.forget(flow)
            return self._first_packet(view, path.side, now)
        new = from_client and not view.flags & ACK
        if new and not flow.observed:
            # A client that has forgotten its connection answers this with a RST that only it can
            # make, and tries again; the server must not begin another connection meanwhile.
            challenge = packets.challenge_client(flow)
            return [Drop("syn_challenged"), Send(Side.CLIENT, challenge, "challenge_ack")]
        # The other end challenges it (RFC 5961, section 4.2).
        return self._translated(path, view)

    def _late_syn_ack(self, flow: Flow, view: SegmentView) -> Actions:
        if flow.observed:
            return [Accept("observed")]
        if view.seq != flow.isn_server:
            return self._translated(flow.from_server, view)
        # Our ACK was lost. The client knows nothing of this SYN-ACK.
        again = flow.third_ack
        if again is None and flow.state in ENDED:
            return [Drop("syn_ack_repeated")]
        if again is None:
            data = packets.acknowledge_syn_ack(flow, view)
        else:
            data = flow.to_server.translate(again.raw[: again.end], again.tcp)
            data = packets.bare_ack(data, view.ack)
        return [Drop("syn_ack_repeated"), Send(Side.SERVER, data, "ack_repeated")]


def _has_room(view: SegmentView) -> bool:
    """Tell whether a D-SACK fits into the packet: a bare ACK that reports no holes."""
    return not view.sequence_length and not view.readable_options.sack_blocks
