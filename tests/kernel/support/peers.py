"""The two ends of a connection: plain sockets of the client's and the server's kernel."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from nfq_zerortt.testbed.network import Testbed
from support.addresses import IPV4, Family
from support.namespaces import inside
from support.waiting import PATIENCE_S

SERVER = IPV4.server
LINGER_0 = struct.pack("ii", 1, 0)
_PORTS = itertools.count(20_000)


def next_port() -> int:
    """Return a server port that no other test has: nothing was learned of it yet."""
    return next(_PORTS)


def content(size: int, seed: int = 1) -> bytes:
    """Return bytes in which no part is like another."""
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    """Return the SHA-256 of the data."""
    return hashlib.sha256(data).hexdigest()


def receive(source: socket.socket, size: int) -> bytes:
    """Return exactly ``size`` bytes."""
    data = bytearray()
    while len(data) < size:
        piece = source.recv(min(size - len(data), 1 << 16))
        assert piece, f"the stream ended after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def receive_all(source: socket.socket) -> bytes:
    """Return everything up to the other end's FIN."""
    return b"".join(iter(lambda: source.recv(1 << 16), b""))


def expect_reset(end: socket.socket) -> None:
    """The connection must be reset, not closed, and not hang."""
    with pytest.raises(ConnectionResetError):
        receive_all(end)


@contextmanager
def sending(target: socket.socket, data: bytes) -> Iterator[None]:
    """Send while the block runs; all must have been taken when it ends."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            target.sendall(data)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the data was not taken"
    if failed:
        raise failed[0]


def transfer(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Send data from one end to the other and compare the hashes."""
    with sending(sender, data):
        got = receive(receiver, len(data))
    assert digest(got) == digest(data)


REQUEST = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"
"""Of a client that speaks first, and short enough for a SYN."""


@dataclass
class Peers:
    """Makes sockets on the client and on the server of a testbed; ``close`` closes them all."""

    testbed: Testbed
    family: Family = IPV4

    def __post_init__(self) -> None:
        self._open = ExitStack()

    def close(self) -> None:
        """Close every socket."""
        self._open.close()

    def tcp(self, host: str, protocol: int = 0) -> socket.socket:
        """Return a new TCP socket on a host."""
        with inside(self.testbed.netns(host)):
            made = socket.socket(self.family.sockets, socket.SOCK_STREAM, protocol)
        self._open.callback(made.close)
        made.settimeout(PATIENCE_S)
        return made

    def listen(
        self, port: int, *, receive_buffer: int | None = None, protocol: int = 0
    ) -> socket.socket:
        """Return a listening socket on the server."""
        listener = self.tcp("server", protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind((self.family.server, port))
        listener.listen(128)
        return listener

    def accept(self, listener: socket.socket) -> socket.socket:
        """Return the next connection of a listener."""
        accepted, _ = listener.accept()
        self._open.callback(accepted.close)
        accepted.settimeout(PATIENCE_S)
        return accepted

    def connect(
        self, port: int, *, source_port: int = 0, receive_buffer: int | None = None
    ) -> socket.socket:
        """Return a connected socket on the client."""
        client = self.tcp("client")
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source_port:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", source_port))
        client.connect((self.family.server, port))
        return client

    def pair(self, port: int) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection: the client's and the server's."""
        listener = self.listen(port)
        client = self.connect(port)
        return client, self.accept(listener)

    def asked_and_answered(self, port: int) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a connection whose client has spoken at once, and was answered."""
        listener = self.listen(port)
        client = self.connect(port)
        client.sendall(REQUEST)
        server = self.accept(listener)
        assert server.recv(100) == REQUEST
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"
        listener.close()
        return client, server
