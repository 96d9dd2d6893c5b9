"""Flows that the kernel carries: once a flow needs nothing but translation, it is handed over.

From then on the kernel's entry *is* the flow: its numbers, how far both sides have come, its end.
Nothing of it is kept here, so it costs this process nothing, and it goes on without it; the next
process finds it where it is. What the kernel does not understand still comes here, and so does all
that was on its way when the flow was handed over:

- A flow is handed over some time after it needs nothing but translation; most connections are
  over by then, and not worth it.
- For a moment it is in both places (:mod:`nfq_zerortt.core.entries`). If a packet of that moment
  ends the flow, we take it back.
- Afterwards a packet of such a flow (a fragment, a SYN, an ICMP error) is dealt with as ever, by a
  flow made from the entry for this packet. Only if it changes the flow's state, we take it back.
- Its end is reported, and its entry goes, by :mod:`nfq_zerortt.core.collector`.
"""

from __future__ import annotations

from nfq_zerortt.core.actions import Action, Report, Side
from nfq_zerortt.core.collector import Collector
from nfq_zerortt.core.endings import Endings
from nfq_zerortt.core.entries import SETTLED_S, Carrier, Entries
from nfq_zerortt.core.flow import UNLIMITED, Flow, Path, reverse_key
from nfq_zerortt.core.states import ENDED, State
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.seqnum import distance

WAIT_S = 0.05
"""So long a flow must have needed nothing but translation: a short connection is over by then."""
AGAIN_S = 5.0
"""The same for a flow that was taken back because the kernel had left a packet of it to us."""
_CARRIED = frozenset({State.ESTABLISHED, State.CLIENT_CLOSED, State.SERVER_CLOSED})


