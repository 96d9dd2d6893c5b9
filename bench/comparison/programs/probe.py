"""Times connect() and the first byte back, with plain blocking sockets, one after the other.

Reads lines of JSON: ``host``, ``port``, ``times``, ``pause_s`` (between two) and ``answer``, the
SHA-256 of the web server's answer without its header. For each writes one: ``connect_ms`` and
``first_byte_ms`` (both from before connect() on), lists; and ``failures``.
"""

from __future__ import annotations

import gc
import hashlib
import json
import socket
import sys
import time

_REQUEST = b"GET / HTTP/1.0\r\nHost: server.test\r\n\r\n"
_TIMEOUT_S = 10.0


def _one(host: str, port: int, answer: str) -> tuple[float, float]:
    """Return milliseconds until connect() returned and until the first byte was there."""
    with socket.socket() as connection:
        connection.settimeout(_TIMEOUT_S)
        started = time.perf_counter_ns()
        connection.connect((host, port))
        connected = time.perf_counter_ns()
        connection.sendall(_REQUEST)
        data = connection.recv(1)
        first = time.perf_counter_ns()
        while piece := connection.recv(65536):
            data += piece
    header, _, body = data.partition(b"\r\n\r\n")
    if not header.startswith(b"HTTP/1.1 200 ") or hashlib.sha256(body).hexdigest() != answer:
        raise ConnectionError(f"another answer than the server's, of {len(data)} bytes")
    return (connected - started) / 1e6, (first - started) / 1e6


def main() -> None:
    """Run the plans on standard input."""
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        plan = json.loads(line)
        times: list[tuple[float, float]] = []
        failures: list[str] = []
        for _ in range(plan["times"]):
            try:
                times.append(_one(plan["host"], plan["port"], plan["answer"]))
            except OSError as error:
                failures.append(str(error) or type(error).__name__)
            time.sleep(plan["pause_s"])
        result = {
            "connect_ms": [connect for connect, _ in times],
            "first_byte_ms": [first for _, first in times],
            "failures": failures,
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
