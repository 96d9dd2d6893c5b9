"""Runs ``long_transfers.py`` between client and server, and says what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from nfq_zerortt.testbed.network import Testbed
from support.addresses import Family

_PROGRAM = str(Path(__file__).with_name("long_transfers.py"))
_END_S = 60.0


class Transfers:
    """Connections with data going both ways; made by :meth:`going`."""

    def __init__(self, client: subprocess.Popen[str]) -> None:
        self._client = client

    @classmethod
    @contextmanager
    def going(cls, testbed: Testbed, family: Family, port: int, count: int) -> Iterator[Self]:
        """Begin ``count`` connections; in the block, data goes through all of them."""
        server = _popen(testbed, "server", "server", family.server, str(port))
        try:
            _expect(server, "listening")
            client = _popen(testbed, "client", "client", family.server, str(port), str(count))
            try:
                _expect(client, "going")
                yield cls(client)
            finally:
                client.kill()
                client.communicate()
        finally:
            server.kill()
            server.communicate()

    def end(self) -> dict[str, Any]:
        """End all connections in order and return what the client says of them."""
        said, wrong = self._client.communicate("end\n", _END_S)
        assert self._client.returncode == 0, wrong
        told: dict[str, Any] = json.loads(said)
        return told


def _popen(testbed: Testbed, host: str, *words: str) -> subprocess.Popen[str]:
    return testbed.popen(
        host,
        [sys.executable, _PROGRAM, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline().strip()
    assert line == word, f"{line!r}; {process.stderr.read() if not line else ''}"
