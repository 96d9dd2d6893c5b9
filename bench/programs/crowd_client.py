"""Opens connections and keeps them: reads lines of JSON with ``open``, ``host`` and ``port``.

For each line it opens that many more connections, lets every open one (old and
new) echo a byte, and writes one line: ``alive``, ``took_s`` of the echoes, and
``failures``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time

from bench.programs.limits import allow_many_files

_TIMEOUT_S = 20.0

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _open(host: str, port: int) -> _Connection:
    return await asyncio.wait_for(asyncio.open_connection(host, port), _TIMEOUT_S)


async def _echo(connection: _Connection, byte: bytes) -> None:
    reader, writer = connection
    writer.write(byte)
    got = await asyncio.wait_for(reader.readexactly(1), _TIMEOUT_S)
    if got != byte:
        raise ConnectionError("wrong echo")


async def _serve() -> None:
    connections: list[_Connection] = []
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        plan = json.loads(line)
        opened = await asyncio.gather(
            *(_open(plan["host"], plan["port"]) for _ in range(plan["open"])),
            return_exceptions=True,
        )
        connections += [one for one in opened if not isinstance(one, BaseException)]
        started = time.monotonic()
        echoed = await asyncio.gather(
            *(_echo(one, bytes((i & 0xFF,))) for i, one in enumerate(connections)),
            return_exceptions=True,
        )
        took_s = time.monotonic() - started
        failures = [repr(one) for one in (*opened, *echoed) if isinstance(one, BaseException)]
        alive = sum(one is None for one in echoed)
        print(json.dumps({"alive": alive, "took_s": took_s, "failures": failures}), flush=True)


if __name__ == "__main__":
    allow_many_files()
    gc.freeze()
    asyncio.run(_serve())
