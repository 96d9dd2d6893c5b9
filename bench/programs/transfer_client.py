"""Many transfers, a number of them at a time, everything checked by hash.

Reads lines of JSON: ``host``, ``port``, ``at_a_time`` and ``sizes``, a list of
(bytes up, bytes down). For each writes one: ``complete``, ``took_s`` of all
together, and ``failures``.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import sys
import time

from bench.programs.limits import allow_many_files
from bench.programs.transfer import CHUNK, DIGEST, HEADER, TRAILER, chunk

_TIMEOUT_S = 60.0


async def _send(writer: asyncio.StreamWriter, up: int, down: int, which: int) -> bytes:
    digest = hashlib.sha256()
    writer.write(HEADER.pack(up, down, which, b""))
    position = 0
    while position < up:
        data = chunk(which, position, up)
        writer.write(data)
        digest.update(data)
        position += len(data)
        await writer.drain()
    writer.write_eof()
    return digest.digest()


async def _receive(reader: asyncio.StreamReader, down: int) -> tuple[bytes, bytes]:
    """Return the digest of the data, and the server's trailer; the FIN has come."""
    digest = hashlib.sha256()
    left = down
    while left:
        data = await reader.read(min(left, CHUNK))
        if not data:
            raise ConnectionError(f"closed {left} bytes early")
        digest.update(data)
        left -= len(data)
    trailer = await reader.readexactly(TRAILER)
    if await reader.read(1):
        raise ConnectionError("more than was asked for")
    return digest.digest(), trailer


async def _one(host: str, port: int, up: int, down: int, which: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        sent, (received, trailer) = await asyncio.gather(
            _send(writer, up, down, which), _receive(reader, down)
        )
        if trailer[:DIGEST] != sent:
            raise ConnectionError("the server got other data than was sent")
        if trailer[DIGEST:] != received:
            raise ConnectionError("the client got other data than was sent")
    finally:
        writer.close()
    await writer.wait_closed()


async def _all(plan: dict[str, object]) -> dict[str, object]:
    host, port, at_a_time, sizes = (plan[k] for k in ("host", "port", "at_a_time", "sizes"))
    assert isinstance(host, str)
    assert isinstance(port, int)
    assert isinstance(at_a_time, int)
    assert isinstance(sizes, list)
    failures: list[str] = []
    complete = 0
    waiting = iter(enumerate(sizes))

    async def worker() -> None:
        nonlocal complete
        for which, (up, down) in waiting:
            try:
                await asyncio.wait_for(_one(host, port, up, down, which), _TIMEOUT_S)
                complete += 1
            except (OSError, EOFError, TimeoutError) as error:
                said = str(error) or type(error).__name__
                failures.append(f"{up} up, {down} down: {said}")

    started = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(at_a_time)))
    took_s = time.monotonic() - started
    return {"complete": complete, "took_s": took_s, "failures": failures}


def main() -> None:
    """Run the plans on standard input."""
    allow_many_files()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_all(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
