"""Many connections at once that go on until they are told to end, each with a hash both ways.

``python long_transfers.py server ADDRESS PORT`` echoes. ``python long_transfers.py client ADDRESS
PORT COUNT`` opens COUNT connections and keeps data going through each in both directions. It says
"going" when data has come back on all of them, and goes on until a line comes on its stdin; then it
ends each by half-closes and prints as JSON what happened: how many streams were complete and equal,
what failed, the bytes sent on each (by the client's port), and the longest time without any
progress that a connection has seen, in seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import sys
import time
from dataclasses import dataclass, field

_CHUNK = 3000
_PAUSE_S = 0.1
_TIMEOUT_S = 40.0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def _serve(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = await asyncio.start_server(_echo, address, port, family=family, backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()


@dataclass
class _Tally:
    stop: asyncio.Event
    going: int = 0
    all_going: asyncio.Event = field(default_factory=asyncio.Event)
    failed: list[str] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    longest_pause_s: float = 0.0


async def _one(address: str, port: int, number: int, count: int, tally: _Tally) -> None:
    reader, writer = await asyncio.open_connection(address, port)
    draw, up, down = random.Random(number), hashlib.sha256(), hashlib.sha256()
    sent = received = 0
    own = writer.get_extra_info("sockname")[1]

    async def listen() -> None:
        nonlocal received
        last = time.monotonic()
        while data := await reader.read(65536):
            now = time.monotonic()
            tally.longest_pause_s = max(tally.longest_pause_s, now - last)
            last = now
            if not received:
                tally.going += 1
                if tally.going == count:
                    tally.all_going.set()
            received += len(data)
            down.update(data)

    listening = asyncio.create_task(listen())
    while not tally.stop.is_set():
        data = draw.randbytes(_CHUNK)
        up.update(data)
        sent += len(data)
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(_PAUSE_S)
    writer.write_eof()
    await asyncio.wait_for(listening, _TIMEOUT_S)
    writer.close()
    tally.sent[own] = sent
    if (sent, up.digest()) != (received, down.digest()):
        raise ConnectionError(f"{sent} bytes sent, {received} came back, or others")


async def _guarded(address: str, port: int, number: int, count: int, tally: _Tally) -> None:
    try:
        await _one(address, port, number, count, tally)
    except (OSError, EOFError, TimeoutError) as error:
        tally.failed.append(f"{number}: {error!r}")


async def _transfer(address: str, port: int, count: int) -> None:
    tally = _Tally(asyncio.Event())
    work = [
        asyncio.create_task(_guarded(address, port, number, count, tally))
        for number in range(count)
    ]
    await asyncio.wait_for(tally.all_going.wait(), _TIMEOUT_S)
    print("going", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    tally.stop.set()
    await asyncio.gather(*work)
    print(
        json.dumps(
            {
                "complete": count - len(tally.failed),
                "failed": tally.failed,
                "sent": tally.sent,
                "longest_pause_s": round(tally.longest_pause_s, 3),
            }
        )
    )


if __name__ == "__main__":
    _role, _address, _port, *_rest = sys.argv[1:]
    if _role == "server":
        asyncio.run(_serve(_address, int(_port)))
    else:
        asyncio.run(_transfer(_address, int(_port), int(_rest[0])))
