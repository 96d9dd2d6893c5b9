"""What the surroundings do to the service: it must not take connections, or the router, with it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.captures import CLIENT_SIDE, SERVER_SIDE, Captures
from support.judge.links import without_ttl
from support.namespaces import inside
from support.peers import Peers, content, receive_all, transfer
from support.service import (
    BOTH_SIDES,
    COMMAND,
    ENVIRONMENT,
    STOPS_WITHIN_S,
    ServiceProcess,
    rules,
)
from support.waiting import PATIENCE_S, until

from nfq_zerortt.testbed.network import Testbed

BLOCKED_PIPE = 4096
JUMBO_MTU = 9000
SERVERNIC = "10.0.2.3"
STATEFUL = """\
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -i eth0 -j ACCEPT
COMMIT
"""
OPEN = "*filter\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


def execute(network: Testbed, host: str, *argv: str, stdin: str | None = None) -> str:
    done = network.exec(host, list(argv), stdin=stdin, timeout_s=20)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@contextmanager
def process(network: Testbed, *options: str, **keywords: Any) -> Iterator[subprocess.Popen[bytes]]:
    """``nfq-zerortt run`` on clientnic as it is, ended in any case; no rules of its are left."""
    running = network.popen(
        "clientnic",
        [*COMMAND, "run", *BOTH_SIDES, "--control-socket", "", *options],
        env=ENVIRONMENT,
        **keywords,
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        left = rules(network)
        remove_rules(network)
    assert "ZERORTT" not in left


def remove_rules(network: Testbed) -> None:
    execute(network, "clientnic", *COMMAND, "rules", "remove")


# Big packets.


@pytest.fixture
def jumbo(testbed_factory: Callable[..., Testbed]) -> Iterator[tuple[Testbed, socket.socket]]:
    """Jumbo frames between client and servernic, where something listens: no WAN between."""
    network = testbed_factory(rtt_ms=1)
    try:
        ends = (("client", "eth0"), ("clientnic", "eth0"), ("clientnic", "eth1"))
        for host, interface in (*ends, ("servernic", "eth1")):
            execute(network, host, "ip", "link", "set", interface, "mtu", str(JUMBO_MTU))
        with inside(network.netns("servernic")):
            listener = socket.create_server((SERVERNIC, 7000))
        listener.settimeout(PATIENCE_S)
        with listener:
            yield network, listener
    finally:
        network.down()


def jumbo_pair(jumbo: tuple[Testbed, socket.socket]) -> tuple[socket.socket, socket.socket]:
    network, listener = jumbo
    with inside(network.netns("client")):
        client = socket.socket()
    client.settimeout(PATIENCE_S)
    client.connect((SERVERNIC, 7000))
    server, _ = listener.accept()
    server.settimeout(PATIENCE_S)
    return client, server


def both_ways(client: socket.socket, server: socket.socket) -> None:
    with client, server:
        transfer(client, server, content(1_000_000))
        transfer(server, client, content(1_000_000, seed=2))


def test_jumbo_frames_of_a_connection_from_before(
    jumbo: tuple[Testbed, socket.socket], tmp_path: Path
) -> None:
    client, server = jumbo_pair(jumbo)
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 8000
    with ServiceProcess(jumbo[0], tmp_path):
        both_ways(client, server)


@pytest.mark.parametrize("strategy", ["observe", "hold"])
def test_jumbo_frames_of_a_new_connection(
    jumbo: tuple[Testbed, socket.socket], tmp_path: Path, strategy: str
) -> None:
    with ServiceProcess(jumbo[0], tmp_path, "--strategy", strategy):
        both_ways(*jumbo_pair(jumbo))


# A log that nobody reads.


def test_unread_log_stops_neither_packets_nor_the_end(
    network: Testbed, peers: Peers, port: int
) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, BLOCKED_PIPE)
    with process(network, stderr=writing) as running, os.fdopen(reading, "rb") as log:
        os.close(writing)
        first = log.readline()
        while b"service.ready" not in first:
            assert first, "it ended"
            first = log.readline()
        listener = peers.listen(port)
        for number in range(60):
            client = peers.connect(port)
            server = peers.accept(listener)
            transfer(client, server, content(1000, seed=number))
            client.close()
            server.close()
        running.send_signal(signal.SIGTERM)
        assert running.wait(STOPS_WITHIN_S) == 0
        for line in log.read().splitlines()[:-1]:
            json.loads(line)


# Interfaces that come and go.


@pytest.mark.parametrize(("near", "far"), [("eth0", "client"), ("eth1", "servernic")])
def test_interface_that_is_made_anew(
    testbed_factory: Callable[..., Testbed], tmp_path: Path, near: str, far: str
) -> None:
    network = testbed_factory(rtt_ms=1)
    try:
        with ServiceProcess(network, tmp_path) as service:
            with ends(network) as peers:
                transfer(*peers.pair(7000), content(3000))
                service.event("flow.established", port=7000)
            make_anew(network, near, far)
            with ends(network) as peers:
                transfer(*peers.pair(7001), content(3000))
                service.event("flow.established", port=7001)
            # What is reset at the end goes both ways through new sockets, too.
            with ends(network) as peers:
                transfer(*peers.pair(7002), content(3000))
                assert service.faults() == []
    finally:
        network.down()


@contextmanager
def ends(network: Testbed) -> Iterator[Peers]:
    peers = Peers(network)
    try:
        yield peers
    finally:
        peers.close()


def make_anew(network: Testbed, interface: str, far: str) -> None:
    """Delete a link of clientnic and make one like it, as PPPoE does when it reconnects."""
    both: dict[str, tuple[str, str, list[list[str]]]] = {}
    for host in ("clientnic", far):
        (shown,) = json.loads(execute(network, host, "ip", "-j", "addr", "show", interface))
        routes = execute(network, host, "ip", "-4", "route", "show", "dev", interface)
        (address,) = [a for a in shown["addr_info"] if a["family"] == "inet"]
        both[host] = (
            shown["address"],
            f"{address['local']}/{address['prefixlen']}",
            [line.split() for line in routes.splitlines() if "via" in line],
        )
    execute(network, "clientnic", "ip", "link", "del", interface)
    execute(
        network, "clientnic", "ip", "link", "add", interface, "type", "veth",
        "peer", "name", interface, "netns", network.netns(far),
    )  # fmt: skip
    for host, (mac, network_address, _) in both.items():
        execute(network, host, "ip", "link", "set", interface, "address", mac, "up")
        execute(network, host, "ip", "addr", "add", network_address, "dev", interface)
    for host, end in both.items():
        for words in end[2]:
            execute(network, host, "ip", "route", "replace", *words, "dev", interface)


# Firewalls.


@pytest.fixture
def firewall(network: Testbed) -> Iterator[Callable[..., str]]:
    """iptables-legacy on clientnic; its filter is open again afterwards."""

    def change(*words: str) -> str:
        return execute(network, "clientnic", "iptables-legacy", *words)

    yield change
    execute(network, "clientnic", "iptables-legacy-restore", stdin=OPEN)


def test_connection_works_when_nothing_may_be_sent(
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    firewall: Callable[..., str],
) -> None:
    firewall("-P", "OUTPUT", "DROP")
    service = ServiceProcess(network, tmp_path)
    service.start()
    try:
        began = time.monotonic()
        client, server = peers.pair(port)
        took = time.monotonic() - began
        transfer(client, server, content(30_000))
        transfer(server, client, content(30_000, seed=2))
        assert 0.02 <= took < 0.9, "the SYN was to pass at once, and the server's SYN-ACK"
        assert service.event("service.not_sent")["reason"] == "spoofed_syn_ack"
        assert service.event("flow.bypassed", port=port)["reason"] == "syn_ack_not_sent"
        assert service.events("flow.synack_spoofed") == []
        assert service.events("service.fault") == []
        firewall("-P", "OUTPUT", "ACCEPT")
        client, server = peers.pair(port + 10_000)
        transfer(client, server, content(3000))
        service.event("flow.established", port=port + 10_000)
    finally:
        service.kill()
        remove_rules(network)


def check(network: Testbed) -> str:
    shown = execute(network, "clientnic", *COMMAND, "check")
    (line,) = [line for line in shown.splitlines() if "firewall passes untracked" in line]
    return line


def test_stateful_firewall_is_warned_of_and_the_remedy_helps(
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    firewall: Callable[..., str],
) -> None:
    assert check(network).startswith("ok")
    execute(network, "clientnic", "iptables-legacy-restore", stdin=STATEFUL)
    transfer(*peers.pair(port), content(3000))
    assert check(network).startswith("warning")
    with ServiceProcess(network, tmp_path) as service:
        warning = service.event("service.warning")
        assert warning["about"] == "firewall passes untracked"
        assert "from eth1 to eth0" in warning["warning"]
        assert "from eth0 to eth1" not in warning["warning"]
        for command in warning["remedy"].split("; "):
            firewall(*command.split()[1:])
        transfer(*peers.pair(port + 10_000), content(3000))
        service.event("flow.established", port=port + 10_000)
    assert check(network).startswith("ok")
    with ServiceProcess(network, tmp_path) as service:
        assert service.events("service.warning") == []


def test_dropping_what_is_invalid_does_no_harm(
    network: Testbed, peers: Peers, port: int, tmp_path: Path, firewall: Callable[..., str]
) -> None:
    """Untracked is a state of its own, which is why there is no warning of such a rule."""
    firewall("-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    assert check(network).startswith("ok")
    with ServiceProcess(network, tmp_path) as service:
        transfer(*peers.pair(port), content(3000))
        service.event("flow.established", port=port)
        assert service.events("service.warning") == []


NFT = """\
table inet guard {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "eth0" accept
  }
}
"""


@pytest.mark.parametrize("dropping", ["policy", "rule", "iptables-nft"])
def test_other_firewalls_are_warned_of(network: Testbed, dropping: str) -> None:
    try:
        if dropping == "iptables-nft":
            execute(network, "clientnic", "iptables-nft", "-P", "FORWARD", "DROP")
        else:
            text = NFT
            if dropping == "rule":
                text = NFT.replace("policy drop", "policy accept").replace(
                    '"eth0" accept', '"eth0" accept\n    counter reject with icmpx admin-prohibited'
                )
            execute(network, "clientnic", "nft", "-f", "-", stdin=text)
        line = check(network)
        assert line.startswith("warning")
        assert "guard" in line or "iptables-nft" in line
    finally:
        execute(network, "clientnic", "nft", "flush", "ruleset")


def test_router_that_does_not_forward_is_warned_of(network: Testbed, tmp_path: Path) -> None:
    execute(network, "clientnic", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    try:
        with ServiceProcess(network, tmp_path) as service:
            assert service.event("service.warning")["about"] == "IPv4 forwarding"
    finally:
        execute(network, "clientnic", "sysctl", "-qw", "net.ipv4.ip_forward=1")


# Signals.


def await_queue(network: Testbed) -> None:
    """Wait until the service has bound its queue: then it is about to set its rules."""
    bound = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
    with inside(network.netns("clientnic")):
        until(bound.read_text, "a queue that is bound")


def test_hangup_during_the_start_is_a_reload(network: Testbed, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process(network, "--log-file", str(log), stderr=subprocess.PIPE) as running:
        await_queue(network)
        while "service.ready" not in log.read_text():
            assert running.poll() is None, f"ended: {running.returncode}"
            running.send_signal(signal.SIGHUP)
            time.sleep(0.002)
        until(lambda: "service.reloaded" in log.read_text(), "service.reloaded")
        running.send_signal(signal.SIGTERM)
        assert running.wait(STOPS_WITHIN_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_while_it_starts_and_while_it_stops(
    network: Testbed, tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    with process(network, "--log-file", str(log), stderr=subprocess.PIPE) as running:
        await_queue(network)
        began = time.monotonic()
        while running.poll() is None and time.monotonic() < began + STOPS_WITHIN_S:
            running.send_signal(number)
            time.sleep(0.002)
        assert running.wait(0) == 0
        assert running.stderr is not None
        assert running.stderr.read() == b""


def test_stop_loses_no_packet_of_those_that_pass_untouched(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """A bulk transfer from before the start: what comes to the router leaves it, all the time.

    Without the kernel's data path: where the first filter comes to an interface, or the last one
    leaves it, Linux itself throws away what waits to be sent there.
    """
    client, server = peers.pair(port)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)  # what tcpdump keeps up with
    enough = threading.Event()

    def send() -> None:
        while not enough.is_set():
            client.sendall(bytes(1 << 16))
        client.shutdown(socket.SHUT_WR)

    threads = [
        threading.Thread(target=send, daemon=True),
        threading.Thread(target=receive_all, args=(server,), daemon=True),
    ]
    with Captures(network, tmp_path, port) as captures:
        for thread in threads:
            thread.start()
        for _ in range(3):
            with ServiceProcess(network, tmp_path, "--data-path", "python"):
                time.sleep(0.1)
        enough.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    arrived, left = (
        Counter(without_ttl(captured.raw) for captured in captures.packets[point])
        for point in (CLIENT_SIDE, SERVER_SIDE)
    )
    assert arrived.total() > 1000
    assert left == arrived
