"""The service: the one place where the parts are put together and run.

One thread, one loop. Packets come first; the log is written when those that
have arrived are dealt with.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from netfilterqueue import Packet

from nfq_zerortt import __version__
from nfq_zerortt.answers import requests
from nfq_zerortt.carrying import Carrying, choose, keeps_flows, take_back
from nfq_zerortt.config import DEFAULT_CONTROL_SOCKET, Config
from nfq_zerortt.core.actions import Action, Actions, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.handshake import SPOOFED_SYN_ACK
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.keeping import Keeper, StateFileError
from nfq_zerortt.kernel.bpf.layout import MARK_LEFT
from nfq_zerortt.kernel.features import require_for_run, served_families, warnings_for_run
from nfq_zerortt.kernel.link import mtu
from nfq_zerortt.kernel.queue import PacketQueue
from nfq_zerortt.kernel.raw import RawSender
from nfq_zerortt.kernel.rules import RuleSet
from nfq_zerortt.observe.control import ControlServer
from nfq_zerortt.observe.control_path import ControlPath, PathError
from nfq_zerortt.observe.log import EventLog
from nfq_zerortt.observe.packets import packet_event
from nfq_zerortt.ports import PortSet

_SECRET_BYTES = 32
_SEED_BYTES = 4
_LOG_SLICE = 32  # events: what is written at a time must not keep a SYN waiting
_LOG_DELAY_S = 0.02
_FIFO_PRIORITY = 5
_DRAIN_S = 2.0
_DRAIN_STEP_S = 0.05
_EMPTY_S = 0.5
_TIDY_S = 60.0
_QUIET_S = 1.0
_FEW_FLOWS = 1000  # looked at in some milliseconds
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NEEDS_RESTART = {
    "client_iface",
    "server_iface",
    "queue",
    "rules",
    "realtime",
    "data_path",
    "log_format",
    "log_file",
    "control_socket",
    "state_file",
}


class Service:
    """A running ClientNIC."""

    def __init__(self, config: Config, reread: Callable[[], Config]) -> None:
        """Check the settings against what there is; nothing is changed yet.

        ``reread`` returns the settings anew when SIGHUP asks for it.

        Raises:
            ConfigError: a setting that cannot be served.
            MissingFeatureError: a privilege or kernel feature is missing.
        """
        _check(config)
        require_for_run(
            config.client_iface, config.server_iface, config.queue, with_rules=config.rules
        )
        self._warnings = [
            (warning.name, warning.detail, warning.remedy)
            for warning in warnings_for_run(config.client_iface, config.server_iface)
        ]
        self._config = config
        self._reread = reread
        self._engine = Engine(config.strategy, config.limits, os.urandom(_SECRET_BYTES))
        self._configure(config)
        self._ports = config.ports  # of the rules: never fewer than live flows need
        self._rules = _rules(config, self._ports)
        self._log = EventLog(config.log_format, config.log_level, config.log_file)
        self._debug = self._log.debug
        self._client_index = socket.if_nametoindex(config.client_iface)
        self._server_index = socket.if_nametoindex(config.server_iface)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._writing = False
        self._busy_at = 0.0
        self._flows = 0
        self._rules_are_set = False
        self._rules_lock = asyncio.Lock()
        self._hung_up = asyncio.Event()
        self._answered: list[Packet] = []
        self._control: ControlPath | None = None
        self._carrying: Carrying | None = None
        self._why_python = ""
        self._restored = 0
        memory = self._engine.memory
        self._keeper = Keeper(Path(config.state_file), memory) if config.state_file else None
        if self._keeper is not None:
            self._keeper.require_own()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; the rules are gone afterwards.

        Raises:
            MissingFeatureError, ZeroRttError: the queue, the rules or the control socket cannot
                be had.
        """
        config = self._config
        # Signals wait until the loop takes them: none may end us halfway through the rules.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._raw = RawSender(config.client_iface, config.server_iface)
            try:
                # The queue first: who has it owns the rules of that number, too.
                self._queue = PacketQueue(config.queue, self._on_packet)
                try:
                    self._take_control_socket()
                    self._restore()
                    self._take_kernel_path()
                    try:
                        if config.rules:
                            self._rules.apply()
                            self._rules_are_set = True
                        asyncio.run(self._serve())
                    finally:
                        self._remove_rules()
                        if self._carrying is not None:
                            self._carrying.close()
                finally:
                    if self._control is not None:
                        self._control.close()
                    self._queue.close()
            finally:
                self._raw.close()
                self._log.close()
        finally:
            # Stopping is done; to be told so once more shall not look like a failure.
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _remove_rules(self) -> None:
        if self._rules_are_set:
            self._rules_are_set = False
            self._rules.remove()

    def _take_kernel_path(self) -> None:
        path, self._why_python = choose(self._config)
        if path is not None:
            seed = int.from_bytes(os.urandom(_SEED_BYTES), "big")
            self._carrying = Carrying(path, self._engine, seed)

    def _take_back_flows(self) -> None:
        try:
            taken = take_back(self._config, self._engine, self._run)
        except ZeroRttError as error:
            self._warn("data_path", str(error), "nfq-zerortt rules remove")
            return
        if taken:
            self._event("service.flows_adopted", {"flows": taken})

    def _take_control_socket(self) -> None:
        path = self._config.control_socket
        if not path:
            return
        try:
            self._control = ControlPath.take(Path(path))
        except PathError as error:
            if path != DEFAULT_CONTROL_SOCKET:
                raise ConfigError(f"option --control-socket {error}") from None
            # Somebody asked for it by name, or nobody did: then all else goes on without.
            remedy = "give each service a path of its own with --control-socket"
            self._warnings.append(("control_socket", str(error), remedy))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        self._loop.add_reader(self._queue.fileno(), self._on_readable)
        # The collector would look at all flows, and stop packets for tens of milliseconds. They
        # leave no cycles; what little else does is collected when nobody waits (:meth:`_tidy`).
        gc.collect()
        gc.freeze()
        gc.disable()
        started = time.monotonic()
        data_path = "python" if self._carrying is None else "kernel"
        if self._why_python and self._config.data_path == "auto":
            self._event(
                "service.data_path", {"data_path": data_path, "reason": self._why_python}
            )
        if self._carrying is None:
            self._take_back_flows()
        else:
            self._loop.add_reader(self._carrying.fileno(), self._on_endings)
            if self._carrying.adopted:
                self._event("service.flows_adopted", {"flows": self._carrying.adopted})
        if self._restored:
            self._event("service.learned_restored", {"records": self._restored})
        for warning in self._warnings:
            self._warn(*warning)
        self._event(
            "service.ready",
            {
                "strategy": self._config.strategy,
                "data_path": data_path,
                "version": __version__,
                "client_iface": self._config.client_iface,
                "server_iface": self._config.server_iface,
                "ports": str(self._config.ports),
                "queue": self._config.queue,
                "pid": os.getpid(),
                "scheduling": _schedule(realtime=self._config.realtime),
            },
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        beside = [self._loop.create_task(self._guarded(work)) for work in self._side_work()]
        try:
            await stop.wait()
            await self._drain()
            # What waits is overtaken by what comes once the rules are gone: it shall be little.
            self._empty_queue()
            try:
                async with self._rules_lock:  # a reload may be at them
                    self._remove_rules()
            finally:
                self._empty_queue()
            if self._keeper is not None:
                self._keeper.save(self._not_kept)
        finally:
            # The loop takes its handlers along; from here on a signal has nothing to add.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            self._loop.remove_reader(self._queue.fileno())
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            left = 0
            if self._carrying is not None:
                self._loop.remove_reader(self._carrying.fileno())
                self._on_endings()
                left, self._carrying = self._carrying.close(), None
            uptime = round(time.monotonic() - started, 3)
            self._event(
                "service.stopped",
                {"flows": self._flows, "flows_left": left, "uptime_s": uptime},
            )

    # --- beside the packets ---------------------------------------------------------------

    def _side_work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is done between packets: answering who asks, keeping what was learned."""
        work: list[Coroutine[Any, Any, None]] = [self._follow_settings(), self._tidy()]
        if self._control is not None:
            answers = requests(self._engine, self._carried, self._learned_cleared)
            work.append(ControlServer(self._control.listener, answers, self._fault).serve())
        if self._keeper is not None:
            work.append(self._keeper.keep(self._not_kept))
        if self._carrying is not None:
            work.append(self._carrying.look_through(self._run))
        return work

    def _carried(self) -> Iterator[Flow]:
        return iter(()) if self._carrying is None else self._carrying.flows()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            self._fault()

    async def _tidy(self) -> None:
        """Collect garbage in quiet moments."""
        while True:
            await asyncio.sleep(_TIDY_S)
            quiet = time.monotonic() - self._busy_at > _QUIET_S
            if quiet and len(self._engine.table) < _FEW_FLOWS:
                gc.collect()

    def _restore(self) -> None:
        """Take up what an earlier run has learned."""
        if self._keeper is None:
            return
        try:
            self._restored = self._keeper.load()
        except StateFileError as error:
            self._warnings.append(("state_file", str(error), "it will be written anew"))

    def _not_kept(self, error: str) -> None:
        self._warn("state_file", error, "what was learned is lost at the end of the service")

    def _learned_cleared(self, forgotten: Mapping[str, int]) -> None:
        self._event(
            "service.learned_cleared",
            {
                "servers": forgotten["servers"],
                "habits": forgotten["habits"],
                "cookies": forgotten["cookies"],
                "refusals": forgotten["refusals"],
            },
        )

    def _warn(self, about: str, warning: str, remedy: str) -> None:
        self._event("service.warning", {"about": about, "warning": warning, "remedy": remedy})

    # --- stopping and changing ------------------------------------------------------------

    async def _drain(self) -> None:
        """Take on no new flow, give the others a moment to end, and end the rest."""
        self._engine.draining = True
        until = time.monotonic() + _DRAIN_S
        while self._engine.has_live_flows() and time.monotonic() < until:
            await asyncio.sleep(_DRAIN_STEP_S)
        self._run(self._engine.shut_down(time.monotonic()))

    def _empty_queue(self) -> None:
        """Give a verdict on what still waits: closing the queue drops it."""
        until = time.monotonic() + _EMPTY_S
        while self._handle_batch() and time.monotonic() < until:
            pass

    async def _follow_settings(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            await self._reload()

    async def _reload(self) -> None:
        """Read the settings again. Flows go on; what cannot change in a running service stays."""
        try:
            config = self._reread()
            _check(config)
        except ZeroRttError as error:
            self._event("service.reload_failed", {"error": str(error)})
            return
        changed = {
            field.name
            for field in fields(Config)
            if getattr(config, field.name) != getattr(self._config, field.name)
        }
        if changed & _NEEDS_RESTART:
            names = ", ".join(sorted(changed & _NEEDS_RESTART))
            self._event("service.reload_failed", {"error": f"{names}: restart to change this"})
            return
        try:
            await self._select(config.ports)
        except ZeroRttError as error:
            self._event("service.reload_failed", {"error": str(error)})
            return
        self._config = config
        self._configure(config)
        if self._carrying is not None:
            self._carrying.enable(keeps_flows(config) == "")
        self._set_timer()  # other limits move the flows' timers
        self._log.set_level(config.log_level)
        self._debug = self._log.debug
        self._event("service.reloaded", {"changed": sorted(changed)})

    def _configure(self, config: Config) -> None:
        with suppress(OSError):  # an interface that is gone for the moment: as it was
            self._engine.link_mtu = mtu(config.server_iface)
        self._engine.configure(_policy(config), config.limits)

    async def _select(self, ports: PortSet) -> None:
        """Let the rules select more ports, if these are more.

        Flows on ports that are no longer wanted go on, so their packets must come here still:
        the engine knows that new ones there are to pass. Packets go on meanwhile: another
        program may hold the lock on the tables for seconds.
        """
        wanted = self._ports | ports
        if wanted == self._ports or not self._rules_are_set:
            return
        rules = _rules(self._config, wanted)
        async with self._rules_lock:
            if not self._rules_are_set:
                return
            await asyncio.to_thread(rules.apply, instead_of=self._rules)
            self._rules, self._ports = rules, wanted

    # --- packets --------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self._busy_at = time.monotonic()
        self._handle_batch()
        self._set_timer()

    def _handle_batch(self) -> bool:
        """Handle the packets that wait, up to a bounded number; tell whether more may wait.

        The SYNs of a burst go on to their servers when all of their clients are answered: a
        verdict takes longer than an answer, and it is the answer that a client waits for.
        """
        more = self._queue.handle_batch()
        for packet in self._answered:
            _accept_if_open(packet)
        self._answered.clear()
        return more

    def _on_packet(self, packet: Packet) -> None:
        started = time.monotonic()
        raw: bytes = packet.get_payload()
        side = Side.CLIENT if packet.indev == self._client_index else self._other(packet)
        left = self._carrying is not None and packet.get_mark() & MARK_LEFT
        try:
            actions = self._engine.packet(raw, side, started)
            only = actions[0]
            if len(actions) == 1 and type(only) is Replace and not self._debug:
                packet.set_payload(only.data)
                packet.accept()
            else:
                self._carry_out(packet, raw, side, actions, started)
            if left and self._carrying is not None:
                self._carrying.done(raw, side)
        except Exception:
            self._fault()
            _accept_if_open(packet)

    def _on_endings(self) -> None:
        """Deal with flows that have ended in the kernel."""
        try:
            if self._carrying is not None:
                for actions in self._carrying.ended(time.monotonic()):
                    self._run(actions)
        except Exception:
            self._fault()
        self._set_timer()

    def _other(self, packet: Packet) -> Side:
        """The side of a packet that did not come from the client's interface, as we know it."""
        if packet.indev != self._server_index:
            # An interface was made anew since, with another index.
            self._client_index = _index(self._config.client_iface)
            self._server_index = _index(self._config.server_iface)
            self._attach_again()
            if packet.indev == self._client_index:
                return Side.CLIENT
        return Side.SERVER

    def _attach_again(self) -> None:
        if self._carrying is not None:
            try:
                self._carrying.attach_again()
            except ZeroRttError as error:
                self._warn("data_path", str(error), "restart the service")

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
                else:
                    packet.accept()
            if self._debug:
                self._packet_event(raw, side, action)

    def _send(self, action: Send) -> bool:
        problem = self._raw.send(action.side, action.data)
        if problem is not None:
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
            self._flows += 1
        self._event(action.event, fields)

    def _run(self, actions: Actions) -> None:
        """Carry out what a timer asks for: there is no packet to give a verdict on."""
        for action in actions:
            if isinstance(action, Send):
                self._send(action)
            elif isinstance(action, Report):
                self._report(action, None)
            if self._debug:
                self._packet_event(None, None, action)

    # --- time -----------------------------------------------------------------------------

    def _set_timer(self) -> None:
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
            self._run(self._engine.tick(time.monotonic()))
        except Exception:
            self._fault()
        self._set_timer()

    # --- log ------------------------------------------------------------------------------

    def _event(self, event: str, fields: Mapping[str, Any]) -> None:
        self._log.add(event, fields)
        if not self._writing:
            self._writing = True
            self._loop.call_later(_LOG_DELAY_S, self._write_log)

    def _write_log(self) -> None:
        later = self._log.flush(_LOG_SLICE)
        self._writing = later is not None
        if later is not None:
            self._loop.call_later(later, self._write_log)

    def _packet_event(self, raw: bytes | None, side: Side | None, action: Action) -> None:
        event = packet_event(raw, side, action)
        if event is None:
            return
        name, fields = event
        flow = self._engine.find(action.data if isinstance(action, Send) else raw or b"")
        about = {} if flow is None else {"flow_id": flow.number, "flow": flow.name}
        self._event(name, {**about, **fields, **about})

    def _fault(self) -> None:
        """A bug of ours must not stop the loop: say what happened and go on."""
        self._event("service.fault", {"error": traceback.format_exc()})


def _policy(config: Config) -> Policy:
    return Policy(
        config.strategy,
        config.destinations,
        config.ports,
        config.fast_open_ports,
        config.kernel_full,
    )


def _rules(config: Config, ports: PortSet) -> RuleSet:
    return RuleSet.for_clientnic(
        config.client_iface, config.server_iface, ports, config.queue, served_families()
    )


def _schedule(*, realtime: bool) -> str:
    """Choose how this process is scheduled, and return it: without the privilege as before."""
    if realtime:
        try:
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(_FIFO_PRIORITY))
        except PermissionError:
            return "normal (no CAP_SYS_NICE)"
        return f"fifo {_FIFO_PRIORITY}"
    return "normal"


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


def _check(config: Config) -> None:
    for option, value in (
        ("--client-iface", config.client_iface),
        ("--server-iface", config.server_iface),
    ):
        if not value:
            raise ConfigError(f"{option} is needed: the interface on that side of this router")
