"""Held wrong in the first ten minutes: each way gives a line that says what to do.

Each is done for real, in namespaces of the test's own; where the line names a remedy that can be
carried out here, it is, and it helps. (Stateful firewalls are in test_service_robust.py, wrong
flags and files in test_service_lifecycle.py.)
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import lacking
from support.chain import CLIENT, SERVER, Chain, Namespace, namespaces
from support.namespaces import UNPRIVILEGED
from support.said import one_line
from support.service import COMMAND, ENVIRONMENT
from support.waiting import until

from nfq_zerortt.observe.hints import FROM_SERVER_SIDE

Event = dict[str, Any]
Events = Callable[[str], list[Event]]

BOTH = ("--client-iface", "cl0", "--server-iface", "sv0")
PORT = 80
INTERFACES = "the two interfaces"


@pytest.fixture
def chain() -> Iterator[Chain]:
    with namespaces(3) as (client, router, server):
        made = Chain(client, router, server)
        for command in ("iptables-legacy", "ip6tables-legacy"):
            router.run(command, "-F")  # its firewall: each test has its own trouble
        with made.listening(server, PORT):
            yield made


@contextlib.contextmanager
def running(host: Namespace, directory: Path, *options: str) -> Iterator[Events]:
    """A service; what is given returns its events of one name."""
    log = directory / f"log-{len(list(directory.iterdir()))}"
    argv = [*COMMAND, "run", *(options or BOTH), "--log-file", str(log), "--control-socket", ""]
    process = subprocess.Popen(
        host.command(*argv), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )

    def events(name: str) -> list[Event]:
        assert process.poll() is None, process.communicate()[1]
        lines = log.read_text().splitlines() if log.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    try:
        until(lambda: events("service.ready"), "service.ready", 60)
        yield events
    finally:
        process.terminate()
        assert process.communicate(timeout=10)[1] == ""
        assert process.returncode == 0


def warned(events: Events, about: str) -> Event:
    """Wait for the one warning about something."""

    def found() -> list[Event]:
        return [event for event in events("service.warning") if event["about"] == about]

    (warning,) = until(found, f"a warning about {about}")
    return warning


def refused(host: Namespace, *argv: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run a command that ends by itself: its exit status, and its one line on stderr."""
    done = subprocess.run(
        host.command(*prefix, *COMMAND, *argv),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    one_line(done, done.returncode)
    return done.returncode, done.stderr


# --- the interfaces -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "options", "words", "remedy"),
    [
        ("ip link set cl0 down", BOTH, "cl0 is down", "ip link set cl0 up"),
        (
            "ip link add br0 type bridge; ip link set br0 up; ip link set cl0 master br0",
            BOTH,
            "cl0 is a port of the bridge br0",
            "--client-iface br0",
        ),
        (
            f"ip route add default via {CLIENT}",
            BOTH,
            "the default route leaves by cl0",
            "exchange --client-iface and --server-iface",
        ),
        ("", ("--client-iface", "cl0", "--server-iface", "lo"), "lo is this host's", "--server"),
    ],
    ids=["down", "bridge", "default route", "loopback"],
)
def test_an_interface_that_no_packet_will_be_taken_from(
    chain: Chain, tmp_path: Path, before: str, options: tuple[str, ...], words: str, remedy: str
) -> None:
    chain.router.run("sh", "-c", before)
    with running(chain.router, tmp_path, *options) as events:
        warning = warned(events, INTERFACES)
        assert words in warning["warning"]
        assert remedy in warning["remedy"]


def test_check_looks_at_the_interfaces_when_they_are_named(chain: Chain) -> None:
    shown = chain.router.run(*COMMAND, "check", *BOTH)
    assert re.search(rf"^ok +{INTERFACES} +cl0 and sv0 are up$", shown, re.MULTILINE)
    chain.router.run("ip", "link", "set", "sv0", "down")
    shown = chain.router.run(*COMMAND, "check", *BOTH)
    assert re.search(rf"^warning +{INTERFACES} .*sv0 is down.* ip link set sv0 up", shown, re.M)
    status, said = refused(chain.router, "check", "--client-iface", "cl0")
    assert (status, "--server-iface is needed" in said) == (2, True)
    status, said = refused(chain.router, "check", "--client-iface", "cl9", "--server-iface", "sv0")
    assert (status, "cl0, lo, sv0" in said) == (2, True)


