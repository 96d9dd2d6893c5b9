"""The four hosts for one turn of one contender, with a web server and the other ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.lab import Conversation, Lab
from bench.nginx import write_configuration
from bench.real_programs.packages import program
from nfq_zerortt.errors import ZeroRttError

HTTP, HTTP_FAST_OPEN, ECHO, BULK, TRANSFER = 8080, 80, 7100, 7200, 7300
"""The server's ports. The first two have the same web server, the second with Fast Open."""
ANSWER_BYTES = 1000
"""Of the web server's answers, without the header."""

_NAMESPACES = Path("/run/netns")
_OFFLOADS = ("tx", "rx", "tso", "gso", "gro")
_USUAL_SEGMENTS = "65535"
_START_S = 10.0


class ComparisonLab(Lab):
    """A testbed for one turn: nothing of ours is on it but what the contender brings."""

    def do(self, host: str, *argv: str) -> str:
        """Run a command on a host; return what it printed.

        Raises:
            ZeroRttError: it failed.
        """
        done = self.testbed.exec(host, argv)
        if done.returncode:
            raise ZeroRttError(f"{' '.join(argv)} on {host}: {done.stderr.strip()}")
        return done.stdout

    def set_offloads(self, on: bool) -> None:
        """Let all interfaces hand on large segments with open checksums, or neither.

        On is what Linux does by default; the testbed otherwise lets frames be of the MTU's
        size on the WAN, which is right for latency and not what is compared here.
        """
        for host in self.testbed.topology.hosts:
            for interface in host.interfaces:
                if on:
                    link = ("dev", interface.name, "gso_max_segs", _USUAL_SEGMENTS)
                    self.do(host.name, "ip", "link", "set", *link)
                else:
                    off = [word for name in _OFFLOADS for word in (name, "off")]
                    self.do(host.name, "ethtool", "-K", interface.name, *off)

    def web_server(self, port: int) -> None:
        """Start nginx on the server host; it answers each request with the same bytes."""
        directory = self.directory / f"web-{port}"
        directory.mkdir()
        answer = f'location / {{ return 200 "{"x" * ANSWER_BYTES}"; }}'
        options = write_configuration(
            directory, f"listen {port} backlog=4096;", answer, connections=2000
        )
        argv = [program("nginx"), *options]
        self.background("server", argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.await_listener("server", port)

    def talk(self, host: str, name: str, *arguments: str) -> Conversation:
        """Start one of the programs of ``bench/comparison/programs``, which is asked by lines."""
        module = f"bench.comparison.programs.{name}"
        process = self.background(
            host,
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return Conversation(module, process)

    def await_listener(self, host: str, port: int, number: int = 1) -> None:
        """Wait until so many sockets listen on a TCP port of a host.

        Raises:
            ZeroRttError: they do not within some seconds.
        """
        deadline = time.monotonic() + _START_S
        while len(self.do(host, "ss", "-Hltn", f"sport = :{port}").splitlines()) < number:
            if time.monotonic() > deadline:
                raise ZeroRttError(f"nobody listens on port {port} of {host} after {_START_S:g} s")
            time.sleep(0.02)

    def namespaces(self) -> list[Path]:
        """Return the network namespaces of the hosts."""
        hosts = self.testbed.topology.host_names
        return [_NAMESPACES / self.testbed.netns(host) for host in hosts]
