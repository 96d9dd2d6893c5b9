"""The client: reads lines of JSON, each a row's work; answers each with one.

``host``; ``ways``, by name a list of (server port, client port, kind, size);
``workers`` of each way at the same time; ``timeout_s`` without anything coming or
going; ``dies``: in mid-transfer, as by ``kill -9``. Answers with, by name,
``began_s`` and ``ended_s``, and ``results``, a list of (outcome, seconds).
"""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench.faults.work import (
    OK,
    OTHER_DATA,
    REQUEST,
    SHORT,
    Kind,
    content,
    judge,
    outcome_of,
    receive,
)

Job = tuple[int, int, str, int]
_APART_S = 0.005
_DIGEST = hashlib.sha256().digest_size


def _open(host: str, client_port: int, timeout_s: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    # Its twin of the other way has the same port.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.settimeout(timeout_s)
    opened.bind(("", client_port))
    return opened


def _talk(connection: socket.socket, kind: str, size: int, client_port: int) -> str:
    data = content(client_port, size)
    if kind == Kind.UPLOAD:
        connection.sendall(data)
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it has been reset: recv() says so
                raise
        digest = receive(connection, _DIGEST + 1)
        if len(digest) < _DIGEST:
            return SHORT
        return OK if digest == hashlib.sha256(data).digest() else OTHER_DATA
    if kind == Kind.DOWNLOAD:
        connection.sendall(REQUEST)
    return judge(receive(connection, size + 1), data)


def _one(host: str, job: Job, timeout_s: float) -> tuple[str, float]:
    port, client_port, kind, size = job
    with _open(host, client_port, timeout_s) as connection:
        started = time.monotonic()
        try:
            connection.connect((host, port))
            outcome = _talk(connection, kind, size, client_port)
        except OSError as error:
            outcome = outcome_of(error)
        return outcome, time.monotonic() - started


class _Way:
    """The connections of one way, some at a time."""

    def __init__(self, host: str, jobs: list[Job], workers: int, timeout_s: float) -> None:
        self._host = host
        self._jobs = jobs
        self._timeout_s = timeout_s
        self._left: Iterator[int] = iter(range(len(jobs)))
        self.results: list[tuple[str, float]] = [("", 0.0)] * len(jobs)
        self.ended = 0.0
        self.threads = [threading.Thread(target=self._work) for _ in range(workers)]

    def _work(self) -> None:
        for number in self._left:
            self.results[number] = _one(self._host, self._jobs[number], self._timeout_s)
        self.ended = max(self.ended, time.monotonic())


def _run(plan: dict[str, Any]) -> dict[str, Any]:
    ways = {
        name: _Way(plan["host"], jobs, plan["workers"], plan["timeout_s"])
        for name, jobs in plan["ways"].items()
    }
    began = time.monotonic()
    # By turns, so that none is ahead; apart, so that not all are in the same phase of a round trip.
    for turn in zip(*(way.threads for way in ways.values()), strict=True):
        for thread in turn:
            thread.start()
        time.sleep(_APART_S)
    for way in ways.values():
        for thread in way.threads:
            thread.join()
    return {
        name: {"took_s": way.ended - began, "results": way.results} for name, way in ways.items()
    }


def _half(host: str, job: Job, timeout_s: float) -> None:
    """Do half a transfer and die."""
    port, client_port, kind, size = job
    connection = _open(host, client_port, timeout_s)
    connection.connect((host, port))
    if kind == Kind.UPLOAD:
        connection.sendall(content(client_port, size // 2))
    else:
        if kind == Kind.DOWNLOAD:
            connection.sendall(REQUEST)
        receive(connection, size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def _die(plan: dict[str, Any]) -> dict[str, Any]:
    """Each connection in a process of its own, ``workers`` of each way at a time."""
    began = time.monotonic()
    running = 0
    for pair in zip(*plan["ways"].values(), strict=True):
        for job in pair:
            if running >= plan["workers"] * len(plan["ways"]):
                os.wait()
                running -= 1
            if not os.fork():
                try:
                    _half(plan["host"], job, plan["timeout_s"])
                finally:
                    os._exit(1)
            running += 1
    for _ in range(running):
        os.wait()
    took_s = time.monotonic() - began
    return {name: {"took_s": took_s, "results": []} for name in plan["ways"]}


def main() -> None:
    """Do the work on standard input."""
    gc.freeze()
    for line in sys.stdin:
        plan = json.loads(line)
        print(json.dumps((_die if plan["dies"] else _run)(plan)), flush=True)


if __name__ == "__main__":
    main()
