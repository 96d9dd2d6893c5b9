"""Two hosts, and between them the engine and a network that is not always good.

Time is simulated: :meth:`World.run` goes from one happening to the next. Every packet that an end
gets goes before the judge, and after every call of the engine its bounds are checked.
"""

from __future__ import annotations

from collections.abc import Iterable

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.handshake import SPOOFED_SYN_ACK
from nfq_zerortt.core.negotiation import DEFAULT_WINDOW
from nfq_zerortt.core.states import ENDED
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, RST, SYN
from nfq_zerortt.wire.view import SegmentView, look
from tests.core.model.bounds import Bounds
from tests.core.model.departures import Departures
from tests.core.model.early import Early
from tests.core.model.fast_open import FastOpen
from tests.core.model.host import Host, Sender
from tests.core.model.judge import Judge
from tests.core.model.network import Flight, Network
from tests.core.model.tcp import Endpoint, Profile, State, Tcp

SECRET = bytes(range(32))
START = 1000.0
OPEN_PORT, CLOSED_PORT, OTHER_PORT, SPEAKING_PORT = 80, 81, 9000, 22
STRANGER = -1
_TROUBLE_S = 3.0
"""So long a network may be bad before a handshake may fail for it."""
_LONG_TROUBLE_S = 60.0
_LAST_RTO_S = 5.0
_LONGEST_SYN_RTO_S = 65.0
_PATIENCE_S = 400.0
_MOST_STEPS = 20_000
_MOST_TICKS = 20_000
_EXCUSES = {"no_answer", "timeout"}

CLIENT_ADDRESSES = {
    4: (bytes((10, 0, 1, 2)), bytes((10, 0, 1, 3))),
    6: (bytes.fromhex("fd" + "00" * 14 + "02"), bytes.fromhex("fd" + "00" * 14 + "03")),
}
"""A port stands for one of them: even ones for the first."""
SERVER_ADDRESSES = {4: bytes((10, 0, 3, 2)), 6: bytes.fromhex("fd" + "11" * 14 + "02")}


