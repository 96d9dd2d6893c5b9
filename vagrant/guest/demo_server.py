#!/usr/bin/python3
"""The server of zerortt-demo: an ordinary TCP server that reads a request and answers it.

    demo_server.py PORT...

A request begins with its own length and that of the wanted answer's body (two 32-bit numbers in
network byte order). The answer: this machine's clock when the request's first byte was read
(nanoseconds since 1970, 64 bits), the request's SHA-256, the body's, the body. Imports
nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import os
import socket
import socketserver
import struct
import sys
import threading
import time

_SIZES = struct.Struct("!II")


class Handler(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Read the request, answer it, wait for the client to close."""
        self.request.settimeout(60)
        request = self.request.recv(65536)
        read_ns = time.time_ns()
        while len(request) < _SIZES.size:
            if not (more := self.request.recv(65536)):
                return
            request += more
        size, answer_size = _SIZES.unpack_from(request)
        while len(request) < size:
            if not (more := self.request.recv(65536)):
                return
            request += more
        body = os.urandom(answer_size)
        digests = hashlib.sha256(request).digest() + hashlib.sha256(body).digest()
        self.request.sendall(struct.pack("!Q", read_ns) + digests + body)
        self.request.recv(1)


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection; IPv4 and IPv6 on one socket."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serve on all ports until ended."""
    servers = [Server(("::", int(port)), Handler) for port in sys.argv[1:]]
    for server in servers:
        threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
