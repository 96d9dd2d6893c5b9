"""The door of the core: a packet, its side and the time in; actions out.

:meth:`Engine.packet` first tries the short way: a plain segment of an established flow is
translated and done. For all else it is asked in this order whose packet it is:

1. a flow's in the table: then it goes by the flow's state, to :mod:`~nfq_zerortt.core.opening`
   before both handshakes are complete, to :mod:`~nfq_zerortt.core.stream` afterwards;
2. a connection's that passes untouched (:mod:`~nfq_zerortt.core.passing`);
3. a flow's that the kernel carries (:mod:`~nfq_zerortt.core.handover`): as the first, by a flow
   that is made from the kernel's entry for this packet;
4. nobody's yet: a SYN may begin a flow (:mod:`~nfq_zerortt.core.beginning`), all else passes.

ICMP errors go by the segment that they quote (:mod:`~nfq_zerortt.core.quotations`). Whatever is
not understood passes untouched, with a reason.
"""

from __future__ import annotations

import struct
import traceback

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Report, Side
from nfq_zerortt.core.admission import Admission, Policy
from nfq_zerortt.core.beginning import Beginning
from nfq_zerortt.core.endings import Endings
from nfq_zerortt.core.entries import Carrier
from nfq_zerortt.core.flow import Flow, Path
from nfq_zerortt.core.handover import Handover
from nfq_zerortt.core.handshake import Handshake
from nfq_zerortt.core.isn import InitialNumbers
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.negotiation import ETHERNET_MTU
from nfq_zerortt.core.opening import Opening
from nfq_zerortt.core.passing import KEEP_S, Passing
from nfq_zerortt.core.prefixes import Prefixes
from nfq_zerortt.core.quotations import Quotations
from nfq_zerortt.core.states import ENDED, HALF_OPEN, TRANSLATING, Event
from nfq_zerortt.core.strategies import Strategy, by_name
from nfq_zerortt.core.stream import Stream
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.errors import CutOffError, NotTcpError, WireError
from nfq_zerortt.wire.flags import FIN, RST, SYN
from nfq_zerortt.wire.icmp import look_quoted
from nfq_zerortt.wire.view import SegmentView, look

_IPV4 = struct.Struct(">BxHxxHxB")  # version and header length, total length, fragment, protocol
_FRAGMENT = 0x3FFF
_NOT_PLAIN = SYN | FIN | RST
_OBSERVED = (Accept("observed"),)


