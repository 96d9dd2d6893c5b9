"""Uploads with plain blocking sockets: a first flight, then the rest, and what the kernel counted.

Reads lines of JSON: ``host``, ``port``, ``up`` (bytes), ``first`` (so many of them in the first
write), ``pause_s`` (between the first write and the rest) and ``congestion``, a list: one upload
for each algorithm, all at once. For each line writes one, by algorithm: ``took_s`` from connect()
until the server has confirmed the data's hash, ``sent_again`` (segments that this host's TCP
retransmitted), ``min_rtt_ms`` (the least round trip that it believes in), and ``error``, empty
when all was well.
"""

from __future__ import annotations

import gc
import hashlib
import json
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bench.programs.transfer import CHUNK, DIGEST, HEADER, TRAILER, choose_congestion, chunk

_TIMEOUT_S = 60.0
_UINT32 = struct.Struct("=I")
# Offsets in struct tcp_info (linux/tcp.h).
_TOTAL_RETRANS, _MIN_RTT = 100, 148
_INFO_BYTES = 152

Result = dict[str, float | str]


def _upload(
    host: str, port: int, *, up: int, first: int, pause_s: float, congestion: str
) -> Result:
    digest = hashlib.sha256()
    with socket.socket() as connection:
        connection.settimeout(_TIMEOUT_S)
        choose_congestion(connection, congestion.encode())
        # Or the first write's last segment would wait for the second write, or an ACK (Nagle).
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.monotonic()
        connection.connect((host, port))
        header = HEADER.pack(up, 0, 0, congestion.encode())
        data = chunk(0, 0, min(first - len(header), up))
        position = 0
        while True:
            digest.update(data)
            connection.sendall(header + data)
            position += len(data)
            if position >= up:
                break
            if header:
                time.sleep(pause_s)
                header = b""
            data = chunk(0, position, up)
        connection.shutdown(socket.SHUT_WR)
        trailer = b""
        while len(trailer) < TRAILER and (data := memoryview(connection.recv(CHUNK))):
            trailer += data
        took_s = time.monotonic() - started
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    return {
        "took_s": took_s,
        "sent_again": _UINT32.unpack_from(info, _TOTAL_RETRANS)[0],
        "min_rtt_ms": _UINT32.unpack_from(info, _MIN_RTT)[0] / 1000,
        "error": "" if trailer[:DIGEST] == digest.digest() else "the server got other data",
    }


def _try(upload: partial[Result], congestion: str) -> Result:
    try:
        return upload(congestion=congestion)
    except OSError as error:
        return {"took_s": 0.0, "error": str(error) or type(error).__name__}


def main() -> None:
    """Run the plans on standard input."""
    gc.freeze()
    gc.disable()
    with ThreadPoolExecutor() as pool:
        for line in sys.stdin:
            plan = json.loads(line)
            names = plan.pop("congestion")
            results = pool.map(partial(_try, partial(_upload, **plan)), names)
            print(json.dumps(dict(zip(names, results, strict=True))), flush=True)


if __name__ == "__main__":
    main()
