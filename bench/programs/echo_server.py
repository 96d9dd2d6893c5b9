"""A server that sends back what it gets: ``python -m bench.programs.echo_server PORT...``."""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import suppress

from bench.programs.limits import BACKLOG, allow_many_files


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _serve(ports: list[int]) -> None:
    for port in ports:
        await asyncio.start_server(_echo, "0.0.0.0", port, backlog=BACKLOG)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    allow_many_files()
    gc.freeze()
    asyncio.run(_serve([int(port) for port in sys.argv[1:]]))
