"""One transfer after the other with plain blocking sockets, each timed from connect() on.

Reads lines of JSON: ``host``, ``port``, ``up``, ``down``, ``congestion``. For
each writes one: ``took_s`` until all is at the other end and the client knows
it, ``connect_s``, and ``error``, empty when all was well.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import time

from bench.programs.transfer import CHUNK, DIGEST, HEADER, TRAILER, choose_congestion, chunk

_TIMEOUT_S = 60.0


def _transfer(host: str, port: int, up: int, down: int, congestion: str) -> dict[str, float | str]:
    with socket.socket() as connection:
        connection.settimeout(_TIMEOUT_S)
        choose_congestion(connection, congestion.encode())
        started = time.monotonic()
        connection.connect((host, port))
        connected = time.monotonic()
        connection.sendall(HEADER.pack(up, down, 0, congestion.encode()))
        position = 0
        while position < up:
            data = chunk(0, position, up)
            connection.sendall(data)
            position += len(data)
        connection.shutdown(socket.SHUT_WR)
        left = down + TRAILER
        trailer = b""
        while left and (data := memoryview(connection.recv(CHUNK))):
            left -= len(data)
            trailer = (trailer + bytes(data))[-TRAILER:]
        took_s = time.monotonic() - started
        error = "" if not left and not connection.recv(1) else "not closed where it should"
    if len(trailer) < 2 * DIGEST:
        error = "closed early"
    return {"took_s": took_s, "connect_s": connected - started, "error": error}


def main() -> None:
    """Run the plans on standard input."""
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        plan = json.loads(line)
        try:
            result = _transfer(**plan)
        except OSError as error:
            result = {"took_s": 0.0, "connect_s": 0.0, "error": str(error)}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
