"""The verdict handler of one process: packets and timers to the core, and what the core says done.

One thread, one loop. Packets come first; the log is written when those that
have arrived are dealt with.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from contextlib import suppress
from dataclasses import replace

from netfilterqueue import Packet

from nfq_zerortt.carrying import Carrying, keeps_flows
from nfq_zerortt.config import Config, Limits
from nfq_zerortt.core.actions import Accept, Action, Actions, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.handshake import SPOOFED_SYN_ACK
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.journal import Journal
from nfq_zerortt.kernel.bpf.layout import MARK_LEFT
from nfq_zerortt.kernel.link import mtu
from nfq_zerortt.kernel.queue import PacketQueue
from nfq_zerortt.kernel.raw import RawSender
from nfq_zerortt.observe.packets import packet_event

_DRAIN_STEP_S = 0.05
_EMPTY_S = 0.5
_TIDY_S = 60.0
_QUIET_S = 1.0
_FEW_FLOWS = 1000  # looked at in some milliseconds
_OF_NO_FLOW = Accept("icmp")
_THIS_ROUTER = 0  # no interface: an ICMP error of its own


class Handler:
    """Takes the packets of a queue to the core, and does what it says.

    Without a queue it deals with timers and with flows that end in the kernel only.

    Attributes:
        flows: how many flows it has taken on.
        carrying: the kernel data path, if there is one.
    """

    def __init__(self, config: Config, engine: Engine, journal: Journal) -> None:
        self.flows = 0
        self.carrying: Carrying | None = None
        self._config = config
        self._engine = engine
        self._journal = journal
        self._event = journal.event
        self._tally = journal.tally
        self._client_index = socket.if_nametoindex(config.client_iface)
        self._server_index = socket.if_nametoindex(config.server_iface)
        self._queue: PacketQueue | None = None
        self._next_queue: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._busy_at = 0.0
        self._answered: list[Packet] = []

    def configure(self, config: Config, limits: Limits) -> None:
        """Take over settings; ``limits`` are those of this process."""
        self._config = config
        with suppress(OSError):  # an interface that is gone for the moment: as it was
            self._engine.link_mtu = mtu(config.server_iface)
        self._engine.configure(_policy(config), limits)
        self.set_log_level(config.log_level)

    @property
    def log_level(self) -> str:
        """The level of the events that are written now."""
        return self._config.log_level

    def set_log_level(self, level: str) -> None:
        """Write events of that level and above, until other settings are taken over."""
        self._config = replace(self._config, log_level=level)
        if self.carrying is not None:
            self.carrying.enable(keeps_flows(self._config) == "")
        self._journal.set_level(level)

    # --- beginning and end ----------------------------------------------------------------

    def start(self, queue: PacketQueue | None, next_queue: int | None = None) -> None:
        """Handle packets from now on; to be called in the event loop.

        ``next_queue`` gets the ICMP errors that are about no flow of ours: it may be another
        worker's.

        Raises:
            MissingFeatureError: CAP_NET_RAW is missing.
        """
        self._loop = asyncio.get_running_loop()
        self._raw = RawSender(self._config.client_iface, self._config.server_iface)
        self._queue, self._next_queue = queue, next_queue
        if queue is not None:
            self._loop.add_reader(queue.fileno(), self._on_readable)
            # The collector would look at all flows, and stop packets for tens of milliseconds.
            # They leave no cycles; what little else does, :meth:`tidy` collects.
            gc.collect()
            gc.freeze()
            gc.disable()
        self.set_timer()

    def watch_endings(self) -> None:
        """Deal with flows that end in the kernel from now on: in one process only."""
        if self.carrying is not None:
            self._loop.add_reader(self.carrying.fileno(), self.on_endings)

    async def tidy(self) -> None:
        """Collect garbage in quiet moments."""
        while True:
            await asyncio.sleep(_TIDY_S)
            quiet = time.monotonic() - self._busy_at > _QUIET_S
            if quiet and len(self._engine.table) < _FEW_FLOWS:
                gc.collect()

    async def drain(self, patience_s: float) -> None:
        """Take on no new flow, give the others a moment to end, and end the rest."""
        self._engine.drain()
        until = time.monotonic() + patience_s
        while self._engine.has_live_flows() and time.monotonic() < until:
            await asyncio.sleep(_DRAIN_STEP_S)
        self.run(self._engine.shut_down(time.monotonic()))
        # What waits is overtaken by what comes once the rules are gone: it shall be little.
        self.empty_queue()

    def empty_queue(self) -> None:
        """Give a verdict on what still waits: closing the queue drops it."""
        until = time.monotonic() + _EMPTY_S
        while self._handle_batch() and time.monotonic() < until:
            pass

    def stop(self) -> None:
        """Handle nothing any more."""
        if self._queue is not None:
            self._loop.remove_reader(self._queue.fileno())
        if self.carrying is not None:
            self._loop.remove_reader(self.carrying.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._raw.close()

    # --- packets --------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self._busy_at = time.monotonic()
        self._handle_batch()
        self.set_timer()

    def _handle_batch(self) -> bool:
        """Handle the packets that wait, up to a bounded number; tell whether more may wait.

        The SYNs of a burst go on to their servers when all of their clients are answered: a
        verdict takes longer than an answer, and it is the answer that a client waits for.
        """
        more = self._queue is not None and self._queue.handle_batch()
        for packet in self._answered:
            _accept_if_open(packet)
        self._answered.clear()
        return more

    def on_packet(self, packet: Packet) -> None:
        """Handle a packet of the queue, and give the verdict on it."""
        started = time.monotonic()
        raw: bytes = packet.get_payload()
        side = Side.CLIENT if packet.indev == self._client_index else self._other(packet)
        left = self.carrying is not None and packet.get_mark() & MARK_LEFT
        try:
            actions = self._engine.packet(raw, side, started)
            only = actions[0]
            if len(actions) == 1 and type(only) is Replace and not self._journal.debug:
                packet.set_payload(only.data)
                packet.accept()
                self._tally.rewritten += 1
            else:
                self._carry_out(packet, raw, side, actions, started)
            if left and self.carrying is not None:
                self.carrying.done(raw, side)
        except Exception:
            self._journal.fault()
            _accept_if_open(packet)

    def _other(self, packet: Packet) -> Side:
        """The side of a packet that did not come from the client's interface, as we know it."""
        if packet.indev not in (self._server_index, _THIS_ROUTER):
            # An interface was made anew since, with another index.
            self._client_index = _index(self._config.client_iface)
            self._server_index = _index(self._config.server_iface)
            self._attach_again()
            if packet.indev == self._client_index:
                return Side.CLIENT
        return Side.SERVER

    def _attach_again(self) -> None:
        if self.carrying is not None:
            try:
                self.carrying.attach_again()
            except (ZeroRttError, OSError) as error:
                self._journal.warn("data_path", str(error), "restart the service")

    def _carry_out(
        self, packet: Packet, raw: bytes, side: Side, actions: Actions, started: float
    ) -> None:
        undecided, answered = True, False
        for action in actions:
            if isinstance(action, Send):
                sent = answered = self._send(action)
                if undecided and not sent and action.reason == SPOOFED_SYN_ACK:
                    # Then the client has to wait for the server's own SYN-ACK.
                    instead = self._engine.withdraw(raw, started)
                    self._carry_out(packet, raw, side, instead, started)
                    return
            elif isinstance(action, Report):
                self._report(action, started)
            else:
                undecided = False
                if isinstance(action, Replace):
                    packet.set_payload(action.data)
                if isinstance(action, Drop):
                    packet.drop()
                elif answered:
                    self._answered.append(packet)
                elif action == _OF_NO_FLOW and self._pass_on(packet):
                    return
                else:
                    packet.accept()
                self._tally.verdict(action)
            if self._journal.debug:
                self._packet_event(raw, side, action)

    def _pass_on(self, packet: Packet) -> bool:
        """Hand a packet to the next worker as it is; tell whether there is one."""
        if self._queue is None or self._next_queue is None:
            return False
        self._queue.pass_on(packet, self._next_queue)
        return True

    def _send(self, action: Send) -> bool:
        problem = self._raw.send(action.side, action.data)
        if problem is None:
            self._tally.injected += 1
        else:
            self._event(
                "service.not_sent",
                {"towards": action.side.value, "reason": action.reason, "error": problem},
            )
        return problem is None

    def _report(self, action: Report, started: float | None) -> None:
        fields = action.fields
        if action.flow_id:
            fields = {"flow_id": action.flow_id, "flow": action.flow, **fields}
        if action.event == "flow.synack_spoofed" and started is not None:
            # Its Send stands right before it, so this is the time from read to sent.
            fields["latency_us"] = round((time.monotonic() - started) * 1e6, 1)
        elif action.event == "flow.syn_received":
            self.flows += 1
        self._event(action.event, fields)

    def run(self, actions: Actions) -> None:
        """Carry out what no packet asks for: there is none to give a verdict on."""
        for action in actions:
            if isinstance(action, Send):
                self._send(action)
            elif isinstance(action, Report):
                self._report(action, None)
            if self._journal.debug:
                self._packet_event(None, None, action)

    def _packet_event(self, raw: bytes | None, side: Side | None, action: Action) -> None:
        event = packet_event(raw, side, action)
        if event is None:
            return
        name, fields = event
        flow = self._engine.find(action.data if isinstance(action, Send) else raw or b"")
        about = {} if flow is None else {"flow_id": flow.number, "flow": flow.name}
        self._event(name, {**about, **fields, **about})

    # --- time, and the kernel's flows -----------------------------------------------------

    def set_timer(self) -> None:
        """See that the core is called when it wants to be."""
        deadline = self._engine.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(deadline - time.monotonic(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.run(self._engine.tick(time.monotonic()))
        except Exception:
            self._journal.fault()
        self.set_timer()

    def on_endings(self) -> None:
        """Deal with flows that have ended in the kernel."""
        try:
            if self.carrying is not None:
                for actions in self.carrying.ended(time.monotonic()):
                    self.run(actions)
        except Exception:
            self._journal.fault()
        self.set_timer()


def _policy(config: Config) -> Policy:
    return Policy(
        config.strategy,
        config.destinations,
        config.ports,
        config.fast_open_ports,
        config.kernel_full,
    )


def _accept_if_open(packet: Packet) -> None:
    try:
        packet.accept()
    except RuntimeError:
        return  # its verdict was given before the fault


def _index(iface: str) -> int:
    try:
        return socket.if_nametoindex(iface)
    except OSError:
        return 0
