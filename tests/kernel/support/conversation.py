"""Requests and answers between two plain sockets, one connection after the other."""

from __future__ import annotations

import socket

from support.peers import Peers, content, digest, receive, receive_all, sending

_ANSWER = 3000


def converse(peers: Peers, port: int, requests: list[bytes], *, fin: bool = False) -> None:
    """Connections one after the other to a new listener: a request, an answer, both compared."""
    talk(peers, peers.listen(port), requests, fin=fin)


def talk(
    peers: Peers, listener: socket.socket, requests: list[bytes], *, fin: bool = False
) -> None:
    """The same with a listener that is there."""
    port = listener.getsockname()[1]
    for number, request in enumerate(requests):
        answer = content(_ANSWER, seed=100 + number)
        client = peers.connect(port)
        with sending(client, request):
            server = peers.accept(listener)
            assert digest(receive(server, len(request))) == digest(request)
        if fin:
            client.shutdown(socket.SHUT_WR)
            assert receive_all(server) == b""
        with sending(server, answer):
            assert digest(receive(client, len(answer))) == digest(answer)
        client.close()
        assert receive_all(server) == b"", "the application got more than was sent"
        server.close()