class Handover:
    """Hands flows over, and takes them back.

    Attributes:
        entries: the kernel's.
        collector: looks after the ends of the flows that are only there.
    """

    def __init__(self, carrier: Carrier, table: FlowTable, endings: Endings, seed: int) -> None:
        """``seed`` as in :class:`Entries`."""
        self.entries = Entries(carrier, seed)
        self.collector = Collector(self.entries, endings)
        self._table = table
        self._endings = endings

    def enable(self, enabled: bool, now: float) -> None:
        """Hand flows over from now on, or do not."""
        self.entries.enabled = enabled
        for flow in self._table:
            if enabled and not flow.waiting and flow.handed_over is None:
                self.after_packet(flow, now)

    # --- over -----------------------------------------------------------------------------

    def takes(self, flow: Flow) -> bool:
        """Tell whether the flow can be handed over some time.

        One whose segments must be cut up for the server stays here.
        """
        return (
            self.entries.enabled
            and not flow.observed
            and not flow.kept
            and flow.from_client.max_packet == UNLIMITED
        )

    def _is_ready(self, flow: Flow) -> bool:
        plain = flow.from_client.fast and flow.from_server.fast
        return plain and flow.state in _CARRIED and self.takes(flow)

    def after_packet(self, flow: Flow, now: float) -> list[Action]:
        """Take in that a packet came that needed more than the short way.

        A flow that has become plain begins to wait for its hand-over; one that was handed over a
        moment ago is taken back.
        """
        if flow.handed_over is not None:
            return self._needed_here(flow, now)
        if not flow.waiting and self._is_ready(flow):
            self._wait(flow, WAIT_S, now)
        return []

    def _wait(self, flow: Flow, seconds: float, now: float) -> None:
        flow.waiting = True
        self._table.set_timer(flow, now + seconds, now)

    def due(self, flow: Flow, now: float) -> list[Action]:
        """Do what a timer of the flow's was set for; ``handed_over`` tells whether it is our flow.

        A flow that has waited for long enough is handed over, one that was is forgotten.
        """
        if flow.handed_over is not None:
            self.settle(flow)
        elif flow.waiting:
            flow.waiting = False
            if self._is_ready(flow):
                return self._hand_over(flow, now)
        return []

    def _hand_over(self, flow: Flow, now: float) -> list[Action]:
        while not self.entries.insert(flow, now):
            if self.collector.make_room():
                continue
            flow.kept = True
            if self.entries.is_full:
                return []
            self.entries.is_full = True
            return [Report("service.kernel_full", 0, "", {})]
        self._table.set_timer(flow, now + SETTLED_S, now)
        return []

    def settle(self, flow: Flow) -> None:
        """Forget a flow that is the kernel's alone from now on."""
        self.entries.moving.pop(flow.client_key, None)
        self._table.remove(flow)

    # --- back -----------------------------------------------------------------------------

    def _needed_here(self, flow: Flow, now: float) -> list[Action]:
        """Take a flow back of which a packet came that the kernel cannot deal with."""
        moving = self.entries.moving.get(flow.client_key)
        if moving is None or moving.flow is not flow:
            return []
        actions = self._take_back(flow, now)
        if flow.state is moving.state:
            # The packet was odd: the kernel has not seen it, and may not see others.
            self._wait_again(flow, now)
        return actions

    def _take_back(self, flow: Flow, now: float) -> list[Action]:
        del self.entries.moving[flow.client_key]
        flow.handed_over, flow.kept = None, True
        actions: list[Action] = []
        there = self.entries.take(flow.client_key)
        if there is not None:
            actions = self._merge(flow, there, now)
            there.dissolve()
        self._table.set_timer(flow, now + self._endings.linger(flow), now)
        return actions

    def _merge(self, flow: Flow, there: Flow, now: float) -> list[Action]:
        """Take over what the kernel has seen of a flow that is here, too."""
        flow.ended = flow.ended or there.ended  # another worker may have said so
        for ours, theirs in (
            (flow.to_server, there.to_server),
            (flow.to_client, there.to_client),
        ):
            if distance(ours.next_seq, theirs.next_seq) > 0:
                ours.next_seq, ours.octets = theirs.next_seq, theirs.octets
            if distance(ours.last_ack, theirs.last_ack) > 0:
                ours.last_ack, ours.window = theirs.last_ack, theirs.window
            ours.segments = max(ours.segments, theirs.segments)
        if there.client_fin_end is not None and flow.client_fin_end is None:
            flow.note_fin(Side.CLIENT, there.client_fin_end)
        if there.server_fin_end is not None and flow.server_fin_end is None:
            flow.note_fin(Side.SERVER, there.server_fin_end)
        if flow.state in ENDED:
            return []
        if there.reset_by is not None:
            told = flow.ended
            actions = self._endings.reset(flow, there.reset_by, now)
            return [] if told else actions
        if flow.state is State.CLOSING and flow.fins_acknowledged():
            return self._endings.finish(flow, now)
        return []

    def reclaim(self, flow: Flow, now: float) -> None:
        """Take over a flow made by :meth:`path_of` that a packet has changed.

        Perhaps the kernel does not see its packets any more, and its entry would grow old. If the
        flow goes on, the kernel may have it again later.
        """
        self.entries.remove(flow.client_key)
        if flow.state is State.CLOSED:
            flow.dissolve()
            return
        flow.handed_over = None
        flow.choose_path()
        self._table.add(flow)
        self._table.changed(flow)
        self._table.set_timer(flow, now + self._endings.linger(flow), now)
        self._wait_again(flow, now)

    def _wait_again(self, flow: Flow, now: float) -> None:
        """Hand the flow over again after a while, if it goes on."""
        flow.kept = False
        if self._is_ready(flow):
            self._wait(flow, AGAIN_S, now)
        else:
            flow.kept = True

    # --- flows that are the kernel's ------------------------------------------------------

    def path_of(self, flow_key: bytes, side: Side) -> Path | None:
        """Return the path that a packet from ``side`` has by what the kernel knows, or None.

        Its flow is made for this once: whoever asks lets go of it by :meth:`Flow.dissolve`.
        """
        flow = self.entries.carrier.find(flow_key if side is Side.CLIENT else reverse_key(flow_key))
        if flow is None:
            return None
        return flow.from_client if side is Side.CLIENT else flow.from_server

    def look_after(self, client_key: bytes, now: float) -> list[Action]:
        """Report and forget a carried flow, as far as it is time for that.

        To be called when the kernel says that the flow has ended, and now and then anyway.
        """
        moving = self.entries.moving.get(client_key)
        if moving is not None and not moving.flow.passing:
            return self._take_back(moving.flow, now)
        return self.collector.look_after(client_key, now)
