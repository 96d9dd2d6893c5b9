"""Times connect(): many clients that all call it in the same moment, again and again.

Reads one line of JSON: ``at_a_time``, the number of clients, each a process of
its own with blocking sockets; and ``rounds``, a list of (offset in seconds,
name, host, port). Every client takes part in every round; with ``spread_s`` the
second begins so much after the first, and so on. Each connection
echoes a request afterwards, so that one which only seemed to be open counts as
failed. Writes one line of JSON: ``connect_us`` by name, and ``failures``.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from collections import deque

_REQUEST = b"q" * 200
_ANSWERED_AFTER_S = 0.6
_TIMEOUT_S = 15.0

Round = tuple[float, str, str, int]


def _finish(connection: socket.socket) -> str | None:
    """Read the echo and close; return what went wrong."""
    try:
        got = b""
        while len(got) < len(_REQUEST):
            data = connection.recv(4096)
            if not data:
                return "closed early"
            got += data
        return None if got == _REQUEST else "wrong echo"
    except OSError as error:
        return str(error)
    finally:
        connection.close()


def _client(begin: float, rounds: list[Round]) -> dict[str, object]:
    took: dict[str, list[float]] = {}
    failures: list[str] = []
    waiting: deque[tuple[float, str, socket.socket]] = deque()

    def finish_oldest() -> None:
        _, name, connection = waiting.popleft()
        problem = _finish(connection)
        if problem:
            failures.append(f"{name}: {problem}")

    for offset, name, host, port in rounds:
        while waiting and waiting[0][0] + _ANSWERED_AFTER_S < time.monotonic():
            finish_oldest()
        connection = socket.socket()
        time.sleep(max(begin + offset - time.monotonic(), 0.0))
        started = time.perf_counter_ns()
        try:
            connection.connect((host, port))
        except OSError as error:
            failures.append(f"{name}: {error}")
            connection.close()
            continue
        took.setdefault(name, []).append((time.perf_counter_ns() - started) / 1000)
        connection.settimeout(_TIMEOUT_S)
        connection.sendall(_REQUEST)
        waiting.append((time.monotonic(), name, connection))
    while waiting:
        finish_oldest()
    return {"connect_us": took, "failures": failures}


def _fork(begin: float, rounds: list[Round]) -> int:
    """Start one client; return the pipe that its results come through."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        return read
    status = 1
    try:
        with os.fdopen(write, "w") as pipe:
            json.dump(_client(begin, rounds), pipe)
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Run the plan on standard input."""
    plan = json.loads(sys.stdin.readline())
    rounds = [(offset, name, host, port) for offset, name, host, port in plan["rounds"]]
    clients = plan["at_a_time"]
    gc.freeze()
    gc.disable()
    begin = time.monotonic() + 0.3 + 0.005 * clients
    pipes = [_fork(begin + number * plan["spread_s"], rounds) for number in range(clients)]
    took: dict[str, list[float]] = {}
    failures: list[str] = []
    for pipe in pipes:
        with os.fdopen(pipe) as results:
            one = json.load(results)
        failures += one["failures"]
        for name, values in one["connect_us"].items():
            took.setdefault(name, []).extend(values)
    for _ in pipes:
        os.wait()
    print(json.dumps({"connect_us": took, "failures": failures}), flush=True)


if __name__ == "__main__":
    main()
