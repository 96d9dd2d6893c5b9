"""A world whose established flows are the kernel's, and whose process may be late, end, or die.

Each packet meets the programs first (:mod:`tests.core.model.kernel`). What they leave alone waits
in a queue for the process, so others arrive meanwhile. While no process is there, it passes as it
is, as with ``--queue-bypass``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from nfq_zerortt.carrier import KernelCarrier
from nfq_zerortt.core.actions import Action, Actions, Report, Send
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow, reverse_key
from nfq_zerortt.core.handshake import SPOOFED_SYN_ACK
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, SYN
from nfq_zerortt.wire.view import look
from tests.core.model.departures import Departures
from tests.core.model.early import Early
from tests.core.model.kernel import Headers, Maps, Programs
from tests.core.model.network import Flight
from tests.core.model.tcp import Tcp
from tests.core.model.world import SECRET, START, World, client_key

_LOOK_THROUGH_S = 30.0
_RESTART_S = 1.0
_MOST_ENDINGS = 64


@dataclass(frozen=True, slots=True)
class Kernel:
    """How the kernel is, and how fast the process.

    Attributes:
        wait: seconds that a packet spends in the queue when nothing keeps the process busy.
        room: how many flows the table takes.
        ring_room: how many records of ends wait at most.
        seed: that of the first process's tickets.
    """

    wait: float = 0.0001
    room: int = 1 << 16
    ring_room: int = 1 << 12
    seed: int = 1


@dataclass(slots=True)
class _Queued:
    """A packet that waits for the process."""

    flight: Flight
    mark: int
    ready: float


class CarriedWorld(World):
    """The same world with a kernel data path.

    Attributes:
        handed_over: how many flows were.
        first_at: how many packets had come when the first of them was.
        left: how many packets the programs left to the process for the order's sake.
        counted: how many counts of bytes were compared with what was written.
        outlived: connections, by the client's ISN, that lived in the kernel when a process ended.
        dies_at: the packet on whose arrival the process dies (they are counted from 1), and for how
            many seconds there is none then.
        orphans: those that needed a process that is gone. They may fail.
    """

    def __init__(self, *, kernel: Kernel, **of_the_world: Any) -> None:
        super().__init__(**of_the_world)
        self.kernel = kernel
        self.maps = Maps(kernel.room, kernel.ring_room)
        self.programs = Programs(self.maps)
        self.carrier = KernelCarrier(cast(KernelPath, self.maps))
        self.handed_over = self.first_at = self.left = self.counted = 0
        self.outlived: set[int] = set()
        self.orphans: set[int] = set()
        self._queue: deque[_Queued] = deque()
        self._busy_until = START
        self._up_at: float | None = None
        self._next_look = START + _LOOK_THROUGH_S
        self._seed = kernel.seed
        self._tickets: set[int] = set()
        self._direct: set[int] = set()
        self._established: dict[int, int] = {}
        self._closed: set[int] = set()
        self._reset: set[int] = set()
        self._tight = self._tight or kernel.room < self.limits.max_flows
        self.dies_at = (0, 0.0)
        self._take_over()

    # --- processes ------------------------------------------------------------------------

    def _take_over(self) -> None:
        _, count = self.carrier.survey()
        self._seed = (self._seed * 2_654_435_761 + 1) & 0xFFFFFFFF
        self.handover = self.engine.hand_over_to(self.carrier, self._seed, count)
        self.engine.passing.max_carried = self.kernel.room // 4

    @property
    def is_behind(self) -> bool:
        """Whether what arrives now does not come to the process at once."""
        return bool(self._queue) or self._up_at is not None or self._busy_until > self.now

    def stall(self, seconds: float) -> None:
        """Let the process do nothing for a while."""
        self._busy_until = max(self._busy_until, self.now + seconds)
        self.departures.patience = max(self.departures.patience, seconds)

    def kill(self, seconds: float) -> None:
        """The process dies, what waits for it is lost, and another one comes later."""
        self._queue.clear()
        self._end_process(seconds)
        unreported = {flow.number for flow in self.carrier.flows() if not flow.ended}
        for number in self._established.keys() - unreported:
            del self._established[number]

    def stop(self) -> None:
        """The process is told to end, and another one comes later."""
        if self._up_at is not None:
            return
        self._busy_until = self.now
        while self._queue:
            self._next_in_queue()
        self.engine.drain()
        for flow in self.engine.table:
            if flow.handed_over is None:
                self._established.pop(flow.number, None)
        actions = self.engine.shut_down(self.now)
        self._note_orphans(actions)
        self._carry_out(None, actions, None)
        assert not len(self.engine.table)
        self._end_process(_RESTART_S)

    def _note_orphans(self, actions: Actions) -> None:
        for said in actions:
            if isinstance(said, Report):
                self.orphans.add(self._flow_names.get(said.flow_id, -1))

    def _end_process(self, seconds: float) -> None:
        for flow in self.engine.table:
            if flow.handed_over is None and not flow.observed:
                self.orphans.add(flow.isn_client)
        for flight in self.network.flights:
            flight.honest = flight.honest and flight.name not in self.orphans
        self.outlived |= {flow.isn_client for flow in self.carrier.flows()} - self._over
        before = self.departures
        self.engine = Engine(self.policy.strategy, self.limits, SECRET)
        self.engine.configure(self.policy, self.limits)
        self.departures = Departures(self.engine)
        self.departures.with_data, self.departures.patience = before.with_data, before.patience
        self._early = Early()
        self._up_at = max(self._up_at or 0.0, self.now + seconds)

    def _begin_process(self) -> None:
        self._up_at = None
        self._busy_until = self.now
        self._take_over()

    # --- packets --------------------------------------------------------------------------

    def find(self, raw: bytes) -> Flow | None:
        """Return the flow that a packet belongs to, wherever it is."""
        flow = self.engine.find(raw)
        if flow is not None:
            return flow
        try:
            key = look(raw).flow_key
        except WireError:
            return None
        for one in (key, reverse_key(key)):
            flow = self.carrier.find(one)
            if flow is not None and not (flow.superseded or flow.passing):
                return flow
        return None

    def _arrives(self, flight: Flight) -> None:
        if self.packets == self.dies_at[0]:
            self.kill(self.dies_at[1])
        raw, mark = self.programs.run(flight.raw, flight.side, self.now)
        if mark & layout.MARK_TRANSLATED:
            flow = self._carried_flow(flight)
            self._is_in_turn(flight, flow)
            if flight.honest:
                name = None if flow.passing else flow.isn_client
                flight.honest = self._is_understood(flight.raw, flight.name, name)
            self._pass_on(flight, raw)
        elif self._up_at is not None:
            if _is_syn(flight.raw):
                self._direct.add(flight.name)
            flight.honest = flight.honest and flight.name not in self._spoofed
            self._pass_on(flight, flight.raw)
        else:
            self.left += bool(mark & layout.MARK_LEFT)
            self._queue.append(_Queued(flight, mark, self.now + self.kernel.wait))

    def _carried_flow(self, flight: Flight) -> Flow:
        headers = Headers.of(flight.raw)
        flow = headers and self.carrier.find(headers.client_key(flight.side))
        assert flow
        return flow

    def _is_in_turn(self, flight: Flight, flow: Flow) -> None:
        """No packet overtakes an earlier one of its direction, unless the process is slow."""
        assert flow.handed_over is not None
        if self.now - flow.handed_over > layout.LEAVE_FOR_S - 1e-6:
            return
        own = Headers.of(flight.raw)
        for queued in self._queue:
            other = Headers.of(queued.flight.raw)
            if own and other and queued.flight.side is flight.side and not _is_syn(flight.raw):
                assert own.flow_key != other.flow_key, f"overtakes one that waits: {flow}"

    def _names(self) -> set[int]:
        return super()._names() - self.orphans

    def _is_understood(self, raw: bytes, name: int, flow_name: int | None) -> bool:
        return name not in self.orphans and super()._is_understood(raw, name, flow_name)

    def _next_in_queue(self) -> None:
        queued = self._queue.popleft()
        flight = queued.flight
        raw, side = flight.raw, flight.side
        self._decide(flight)
        if queued.mark & layout.MARK_LEFT:
            self.handover.entries.done(raw, side)

    def _carry_out(
        self, flight: Flight | None, actions: Iterable[Action], flow_name: int | None
    ) -> None:
        super()._carry_out(flight, actions, flow_name)
        for flow in self.engine.table:
            if flow.handed_over is not None and flow.ticket not in self._tickets:
                self._tickets.add(flow.ticket)
                self.handed_over += 1
                self.first_at = self.first_at or self.packets

    def _send(self, action: Send, *, answered: bool) -> None:
        name = self._name_of(look(action.data))
        if action.reason == SPOOFED_SYN_ACK and name in self._direct:
            self.orphans.add(name)  # it began without us, and its SYN came again
        super()._send(action, answered=answered)

    # --- time -----------------------------------------------------------------------------

    def _deadline(self) -> float | None:
        if self._up_at is not None:
            return self._up_at
        times = [self._queue[0].ready] if self._queue else []
        if self.maps.ring:
            times.append(self.now)
        elif len(self.maps):
            times.append(self._next_look)
        of_engine = super()._deadline()
        if of_engine is not None:
            times.append(of_engine)
        return max(min(times), self._busy_until) if times else None

    def _due(self) -> Actions:
        if self._up_at is not None:
            self._begin_process()
        while self._queue and self._queue[0].ready <= self.now:
            self._next_in_queue()
        while self.maps.ring:
            for record in self.maps.endings(_MOST_ENDINGS):
                key = layout.client_key(record)
                self._carry_out(None, self.handover.look_after(key, self.now), None)
        if self._next_look <= self.now:
            self._next_look = self.now + _LOOK_THROUGH_S
            self._look_through()
        return super()._due()

    def _look_through(self) -> None:
        """As Carrying.look_through() does it."""
        clock = SimpleNamespace(monotonic=lambda: self.now)
        with mock.patch("nfq_zerortt.carrier.time", clock):
            due = self.carrier.due(self.handover.collector, self.engine.passing)
            for key in list(due):
                if key is not None:
                    self._carry_out(None, self.handover.look_after(key, self.now), None)

    # --- what must be true ----------------------------------------------------------------

    def _report(self, said: Report) -> None:
        number = said.flow_id
        if said.event == "flow.syn_received":
            self._closed.discard(number)
            self._reset.discard(number)
        elif said.event == "flow.established":
            self._established[number] = self._flow_names[number]
        elif said.event == "flow.reset":
            self._reset.add(number)
        elif said.event == "flow.closed":
            assert number not in self._closed, f"its end is reported again: {said}"
            self._closed.add(number)
            name = self._established.pop(number, None)
            if name is not None and number not in self._reset and "reason" not in said.fields:
                self._bytes_are_all(name, said)
        super()._report(said)

    def _bytes_are_all(self, name: int, said: Report) -> None:
        """After both FINs, the counts are what both applications wrote."""
        if self.damaged or name in self.orphans | self.hit or not self._window_was_kept():
            return
        for side, host in (("server", self.client), ("client", self.server)):
            ends = [tcp for tcp in host.all() if tcp.name == name]
            if len(ends) == 1:
                claimed, wrote = said.fields[f"bytes_to_{side}"], ends[0].written
                assert claimed == wrote, f"{claimed} bytes to {side} of {wrote}: {said}"
                self.counted += 1

    def finish(self) -> None:
        """As ever; the applications of connections that needed a process that died give up."""
        for tcp in self.client.all() + self.server.all():
            if tcp.name in self.orphans:
                tcp.abort(self.now)
        super().finish()

    def fall_silent(self) -> None:
        """As ever; nothing is left in the kernel, either, and every end was reported."""
        super().fall_silent()
        assert not len(self.maps), "entries are left in the kernel"
        assert not self._established, f"no end was reported of {self._established}"

    def _is_cut_off(self, tcp: Tcp) -> bool:
        return tcp.name in self.orphans

    def _flow_of(self, tcp: Tcp) -> Flow | None:
        flow = super()._flow_of(tcp)
        if flow is None:
            flow = self.carrier.find(client_key(tcp))
            if flow is not None and (flow.superseded or flow.passing):
                return None
        return flow


def _is_syn(raw: bytes) -> bool:
    try:
        flags = look(raw).flags
    except WireError:
        return False
    return bool(flags & SYN) and not flags & ACK