def test_exchanged_interfaces(chain: Chain, tmp_path: Path) -> None:
    exchanged = ("--client-iface", "sv0", "--server-iface", "cl0")
    with running(chain.router, tmp_path, *exchanged) as events:

        def connect(before: int) -> None:
            assert chain.fetch(SERVER, PORT) == "hello"  # nothing is broken by it
            until(lambda: len(events("flow.bypassed")) > before, "the connection")

        for number in range(FROM_SERVER_SIDE - 1):
            connect(number)
        assert events("service.warning") == [], "a few come to any router from that side"
        connect(FROM_SERVER_SIDE - 1)
        warning = warned(events, INTERFACES)
        assert CLIENT in warning["warning"]
        assert "exchange --client-iface and --server-iface" in warning["remedy"]
        connect(FROM_SERVER_SIDE)
        assert len(events("service.warning")) == 1
    with running(chain.router, tmp_path) as events:
        assert chain.fetch(SERVER, PORT) == "hello"
        until(lambda: events("flow.established"), "a flow")
        # A connection from the servers' side is no sign of anything once clients were seen.
        with chain.listening(chain.client, PORT):
            code = f"import socket; socket.create_connection(('{CLIENT}', {PORT}), 5).recv(9)"
            for _ in range(FROM_SERVER_SIDE):
                chain.server.run(sys.executable, "-c", code)
        until(
            lambda: len(events("flow.bypassed")) == FROM_SERVER_SIDE,
            "the connections from the servers' side",
        )
        assert events("service.warning") == []


# --- answers that do not come back --------------------------------------------------------


@pytest.fixture
def asymmetric(chain: Chain) -> Chain:
    """A chain whose server has a way of its own to the client."""
    chain.server.run("ip", "link", "add", "short", "type", "veth", "peer", "name", "short",
                     "netns", chain.client.name)  # fmt: skip
    for number, end in ((1, chain.client), (2, chain.server)):
        end.run("ip", "addr", "add", f"10.99.9.{number}/24", "dev", "short")
        end.run("ip", "link", "set", "short", "up")
        end.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.short.rp_filter=0")
    chain.server.run("ip", "route", "add", "10.99.1.0/24", "via", "10.99.9.1")
    return chain


def test_asymmetric_route(asymmetric: Chain, tmp_path: Path) -> None:
    chain = asymmetric
    assert chain.fetch(SERVER, PORT) == "hello"
    with running(chain.router, tmp_path) as events:
        assert chain.fetch(SERVER, PORT, 3.0) != "hello"
        warning = warned(events, "no answers")
        assert f"{SERVER}:{PORT} has not answered" in warning["warning"]
        assert "by another way than through --server-iface" in warning["remedy"]
    # The first remedy: leave such servers alone.
    config = tmp_path / "direct.toml"
    config.write_text(f'[[destination]]\naddress = "{SERVER}"\nstrategy = "direct"\n')
    with running(chain.router, tmp_path, *BOTH, "--config", str(config)) as events:
        assert chain.fetch(SERVER, PORT) == "hello"
        assert events("service.warning") == []
    # The other: the same way for both directions.
    chain.server.run("ip", "route", "del", "10.99.1.0/24", "via", "10.99.9.1")
    with running(chain.router, tmp_path) as events:
        assert chain.fetch(SERVER, PORT) == "hello"
        until(lambda: events("flow.established"), "a flow")
        assert events("service.warning") == []


def test_one_server_of_many_that_does_not_answer_is_no_sign(chain: Chain, tmp_path: Path) -> None:
    chain.server.run("ip", "addr", "add", "10.99.2.9/24", "dev", "eth0")
    chain.server.run("iptables-legacy", "-A", "INPUT", "-d", "10.99.2.9", "-j", "DROP")
    with running(chain.router, tmp_path) as events:
        assert chain.fetch(SERVER, PORT) == "hello"
        chain.fetch("10.99.2.9", PORT, 3.0)
        until(
            lambda: [e for e in events("flow.syn_forwarded") if e["attempt"] == 4], "the fourth SYN"
        )
        assert events("service.warning") == []


