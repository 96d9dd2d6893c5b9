"""The answers of a worker to the first process: a line for each record, then an empty line."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

from nfq_zerortt.slices import slices

SLOW_S = 5.0
"""An end that does not take, or give, anything for so long is given up."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


async def write(to: socket.socket, records: Iterable[object], pause_s: float) -> None:
    """Write records in slices, between which packets are handled.

    Raises:
        OSError, TimeoutError: the other end is gone, or does not read.
    """
    to.setblocking(False)
    loop = asyncio.get_running_loop()
    for made in slices(map(_encode, records)):
        await _send(loop, to, "\n".join(made) + "\n")
        await asyncio.sleep(pause_s)
    await _send(loop, to, "\n")


async def _send(loop: asyncio.AbstractEventLoop, to: socket.socket, text: str) -> None:
    async with asyncio.timeout(SLOW_S):
        await loop.sock_sendall(to, text.encode("ascii"))


async def read(source: socket.socket) -> AsyncIterator[Any]:
    """Give the records as they come.

    Raises:
        OSError, TimeoutError: they end before the end, or nothing comes.
    """
    reader, writer = await asyncio.open_connection(sock=source)
    try:
        while True:
            async with asyncio.timeout(SLOW_S):
                line = await reader.readline()
            if line == b"\n":
                return
            if not line.endswith(b"\n"):
                raise ConnectionResetError
            yield json.loads(line)
    finally:
        writer.close()
