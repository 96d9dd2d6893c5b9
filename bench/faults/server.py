"""The server: ``python -m bench.faults.server PORT...``, a way's first port each.

Speaks IPv4 and IPv6. The port says what a connection is for (bench/faults/work.py).
Prints "ready", then a line of JSON for each connection that has ended:
``port``, ``client_port``, ``outcome`` and ``took_s``.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time

from bench.faults.work import (
    KINDS,
    MORTAL,
    OK,
    REQUEST,
    SHORT,
    SIZES,
    Kind,
    content,
    judge,
    of_offset,
    offset,
    outcome_of,
    receive,
)

_BACKLOG = 1024
_TIMEOUT_S = 100.0


def _listener(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    opened.bind(("::", port))
    opened.listen(_BACKLOG)
    return opened


def _serve(connection: socket.socket, kind: Kind, size: int, client_port: int) -> str:
    data = content(client_port, size)
    if kind is Kind.UPLOAD:
        got = receive(connection, size + 1)
        outcome = judge(got, data)
        if outcome != SHORT:
            connection.sendall(hashlib.sha256(got).digest())
        return outcome
    if kind is Kind.DOWNLOAD and len(receive(connection, len(REQUEST))) < len(REQUEST):
        return SHORT
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    receive(connection, 1)  # the client's FIN
    return OK


def _attend(connection: socket.socket, client_port: int, port: int, number: int) -> None:
    started = time.monotonic()
    with connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            outcome = _serve(connection, *of_offset(number), client_port)
        except OSError as error:
            outcome = outcome_of(error)
    line = {
        "port": port,
        "client_port": client_port,
        "outcome": outcome,
        "took_s": time.monotonic() - started,
    }
    sys.stdout.write(json.dumps(line) + "\n")


def _die(connection: socket.socket, client_port: int, number: int) -> None:
    """Serve half a connection in a process of its own, which then dies as by ``kill -9``."""
    if os.fork():
        connection.close()
        return
    connection.settimeout(_TIMEOUT_S)
    kind, size = of_offset(number)
    if kind is Kind.UPLOAD:
        receive(connection, size // 2)
    else:
        if kind is Kind.DOWNLOAD:
            receive(connection, len(REQUEST))
        connection.sendall(content(client_port, size // 2))
    os.kill(os.getpid(), signal.SIGKILL)


def _accept(listeners: dict[int, tuple[int, int]], sockets: list[socket.socket]) -> None:
    """Serve the listeners, by file descriptor: port, and its number in the way."""
    selector = selectors.DefaultSelector()
    for listener in sockets:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            try:
                connection, (_, client_port, *_) = key.fileobj.accept()
            except (BlockingIOError, ConnectionError):
                continue  # it has gone already
            port, number = listeners[key.fd]
            if number >= MORTAL:
                _die(connection, client_port, number - MORTAL)
            else:
                threading.Thread(
                    target=_attend, args=(connection, client_port, port, number), daemon=True
                ).start()


def main() -> None:
    """Serve until ended. The mortal server is a process of its own, without threads."""
    firsts = [int(word) for word in sys.argv[1:]]
    numbers = [offset(kind, size) for kind in KINDS for size in SIZES]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    made: dict[bool, list[tuple[socket.socket, int, int]]] = {
        mortal: [
            (_listener(first + number + mortal * MORTAL), first, number + mortal * MORTAL)
            for first in firsts
            for number in numbers
        ]
        for mortal in (False, True)
    }
    parent = os.getpid()
    mine = made[os.fork() == 0]
    for listeners in made.values():
        if listeners is not mine:
            for listener, *_ in listeners:
                listener.close()
    if os.getpid() == parent:
        sys.stdout.write("ready\n")
    sys.stdout.flush()
    _accept(
        {listener.fileno(): (first + number, number) for listener, first, number in mine},
        [listener for listener, *_ in mine],
    )


if __name__ == "__main__":
    # A line for each connection, whole even if several threads write.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
