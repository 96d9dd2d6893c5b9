"""Opens connections to an echo server and keeps them alive with a little traffic.

Reads lines of JSON: ``host``, ``port`` and ``to``: so many shall be open. When they are, each new
one has echoed two bytes. From then on one of them after the other echoes a byte, a fixed number a
second in all. For each line writes one: ``open``, ``took_s`` and ``failures``, which tells of every
connection that failed since the line before.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time

from bench.programs.limits import allow_many_files

UNDER_WAY = 100
"""So many are opened at the same time."""
EACH_SECOND = 200
"""Echoes of the open ones."""
_TIMEOUT_S = 30.0


class Crowd:
    """All connections."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self.failures: list[str] = []
        self._next = 0
        self._busy: set[socket.socket] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def grow(self, host: str, port: int, to: int) -> None:
        """Open some more, a number of them at a time."""
        left = iter(range(to - len(self._open)))

        async def worker() -> None:
            for number in left:
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        self._open.append(await self._one(host, port, number))
                except (OSError, TimeoutError) as error:
                    self.failures.append(str(error) or type(error).__name__)

        await asyncio.gather(*(worker() for _ in range(UNDER_WAY)))

    async def _one(self, host: str, port: int, number: int) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
            await _echo(connection, bytes((number & 0xFF, 1)))
        except BaseException:
            connection.close()
            raise
        return connection

    async def keep(self) -> None:
        """Let one after the other echo a byte, for ever."""
        tasks: set[asyncio.Task[None]] = set()
        begin, done = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(begin + done / EACH_SECOND - time.monotonic(), 0.001))
            done += 1
            if self._open:
                self._next = (self._next + 1) % len(self._open)
                connection = self._open[self._next]
                if connection not in self._busy:  # where they are few, it may wait for its echo
                    self._busy.add(connection)
                    task = asyncio.create_task(self._touch(connection))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

    async def _touch(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await _echo(connection, b"k")
        except (OSError, TimeoutError) as error:
            self.failures.append(f"while open: {str(error) or type(error).__name__}")
            self._open.remove(connection)
            connection.close()
        finally:
            self._busy.discard(connection)


async def _echo(connection: socket.socket, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, data)
    got = b""
    while len(got) < len(data):
        piece = await loop.sock_recv(connection, len(data) - len(got))
        if not piece:
            raise ConnectionError("closed")
        got += piece
    if got != data:
        raise ConnectionError("wrong echo")


async def _serve() -> None:
    crowd = Crowd()
    loop = asyncio.get_running_loop()
    keeper: asyncio.Task[None] | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        plan = json.loads(line)
        started = time.monotonic()
        await crowd.grow(**plan)
        result = {
            "open": len(crowd),
            "took_s": time.monotonic() - started,
            "failures": crowd.failures,
        }
        crowd.failures = []
        print(json.dumps(result), flush=True)
        if keeper is None:
            keeper = asyncio.create_task(crowd.keep())


if __name__ == "__main__":
    allow_many_files()
    gc.freeze()
    asyncio.run(_serve())
