"""hold: the SYN goes out at once, and early data waits here for the real SYN-ACK.

The client is connected in under a millisecond and starts its work one round
trip earlier. The server gets the first data when it would have got it anyway,
one and a half round trips after the SYN. Works with every server.
"""

from __future__ import annotations

from nfq_zerortt.core.actions import Action
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.handshake import Handshake
from nfq_zerortt.core.states import State
from nfq_zerortt.wire.view import SegmentView


class Hold:
    """The strategy ``hold``."""

    name = "hold"
    spoofs = True

    def __init__(self, handshake: Handshake) -> None:
        self._moves = handshake

    def on_syn(self, flow: Flow, syn: SegmentView, now: float) -> list[Action]:
        """Answer the client first: that is what it waits for."""
        return [
            *self._moves.spoof_syn_ack(flow, now),
            *self._moves.forward_syn(flow, syn, now),
        ]

    def on_early(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Hold it."""
        return self._moves.early.hold(flow, view, now)

    def on_syn_ack(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Capture it; if the client has spoken, complete the handshake and release."""
        actions = self._moves.capture_syn_ack(flow, view, now)
        if flow.state is State.ESTABLISHED:
            actions += self._moves.established(flow, now)
            actions += self._moves.early.release(flow, now)
            actions += self._moves.early.deliver_ahead(flow)
        return actions
