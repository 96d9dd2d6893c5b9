"""An ordinary TCP server: reads a request, sends an answer of the size it asks for.

    server.py ADDRESS PORT

The request begins with its own length and that of the answer (two 32-bit numbers). Prints
``listening`` once it does, then one line of JSON for each connection: the client's port and
the SHA-256 of what was received and of what was sent.

It is started as a program of its own and imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import socketserver
import struct
import sys

_SIZES = struct.Struct("!II")


class Handler(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Read the request, send the answer, wait for the client to close, say what passed."""
        request = self._read(_SIZES.size)
        if len(request) < _SIZES.size:
            return
        request_bytes, answer_bytes = _SIZES.unpack(request)
        request += self._read(request_bytes - len(request))
        answer = os.urandom(answer_bytes)
        self.request.sendall(answer)
        report = {
            "port": self.client_address[1],
            "received_sha256": hashlib.sha256(request).hexdigest(),
            "sent_sha256": hashlib.sha256(answer).hexdigest(),
        }
        # One write, for several connections may end at once.
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        self.request.recv(1)

    def _read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (part := self.request.recv(min(size, 65536))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serve until ended."""
    address, port = sys.argv[1], int(sys.argv[2])
    if ":" in address:
        Server.address_family = socket.AF_INET6
    with Server((address, port), Handler) as server:
        print("listening", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
