"""Times the first byte back: from connect() on, with plain blocking sockets.

Reads a line of JSON: of each name a list of contacts (offset in seconds, host,
port, whether the client speaks). Each name is a process of its own, which does
one contact after the other. Writes a line of JSON: of each name the
milliseconds by contact, null for one that failed; and ``failures``.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time

from bench.programs.exchange import ANSWER, REQUEST

_TIMEOUT_S = 10.0

Contact = tuple[float, str, int, bool]


def _contact(host: str, port: int, speaks: bool) -> float:
    """Return after how many milliseconds the first byte was there."""
    with socket.socket() as connection:
        connection.settimeout(_TIMEOUT_S)
        started = time.perf_counter_ns()
        connection.connect((host, port))
        if speaks:
            connection.sendall(REQUEST)
        data = connection.recv(1)
        took_ms = (time.perf_counter_ns() - started) / 1e6
        if not speaks:
            connection.shutdown(socket.SHUT_WR)
        left = ANSWER
        while data:
            left -= len(data)
            data = connection.recv(65536)
    if left:
        raise ConnectionError(f"{left} bytes of the answer are missing")
    return took_ms


def _client(begin: float, contacts: list[Contact]) -> tuple[list[float | None], list[str]]:
    took: list[float | None] = []
    failures: list[str] = []
    for offset, host, port, speaks in contacts:
        time.sleep(max(begin + offset - time.monotonic(), 0.0))
        try:
            took.append(_contact(host, port, speaks))
        except OSError as error:
            took.append(None)
            failures.append(f"{host}:{port}: {error}")
    return took, failures


def _fork(begin: float, contacts: list[Contact]) -> int:
    """Start one client; return the pipe that its results come through."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        return read
    status = 1
    try:
        with os.fdopen(write, "w") as pipe:
            json.dump(_client(begin, contacts), pipe)
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Run the plan on standard input."""
    plan = json.loads(sys.stdin.readline())
    gc.freeze()
    gc.disable()
    begin = time.monotonic() + 0.2
    pipes = {name: _fork(begin, contacts) for name, contacts in plan.items()}
    took: dict[str, list[float | None]] = {}
    failures: list[str] = []
    for name, pipe in pipes.items():
        with os.fdopen(pipe) as results:
            took[name], failed = json.load(results)
        failures += [f"{name} {failure}" for failure in failed]
    for _ in pipes:
        os.wait()
    print(json.dumps({"took_ms": took, "failures": failures}), flush=True)


if __name__ == "__main__":
    main()
