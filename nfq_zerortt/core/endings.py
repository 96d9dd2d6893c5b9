"""How flows end, and what is said of them then."""

from __future__ import annotations

from collections.abc import Iterator

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Action, Send, Side
from nfq_zerortt.core.flow import Flow, report
from nfq_zerortt.core.held import cost_of
from nfq_zerortt.core.states import TRANSLATING, Event, State
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.flags import ACK, RST
from nfq_zerortt.wire.seqnum import add

_CLOSING_S = 120.0
"""A flow whose FINs are not both acknowledged is not waited for longer than that in silence."""
RESET_BY = {
    Event.CLIENT_RST: ("client", "client_reset"),
    Event.SERVER_RST: ("server", "server_reset"),
}


class Endings:
    """Ends flows, for all parts of one engine."""

    def __init__(self, limits: Limits, table: FlowTable) -> None:
        self._limits = limits
        self._table = table

    def configure(self, limits: Limits) -> None:
        """Go by other limits from now on; the timers of the flows that are there move with them."""
        self._limits = limits
        for flow in self._table:
            moves = flow.waiting or flow.handed_over is not None
            if flow.state in TRANSLATING and not moves:
                end = flow.last_seen + self.linger(flow)
                self._table.set_timer(flow, end, flow.last_seen)

    def linger(self, flow: Flow) -> float:
        """Return for how many seconds of silence a flow with complete handshakes is kept."""
        return self.patience(flow.state)

    def patience(self, state: State) -> float:
        """Return the same for flows in that state."""
        limits = self._limits
        return {
            State.TIME_WAIT: limits.time_wait_s,
            State.RESET: limits.reset_linger_s,
            State.CLOSING: _CLOSING_S,
        }.get(state, limits.idle_timeout_s)

    def finish(self, flow: Flow, now: float) -> list[Action]:
        """Both FINs are acknowledged: report the end, keep the numbers for repeated FINs."""
        flow.apply(Event.FINS_ACKED)
        self._table.changed(flow)
        self._table.set_timer(flow, now + self.linger(flow), now)
        return self.told(flow, "")

    def expect(self, flow: Flow, now: float) -> None:
        """Both have sent FIN: do not wait long for what is still missing."""
        self._table.set_timer(flow, now + self.linger(flow), now)

    def reset(self, flow: Flow, event: Event, now: float) -> list[Action]:
        """A RST ended the flow: report it, keep the numbers for stragglers."""
        flow.apply(event)
        self._table.changed(flow)
        self._table.set_timer(flow, now + self.linger(flow), now)
        by, reason = RESET_BY[event]
        return [report(flow, "flow.reset", reason=reason, by=by), *self.told(flow, "")]

    def close(self, flow: Flow, event: Event, reason: str) -> list[Action]:
        """The flow ends and is forgotten at once."""
        flow.apply(event)
        return self.abandon(flow, reason)

    def abandon(self, flow: Flow, reason: str) -> list[Action]:
        """Forget the flow in whatever state it is; report its end unless that was done."""
        actions = self.told(flow, reason)
        self.forget(flow)
        return actions

    def cut_off(self, flow: Flow) -> Iterator[Action]:
        """Reset both ends of a flow that cannot live without us, with numbers that each accepts."""
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
            if flow.attempts:
                reset = packets.reset_server(flow, flow.syn_end)
                yield Send(Side.SERVER, reset, "service_stopped")
        yield report(flow, "flow.reset", reason="service_stopped", by="clientnic")

    def make_room(self) -> bool:
        """Forget the flow that ended first; tell whether there was one."""
        ended = self._table.oldest_ended()
        if ended is None:
            return False
        self.forget(ended)
        return True

    def forget(self, flow: Flow) -> None:
        """Take the flow out of the table, and what was held for it out of the account."""
        self.drop_held(flow)
        self._table.remove(flow)

    def drop_held(self, flow: Flow) -> None:
        """Give up what is held, of either side: there is nobody to send it to, or for."""
        self._table.held_cost -= flow.held.cost + sum(map(cost_of, flow.ahead))
        flow.held.release()
        flow.ahead.clear()

    def seen(self, flow: Flow) -> list[Action]:
        """Report an end that the kernel has seen, unless that was done."""
        if flow.ended:
            return []
        said: list[Action] = []
        if flow.reset_by is not None:
            by, reason = RESET_BY[flow.reset_by]
            said.append(report(flow, "flow.reset", reason=reason, by=by))
        return said + self.told(flow, "")

    def told(self, flow: Flow, reason: str) -> list[Action]:
        """Report the flow's end, unless that was done."""
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
