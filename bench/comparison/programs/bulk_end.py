"""Both ends of bulk streams, one thread each: ``bulk_end serve PORT``, or ``bulk_end``: the client.

Reads lines of JSON and writes one for each. Both understand ``{"do": "count"}``: the bytes that
this end's applications have received so far, the moment (CLOCK_MONOTONIC, the same on all hosts of
a kernel), and how many streams were ``carrying`` anything. The client also
``{"do": "start", "host", "port", "streams", "direction"}`` ("up" or "down") and ``{"do": "stop"}``:
every stream is ended in order, and the receiver must have got as many bytes as the sender has sent;
``failures`` tells of those where it is not so.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.programs.limits import BACKLOG

_UP, _DOWN = b"u", b"d"
_TOTAL = struct.Struct(">Q")
_SEND = bytes(256 * 1024)
_RECEIVE = 1 << 20
_TIMEOUT_S = 30.0

_Work = Callable[[socket.socket, list[int]], None]
"""What a thread does with its stream, and the place where it counts."""


class Received:
    """Bytes received by all threads; each has a place of its own, so none waits for another."""

    def __init__(self) -> None:
        self._places: list[list[int]] = []

    def place(self) -> list[int]:
        """Return a place for one more thread: a list of one number."""
        self._places.append([0])
        return self._places[-1]

    def count(self) -> dict[str, float]:
        """Return the sum, when it was that, and how many have received anything."""
        counts = [place[0] for place in self._places]
        return {
            "bytes": sum(counts),
            "at": time.monotonic(),
            "carrying": len(counts) - counts.count(0),
        }


def _receive(connection: socket.socket, place: list[int]) -> bytes:
    """Read to the end; return the last bytes."""
    buffer = bytearray(_RECEIVE)
    view, tail = memoryview(buffer), b""
    while size := connection.recv_into(buffer):
        place[0] += size
        if size < _TOTAL.size:
            tail = (tail + bytes(view[:size]))[-_TOTAL.size :]
        else:
            tail = bytes(view[size - _TOTAL.size : size])
    return tail


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("closed early")
        data += piece
    return data


# --- the server ---------------------------------------------------------------------------


def _has_ended(connection: socket.socket) -> bool:
    """Return whether the client has closed its side; it says nothing else."""
    try:
        return not connection.recv(1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _serve_one(connection: socket.socket, received: Received) -> None:
    try:
        with connection:
            connection.settimeout(None)
            if _exactly(connection, 1) == _UP:
                place = received.place()
                _receive(connection, place)
                connection.sendall(_TOTAL.pack(place[0]))
            else:
                sent = 0
                while not _has_ended(connection):
                    connection.sendall(_SEND)
                    sent += len(_SEND)
                connection.sendall(_TOTAL.pack(sent))
    except OSError as error:
        print(f"bulk_end: {error}", file=sys.stderr)


def _accept(listener: socket.socket, received: Received) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection, received), daemon=True).start()


# --- the client ---------------------------------------------------------------------------


class Streams:
    """The streams of one run, all in one direction."""

    def __init__(
        self, received: Received, *, host: str, port: int, streams: int, direction: str
    ) -> None:
        self._stop = threading.Event()
        self.failures: list[str] = []
        work = self._send if direction == "up" else self._fetch
        connections = [socket.create_connection((host, port), _TIMEOUT_S) for _ in range(streams)]
        self._threads = [
            threading.Thread(target=self._run, args=(work, one, received.place()), daemon=True)
            for one in connections
        ]
        self._connections = connections
        for thread in self._threads:
            thread.start()

    def stop(self, *, direction: str) -> list[str]:
        """End all; return what was wrong."""
        self._stop.set()
        if direction == "down":
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_WR)
                except OSError as error:
                    self.failures.append(str(error))
        for thread in self._threads:
            thread.join(_TIMEOUT_S)
            if thread.is_alive():
                self.failures.append(f"not ended after {_TIMEOUT_S:g} s")
        return self.failures

    def _run(self, work: _Work, connection: socket.socket, place: list[int]) -> None:
        try:
            with connection:
                work(connection, place)
        except OSError as error:
            self.failures.append(str(error) or type(error).__name__)

    def _send(self, connection: socket.socket, _place: list[int]) -> None:
        connection.sendall(_UP)
        sent = 0
        while not self._stop.is_set():
            connection.sendall(_SEND)
            sent += len(_SEND)
        connection.shutdown(socket.SHUT_WR)
        (got,) = _TOTAL.unpack(_exactly(connection, _TOTAL.size))
        self._compare(sent, got)

    def _fetch(self, connection: socket.socket, place: list[int]) -> None:
        connection.sendall(_DOWN)
        tail = _receive(connection, place)
        if len(tail) < _TOTAL.size:
            raise ConnectionError("closed early")
        self._compare(_TOTAL.unpack(tail)[0], place[0] - _TOTAL.size)

    def _compare(self, sent: int, got: int) -> None:
        if got != sent:
            self.failures.append(f"{sent} bytes were sent, {got} received")


def _answer(plan: dict[str, Any], received: Received, running: list[Streams]) -> object:
    """Do what one line says."""
    done = plan.pop("do")
    if done == "start":
        running.append(Streams(received, **plan))
        return {}
    if done == "stop":
        return {"failures": running.pop().stop(**plan)}
    return received.count()


def main() -> None:
    """Do what the lines on standard input say."""
    received = Received()
    if sys.argv[1:2] == ["serve"]:
        listener = socket.create_server(("0.0.0.0", int(sys.argv[2])), backlog=BACKLOG)
        threading.Thread(target=_accept, args=(listener, received), daemon=True).start()
    running: list[Streams] = []
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), received, running)), flush=True)


if __name__ == "__main__":
    main()
