"""A SYN flood: 20,000 SYNs from sources that are not there, to one server.

Nothing may grow without a bound, those who are there are served, and all is counted.
"""

from __future__ import annotations

import hashlib
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import syn_flood
from support.addresses import IPV4, IPV6, Family
from support.counters import queue_drops
from support.peers import Peers, content, transfer
from support.service import ServiceProcess
from support.waiting import PATIENCE_S, until

from nfq_zerortt.config import Limits
from nfq_zerortt.testbed.network import Testbed

COUNT = 20_000
PER_SECOND = 4_000
MOST_MEMORY_KB = 65_536
CLIENTS = 20
SUPPRESSED = "log.suppressed"

# The networks that the spoofed sources are taken from.
MANY_PREFIXES = "10.16.0.0/12"
ONE_PREFIX = "fd6e:6671:7a04::/64"


@pytest.fixture(scope="module")
def network(testbed_factory: Callable[..., Testbed]) -> Iterator[Testbed]:
    """A testbed of its own, on which the way back to the spoofed sources is known."""
    testbed = testbed_factory(rtt_ms=20)
    for prefix, towards_client in (
        (MANY_PREFIXES, ("10.0.1.2", "10.0.2.2", "10.0.3.254")),
        (ONE_PREFIX, (IPV6.client, "fd6e:6671:7a01:2::2", "fd6e:6671:7a01:3::fe")),
    ):
        for host, via in zip(("clientnic", "servernic", "server"), towards_client, strict=True):
            testbed.exec(host, ["ip", "route", "add", prefix, "via", via], check=True)
    yield testbed
    testbed.down()


@contextmanager
def flood(
    network: Testbed, prefix: str, server: str, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    arguments = (prefix, server, str(port), str(COUNT), str(PER_SECOND))
    process = network.popen("client", [sys.executable, syn_flood.__file__, *arguments])
    try:
        yield process
        assert process.wait(3 * COUNT / PER_SECOND) == 0
    finally:
        process.kill()
        process.wait()


class Download:
    """A connection from before, on which the server sends until told to stop."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._enough = threading.Event()
        self._sent, self._got = hashlib.sha256(), hashlib.sha256()
        self._octets = [0, 0]
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        chance = random.Random(1)
        while not self._enough.wait(0.02):
            data = chance.randbytes(8000)
            self._server.sendall(data)
            self._sent.update(data)
            self._octets[0] += len(data)
        self._server.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        while data := self._client.recv(1 << 16):
            self._got.update(data)
            self._octets[1] += len(data)

    def finish(self) -> int:
        """Stop, compare, and return how many bytes came."""
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the transfer hangs"
        assert self._octets[0] == self._octets[1]
        assert self._got.hexdigest() == self._sent.hexdigest()
        return self._octets[0]


def memory_kb(service: ServiceProcess, what: str) -> int:
    assert service.process is not None
    status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii")
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1))


@pytest.mark.alone
@pytest.mark.parametrize(
    ("family", "prefix"),
    [(IPV4, MANY_PREFIXES), (IPV6, ONE_PREFIX)],
    ids=["many prefixes", "one prefix"],
)
def test_syn_flood(
    network: Testbed, family: Family, prefix: str, port: int, tmp_path: Path
) -> None:
    limits = Limits()
    peers = Peers(network, family)
    with ServiceProcess(network, tmp_path) as service:
        try:
            listener = peers.listen(port)
            download = Download(peers.connect(port), peers.accept(listener))
            service.event("flow.established", port=port)
            before = memory_kb(service, "VmRSS")
            began = time.monotonic()
            download.start()
            with flood(network, prefix, family.server, port) as running:
                time.sleep(0.5)
                for number in range(CLIENTS):
                    transfer(peers.connect(port), peers.accept(listener), content(3000, number))
                    time.sleep(0.1)
                assert running.poll() is None, "the flood was meant to last longer"
            assert download.finish() > 1_000_000
            took = time.monotonic() - began
            counted = until_all_counted(service, port)
            peak = memory_kb(service, "VmHWM")
        finally:
            peers.close()
        assert queue_drops(network) == 0
    assert peak - before < MOST_MEMORY_KB, f"{before} kB became {peak} kB"
    if prefix == ONE_PREFIX:
        answers = limits.unanswered_per_prefix * (1 + 0.1 * took) + CLIENTS + 1
        assert counted.answers <= answers
        assert counted.established == CLIENTS + 1, "other prefixes were to be served as ever"
        assert counted.reasons == {"prefix_unanswered"}
    else:
        assert counted.answered <= limits.max_half_open + CLIENTS + 1
        assert counted.reasons == {"too_many_half_open"}


@dataclass(frozen=True)
class Counted:
    """What the log tells of all SYNs.

    Attributes:
        answers: SYN-ACKs in the server's name, repetitions counted.
        answered: connections that they were for.
        established: of these, with both handshakes complete.
        passed: connections that were left alone, and that the log names.
        unnamed: events that the log has only counted: these are of connections left alone.
        reasons: why they were.
    """

    answers: int
    answered: int
    established: int
    passed: int
    unnamed: int
    reasons: set[str]


def until_all_counted(service: ServiceProcess, port: int) -> Counted:
    """Wait until each SYN is in the log: answered, left alone, or among those counted only."""
    total = COUNT + CLIENTS + 1

    def count() -> Counted:
        answers = service.events("flow.synack_spoofed", port=port)
        passed = service.events("flow.bypassed", port=port)
        return Counted(
            answers=len(answers),
            answered=len({event["flow_id"] for event in answers}),
            established=len(service.events("flow.established", port=port)),
            passed=len(passed),
            unnamed=sum(event["events"] for event in service.events(SUPPRESSED)),
            reasons={event["reason"] for event in passed},
        )

    def complete() -> Counted | None:
        counted = count()
        found = counted.answered + counted.passed + counted.unnamed
        return counted if found == total else None

    counted = until(complete, lambda: f"{total} SYNs in the log; {count()}")
    assert counted is not None
    return counted
