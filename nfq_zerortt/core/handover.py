"""Flows that the kernel carries: once a flow needs nothing but translation, it is handed over.

From then on the kernel's entry *is* the flow: its numbers, how far both sides have come, its end.
Nothing of it is kept here, so it costs this process nothing, and it goes on without it; the next
process finds it where it is. What the kernel does not understand still comes here, and so does all
that was on its way when the flow was handed over:

- A flow is handed over some time after it needs nothing but translation; most connections are
  over by then, and not worth it.
- For a moment the flow is in both places. The kernel leaves its packets to us until we have done
  all that came before, so that none overtakes another (:meth:`Handover.done`), but not for long.
  If one of these packets ends the flow, we take it back.
- Afterwards a packet of such a flow (a fragment, a SYN, an ICMP error) is dealt with as ever, by a
  flow made from the entry for this packet. Only if it changes the flow's state, we take it back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from nfq_zerortt.core.actions import Action, Report, Side
from nfq_zerortt.core.endings import RESET_BY, Endings
from nfq_zerortt.core.flow import UNLIMITED, Flow, Path, reverse_key
from nfq_zerortt.core.handshake import report
from nfq_zerortt.core.passing import KEEP_S
from nfq_zerortt.core.states import ENDED, Event, State
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.seqnum import distance

WAIT_S = 0.05
"""So long a flow must have needed nothing but translation: a short connection is over by then."""
AGAIN_S = 5.0
"""The same for a flow that was taken back because the kernel had left a packet of it to us."""
SETTLED_S = 0.15
"""So long after its hand-over a flow is here as well; the kernel leaves packets to us for less."""
_CARRIED = frozenset({State.ESTABLISHED, State.CLIENT_CLOSED, State.SERVER_CLOSED})
_TICKETS = 1 << 32


class Carrier(Protocol):
    """What carries flows; a flow is found by its :attr:`Flow.client_key`."""

    def find(self, client_key: bytes) -> Flow | None:
        """Return the flow as it stands, or None."""

    def insert(self, flow: Flow) -> bool:
        """Take on a flow; False if there is no room."""

    def take(self, client_key: bytes) -> Flow | None:
        """Give the flow back as it stands, and carry it no longer."""

    def mark_reported(self, flow: Flow) -> None:
        """Remember that the end of the flow was reported."""

    def remove(self, client_key: bytes) -> None:
        """Carry the flow no longer, if it is there."""

    def make_room(self) -> bool:
        """Carry some flows no longer that have ended and were reported; False if none is found."""

    def publish(self, flow: Flow, side: Side, amount: int) -> None:
        """Tell how much of what was left to us since the hand-over is done, of one side.

        And how far both sides have come by now, which the carrier may not have seen.
        """


@dataclass(slots=True)
class _Moving:
    """A flow that was handed over a moment ago."""

    flow: Flow
    state: State
    done: dict[Side, int] = field(default_factory=lambda: {Side.CLIENT: 0, Side.SERVER: 0})


class Handover:
    """Hands flows over, and deals with those that are.

    ``enabled`` may be taken away: then no more are handed over, and those that are go on.
    ``is_full`` says that the carrier has lately had no room. ``passing`` is how many connections
    only pass there, ``max_passing`` how many may.
    """

    def __init__(self, carrier: Carrier, table: FlowTable, endings: Endings, seed: int) -> None:
        """``seed``: some number, other than that of other processes with the same carrier."""
        self.carrier = carrier
        self.endings = endings
        self.enabled = True
        self.is_full = False
        self.passing = 0
        self.max_passing = 0
        self._passing: deque[tuple[float, bytes]] = deque()
        self._table = table
        self._moving: dict[bytes, _Moving] = {}
        self._ticket = seed % _TICKETS
        self._lingering: dict[State, deque[tuple[float, bytes]]] = {
            State.TIME_WAIT: deque(),
            State.RESET: deque(),
        }

    def enable(self, enabled: bool, now: float) -> None:
        """Hand flows over from now on, or do not."""
        self.enabled = enabled
        for flow in self._table:
            if enabled and flow.ready_since is None and flow.handed_over is None:
                self.after_packet(flow, now)

    # --- over, and back -------------------------------------------------------------------

    def takes(self, flow: Flow) -> bool:
        """Tell whether the flow can be handed over some time.

        One whose segments must be cut up for the server stays here.
        """
        return (
            self.enabled
            and not flow.observed
            and not flow.kept
            and flow.from_client.max_packet == UNLIMITED
        )

    def after_packet(self, flow: Flow, now: float) -> list[Action]:
        """Take in that a packet came that needed more than the short way.

        A flow that has become plain begins to wait for its hand-over; one that was handed over a
        moment ago is taken back.
        """
        if flow.handed_over is not None:
            moving = self._moving.get(flow.client_key)
            if moving is None or moving.flow is not flow:
                return []
            actions = self._take_back(flow, now)
            if flow.state is moving.state:
                # The packet was odd: the kernel has not seen it, and may not see others.
                self._wait_again(flow, now)
            return actions
        if flow.ready_since is None and self._is_ready(flow):
            flow.ready_since = now
            self._table.set_timer(flow, now + WAIT_S, now)
        return []

    def due(self, flow: Flow, now: float) -> list[Action]:
        """Do what a timer of the flow's was set for; ``handed_over`` tells whether it is our flow.

        A flow that has waited for long enough is handed over, one that was is forgotten.
        """
        if flow.handed_over is not None:
            self.settle(flow)
        elif flow.ready_since is not None:
            flow.ready_since = None
            if self._is_ready(flow):
                return self._hand_over(flow, now)
        return []

    def _is_ready(self, flow: Flow) -> bool:
        plain = flow.from_client.fast and flow.from_server.fast
        return plain and flow.state in _CARRIED and self.takes(flow)

    def _name_hand_over(self, flow: Flow, now: float) -> None:
        self._ticket = (self._ticket + 1) % _TICKETS
        flow.handed_over, flow.ticket = now, self._ticket

    def _hand_over(self, flow: Flow, now: float) -> list[Action]:
        self._name_hand_over(flow, now)
        while not self.carrier.insert(flow):
            if self._forget_one():
                continue
            flow.handed_over, flow.kept = None, True
            if self.is_full:
                return []
            self.is_full = True
            return [Report("service.kernel_full", 0, "", {})]
        self._moving[flow.client_key] = _Moving(flow, flow.state)
        self._table.set_timer(flow, now + SETTLED_S, now)
        return []

    def settle(self, flow: Flow) -> None:
        """Forget a flow that is the kernel's alone from now on."""
        self._moving.pop(flow.client_key, None)
        self._table.remove(flow)

    def _take_back(self, flow: Flow, now: float) -> list[Action]:
        del self._moving[flow.client_key]
        flow.handed_over, flow.kept = None, True
        actions: list[Action] = []
        there = self.carrier.take(flow.client_key)
        if there is not None:
            self._freed()
            actions = self._merge(flow, there, now)
            there.dissolve()
        self._table.set_timer(flow, now + self.endings.linger(flow), now)
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
        for side in Side:
            seen = there.client_fin_end if side is Side.CLIENT else there.server_fin_end
            known = flow.client_fin_end if side is Side.CLIENT else flow.server_fin_end
            if seen is not None and known is None:
                flow.note_fin(side, seen)
        if flow.state in ENDED:
            return []
        if there.reset_by is not None:
            return self.endings.reset(flow, there.reset_by, now)
        if flow.state is State.CLOSING and flow.fins_acknowledged():
            return self.endings.finish(flow, now)
        return []

    def done(self, raw: bytes, side: Side) -> None:
        """Take in that a packet is done which the kernel had left to us: its verdict was given.

        What counts are its bytes of data, or 1 if it has none. The kernel leaves only packets whose
        headers it understands: without IPv4 options, without IPv6 extension headers.
        """
        if raw[0] >> 4 == 4:
            flow_key, tcp, end = raw[12:24], 20, raw[2] << 8 | raw[3]
        else:
            flow_key, tcp, end = raw[8:44], 40, 40 + (raw[4] << 8 | raw[5])
        moving = self._moving.get(flow_key if side is Side.CLIENT else reverse_key(flow_key))
        if moving is None:
            return
        moving.done[side] += end - tcp - (raw[tcp + 12] >> 4) * 4 or 1
        self.carrier.publish(moving.flow, side, moving.done[side])

    # --- connections that pass untouched --------------------------------------------------

    def let_pass(self, client_key: bytes, now: float) -> None:
        """Keep the packets of a connection that passes untouched from coming here.

        There is room for so many, since a stranger's packets look the same.
        """
        while self._passing and self._passing[0][0] < now:
            _, settled = self._passing.popleft()
            if settled in self._moving and self._moving[settled].flow.passing:
                self._moving.pop(settled).flow.dissolve()
        if not self.enabled or self.passing >= self.max_passing or client_key in self._moving:
            return
        there = self.carrier.find(client_key)
        if there is not None:
            there.dissolve()
            if not there.superseded:  # what is there already stays
                return
        flow = Flow.unknown(client_key, now)
        flow.passing = True
        self._name_hand_over(flow, now)
        if self.carrier.insert(flow):
            self.passing += 1
            self._moving[client_key] = _Moving(flow, flow.state)
            self._passing.append((now + SETTLED_S, client_key))

    def still_passes(self, flow: Flow, now: float) -> bool:
        """Tell whether such a connection may still be there; if not, forget it."""
        if now - flow.last_seen <= KEEP_S:
            return True
        self._remove(flow.client_key)
        return False

    # --- packets that the kernel leaves to us ---------------------------------------------

    def path_of(self, client_key: bytes, side: Side) -> Path | None:
        """Return the path of a carried flow's packets that ``side`` sends; made for this once."""
        flow = self.carrier.find(client_key)
        if flow is None:
            return None
        return flow.from_client if side is Side.CLIENT else flow.from_server

    def reclaim(self, flow: Flow, now: float) -> None:
        """Take over a flow made by :meth:`path_of` that a packet has changed.

        Perhaps the kernel does not see its packets any more, and its entry would grow old. If the
        flow goes on, the kernel may have it again later.
        """
        self.carrier.remove(flow.client_key)
        self._freed()
        if flow.state is State.CLOSED:
            return
        flow.handed_over = None
        flow.choose_path()
        self._table.add(flow)
        self._table.changed(flow)
        self._table.set_timer(flow, now + self.endings.linger(flow), now)
        self._wait_again(flow, now)

    def _wait_again(self, flow: Flow, now: float) -> None:
        """Hand the flow over again after a while, if it goes on."""
        flow.kept = False
        if self._is_ready(flow):
            flow.ready_since = now
            self._table.set_timer(flow, now + AGAIN_S, now)
        else:
            flow.kept = True

    # --- ends -----------------------------------------------------------------------------

    def look_after(self, client_key: bytes, now: float) -> list[Action]:
        """Report and forget a carried flow, as far as it is time for that.

        To be called when the kernel says that the flow has ended, and now and then anyway.
        """
        moving = self._moving.get(client_key)
        if moving is not None and not moving.flow.passing:
            return self._take_back(moving.flow, now)
        flow = self.carrier.find(client_key)
        if flow is None:
            return []
        actions = self._look_after(flow, now)
        flow.dissolve()
        return actions

    def _look_after(self, flow: Flow, now: float) -> list[Action]:
        over = flow.last_seen + self.endings.linger(flow) <= now
        if flow.passing:
            self.still_passes(flow, now)
            return []
        if flow.superseded:
            self._remove(flow.client_key)
            return self._end(flow)
        if flow.state not in ENDED:
            if not over:
                return []
            flow.apply(Event.TIMEOUT)
            self._remove(flow.client_key)
            return self.endings.told(flow, "timeout")
        if flow.ended:
            if over:
                self._remove(flow.client_key)
            else:
                self._let_linger(flow)
            return []
        actions = self._end(flow)
        self.carrier.mark_reported(flow)
        self._let_linger(flow)
        self._freed()  # it can make room from now on
        return actions

    def is_due(self, state: State, *, reported: bool, silent: float) -> bool:
        """Tell whether :meth:`look_after` has anything to do about a flow that is like this."""
        if state in ENDED and not reported:
            return True
        return silent >= self.endings.patience(state)

    def _end(self, flow: Flow) -> list[Action]:
        if flow.ended:
            return []
        said: list[Action] = []
        if flow.reset_by is not None:
            by, reason = RESET_BY[flow.reset_by]
            said.append(report(flow, "flow.reset", reason=reason, by=by))
        return said + self.endings.told(flow, "")

    def _let_linger(self, flow: Flow) -> None:
        waiting = self._lingering.get(flow.state)
        if waiting is not None:
            waiting.append((flow.last_seen + self.endings.linger(flow), flow.client_key))

    def next_deadline(self) -> float | None:
        """Return when :meth:`tick` is to be called, or None."""
        return min((waiting[0][0] for waiting in self._lingering.values() if waiting), default=None)

    def tick(self, now: float) -> None:
        """Forget flows that ended long enough ago."""
        for waiting in self._lingering.values():
            for _ in range(len(waiting)):  # not for ever: some are put back
                if waiting[0][0] > now:
                    break
                _, client_key = waiting.popleft()
                flow = self.carrier.find(client_key)
                if flow is not None:
                    if flow.ended:  # else another flow has this 4-tuple now
                        self._look_after(flow, now)
                    flow.dissolve()

    def _forget_one(self) -> bool:
        """Make room: forget the flow that ended first; tell whether there was one."""
        for waiting in sorted(filter(None, self._lingering.values()), key=lambda some: some[0]):
            while waiting:
                _, client_key = waiting.popleft()
                flow = self.carrier.find(client_key)
                if flow is not None:
                    is_over = flow.ended
                    flow.dissolve()
                    if is_over:
                        self._remove(client_key)
                        return True
        # Others are known to another process, which looks after the ends.
        return not self.is_full and self.carrier.make_room()

    def _remove(self, client_key: bytes) -> None:
        self.carrier.remove(client_key)
        self._freed()

    def _freed(self) -> None:
        self.is_full = False
