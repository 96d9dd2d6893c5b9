"""observe: nothing is changed, everything is logged. The baseline of every comparison."""

from __future__ import annotations

from nfq_zerortt.core.actions import Accept, Action
from nfq_zerortt.core.flow import Flow, report
from nfq_zerortt.core.handshake import Handshake
from nfq_zerortt.core.states import Event
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import SegmentView


class Observe:
    """The strategy ``observe``."""

    name = "observe"
    spoofs = False

    def __init__(self, handshake: Handshake) -> None:
        self._moves = handshake

    def on_syn(self, flow: Flow, syn: SegmentView, now: float) -> list[Action]:
        """Let it pass."""
        flow.observed = True
        flow.attempts = 1
        flow.syn_sent_at = now
        flow.apply(Event.SYN_FORWARDED)
        self._moves.await_answer(flow, now)
        return [
            Accept("observed"),
            report(flow, "flow.syn_forwarded", attempt=1, fast_open="none", data_bytes=0),
        ]

    def on_early(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Let it pass: without a spoofed SYN-ACK there is no early data, only odd segments."""
        return [Accept("observed")]

    def on_syn_ack(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Note the server's number and let it pass."""
        flow.isn_server = view.seq
        flow.server_rtt = now - flow.created
        flow.to_client.next_seq = add(view.seq, 1)
        flow.to_client.last_ack = view.ack
        flow.to_server.last_ack = add(view.seq, 1)
        flow.note_scales(view.readable_options)
        flow.to_client.window = view.window >> flow.to_client.scale
        flow.apply(Event.SERVER_SYN_ACK)
        return [Accept("observed"), self._moves.syn_ack_report(flow, view, 0)]
