"""The service: the one place where the parts are put together and run.

What there is once is here: the rules, the control socket, the kernel data path, the state
file. Packets are handled in this process; or, with several workers, in processes of
their own that are forked off before the event loop begins.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nfq_zerortt import __version__
from nfq_zerortt.answers import Answers, requests_of_process
from nfq_zerortt.applied_rules import AppliedRules
from nfq_zerortt.carrying import (
    Carrying,
    are_left,
    choose,
    left_behind,
    stays_with_python,
    take_back,
)
from nfq_zerortt.config import DEFAULT_CONTROL_SOCKET, Config
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.handler import Handler
from nfq_zerortt.journal import Journal
from nfq_zerortt.keeping import StateFileError
from nfq_zerortt.kernel.features import FIFO_PRIORITY, require_for_run, warnings_for_run
from nfq_zerortt.kernel.queue import PacketQueue
from nfq_zerortt.learning import Learning
from nfq_zerortt.notify import ServiceManager
from nfq_zerortt.observe.control import ControlServer
from nfq_zerortt.observe.control_path import ControlPath, PathError
from nfq_zerortt.observe.log import EventLog
from nfq_zerortt.reloading import changes, check
from nfq_zerortt.rules_watch import watch
from nfq_zerortt.running import RunningService
from nfq_zerortt.starting import SIGNALS
from nfq_zerortt.workers.crew import Crew
from nfq_zerortt.workers.worker import Hire, Worker

_SECRET_BYTES = 32
_SEED_BYTES = 4
_DRAIN_S = 2.0
_REMOVE_S = 3.8  # from the signal on, so that all is over within 5 s
_TELL_S = 30.0


class Service:
    """A running ClientNIC."""

    def __init__(self, config: Config, reread: Callable[[], Config]) -> None:
        """Check the settings against what there is; nothing is changed yet.

        ``reread`` returns the settings anew when SIGHUP asks for it.

        Raises:
            ConfigError: a setting that cannot be served.
            AbsentError: an interface that is not there, or a queue in use: perhaps not for long.
            MissingFeatureError: a privilege or kernel feature is missing.
        """
        check(config)
        require_for_run(
            config.client_iface,
            config.server_iface,
            config.queue,
            workers=config.workers,
            with_rules=config.rules,
        )
        self._warnings = [
            (warning.name, warning.detail, warning.remedy)
            for warning in warnings_for_run(
                config.client_iface,
                config.server_iface,
                queues=range(config.queue, config.queue + config.workers),
                ports=config.ports,
            )
        ]
        self._config = config
        self._reread = reread
        self._engine = Engine(config.strategy, config.limits, os.urandom(_SECRET_BYTES))
        self._rules = AppliedRules(config)
        self._journal = Journal(EventLog(config.log_format, config.log_level, config.log_file))
        self._event = self._journal.event
        self._handler = Handler(config, self._engine, self._journal)
        self._handler.configure(config, config.limits)
        self._crew = Crew()
        self._manager = ServiceManager()
        self._control: ControlPath | None = None
        self._carrying: Carrying | None = None
        self._why_python = stays_with_python(config)  # with a queue, packets would wait for it
        self._restored = 0
        self._learning = Learning(config.state_file, self._engine.memory, self._crew, self._journal)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; the rules are gone afterwards.

        Raises:
            MissingFeatureError, ZeroRttError: the queue, the rules or the control socket cannot
                be had; or a worker has died.
        """
        with _signals_held(), ExitStack() as ending:
            ending.callback(self._journal.close)
            # The queues first: who has them owns the rules of that number, too.
            queues = self._take_queues(ending)
            ending.callback(self._give_up_control_socket)
            self._take_control_socket()
            self._restore()
            ending.callback(self._give_up_kernel_path)
            self._take_kernel_path()
            ending.callback(self._rules.remove)
            if len(queues) > 1:
                ending.callback(self._crew.close)
                self._crew.hire(queues, self._work)
            asyncio.run(self._serve(None if self._crew else queues[0]))
        if self._crew.lost:
            raise ZeroRttError(
                f"{self._crew.lost}: the service has ended; start it again, connections that the "
                "kernel carries go on"
            )

    def _take_queues(self, ending: ExitStack) -> list[PacketQueue]:
        queues = []
        for number in range(self._config.queue, self._config.queue + self._config.workers):
            queue = PacketQueue(number, self._handler.on_packet)
            ending.callback(queue.close)
            queues.append(queue)
        return queues

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

    def _give_up_control_socket(self) -> None:
        if self._control is not None:
            self._control.close()

    def _restore(self) -> None:
        """Take up what an earlier run has learned."""
        try:
            self._restored = self._learning.restore()
        except StateFileError as error:
            self._warnings.append(("state_file", str(error), "it will be written anew"))

    def _take_kernel_path(self) -> None:
        path = None
        if not self._why_python:
            path, self._why_python = choose(self._config)
        if path is None and self._config.workers > 1:
            try:
                path = left_behind(self._config)
            except ZeroRttError as error:
                self._warnings.append(("data_path", str(error), "nfq-zerortt rules remove"))
        if path is not None:
            self._carrying = Carrying(path, self._engine, _seed())
            self._carrying.enable(not self._why_python)
            self._handler.carrying = self._carrying

    def _give_up_kernel_path(self) -> int:
        """Return how many flows go on in the kernel."""
        if self._carrying is None:
            return 0
        carrying, self._carrying = self._carrying, None
        return carrying.close()

    def _work(self, hire: Hire) -> None:
        """Be a worker, from the fork on."""
        try:
            self._begin_to_work(hire).run()
        except Exception:
            self._journal.fault()
            raise
        finally:
            self._journal.close()

    def _begin_to_work(self, hire: Hire) -> Worker:
        self._engine.number_by(hire.number + 1, hire.of)
        if self._carrying is not None:
            self._carrying.fork(_seed(), hire.of)
        self._rules.inherit()
        # Below the first process: among equals of SCHED_FIFO, it would not run in a flood at all.
        _schedule(realtime=self._config.realtime, priority=FIFO_PRIORITY - 1)
        worker = Worker(
            hire,
            self._handler,
            self._journal,
            requests_of_process(self._engine, self._journal),
            self._clear_away,
        )
        worker.configure(self._config)
        return worker

    async def _clear_away(self) -> None:
        """Leave nothing behind but what live flows need: for a worker whose first process died."""
        try:
            await self._rules.remove_later()
        finally:
            self._give_up_control_socket()
            self._give_up_kernel_path()

    # --- serving --------------------------------------------------------------------------

    async def _serve(self, queue: PacketQueue | None) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self._hung_up = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        self._running = RunningService(
            self._config,
            data_path="python" if self._why_python else "kernel",
            handler=self._handler,
            crew=self._crew,
            carrying=self._carrying,
            journal=self._journal,
        )
        scheduling = _schedule(realtime=self._config.realtime)
        # What the kernel leaves to us of flows that are yet to be taken back has to wait for that.
        takes_back = self._takes_back_flows()
        if not takes_back:
            self._handler.start(queue)
        await self._crew.begin(stop.set)
        await self._rules.apply()
        if takes_back:
            self._handler.start(queue)
        self._say_how_it_begins()
        self._handler.watch_endings()
        self._event(
            "service.ready",
            {
                "strategy": self._config.strategy,
                "data_path": self._running.data_path,
                "version": __version__,
                "client_iface": self._config.client_iface,
                "server_iface": self._config.server_iface,
                "ports": str(self._config.ports),
                "queue": self._config.queue,
                "workers": self._config.workers,
                "pid": os.getpid(),
                "worker_pids": self._crew.pids or [os.getpid()],
                "scheduling": scheduling,
            },
        )
        self._manager.ready(self._running.summary())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        beside = [loop.create_task(self._journal.guarded(work)) for work in self._side_work()]
        try:
            await stop.wait()
            self._rules.end_within(_REMOVE_S)
            self._manager.stopping(self._crew.lost or "letting handshakes end")
            if self._crew.lost:
                self._event("service.worker_lost", {"error": self._crew.lost})
            await self._end()
        finally:
            # The loop takes its handlers along; from here on a signal has nothing to add.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            flows = self._handler.flows + await self._crew.finish()
            self._handler.stop()
            self._handler.on_endings()
            left = self._give_up_kernel_path()
            self._event(
                "service.stopped",
                {"flows": flows, "flows_left": left, "uptime_s": self._running.uptime_s},
            )

    def _say_how_it_begins(self) -> None:
        if self._why_python and self._config.data_path == "auto":
            self._event("service.data_path", {"data_path": "python", "reason": self._why_python})
        adopted = self._take_back_flows() if self._carrying is None else self._carrying.adopted
        if adopted:
            self._event("service.flows_adopted", {"flows": adopted})
        if self._restored:
            self._event("service.learned_restored", {"records": self._restored})
        for warning in self._warnings:
            self._journal.warn(*warning)

    def _takes_back_flows(self) -> bool:
        try:
            return self._carrying is None and are_left(self._config)
        except ZeroRttError:
            return False  # to take them back will tell why

    def _take_back_flows(self) -> int:
        try:
            return take_back(self._config, self._engine, self._handler.run)
        except ZeroRttError as error:
            self._journal.warn("data_path", str(error), "nfq-zerortt rules remove")
            return 0

    async def _end(self) -> None:
        patience = 0.0 if self._crew.lost else _DRAIN_S
        await asyncio.gather(self._handler.drain(patience), self._crew.drain(patience))
        try:
            await self._rules.remove_later()
        finally:
            self._handler.empty_queue()
            await self._learning.save()

    # --- beside the packets ---------------------------------------------------------------

    def _side_work(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is done between packets: answering who asks, keeping what was learned."""
        work: list[Coroutine[Any, Any, None]] = [
            self._follow_settings(),
            self._handler.tidy(),
            self._learning.keep(),
        ]
        if self._config.rules:
            work.append(watch(self._rules, self._event, self._journal.fault))
        if self._manager.alive_every_s:
            work.append(self._give_signs_of_life(self._manager.alive_every_s))
        if self._control is not None:
            answers = Answers(self._engine, self._journal, self._crew, self._running)
            server = ControlServer(self._control.listener, answers.requests(), self._journal.fault)
            work.append(server.serve())
        if self._carrying is not None:
            work.append(self._carrying.look_through(self._handler.run))
            work.append(self._tell_workers())
        return work

    async def _give_signs_of_life(self, every_s: float) -> None:
        """Let the service manager know, as long as the loops of all processes turn."""
        told = False
        while True:
            pause = every_s
            try:
                await self._crew.reply(every_s)
                self._manager.alive()
                told = False
            except ZeroRttError as error:
                if not told:
                    self._journal.warn("workers", str(error), "if that lasts, it is started again")
                told = True
                pause = every_s / 5  # a late reply shall be asked for while there is time
            await asyncio.sleep(pause)

    async def _tell_workers(self) -> None:
        while self._carrying is not None:
            await asyncio.sleep(_TELL_S)
            self._crew.tell_passing(self._carrying.passing)

    # --- changing -------------------------------------------------------------------------

    async def _follow_settings(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            try:
                await self._reload()
            except Exception:  # a bug of ours; the settings can be read another time
                self._journal.fault()
                self._manager.ready(self._running.summary())

    async def _reload(self) -> None:
        """Read the settings again. Flows go on; what cannot change in a running service stays."""
        self._manager.reloading()
        try:
            config = self._reread()
            changed = changes(self._config, config)
            await self._rules.select(config.ports)
            await self._crew.configure(config)
        except ZeroRttError as error:
            self._event("service.reload_failed", {"error": str(error)})
            self._manager.ready(f"{self._running.summary()}; settings refused: {error}")
            return
        self._config = self._running.config = config
        self._handler.configure(config, config.limits)
        self._handler.set_timer()  # other limits move the flows' timers
        self._event("service.reloaded", {"changed": changed})
        self._manager.ready(self._running.summary())


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait until the loop takes them: none may end us halfway through the rules."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        # Stopping is done; to be told so once more shall not look like a failure.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _seed() -> int:
    return int.from_bytes(os.urandom(_SEED_BYTES), "big")


def _schedule(*, realtime: bool, priority: int = FIFO_PRIORITY) -> str:
    """Choose how this process is scheduled, and return it: without the privilege as before."""
    if realtime:
        try:
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        except PermissionError:
            return "normal (no CAP_SYS_NICE, and RLIMIT_RTPRIO is too low)"
        return f"fifo {priority}"
    return "normal"