class World:
    """The four parts together.

    Attributes:
        network: what is between the parts.
        unsendable: how many of the next spoofed SYN-ACKs cannot be sent.
        policy, limits: as they were configured last.
        hit: clients on whose 4-tuple a stranger sent a SYN when no flow of theirs was alive: nobody
            can know that this is no new connection; or an ACK before the client's first one, which
            says that the SYN was no new connection's.
        departures: watches the SYNs.
        trace: every packet that came to ClientNIC, with its time and side.
        reasons: what the engine gave as the end of a flow, by the client's ISN.
    """

    new_trace: type[list[tuple[float, Side, bytes]]] = list

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        server: Profile | None = None,
        delay: float = 0.02,
        isn: int = 0xFFFF0000,
        answer: int = 0,
        fast_open: FastOpen | None = None,
    ) -> None:
        self.now = START
        self.policy = policy or Policy("hold")
        self.limits = limits or Limits(idle_timeout_s=3600)
        self.engine = Engine(self.policy.strategy, self.limits, SECRET)
        self.engine.configure(self.policy, self.limits)
        self.departures = Departures(self.engine)
        self.client = Host(isn, 5_000_000, self._sender(Side.CLIENT))
        self.server = Host(
            isn ^ 0x9E3779B9,
            0xFFFFFF00,
            self._sender(Side.SERVER),
            profile=server or Profile(),
            listening={OPEN_PORT, OTHER_PORT, SPEAKING_PORT},
            answer=answer,
            fast_open=fast_open or FastOpen(),
        )
        self.judge = Judge()
        self.network = Network(delay)
        self.unsendable = 0
        self.stopped = False
        self.damaged = False
        self.packets = 0
        self.hit: set[int] = set()
        self.reasons: dict[int, set[str]] = {}
        self.trace = self.new_trace()
        self._misled = False
        self._early = Early()
        self._flow_names: dict[int, int] = {}
        self._last_name: dict[tuple[Endpoint, Endpoint], int] = {}
        self._spoofed: set[int] = set()
        self._over: set[int] = set()
        self._tight = _is_tight(self.limits)
        self._fewest_retries = self.limits.syn_retries
        self._shortest_idle = self.limits.idle_timeout_s
        self._bounds = Bounds(self.limits)

    # --- what a test does -----------------------------------------------------------------

    def connect(
        self, port: int, *, to: int = OPEN_PORT, family: int = 4, profile: Profile | None = None
    ) -> Tcp | None:
        """Let the client connect from a port of its own; None if that one is in use."""
        local, peer = (CLIENT_ADDRESSES[family][port & 1], port), (SERVER_ADDRESSES[family], to)
        return self.client.connect(local, peer, profile or Profile(), self.now)

    def ends_of(self, tcp: Tcp) -> list[Tcp]:
        """Return the server's ends of one of the client's connections."""
        line = self.server.connections.get((tcp.peer, tcp.local), [])
        return [end for end in line if end.name == tcp.name]

    def configure(self, policy: Policy, limits: Limits) -> None:
        """Reload the configuration. A bound that became smaller holds for new flows."""
        self.policy, self.limits = policy, limits
        self._tight = self._tight or _is_tight(limits)
        self._fewest_retries = min(self._fewest_retries, limits.syn_retries)
        self._shortest_idle = min(self._shortest_idle, limits.idle_timeout_s)
        self._bounds.widen(limits)
        self.engine.configure(policy, limits)

    def stop(self) -> None:
        """End the service: its flows are reset, what comes later passes."""
        self.stopped = True
        self.engine.drain()
        self._carry_out(None, self.engine.shut_down(self.now), None)

    def inject(self, raw: bytes, side: Side) -> None:
        """Let a stranger's packet, or any bytes, arrive at ClientNIC now; none of it is judged."""
        self._at_clientnic(Flight(self.now, 0, raw, side, False, STRANGER, False))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        for _ in range(_MOST_STEPS):
            at = self._next_happening()
            if at is None or at > until:
                break
            self._happen(max(at, self.now))
        else:
            raise AssertionError("the world does not come to rest")
        self.now = max(self.now, until)

    def finish(self) -> None:
        """Heal the network, let the applications close, and see that all ends well."""
        self.network.heal(self.now)
        self.unsendable = 0
        self._handshakes_complete()
        for tcp in self.client.all() + self.server.all():
            tcp.stall(self.now, stalled=False)
            tcp.close(self.now)
        self._rest()
        for tcp in self.server.all():  # accepted late
            tcp.close(self.now)
        self._rest()
        for tcp in self.client.all():
            self._has_ended_well(tcp)
        self.fall_silent()

    def _handshakes_complete(self) -> None:
        """A server whose client is connected learns of it, though neither end says anything."""
        self.run(_LONGEST_SYN_RTO_S)
        if self.damaged:
            return
        for tcp in self.client.all():
            ends = self.ends_of(tcp)
            if tcp.state is State.OPEN and not self._is_cut_off(tcp):
                waits = [end for end in ends if end.state is State.SYN_RECEIVED]
                assert not waits, f"no third ACK: {waits}"

    def fall_silent(self) -> None:
        """No end says anything more: the engine must come to rest with nothing left."""
        self.network.flights.clear()
        for _ in range(_MOST_TICKS):
            deadline = self._deadline()
            if deadline is None:
                break
            self.now = max(self.now, deadline)
            for action in self._due():
                if isinstance(action, Report):
                    self._report(action)
        else:
            raise AssertionError("timers without end")
        table = self.engine.table
        left = (len(table), len(table.paths), table.half_open, table.held_cost)
        assert left == (0, 0, 0, 0), f"left behind: {left}"
        assert table.oldest_ended() is None

    # --- time -----------------------------------------------------------------------------

    def _next_happening(self) -> float | None:
        times = [tcp.deadline for tcp in self.client.all() + self.server.all() if tcp.deadline]
        deadline = self._deadline()
        if deadline is not None:
            times.append(deadline)
        arrival = self.network.next_arrival()
        if arrival is not None:
            times.append(arrival)
        return min(times, default=None)

    def _happen(self, now: float) -> None:
        self.now = now
        while flight := self.network.arrived(now):
            if flight.to_end:
                self._at_end(flight)
            else:
                self._at_clientnic(flight)
        deadline = self._deadline()
        if deadline is not None and deadline <= now:
            self._carry_out(None, self._due(), None)
            after = self._deadline()
            assert after is None or after > now, "a timer that is due stays due"
        for tcp in self.client.all() + self.server.all():
            if tcp.deadline is not None and tcp.deadline <= now:
                tcp.timer(now)

    def _deadline(self) -> float | None:
        """When ClientNIC has something to do next that no packet asks for."""
        return self.engine.next_deadline()

    def _due(self) -> Actions:
        """Let it do that."""
        return self.engine.tick(self.now)

    def _rest(self) -> None:
        """Run until the connections have ended, or for longer than any of them may take."""
        until = self.now + _PATIENCE_S
        while self.now < until:
            alive = [tcp for tcp in self.client.all() + self.server.all() if not tcp.ended]
            if not alive and not self.network.flights:
                return
            self.run(20.0)
            for tcp in alive:
                tcp.keepalive(self.now)  # a peer that has died is found out

    # --- packets --------------------------------------------------------------------------

    def _sender(self, side: Side) -> Sender:
        def send(raw: bytes, name: int) -> None:
            if self._misled and look(raw).flags & RST:
                name = STRANGER  # its number is the one that it answers
            self._fly(raw, side, to_end=False, name=name, honest=name in self._names())

        return send

    def _fly(self, raw: bytes, side: Side, *, to_end: bool, name: int, honest: bool) -> None:
        self.network.send(raw, side, self.now, to_end=to_end, name=name, honest=honest)

    # --- ClientNIC ------------------------------------------------------------------------

    def _at_clientnic(self, flight: Flight) -> None:
        self.packets += 1
        self.trace.append((self.now, flight.side, flight.raw))
        self._arrives(flight)

    def _arrives(self, flight: Flight) -> None:
        """A packet has arrived at ClientNIC."""
        self._decide(flight)

    def find(self, raw: bytes) -> Flow | None:
        """Return the flow that a packet belongs to as ClientNIC knows it."""
        return self.engine.find(raw)

    def _decide(self, flight: Flight) -> None:
        """Let the engine decide about a packet, and carry that out."""
        raw, side = flight.raw, flight.side
        before = self.find(raw)
        flow_name = before.isn_client if before else None
        actions = self.engine.packet(raw, side, self.now)
        verdicts = [action for action in actions if isinstance(action, Accept | Drop | Replace)]
        assert len(verdicts) == 1, f"{len(verdicts)} verdicts: {actions}"
        self._note(raw)
        if flight.honest:
            flight.honest = self._is_understood(raw, flight.name, flow_name)
        self._carry_out(flight, actions, flow_name)

    def _is_understood(self, raw: bytes, name: int, flow_name: int | None) -> bool:
        """Tell whether the engine can know which numbers this packet means.

        A remnant of an earlier connection on the 4-tuple it cannot; nor a packet of a flow that
        it has spoofed and forgotten since.
        """
        if flow_name is None:
            return name not in self._spoofed or self.find(raw) is not None
        return name == flow_name or bool(look(raw).flags & SYN and not look(raw).flags & ACK)

    def _note(self, raw: bytes) -> None:
        """Remember which of the client's connections a 4-tuple stands for now."""
        flow = self.find(raw)
        if flow is None:
            return
        client = (flow.client[:-2], int.from_bytes(flow.client[-2:], "big"))
        server = (flow.server[:-2], int.from_bytes(flow.server[-2:], "big"))
        self._last_name[client, server] = flow.isn_client

    def _names(self) -> set[int]:
        return {tcp.name for tcp in self.client.all()}

    def _carry_out(
        self, flight: Flight | None, actions: Iterable[Action], flow_name: int | None
    ) -> None:
        undecided = True
        actions = list(actions)
        self._client_is_told(actions)
        arrived = flight.raw if flight is not None else None
        self.departures.watch(arrived, actions, self.now, self.policy, self.limits)
        if flight is not None and not self.damaged:
            name = STRANGER if flow_name is None else flow_name
            self._early.watch(name, flight.raw, actions)
        for action in actions:
            if isinstance(action, Send):
                first = flight is not None and undecided and action.reason == SPOOFED_SYN_ACK
                if first and self.unsendable:
                    assert flight is not None
                    self.unsendable -= 1
                    instead = self.engine.withdraw(flight.raw, self.now)
                    self._bounds.check(self.engine.table)
                    self._carry_out(flight, instead, flow_name)
                    return
                self._send(action, answered=flight is not None and not flight.honest)
            elif isinstance(action, Report):
                self._report(action)
            else:
                assert flight is not None, f"a verdict without a packet: {action}"
                assert undecided
                undecided = False
                if not isinstance(action, Drop):
                    self._pass_on(
                        flight, action.data if isinstance(action, Replace) else flight.raw
                    )
        self._bounds.check(self.engine.table)

    def _pass_on(self, flight: Flight, raw: bytes) -> None:
        """Forward a packet, as it came or changed."""
        other = Side.SERVER if flight.side is Side.CLIENT else Side.CLIENT
        self._fly(raw, other, to_end=True, name=flight.name, honest=flight.honest)

    def _client_is_told(self, actions: list[Action]) -> None:
        """A client that cannot be served learns of it at once."""
        for said in actions:
            if isinstance(said, Report) and said.event == "flow.reset":
                told = any(
                    isinstance(action, Accept)
                    or (isinstance(action, Send) and action.side is Side.CLIENT)
                    for action in actions
                )
                assert told or said.fields["reason"] not in _MUST_BE_TOLD, f"not told: {actions}"

    def _send(self, action: Send, *, answered: bool) -> None:
        """``answered``: it was caused by a packet that is not judged, and may be made of it."""
        view = look(action.data)
        name = self._name_of(view)
        if action.reason == SPOOFED_SYN_ACK:
            self._spoofed.add(name)
        derived = answered and (view.flags & RST or action.reason in _DERIVED)
        # The short way looks at no checksum, and counts what was damaged there.
        derived = derived or (self.damaged and action.reason == "service_stopped")
        honest = name in self._names() and not derived
        self._fly(action.data, action.side, to_end=True, name=name, honest=honest)

    def _name_of(self, view: SegmentView) -> int:
        source, target = (view.src, view.sport), (view.dst, view.dport)
        name = self._last_name.get((source, target))
        return self._last_name.get((target, source), STRANGER) if name is None else name

    def _report(self, said: Report) -> None:
        if said.event == "flow.syn_received":
            self._flow_names[said.flow_id] = said.fields["isn_client"]
        name = self._flow_names.get(said.flow_id)
        if name is None or name not in self._names():
            return
        if "reason" in said.fields:
            self.reasons.setdefault(name, set()).add(said.fields["reason"])
        if said.event == "flow.closed":
            self._over.add(name)
            self._bytes_are_true(name, said)

    def _bytes_are_true(self, name: int, said: Report) -> None:
        """No byte is invented, nor reported."""
        if self.damaged:
            return  # the short way looks at no checksum: what was damaged there is counted
        for side, host in (("server", self.client), ("client", self.server)):
            wrote = max((tcp.written for tcp in host.all() if tcp.name == name), default=0)
            claimed = said.fields[f"bytes_to_{side}"]
            assert claimed <= wrote, f"{claimed} bytes to {side}, written were {wrote}: {said}"

    # --- the ends -------------------------------------------------------------------------

    def _at_end(self, flight: Flight) -> None:
        to_client = flight.side is Side.CLIENT
        receiver, sender = (self.client, self.server) if to_client else (self.server, self.client)
        if flight.honest:
            self.judge.damaged = self.damaged
            self.judge.arrives(flight.raw, receiver, sender)
        try:
            look(flight.raw)
        except WireError:
            return
        self._misled = not flight.honest
        receiver.receive(flight.raw, self.now, flight.name)
        self._misled = False

    def _has_ended_well(self, tcp: Tcp) -> None:
        ends = self.ends_of(tcp)
        cut_off = self._is_cut_off(tcp)
        if cut_off and tcp.name in self._spoofed:
            return  # it had to be reset, and the RST may have been lost
        if not tcp.ended:
            assert self._may_hang(tcp), f"hangs: {tcp}"
            return
        complete = tcp.fin_received and tcp.all_acknowledged
        delivered = any(
            end.delivered == tcp.written and tcp.delivered == end.written and end.fin_received
            for end in ends
        )
        if complete and delivered:
            flow = self._flow_of(tcp)
            known = len(ends) == 1 and self._window_was_kept()
            if flow is not None and flow.isn_client == tcp.name and known:
                assert flow.state in ENDED, f"both ends are closed: {flow}"
            return
        reasons = self.reasons.get(tcp.name, set())
        excused = (
            tcp.aborted
            or any(end.aborted for end in ends)
            or tcp.peer[1] not in self.server.listening
            or cut_off
            or tcp.name in self.hit
            or self._was_idle(tcp)
            or "unreachable" in reasons  # a quoted SYN: direct, it would fail alike
        )
        if not excused and self.network.trouble(tcp.opened_at) > _TROUBLE_S:
            lost = any(end.error == "no third ACK" for end in ends)
            excused = lost or bool(reasons & _EXCUSES) or delivered  # but for the last ACK
        if reasons & _EXCUSES and self.network.lost[tcp.name] >= self._fewest_retries:
            return
        excused = excused or (delivered and self._may_hang(tcp))
        assert excused, f"did not complete: {tcp} {ends} {reasons}"

    def _is_cut_off(self, tcp: Tcp) -> bool:
        """Tell whether the connection depended on a service that is gone."""
        return self.stopped

    def _may_hang(self, tcp: Tcp) -> bool:
        """Tell whether its flow had ended and was forgotten before the last FIN's ACK got through.

        That takes a network that is bad for longer than a flow that is closing is kept, bounds
        that make room for new flows at the cost of those that have ended, or a stranger's SYN.
        """
        if tcp.name in self.hit or self._was_idle(tcp):
            return True
        trouble = self.network.trouble(tcp.opened_at) + _LAST_RTO_S * self.network.lost[tcp.name]
        return tcp.name in self._over and (self._tight or trouble > _LONG_TROUBLE_S)

    def _was_idle(self, tcp: Tcp) -> bool:
        """Tell whether its flow may have been forgotten because both ends were silent for long."""
        timeout = "timeout" in self.reasons.get(tcp.name, set())
        return timeout and self.now - tcp.opened_at > self._shortest_idle

    def _flow_of(self, tcp: Tcp) -> Flow | None:
        """Return the flow on the 4-tuple of one of the client's connections."""
        path = self.engine.table.paths.get(client_key(tcp))
        return None if path is None else path.flow

    def _window_was_kept(self) -> bool:
        """Tell whether the server has the window that the spoofed SYN-ACK promises at first.

        Otherwise a FIN can lie beyond the window that ClientNIC knows of, and not be counted.
        """
        return self.server.profile.window >= DEFAULT_WINDOW


def client_key(tcp: Tcp) -> bytes:
    """Return the 4-tuple of one of the client's connections."""
    ports = tcp.local[1].to_bytes(2, "big") + tcp.peer[1].to_bytes(2, "big")
    return tcp.local[0] + tcp.peer[0] + ports


def _is_tight(limits: Limits) -> bool:
    """Tell whether flows that have ended may be forgotten early."""
    usual = Limits()
    return limits.max_flows < usual.max_flows or limits.time_wait_s < usual.time_wait_s


_MUST_BE_TOLD = {"refused", "no_answer"}
_DERIVED = {"split", "duplicate_sack"}
