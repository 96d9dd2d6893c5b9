"""All workers of a service, as its first process sees them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from nfq_zerortt.config import Config
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel.queue import PacketQueue
from nfq_zerortt.workers import orders
from nfq_zerortt.workers.process import WorkerProcess
from nfq_zerortt.workers.worker import Hire

_START_S = 10.0
_REPLY_S = 5.0
_BEYOND_DRAIN_S = 1.0
_FINISH_S = 1.0


class Crew:
    """The workers; there are none if the first process handles the packets itself.

    Attributes:
        lost: the first one that has ended unasked, in words; empty if none has.
    """

    def __init__(self) -> None:
        self.lost = ""
        self._workers: list[WorkerProcess] = []
        self._finishing = False

    def __bool__(self) -> bool:
        return bool(self._workers)

    @property
    def pids(self) -> list[int]:
        """The processes of the workers."""
        return [worker.pid for worker in self._workers]

    def hire(self, queues: Sequence[PacketQueue], work: Callable[[Hire], None]) -> None:
        """Fork a worker off for each queue, which does ``work``, and give it the queue.

        There must be no other thread, and no event loop.
        """
        for number, queue in enumerate(queues):
            boss, ours = orders.pair()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    boss.close()
                    for worker in self._workers:
                        worker.leave()
                    for other in queues:
                        if other is not queue:
                            other.leave()
                    work(Hire(number, len(queues), queue, ours))
                    status = 0
                finally:
                    os._exit(status)
            ours.close()
            self._workers.append(WorkerProcess(number + 1, pid, boss))
        for queue in queues:
            queue.leave()

    async def begin(self, stop: Callable[[], None]) -> None:
        """Wait until all handle packets; ``stop`` is called if one ends unasked later.

        Raises:
            ZeroRttError: one does not begin.
        """
        for worker in self._workers:
            worker.begin(partial(self._on_lost, worker, stop))
        await self._together(worker.serving(_START_S) for worker in self._workers)

    def _on_lost(self, worker: WorkerProcess, stop: Callable[[], None]) -> None:
        if not self._finishing:
            self.lost = self.lost or worker.end
            stop()

    # --- orders ---------------------------------------------------------------------------

    async def configure(self, config: Config) -> None:
        """Let all take over settings.

        Raises:
            ZeroRttError: one does not reply.
        """
        await self._order("configure", config, _REPLY_S)

    async def set_log_level(self, level: str) -> None:
        """Let all write events of that level and above.

        Raises:
            ZeroRttError: one does not reply.
        """
        await self._order("log_level", level, _REPLY_S)

    async def reply(self, within_s: float) -> None:
        """See that the loops of all turn: each replies from its own.

        Raises:
            ZeroRttError: one does not reply.
        """
        await self._order("reply", None, within_s)

    def tell_passing(self, count: int) -> None:
        """Tell all how many connections pass in the kernel untouched: no worker sees them end."""
        for worker in self._workers:
            worker.tell("passing", count // len(self._workers))

    async def drain(self, patience_s: float) -> None:
        """Let all end their flows; those that do not reply are left to :meth:`finish`."""
        await self._order_the_living("drain", patience_s, patience_s + _BEYOND_DRAIN_S)

    async def finish(self) -> int:
        """Let all end, and kill those that do not; return how many flows they took on."""
        self._finishing = True
        counts = await self._order_the_living("finish", None, _FINISH_S)
        self.close()
        return sum(counts)

    def close(self) -> None:
        """See that no worker is left."""
        for worker in self._workers:
            worker.leave()
        for worker in self._workers:
            worker.bury()

    async def _order(self, what: str, value: object, within_s: float) -> list[Any]:
        return await self._together(worker.order(what, value, within_s) for worker in self._workers)

    async def _order_the_living(self, what: str, value: object, within_s: float) -> list[Any]:
        living = [worker for worker in self._workers if not worker.end]
        replies = await asyncio.gather(
            *(worker.order(what, value, within_s) for worker in living), return_exceptions=True
        )
        for reply in replies:
            if isinstance(reply, ZeroRttError):
                self.lost = self.lost or str(reply)
            elif isinstance(reply, BaseException):
                raise reply
        return [reply for reply in replies if not isinstance(reply, BaseException)]

    @staticmethod
    async def _together(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        return await asyncio.gather(*work)

    # --- questions ------------------------------------------------------------------------

    async def ask(self, name: str, **parameters: Any) -> AsyncIterator[Any]:
        """Ask one after the other for records, and give them as they come.

        Raises:
            ZeroRttError: one does not answer.
        """
        for worker in self._workers:
            async for record in worker.ask(name, **parameters):
                yield record
