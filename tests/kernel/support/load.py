"""Connections one after the other, as fast as they go."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Self

from support.many_clients import CLIENTS, connect
from support.peers import Peers
from support.waiting import PATIENCE_S


class Load:
    """Connections one after the other, from all addresses in turns, while the block runs.

    ``done`` counts those that went well or were reset, ``wrong`` has what else happened.
    """

    def __init__(self, peers: Peers, port: int) -> None:
        self.done = 0
        self.wrong: list[str] = []
        self._peers = peers
        self._port = port
        self._stopped = threading.Event()
        self._connecting, self._answering = (
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._connect, self._answer)
        )

    def __enter__(self) -> Self:
        self._listener = self._peers.listen(self._port)
        self._connecting.start()
        self._answering.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in (self._connecting, self._answering):
            thread.join(2 * PATIENCE_S)
            assert not thread.is_alive()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.wrong.append(repr(error))

    def _connect(self) -> None:
        while not self._stopped.is_set():
            for end in CLIENTS:
                with suppress(ConnectionResetError):
                    client = connect(self._peers, end, self._port)
                    client.sendall(b"?")
                    client.recv(1)
                    client.close()
                self.done += 1

    def _answer(self) -> None:
        self._listener.settimeout(0.2)
        while self._connecting.is_alive():
            with suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
                server, _ = self._listener.accept()
                server.settimeout(1)
                server.recv(1)
                server.sendall(b"!")
                server.close()
