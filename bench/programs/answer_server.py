"""A server for one request a connection: ``python -m bench.programs.answer_server PLAN...``.

``80`` answers what comes in on that port; ``22=hello`` speaks first there, and
asks nothing. The answer has 1,000 bytes, a request 200.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import suppress

from bench.programs.exchange import ANSWER, REQUEST
from bench.programs.limits import BACKLOG, allow_many_files


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readexactly(len(REQUEST))
        writer.write(bytes(ANSWER))
        await writer.drain()
    await _close(writer)


async def _speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        writer.write(bytes(ANSWER))
        await reader.read(1)
    await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _serve(plans: list[str]) -> None:
    for plan in plans:
        port, _, speaks = plan.partition("=")
        handler = _speak if speaks else _answer
        await asyncio.start_server(handler, "0.0.0.0", int(port), backlog=BACKLOG)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    allow_many_files()
    gc.freeze()
    asyncio.run(_serve(sys.argv[1:]))
