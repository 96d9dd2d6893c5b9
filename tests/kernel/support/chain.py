"""A client, a router and a server in network namespaces, without the testbed's WAN.

``iptables-legacy`` is the independent reader of the router's rules: what it shows is what
counts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = itertools.count()
CLIENT, SERVER, ROUTER = "10.99.1.2", "10.99.2.2", "10.99.1.1"
CLIENT6, SERVER6 = "fd99:1::2", "fd99:2::2"


class Namespace:
    """One network namespace of the test's own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, *argv: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        done = subprocess.run(
            self.command(*argv), input=stdin, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code: str, *prefix: str) -> subprocess.CompletedProcess[str]:
        """Run code of the product in here; ``prefix`` is put before python."""
        return subprocess.run(
            self.command(*prefix, sys.executable, "-c", PRELUDE + textwrap.dedent(code)),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )

    def do(self, code: str) -> str:
        done = self.python(code)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def saved(self, family: str = "") -> str:
        """All legacy rules, without counters and the lines that carry the time."""
        text = self.run(f"ip{family}tables-legacy-save")
        lines = [re.sub(r" \[\d+:\d+\]", "", line) for line in text.splitlines()]
        return "\n".join(line for line in lines if not line.startswith("#"))

    def packets(self, table: str, chain: str, family: str = "", about: str = "") -> list[int]:
        """The packet counters of a chain's rules, in order: of those that have ``about``."""
        text = self.run(f"ip{family}tables-legacy-save", "-c", "-t", table)
        counted = re.findall(rf"^\[(\d+):\d+\] -A {chain} (.*)$", text, re.MULTILINE)
        return [int(count) for count, rule in counted if about in rule]

    def taken(self, family: str = "") -> list[int]:
        """The TCP packets that our rules took to the queue: towards the server, and back."""
        return self.packets("mangle", "ZERORTT-0", family, "-p tcp")


FOREIGN_RULES = """\
*raw
:MINE - [0:0]
-A PREROUTING -i lo -j MINE
-A MINE -p udp -m udp --dport 53 -j CT --notrack
COMMIT
*mangle
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -m limit --limit 5/min -j LOG --log-prefix "strange: "
-A PREROUTING -m comment --comment "keep me" -j MARK --set-xmark 0x7/0xffffffff
COMMIT
*filter
-A INPUT -p tcp -m state --state ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""
"""Rules that somebody else has set, in the way of iptables-save."""

PRELUDE = """\
import os, signal, sys
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import features, xtables
from nfq_zerortt.kernel.rules import RuleSet, for_removal
from nfq_zerortt.ports import PortSet
def rules(client="cl0", server="sv0", ports="all", queue=0, families=("ipv4", "ipv6")):
    return RuleSet.for_clientnic(client, server, PortSet.parse(ports), queue, families)
"""


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    if os.geteuid() != 0:
        pytest.fail("these tests need root for network namespaces: run them with sudo")
    made: list[Namespace] = []
    try:
        for _ in range(count):
            one = Namespace(f"zrr{os.getpid()}-{next(NUMBERS)}")
            subprocess.run(["ip", "netns", "add", one.name], check=True)
            made.append(one)
            # An address is good at once, also the link-local one that neighbours are asked from.
            one.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
            one.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        for one in made:
            subprocess.run(["ip", "netns", "del", one.name], check=False)


class Chain:
    """client — router — server, with IPv4 and IPv6; the router tracks connections."""

    def __init__(self, client: Namespace, router: Namespace, server: Namespace) -> None:
        self.client, self.router, self.server = client, router, server
        for number, name, end in ((1, "cl0", client), (2, "sv0", server)):
            router.run(
                "ip", "link", "add", name, "type", "veth",
                "peer", "name", "eth0", "netns", end.name,
            )  # fmt: skip
            router.run("ip", "addr", "add", f"10.99.{number}.1/24", "dev", name)
            router.run("ip", "addr", "add", f"fd99:{number}::1/64", "dev", name, "nodad")
            router.run("ip", "link", "set", name, "up")
            end.run("ip", "addr", "add", f"10.99.{number}.2/24", "dev", "eth0")
            end.run("ip", "addr", "add", f"fd99:{number}::2/64", "dev", "eth0", "nodad")
            end.run("ip", "link", "set", "eth0", "up")
            end.run("ip", "route", "add", "default", "via", f"10.99.{number}.1")
            end.run("ip", "route", "add", "default", "via", f"fd99:{number}::1")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        # The firewall of an operator: it makes the kernel track, and drops INVALID.
        for command in ("iptables-legacy", "ip6tables-legacy"):
            for hook in ("INPUT", "FORWARD", "OUTPUT"):
                router.run(command, "-A", hook, "-m", "conntrack", "--ctstate", "INVALID",
                           "-j", "DROP")  # fmt: skip

    @contextlib.contextmanager
    def listening(self, where: Namespace, *ports: int) -> Iterator[None]:
        """Servers that greet and close, on these ports, over both families."""
        code = f"""
            import selectors, socket
            events = selectors.DefaultSelector()
            for port in {ports}:
                listener = socket.create_server(("::", port), family=socket.AF_INET6,
                                                dualstack_ipv6=True)
                events.register(listener, selectors.EVENT_READ)
            print("ready", flush=True)
            while True:
                for key, _ in events.select():
                    connection, _ = key.fileobj.accept()
                    connection.sendall(b"hello")
                    connection.close()
        """
        server = where.start(sys.executable, "-c", textwrap.dedent(code))
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()
            server.communicate()

    def fetch(self, address: str, port: int, timeout_s: float = 5.0) -> str:
        """What the client gets from a server: its greeting, or the name of an error."""
        code = f"""
            import socket
            try:
                with socket.create_connection(({address!r}, {port}), {timeout_s}) as connection:
                    print(connection.recv(100).decode(), end="")
            except OSError as error:
                print(type(error).__name__, end="")
        """
        return self.client.run(sys.executable, "-c", textwrap.dedent(code))

    def tracked(self) -> str:
        """The TCP connections that the router's connection tracking knows."""
        return self.router.run("conntrack", "-L", "-p", "tcp") + self.router.run(
            "conntrack", "-L", "-f", "ipv6", "-p", "tcp"
        )


def cli(host: Namespace, *argv: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
    code = f"""
        from nfq_zerortt import cli
        from nfq_zerortt.cli.check import check
        from nfq_zerortt.cli.rules import rules as group
        cli.cli.add_command(check)
        cli.cli.add_command(group)
        sys.argv[1:] = {list(argv)}
        cli.main()
    """
    done = host.python(code, *prefix)
    return done.returncode, done.stdout, done.stderr


def refusal(host: Namespace, call: str, *prefix: str) -> str:
    done = host.python(
        f"""
        try: {call}
        except ZeroRttError as error: print(error.exit_status, error)
        else: print("no objection")
        """,
        *prefix,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()
