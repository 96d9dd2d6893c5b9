"""fastopen: the SYN waits a few milliseconds for the client's first data, and carries it.

TCP Fast Open (RFC 7413), performed for a client that knows nothing of it: the
answer comes one round trip earlier. The SYN carries the cookie that is known,
or an empty option, which a server that wants no cookies accepts, too. A server
that does not take the data acknowledges the SYN alone; the data is held here,
and follows as in hold.
"""

from __future__ import annotations

from nfq_zerortt.core.actions import Action
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.handshake import Handshake
from nfq_zerortt.core.strategies.hold import Hold
from nfq_zerortt.wire.view import SegmentView

SERVER_SPEAKS_FIRST = frozenset({21, 22, 25, 110, 143, 587, 3306})
"""FTP, SSH, SMTP, POP3, IMAP, submission, MySQL: their clients have nothing to say at first."""


class FastOpen(Hold):
    """The strategy ``fastopen``."""

    name = "fastopen"

    def __init__(self, handshake: Handshake) -> None:
        super().__init__(handshake)
        self._memory = handshake.memory.fast_open

    def on_syn(self, flow: Flow, syn: SegmentView, now: float) -> list[Action]:
        """Answer the client, and wait for what it says, if it is known to speak."""
        wait = self._wait(flow, syn.dport, now)
        if wait:
            return [
                *self._moves.spoof_syn_ack(flow, now, fast_open=True),
                *self._moves.keep_back_syn(flow, syn, wait, now),
            ]
        ask = self._asks(flow, syn.dport, now)
        return [
            *self._moves.spoof_syn_ack(flow, now),
            *self._moves.forward_syn(flow, syn, now, ask=ask),
        ]

    def on_early(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Hold it; the first data makes the SYN leave, and goes with it."""
        actions = self._moves.early.hold(flow, view, now)
        if not flow.attempts and view.sequence_length:
            data = self._data_for_syn(flow)
            actions += self._moves.send_kept_syn(flow, now, data)
        return actions

    def _wait(self, flow: Flow, port: int, now: float) -> float:
        """Seconds for which the SYN may be kept back; 0 to send it at once."""
        habits = self._memory.habits(flow.server)
        if port in SERVER_SPEAKS_FIRST or now < habits.late_until:
            return 0.0
        if not self._memory.may_be_asked(flow.server, now):
            return 0.0
        wait = self._moves.limits.fast_open_wait_ms / 1000
        return wait if habits.gap is None or habits.gap <= wait else 0.0

    def _asks(self, flow: Flow, port: int, now: float) -> bool:
        """Tell whether a SYN that leaves at once asks for a cookie."""
        return False

    def _data_for_syn(self, flow: Flow) -> bytes:
        """Return the first data, or nothing if it may not go with the SYN."""
        return flow.held.first_data()
