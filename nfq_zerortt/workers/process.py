"""The first process's side: one worker, its orders and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.workers import orders, records
from nfq_zerortt.workers.orders import Message

_END_S = 1.0
_STEP_S = 0.01


class WorkerProcess:
    """A worker that was forked off.

    Attributes:
        number: 1 for the first.
        pid: its process.
        end: why it is gone, if it is, in words.
    """

    def __init__(self, number: int, pid: int, boss: socket.socket) -> None:
        """``boss`` is our end of the pair that orders go by."""
        self.number = number
        self.pid = pid
        self.end = ""
        self._boss = boss
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost: Callable[[], None] = _nothing
        self._count = 0
        self._replies: dict[int, asyncio.Future[Any]] = {}

    def begin(self, lost: Callable[[], None]) -> None:
        """Listen to it, in the event loop; ``lost`` is called when it has ended.

        Wait for it with :meth:`serving`.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._lost = lost
        self._replies[0] = loop.create_future()
        loop.add_reader(self._boss.fileno(), self._on_reply)

    async def serving(self, within_s: float) -> None:
        """Wait until it handles packets.

        Raises:
            ZeroRttError: it does not.
        """
        await self._reply(0, "begin", within_s)

    async def order(self, what: str, value: object, within_s: float) -> Any:
        """Give an order and return the reply.

        Raises:
            ZeroRttError: it is gone, or does not reply.
        """
        self._count += 1
        number = self._count
        self._send(Message(number, what, value))
        self._replies[number] = asyncio.get_running_loop().create_future()
        return await self._reply(number, what, within_s)

    def tell(self, what: str, value: object) -> None:
        """Give an order that nobody waits for; one that cannot be given is not missed."""
        with suppress(ZeroRttError):
            self._send(Message(0, what, value))

    async def _reply(self, number: int, what: str, within_s: float) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await self._replies[number]
        except TimeoutError:
            raise ZeroRttError(f"{self} has not replied for {within_s:g} s ({what})") from None
        finally:
            self._replies.pop(number, None)

    def _send(self, message: Message, files: tuple[int, ...] = ()) -> None:
        if self.end:
            raise ZeroRttError(self.end)
        try:
            orders.send(self._boss, message, files)
        except OSError as error:
            raise ZeroRttError(f"{self} takes no orders ({error.strerror})") from None

    async def ask(self, name: str, **parameters: Any) -> AsyncIterator[Any]:
        """Ask for records, and give them as they come.

        Raises:
            ZeroRttError: it is gone, or does not answer.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._send(Message(0, "answer", (name, parameters)), (theirs.fileno(),))
            ours.setblocking(False)
            try:
                async for record in records.read(ours):
                    yield record
            except (OSError, TimeoutError):
                raise ZeroRttError(f"{self} does not answer") from None

    def _on_reply(self) -> None:
        try:
            received = orders.receive(self._boss)
        except BlockingIOError:
            return
        if received is None:
            asyncio.get_running_loop().remove_reader(self._boss.fileno())
            self._loop = None
            self._ended()
            return
        message, files = received
        orders.close(files)
        reply = self._replies.get(message.number)
        if reply is not None and not reply.done():
            reply.set_result(message.value)

    def _ended(self) -> None:
        self.bury()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ZeroRttError(self.end))
        self._lost()

    def leave(self) -> None:
        """Give up the orders: without them it ends. Also in a process that was forked off later."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._boss.fileno())
        self._boss.close()

    def bury(self) -> None:
        """See that the process is gone: wait for a moment, then kill it."""
        if self.end:
            return
        until = time.monotonic() + _END_S
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        while not pid and time.monotonic() < until:
            time.sleep(_STEP_S)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.end = f"{self} did not end, and was killed"
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        self.end = f"{self} has ended {how}"

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"


def _nothing() -> None:
    """Nobody listens yet."""
