"""One request and its answer: what the answer server and its client agree on."""

from __future__ import annotations

_END = b" HTTP/1.1\r\nHost: server.test\r\n\r\n"

REQUEST = b"GET /".ljust(200 - len(_END), b"x") + _END
"""200 bytes that may be delivered twice."""

ANSWER = 1000
"""Bytes."""
