"""What comes before both sides may hear it: kept in bounds, and sent on once it can be translated.

Of the client that is early data; of the server what has overtaken its SYN-ACK.
"""

from __future__ import annotations

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Action, Drop, Send, Side
from nfq_zerortt.core.flow import Flow, report
from nfq_zerortt.core.held import cost_of
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.flags import FIN
from nfq_zerortt.wire.seqnum import distance
from nfq_zerortt.wire.view import SegmentView

_QUIET_ROUND_TRIPS = 1.25
_MOST_AHEAD = 64


class EarlyData:
    """Holds and releases, for all flows of one engine."""

    def __init__(self, limits: Limits, table: FlowTable, memory: Memory) -> None:
        self._limits = limits
        self._table = table
        self._memory = memory

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
        self._memory.fast_open.note_early(flow.server, now - flow.created, now)
        return [
            Drop("held"),
            report(flow, "flow.data_held", segments=1, bytes=view.payload_length, held_ms=0.0),
        ]

    def release(self, flow: Flow, now: float) -> list[Action]:
        """Send what was held, the bare third ACK first where no data does its work."""
        self._table.held_cost -= flow.held.cost
        flow.early_end = flow.held.contiguous_end()
        start = flow.to_client.last_ack  # behind what the SYN has carried
        actions: list[Action] = []
        views = [
            packets.trimmed(view, start)
            for view in flow.held.release()
            if distance(start, view.end_seq) > 0
        ]
        segments, size = len(views), sum(view.payload_length for view in views)
        first = flow.third_ack
        if first is not None and not (views and first.sequence_length):
            data = flow.to_server.translate(first.raw[: first.end], first.tcp)
            if first.sequence_length or first.seq != start:
                data = packets.bare_ack(data, start)
            actions.append(Send(Side.SERVER, data, "released"))
        for view in views:
            pieces = packets.for_server(flow, view)
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

    def keep_ahead(self, flow: Flow, view: SegmentView) -> list[Action]:
        """Keep data that came before the SYN-ACK: a server that has the request may answer it."""
        cost = cost_of(view)
        limits = self._limits
        kept = sum(map(cost_of, flow.ahead))
        if (
            not view.sequence_length
            or len(flow.ahead) >= _MOST_AHEAD
            or kept + cost > limits.held_bytes_per_flow
            or self._table.held_cost + cost > limits.held_bytes_total
        ):
            return [Drop("ahead_of_syn_ack")]
        flow.ahead.append(view)
        self._table.held_cost += cost
        return [Drop("held_ahead_of_syn_ack")]

    def deliver_ahead(self, flow: Flow) -> list[Action]:
        """Send the client what came before the SYN-ACK."""
        actions: list[Action] = []
        for view in flow.ahead:
            self._table.held_cost -= cost_of(view)
            if not flow.carried:
                continue  # an earlier connection's, of which the server knows nothing any more
            data = flow.to_client.translate(view.raw[: view.end], view.tcp)
            actions.append(Send(Side.CLIENT, data, "released_ahead"))
            if view.flags & FIN:
                flow.note_fin(Side.SERVER, view.end_seq)
        flow.ahead.clear()
        return actions
