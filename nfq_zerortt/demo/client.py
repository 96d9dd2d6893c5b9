"""An ordinary TCP client: connects, sends a request, reads the answer, closes.

    client.py ADDRESS PORT TIMEOUT_S WORK

WORK is a JSON list of objects with the keys ``key``, ``connections``, ``request_bytes``,
``answer_bytes`` and ``think_ms`` (work of its own between connect() and the first send). The
connections are made one after the other; each gives one line of JSON on stdout. Times are of
this process's own monotonic clock, in milliseconds since connect() was called.

It is started as a program of its own and imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import sys
import time
from typing import Any


def exchange(
    server: tuple[str, int], timeout_s: float, request: bytes, answer_bytes: int, think_s: float
) -> dict[str, Any]:
    """Make one connection, send the request, read the whole answer; OSError when that fails."""
    called = time.perf_counter()
    with socket.create_connection(server, timeout_s) as connection:
        connected = time.perf_counter()
        if think_s:
            # Busy, as an application that prepares its request is: it does not sleep.
            while time.perf_counter() - connected < think_s:
                pass
        connection.sendall(request)
        answer = connection.recv(65536)
        first = time.perf_counter()
        received = [answer]
        missing = answer_bytes - len(answer)
        while answer and missing > 0:
            answer = connection.recv(65536)
            received.append(answer)
            missing -= len(answer)
        last = time.perf_counter()
        body = b"".join(received)
        if len(body) != answer_bytes:
            raise ConnectionError(f"the answer ended after {len(body)} of {answer_bytes} bytes")
        return {
            "port": connection.getsockname()[1],
            "connect_ms": (connected - called) * 1000,
            "first_byte_back_ms": (first - called) * 1000,
            "last_byte_back_ms": (last - called) * 1000,
            "sent_sha256": hashlib.sha256(request).hexdigest(),
            "received_sha256": hashlib.sha256(body).hexdigest(),
        }


def main() -> None:
    """Do the work; a connection that fails is reported, and the next one is tried."""
    server = (sys.argv[1], int(sys.argv[2]))
    timeout_s = float(sys.argv[3])
    for work in json.loads(sys.argv[4]):
        sizes = struct.pack("!II", work["request_bytes"], work["answer_bytes"])
        for number in range(work["connections"]):
            request = sizes + os.urandom(work["request_bytes"] - len(sizes))
            report = {"work": work["key"], "number": number, "error": None}
            try:
                report |= exchange(
                    server, timeout_s, request, work["answer_bytes"], work["think_ms"] / 1000
                )
            except OSError as error:
                report["error"] = str(error) or type(error).__name__
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
