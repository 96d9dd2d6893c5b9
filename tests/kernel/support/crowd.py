"""Many connections of mixed sizes at once, each with hashes of what went either way.

``python crowd.py server ADDRESS PORT QLEN`` serves: QLEN bounds the Fast Open queue (0: as the
kernel has it). ``python crowd.py client ADDRESS PORTS COUNT AT_ONCE`` opens COUNT connections
to the comma-separated PORTS in turn, AT_ONCE of them at a time, and prints as JSON what failed.

A request is "GET " (so that it may go in a SYN), its length and that of the answer wanted (4
bytes each), data, and a hash; the answer is data and the hash of request and answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import struct
import sys

_HEADER = struct.Struct(">4sII")
_HASH = 32
_TCP_FASTOPEN = 23
_BACKLOG = 4096
_TIMEOUT_S = 60.0
_SIZES = (1, 100, 800, 1428, 1429, 3000, 20_000)


def _sha(*data: bytes) -> bytes:
    return hashlib.sha256(b"".join(data)).digest()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        header = await reader.readexactly(_HEADER.size)
        _, asked, wanted = _HEADER.unpack(header)
        data = await reader.readexactly(asked)
        if await reader.readexactly(_HASH) != _sha(header, data):
            raise ConnectionError("the request was changed")
        answer = random.Random(wanted).randbytes(wanted)
        writer.write(answer + _sha(header, data, answer))
        writer.write_eof()
        if await reader.read():
            raise ConnectionError("more than the request came")
    finally:
        writer.close()


async def _serve(address: str, port: int, qlen: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=_BACKLOG)
    if qlen:
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN, qlen)
    server = await asyncio.start_server(_answer, sock=listener, backlog=_BACKLOG)
    if qlen:  # listen() was called again, which sets it to the backlog
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN, qlen)
    print("listening", flush=True)
    await server.serve_forever()


async def _ask(address: str, port: int, number: int) -> None:
    draw = random.Random(number)
    asked, wanted = draw.choice(_SIZES), draw.choice(_SIZES)
    reader, writer = await asyncio.open_connection(address, port)
    try:
        header, data = _HEADER.pack(b"GET ", asked, wanted), draw.randbytes(asked)
        writer.write(header + data + _sha(header, data))
        answer = await reader.readexactly(wanted)
        if await reader.readexactly(_HASH) != _sha(header, data, answer):
            raise ConnectionError("the answer was changed")
        if await reader.read():
            raise ConnectionError("more than the answer came")
    finally:
        writer.close()


async def _crowd(address: str, ports: list[int], count: int, at_once: int) -> None:
    room = asyncio.Semaphore(at_once)
    failed: list[str] = []

    async def one(number: int) -> None:
        async with room:
            port = ports[number % len(ports)]
            try:
                await asyncio.wait_for(_ask(address, port, number), _TIMEOUT_S)
            except (OSError, EOFError, TimeoutError) as error:
                failed.append(f"{number} to {port}: {error!r}")

    await asyncio.gather(*(one(number) for number in range(count)))
    print(json.dumps({"complete": count - len(failed), "failed": failed}))


if __name__ == "__main__":
    _role, _address, *_rest = sys.argv[1:]
    if _role == "server":
        asyncio.run(_serve(_address, int(_rest[0]), int(_rest[1])))
    else:
        _ports = [int(word) for word in _rest[0].split(",")]
        asyncio.run(_crowd(_address, _ports, int(_rest[1]), int(_rest[2])))
