"""The stage of a demonstration: four hosts, what is done on them, and programs started there."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nfq_zerortt.demo.result import Family
from nfq_zerortt.demo.work import Work
from nfq_zerortt.observe.hops import Link
from nfq_zerortt.observe.records import Tap
from nfq_zerortt.testbed.network import Testbed
from nfq_zerortt.testbed.topology import Topology

START_TIMEOUT_S = 20.0
"""Seconds that a program on a host may take until it serves."""
_PORT = 8080


class Progress(Protocol):
    """Told what is being done."""

    def step(self, text: str) -> None:
        """Something new begins."""

    def connections(self, done: int, total: int) -> None:
        """So many of the run's connections are made."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The hosts, and what all runs on them have in common.

    ``directory`` is for files of a run; it goes with the demonstration.
    """

    testbed: Testbed
    family: Family
    works: tuple[Work, ...]
    directory: Path
    progress: Progress

    @property
    def topology(self) -> Topology:
        """The hosts and the links between them."""
        return self.testbed.topology

    @property
    def rtt_s(self) -> float:
        """The WAN's round trip, seconds."""
        return self.testbed.settings.rtt_ms / 1000

    @property
    def timeout_s(self) -> float:
        """Seconds that a step of a connection may take: long enough for several lost SYNs."""
        return 5 + 20 * self.rtt_s

    @property
    def path(self) -> tuple[Link, ...]:
        """The links from the client to the server, each as the two ends see it."""
        return tuple(
            Link(Tap(link.hosts[0], link.name), Tap(link.hosts[1], link.name))
            for link in self.topology.links
        )

    @property
    def client_tap(self) -> Tap:
        """The client's own interface."""
        return self.path[0].left

    @property
    def server_tap(self) -> Tap:
        """The server's own interface."""
        return self.path[-1].right

    def address(self, tap: Tap) -> str:
        """Return the address there, of the family in use."""
        interface = self.topology.host(tap.host).interface(tap.interface)
        return str((interface.ipv6 if self.family == "IPv6" else interface.ipv4).ip)

    @property
    def server(self) -> tuple[str, int]:
        """The address and port that the server listens on."""
        return (self.address(self.server_tap), _PORT)

    def popen(self, host: str, argv: tuple[str, ...], **keywords: Any) -> subprocess.Popen[Any]:
        """Start a program on a host, with pipes for what it says."""
        # A session of its own: Ctrl-C at the terminal is for us, and we end what we started in
        # order.
        return self.testbed.popen(
            host,
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            **keywords,
        )
