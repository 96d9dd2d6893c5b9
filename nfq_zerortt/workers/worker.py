"""The worker's side: a process that handles the packets of one queue, as it is told."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, NamedTuple

from nfq_zerortt.config import Config
from nfq_zerortt.handler import Handler
from nfq_zerortt.journal import Journal
from nfq_zerortt.kernel.queue import PacketQueue
from nfq_zerortt.slices import PAUSE_S
from nfq_zerortt.starting import SIGNALS
from nfq_zerortt.workers import orders, records
from nfq_zerortt.workers.orders import Message

_ROOM_S = 1.0

Answers = Mapping[str, Callable[..., Iterator[Any]]]


class Hire(NamedTuple):
    """What a worker begins with.

    Attributes:
        number: 0 for the first; ``of`` how many there are.
        queue: whose packets it handles.
        boss: its end of the pair that orders come by.
    """

    number: int
    of: int
    queue: PacketQueue
    boss: socket.socket


class Worker:
    """Handles packets until it is told to finish, or the first process is gone."""

    def __init__(
        self,
        hire: Hire,
        handler: Handler,
        journal: Journal,
        answers: Answers,
        clear_away: Callable[[], Awaitable[None]],
    ) -> None:
        """``answers`` gives what may be asked of us.

        ``clear_away`` removes what the service has set, if the first process cannot any more.
        """
        self._hire = hire
        self._handler = handler
        self._journal = journal
        self._answers = answers
        self._clear_away = clear_away
        self._boss = hire.boss
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Handle packets; to be called right after the fork."""
        for number in SIGNALS:  # the first process's to follow, also when all of them get one
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._done = asyncio.Event()
        loop = asyncio.get_running_loop()
        queue, is_last = self._hire.queue, self._hire.number + 1 == self._hire.of
        self._handler.start(queue, None if is_last else queue.number + 1)
        self._begin(self._handler.tidy())
        self._begin(self._look_for_room())
        loop.add_reader(self._boss.fileno(), self._on_order)
        self._reply(Message(0, "serving"))
        await self._done.wait()
        loop.remove_reader(self._boss.fileno())
        self._handler.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_for_room(self) -> None:
        """Try now and then whether the kernel has room again: the first process makes it."""
        while True:
            await asyncio.sleep(_ROOM_S)
            if self._handler.carrying is not None:
                self._handler.carrying.may_have_room()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._journal.guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reply(self, message: Message) -> None:
        try:
            orders.send(self._boss, message)
        except OSError:
            self._orphaned()

    def _on_order(self) -> None:
        try:
            received = orders.receive(self._boss)
        except BlockingIOError:
            return
        if received is None:
            self._orphaned()
            return
        order, files = received
        if order.what == "answer":
            name, parameters = order.value
            asker = socket.socket(fileno=files[0])
            self._begin(self._answer(name, parameters, asker))
        else:
            orders.close(files)
            self._begin(self._obey(order))

    async def _obey(self, order: Message) -> None:
        value: Any = None
        if order.what == "configure":
            self.configure(order.value)
            self._handler.set_timer()  # other limits move the flows' timers
        elif order.what == "log_level":
            self._handler.set_log_level(order.value)
        elif order.what == "drain":
            await self._handler.drain(order.value)
        elif order.what == "finish":
            self._handler.empty_queue()
            value = self._handler.flows
        elif order.what == "passing" and self._handler.carrying is not None:
            self._handler.carrying.passing = order.value
        if order.number:
            self._reply(order._replace(value=value))
        if order.what == "finish":
            self._done.set()

    def configure(self, config: Config) -> None:
        """Take over settings; of the limits, our share."""
        self._handler.configure(config, config.limits.share(self._hire.number, self._hire.of))

    async def _answer(self, name: str, parameters: Mapping[str, Any], asker: socket.socket) -> None:
        with asker:
            try:
                await records.write(asker, self._answers[name](**parameters), PAUSE_S)
            except (OSError, TimeoutError):
                return  # whoever asked has hung up, or does not read

    def _orphaned(self) -> None:
        """The first process has been killed: end at once, and leave nothing."""
        if self._done.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._boss.fileno())
        self._begin(self._end_alone())

    async def _end_alone(self) -> None:
        try:
            await self._handler.drain(0)
            if self._hire.number == 0:
                await self._clear_away()
            self._handler.empty_queue()
        finally:
            self._done.set()