def test_vpn_with_address_translation(chain: Chain, tmp_path: Path) -> None:
    """The servers' side knows only the router's own address, as at the other end of a VPN."""
    chain.server.run("ip", "route", "del", "default")
    chain.router.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "sv0", "-j",
                     "MASQUERADE")  # fmt: skip
    assert chain.fetch(SERVER, PORT) == "hello"
    with running(chain.router, tmp_path) as events:
        warning = warned(events, "no NAT in the way")
        assert "MASQUERADE" in warning["warning"]
        assert "--ports" in warning["remedy"]
        assert chain.fetch(SERVER, PORT, 3.0) != "hello"
        assert "NAT" in warned(events, "no answers")["remedy"]
    with running(chain.router, tmp_path, *BOTH, "--ports", "443") as events:
        assert chain.fetch(SERVER, PORT) == "hello"


# --- two of them --------------------------------------------------------------------------


def test_two_services(chain: Chain, tmp_path: Path) -> None:
    with running(chain.router, tmp_path, *BOTH, "--ports", "80,8000-8999"):
        status, said = refused(chain.router, "run", *BOTH)
        assert status == 2
        assert re.search(r"--queue: 0 is in use .* another nfq-zerortt, process \d+; stop", said)
        with running(chain.router, tmp_path, *BOTH, "--queue", "7", "--ports", "8080") as events:
            warning = warned(events, "other services")
            assert re.search(r"queue 0 \(process \d+\)", warning["warning"])
            assert "--ports" in warning["remedy"]
        with running(chain.router, tmp_path, *BOTH, "--queue", "7", "--ports", "443") as events:
            assert events("service.warning") == []


# --- what the kernel or the user does not have --------------------------------------------

KERNEL = pytest.mark.skipif(
    not lacking.KNOWN,
    reason=f"the system calls of {platform.machine()} are not in support/lacking.py",
)


@KERNEL
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("legacy", ("nftables does not stand in", "modprobe iptable_mangle")),
        ("nfqueue", ("NFQUEUE", "modprobe nfnetlink_queue")),
    ],
)
def test_missing_module(chain: Chain, what: str, words: tuple[str, ...]) -> None:
    prefix = (sys.executable, str(Path(lacking.__file__)), what)
    status, said = refused(chain.router, "run", *BOTH, prefix=prefix)
    assert status == 3
    for word in words:
        assert said.count(word) == 1, said
    shown = chain.router.run(*prefix, *COMMAND, "check", check=False)
    causes = [
        line for line in shown.splitlines() if line.startswith("missing") and "CONFIG" in line
    ]
    assert len(causes) == (2 if what == "legacy" else 1), "one line for each cause"
    assert words[-1] in causes[0]


def test_without_the_library_of_iptables(chain: Chain) -> None:
    """As on a host that has nftables and not the package iptables."""
    listed = chain.router.run("ldconfig", "-p")
    library = re.search(r"libip4tc\.so\S* .*=> (\S+)", listed)
    assert library, "tests run where python-iptables can be loaded"
    hidden = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$0" && exec "$@"')
    prefix = (*hidden, str(Path(library[1]).resolve()))
    status, said = refused(chain.router, "run", *BOTH, prefix=prefix)
    assert status == 3
    assert "apt-get install iptables" in said


def test_without_root(chain: Chain) -> None:
    """Each command names what is missing; those that only ask, ask in vain."""
    for argv in (("run", *BOTH), ("rules", "apply", *BOTH), ("testbed", "up"), ("demo",)):
        status, said = refused(chain.router, *argv, prefix=UNPRIVILEGED)
        assert (status, "root" in said) == (3, True), said


@pytest.mark.parametrize(
    "command", [("flows",), ("stats",), ("trace", "no.pcapng")], ids=lambda command: str(command[0])
)
def test_nothing_runs_that_could_be_asked(
    chain: Chain, tmp_path: Path, command: tuple[str, ...]
) -> None:
    status, said = refused(chain.router, *command, "--control-socket", str(tmp_path / "none.sock"))
    assert (status, "nfq-zerortt run" in said) == (1, True)


def test_a_command_that_there_is_not(chain: Chain) -> None:
    status, said = refused(chain.router, "rnu")
    assert (status, "'rnu'" in said, "run," in said) == (2, True, True)
