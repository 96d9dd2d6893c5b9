"""The server of transfers: ``python -m bench.programs.transfer_server PORT...``."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sys
from contextlib import suppress

from bench.programs.limits import BACKLOG, allow_many_files
from bench.programs.transfer import CHUNK, HEADER, choose_congestion, chunk


async def _receive(reader: asyncio.StreamReader, size: int) -> bytes:
    digest = hashlib.sha256()
    while size:
        data = await reader.read(min(size, CHUNK))
        if not data:
            raise asyncio.IncompleteReadError(data, size)
        digest.update(data)
        size -= len(data)
    return digest.digest()


async def _send(writer: asyncio.StreamWriter, size: int, which: int) -> bytes:
    digest = hashlib.sha256()
    position = 0
    while position < size:
        data = chunk(which, position, size)
        writer.write(data)
        digest.update(data)
        position += len(data)
        await writer.drain()
    return digest.digest()


async def _transfer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        up, down, which, name = HEADER.unpack(await reader.readexactly(HEADER.size))
        choose_congestion(writer.get_extra_info("socket"), name.rstrip(b"\0"))
        digests = await asyncio.gather(_receive(reader, up), _send(writer, down, which + 1))
        writer.write(b"".join(digests))
        await writer.drain()
        await reader.read(1)  # the client's FIN, which it has sent behind its data
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _serve(ports: list[int]) -> None:
    for port in ports:
        await asyncio.start_server(_transfer, "0.0.0.0", port, backlog=BACKLOG)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    allow_many_files()
    gc.freeze()
    asyncio.run(_serve([int(port) for port in sys.argv[1:]]))
