"""The control socket, the service's side: JSON lines over a Unix socket.

A request is one line, ``{"request": NAME, ...}``; its answer is one line, too:
``{"answer": ...}`` or ``{"error": TEXT}``. docs/reference/control.md has all
requests.

Packets come first. A long answer is made in slices, each sent before the next
is made, so it takes neither time nor memory from anybody; a client that is
silent, or does not read, is hung up on; and so many are served at a time, the
others wait in the kernel.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.slices import PAUSE_S, async_slices, slices

MOST_CLIENTS = 8
LONGEST_REQUEST = 4096
SILENT_S = 30.0
"""A client that asks nothing for so long is hung up on."""
SLOW_S = 5.0
"""Likewise one that does not take a piece of its answer in that time."""
_AFTER_FAULT_S = 1.0

_encode: Callable[[object], str] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Request:
    """Something that can be asked for.

    Attributes:
        answer: gets the parameters that were given as keywords. It returns a value for JSON, or
            something that it can be awaited from; or an iterator, asynchronous or not, which
            makes an array, one element at a time.
        parameters: the names that are allowed.
    """

    answer: Callable[..., object]
    parameters: frozenset[str] = frozenset()


class ControlServer:
    """Answers clients, as many as are allowed at a time."""

    def __init__(
        self,
        listener: socket.socket,
        requests: Mapping[str, Request],
        fault: Callable[[], None],
    ) -> None:
        """``fault`` is called where an exception is caught that is a bug of ours."""
        listener.setblocking(False)
        self._listener = listener
        self._requests = requests
        self._fault = fault

    async def serve(self) -> None:
        """Serve until cancelled."""
        slots = asyncio.Semaphore(MOST_CLIENTS)
        async with asyncio.TaskGroup() as clients:
            while True:
                await slots.acquire()
                client = await self._accept()
                task = clients.create_task(self._talk(client))
                task.add_done_callback(lambda _: slots.release())
                await asyncio.sleep(0)  # a connection that waits already is taken without waiting

    async def _accept(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError:  # there are too many open files, for one
                self._fault()
                await asyncio.sleep(_AFTER_FAULT_S)
            else:
                return client

    async def _talk(self, client: socket.socket) -> None:
        with client:
            try:
                await self._converse(client)
            except (OSError, TimeoutError, ZeroRttError):
                return  # it has hung up, or is hung up on; or the rest cannot be had
            except Exception:
                self._fault()

    async def _converse(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        waiting = b""
        while True:
            line, ended, rest = waiting.partition(b"\n")
            if ended:
                waiting = rest
                await self._answer(client, line)
                await asyncio.sleep(0)  # further requests are here perhaps
                continue
            if len(waiting) > LONGEST_REQUEST:
                error = f"the request is longer than {LONGEST_REQUEST} bytes"
                await _send(client, _encode({"error": error}) + "\n")
                return
            async with asyncio.timeout(SILENT_S):
                piece = await loop.sock_recv(client, LONGEST_REQUEST)
            if not piece:
                return
            waiting += piece

    async def _answer(self, client: socket.socket, line: bytes) -> None:
        try:
            answer = self._ask(line)
            if isinstance(answer, Awaitable):
                answer = await answer
        except ZeroRttError as error:
            await _send(client, _encode({"error": str(error)}) + "\n")
            return
        if not isinstance(answer, Iterator | AsyncIterator):
            await _send(client, _encode({"answer": answer}) + "\n")
            return
        before = '{"answer":['
        async for made in _pieces(answer):
            await _send(client, before + ",".join(made))
            await asyncio.sleep(PAUSE_S)
            before = ","
        await _send(client, "]}\n" if before == "," else before + "]}\n")

    def _ask(self, line: bytes) -> object:
        try:
            asked: Any = json.loads(line)
        except (ValueError, RecursionError):
            raise ZeroRttError("the request is not JSON") from None
        if not isinstance(asked, dict):
            raise ZeroRttError('a request is an object: {"request": NAME}')
        name = asked.pop("request", None)
        request = self._requests.get(name) if isinstance(name, str) else None
        if request is None:
            raise ZeroRttError(f"no request {name!r}; there are: {_listed(self._requests)}")
        unknown = asked.keys() - request.parameters
        if unknown:
            allowed = _listed(request.parameters) or "none"
            raise ZeroRttError(f"{name}: unknown: {_listed(unknown)}; allowed: {allowed}")
        return request.answer(**asked)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


async def _pieces(items: Iterator[Any] | AsyncIterator[Any]) -> AsyncIterator[list[str]]:
    if isinstance(items, Iterator):
        for made in slices(map(_encode, items)):
            yield made
    else:
        async for made in async_slices(_encode(item) async for item in items):
            yield made


async def _send(client: socket.socket, text: str) -> None:
    async with asyncio.timeout(SLOW_S):
        await asyncio.get_running_loop().sock_sendall(client, text.encode("ascii"))