class Engine:
    """All flows of one ClientNIC.

    Times are seconds of one clock that never runs back; the engine never asks for the time.

    Attributes:
        table: the flows, but for those that are the kernel's alone.
        passing: the connections that pass untouched.
        memory: what was learned of servers.
        handover: hands flows over to the kernel, once :meth:`hand_over_to` says so.
        limits: the bounds that hold now.
        link_mtu: the longest packet that the link towards the servers takes, bytes; a new value
            counts from the next :meth:`configure` on.
    """

    def __init__(self, strategy: str, limits: Limits, secret: bytes) -> None:
        """Make an engine without flows; ``secret`` as in :class:`InitialNumbers`.

        It takes on all destinations until :meth:`configure` says otherwise.

        Raises:
            ValueError: there is no such strategy, or the secret is too short.
        """
        self.table = FlowTable()
        self.memory = Memory()
        self.passing = Passing()
        self.handover: Handover | None = None
        self.limits = limits
        self.link_mtu = ETHERNET_MTU
        self._numbers = InitialNumbers(secret)
        self._endings = Endings(limits, self.table)
        self._prefixes = Prefixes(limits.unanswered_per_prefix)
        self._beginning = Beginning(self.table, self.passing, self.memory.refusals)
        self._paths = self.table.paths
        self.configure(Policy(strategy), limits)

    def configure(self, policy: Policy, limits: Limits) -> None:
        """Set how new flows are played, and the bounds of all; flows that are there go on.

        Raises:
            ValueError: there is no such strategy.
        """
        if limits != self.limits:
            self._endings.configure(limits)
            if not limits.leave_alone_s:
                self.memory.refusals.clear()
        self.limits = limits
        self._prefixes.size = limits.unanswered_per_prefix
        self._moves = Handshake(
            limits=limits,
            table=self.table,
            numbers=self._numbers,
            memory=self.memory,
            prefixes=self._prefixes,
            fast_open_ports=policy.fast_open_ports,
            link_mtu=self.link_mtu,
            data_path=self._data_path,
        )
        self._strategies: dict[str, Strategy] = {}
        for name in policy.strategies:
            self._strategy_named(name)
        first_packet = self._beginning.first_packet
        self._stream = Stream(self._endings, first_packet)
        self._quotations = Quotations(self._moves, self._endings)
        self._beginning.admission = Admission(
            policy=policy,
            limits=limits,
            table=self.table,
            refusals=self.memory.refusals,
            prefixes=self._prefixes,
            strategy_named=self._strategy_named,
            make_room=self._endings.make_room,
            kernel_is_full=self._kernel_is_full,
        )
        self._opening = Opening(
            limits=limits,
            table=self.table,
            moves=self._moves,
            endings=self._endings,
            stream=self._stream,
            strategy_of=self._strategy_of,
            first_packet=first_packet,
        )

    def hand_over_to(self, carrier: Carrier, seed: int, count: int) -> Handover:
        """Hand flows over to ``carrier`` from now on.

        ``seed`` as in :class:`Entries`; ``count`` is the highest number of the flows there.
        """
        self.handover = Handover(carrier, self.table, self._endings, seed)
        self.passing.entries = self.handover.entries
        self._beginning.count_on(count)
        return self.handover

    def number_by(self, first: int, step: int) -> None:
        """Number new flows ``first``, ``first + step`` and so on, but higher than all so far.

        So that several engines, with one step, never give the same number.
        """
        self._beginning.number_by(first, step)

    def take_in(self, flow: Flow, now: float) -> Actions:
        """Go on with a flow that the kernel has carried for an earlier process."""
        self._beginning.count_on(flow.number)
        if flow.state in ENDED and flow.ended:
            flow.dissolve()
            return []
        flow.handed_over, flow.kept = None, True
        flow.choose_path()
        self.table.add(flow)
        self.table.changed(flow)
        self.table.set_timer(flow, now + self._endings.linger(flow), now)
        return self._endings.seen(flow) if flow.state in ENDED else []

    def _data_path(self, flow: Flow) -> str:
        if flow.observed:
            return "none"
        return "kernel" if self.handover is not None and self.handover.takes(flow) else "python"

    def _kernel_is_full(self) -> bool:
        return self.handover is not None and self.handover.entries.is_full

    def _strategy_named(self, name: str) -> Strategy:
        if name not in self._strategies:
            self._strategies[name] = by_name(name, self._moves)
        return self._strategies[name]

    def _strategy_of(self, flow: Flow) -> Strategy:
        """The strategy that the flow began with, whatever new flows get since."""
        return self._strategy_named(flow.strategy)

    # --- packets --------------------------------------------------------------------------

    def packet(self, raw: bytes, side: Side, now: float) -> Actions:
        """Decide what becomes of one IP packet that came from ``side``; never raises.

        The result holds exactly one verdict (Accept, Drop or Replace); the actions are to be
        carried out in their order.
        """
        size = len(raw)
        if size >= 40:
            first, total, fragment, protocol = _IPV4.unpack_from(raw)
            if first == 0x45:
                path = self._paths.get(raw[12:24])
                tcp = 20
                plain = protocol == 6 and total == size and not fragment & _FRAGMENT
            elif first >> 4 == 6 and size >= 60:
                path = self._paths.get(raw[8:44])
                tcp = 40
                plain = raw[6] == 6 and (raw[4] << 8 | raw[5]) + 40 == size
            else:
                path = None
            if (
                path is not None
                and path.fast
                and plain
                and not raw[tcp + 13] & _NOT_PLAIN
                and size <= path.max_packet
                and 20 <= (raw[tcp + 12] >> 4) * 4 <= size - tcp
            ):
                flow = path.flow
                flow.last_seen = now
                if flow.observed:
                    path.direction.observe(raw, tcp)
                    return _OBSERVED
                return (Replace(path.direction.translate(raw, tcp)),)
        return self._packet(raw, side, now)

    def _packet(self, raw: bytes, side: Side, now: float) -> Actions:
        try:
            view = look(raw)
        except NotTcpError as error:
            return self._not_tcp(raw, side, now, str(error))
        except CutOffError:
            return self._cut_off(raw, side)
        except WireError as error:
            reason = f"malformed: {error}"
            return [Accept(reason), Report("packet.malformed", 0, "", {"reason": reason})]
        path = self._paths.get(view.flow_key)
        if path is not None:
            flow = path.flow
            actions = self._of_flow(path, view, now)
            if self.handover is None:
                return actions
            return [*actions, *self.handover.after_packet(flow, now)]
        if self.handover is not None and not self.passing.knows(view, now):
            path = self.handover.path_of(view.flow_key, side)
            if path is not None:
                return self._of_entry(self.handover, path, view, now)
        return self._beginning.first_packet(view, side, now)

    def _of_flow(self, path: Path, view: SegmentView, now: float) -> Actions:
        flow = path.flow
        if not flow.observed and not view.fragment and not packets.is_intact(view):
            return [Drop("wrong_checksum")]  # no end would take it, and neither must we
        flow.last_seen = now
        if flow.state in TRANSLATING:
            return self._stream.carry(path, view, now)
        if path.side is Side.CLIENT:
            return self._opening.from_client(flow, view, now)
        return self._opening.from_server(flow, view, now)

    def _of_entry(self, handover: Handover, path: Path, view: SegmentView, now: float) -> Actions:
        """Deal with a packet on whose 4-tuple the kernel has an entry, and which it left to us."""
        flow = path.flow
        if not flow.passing and not flow.superseded:
            return self._of_carried(handover, path, view, now)
        if flow.passing and now - flow.last_seen <= KEEP_S:
            self.passing.add(view, now)
        said = handover.look_after(flow.client_key, now)
        flow.dissolve()
        return [*self._beginning.first_packet(view, path.side, now), *said]

    def _of_carried(self, handover: Handover, path: Path, view: SegmentView, now: float) -> Actions:
        flow = path.flow
        said: Actions = ()
        if flow.state in ENDED and not flow.ended:  # nobody was told yet, and it may begin anew
            said = handover.look_after(flow.client_key, now)
            flow.ended = True
        before = flow.state, flow.to_server.progress, flow.to_client.progress
        actions = self._of_flow(path, view, now)
        if (flow.state, flow.to_server.progress, flow.to_client.progress) != before:
            handover.reclaim(flow, now)
        else:
            flow.dissolve()
        return [*actions, *said]

    def _carried(self, flow_key: bytes, side: Side) -> Path | None:
        """Return the path that a packet from ``side`` has in a flow that the kernel carries."""
        path = self.handover.path_of(flow_key, side) if self.handover is not None else None
        if path is not None and (path.flow.superseded or path.flow.passing):
            path.flow.dissolve()
            return None
        return path

    def _not_tcp(self, raw: bytes, side: Side, now: float, what: str) -> Actions:
        """Let a packet pass, unless it is an ICMP error about a flow of ours."""
        try:
            error = look_quoted(raw)
        except WireError:
            return [Accept(what)]
        path = self._paths.get(error.flow_key)
        if path is not None:
            return self._quotations.deal(path, error, side, now)
        # Sent by one side, it quotes what the other has sent; or it is this router's own.
        sender = Side.CLIENT if side is Side.SERVER else Side.SERVER
        path = self._carried(error.flow_key, sender) or self._carried(error.flow_key, side)
        if path is None:
            return [Accept("icmp")]
        flow = path.flow
        actions = self._quotations.deal(path, error, side, now)
        flow.dissolve()
        return actions

    def _cut_off(self, raw: bytes, side: Side) -> Actions:
        """Let a packet pass that is longer than what the queue hands out of it.

        Of a translated flow it would arrive with numbers that mean nothing; there, the MSS
        keeps it from being sent.
        """
        if raw[0] >> 4 == 4:
            ports = (raw[0] & 0x0F) * 4
            key = raw[12:20] + raw[ports : ports + 4]
        else:
            key = raw[8:44]
        path = self._paths.get(key)
        carried = self._carried(key, side) if path is None else None
        if carried is not None:
            carried.flow.dissolve()
        elif path is None or path.flow.observed:
            return [Accept("too_long")]
        reason = "malformed: too long for the queue"
        return [Drop("too_long"), Report("packet.malformed", 0, "", {"reason": reason})]

    def withdraw(self, syn: bytes, now: float) -> Actions:
        """Let a SYN pass untouched after all: the SYN-ACK for it could not be sent.

        ``syn`` is the packet whose actions are being carried out; its flow is forgotten.
        """
        view = look(syn)
        path = self._paths.get(view.flow_key)
        number = None
        if path is not None:
            number = path.flow.number
            self._moves.confirmed(path.flow, now)  # nothing went out
            self._endings.forget(path.flow)
        return self._beginning.let_pass(view, "syn_ack_not_sent", now, number)

    def find(self, raw: bytes) -> Flow | None:
        """Return the flow that a packet belongs to, or None."""
        try:
            path = self._paths.get(look(raw).flow_key)
        except WireError:
            return None
        return path.flow if path is not None else None

    # --- time -----------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when :meth:`tick` is to be called next, or None."""
        ours = self.table.next_deadline()
        carried = self.handover.collector.next_deadline() if self.handover else None
        if ours is None or carried is None:
            return ours if carried is None else carried
        return min(ours, carried)

    def tick(self, now: float) -> Actions:
        """Do what is due. The result holds no verdict."""
        if self.handover is not None:
            self.handover.collector.tick(now)
        actions: list[Action] = []
        for flow in self.table.due(now):
            due = self._opening.due if flow.state in HALF_OPEN else self._idle
            try:
                actions += due(flow, now)
            except Exception:
                # A bug of ours: it must keep neither this flow for ever, nor the others waiting.
                self._endings.forget(flow)
                actions.append(Report("service.fault", 0, "", {"error": traceback.format_exc()}))
        return actions

    def _idle(self, flow: Flow, now: float) -> list[Action]:
        """Hand a flow over, or forget it: the kernel carries it, or it was silent for too long."""
        said: list[Action] = []
        if self.handover is not None:
            said = self.handover.due(flow, now)
            if flow.handed_over is not None:
                return said
        linger = self._endings.linger(flow)
        if flow.last_seen + linger > now:
            self.table.set_timer(flow, flow.last_seen + linger, now)
            return said
        return [*said, *self._endings.close(flow, Event.TIMEOUT, "timeout")]

    # --- the end of the service -----------------------------------------------------------

    def drain(self) -> None:
        """Take on no new flow any more: what would have been one passes untouched."""
        self._beginning.draining = True

    def has_live_flows(self) -> bool:
        """Tell whether a connection depends on us that has not come to its end."""
        return any(map(_depends_on_us, self.table))

    def shut_down(self, now: float) -> Actions:
        """End every flow that would die with us, so that both ends learn of it at once."""
        actions: list[Action] = []
        for flow in list(self.table):
            if flow.handed_over is not None and self.handover is not None:
                self.handover.settle(flow)
                continue
            if _depends_on_us(flow):
                actions += self._endings.cut_off(flow)
            actions += self._endings.abandon(flow, "service_stopped")
        return actions


def _depends_on_us(flow: Flow) -> bool:
    return flow.state not in ENDED and not flow.observed and flow.handed_over is None
