"""The test network itself: real namespaces, real packets, real crashes."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from support.captures import LAN, WAN, Captured, Captures
from support.namespaces import UNPRIVILEGED
from support.service import ENVIRONMENT
from support.waiting import until

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.faults import Fate, Faults
from nfq_zerortt.testbed.injector_control import InjectorStatus
from nfq_zerortt.testbed.network import DELAY_LINE, Testbed
from nfq_zerortt.testbed.processes import ProcessId, end
from nfq_zerortt.testbed.queue_process_control import KernelQueue
from nfq_zerortt.testbed.topology import load_topology
from nfq_zerortt.testbed.wan import First, WanSettings

MakeTestbed = Callable[..., Testbed]

MAIN = "from nfq_zerortt.cli import main; main()"
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
ADDED = state.DIRECTORY / "added_congestion_control"
SERVER = "10.0.3.2"
SERVER_V6 = "fd6e:6671:7a01:3::2"


def command(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``nfq-zerortt testbed …``."""
    return subprocess.run(
        (*prefix, sys.executable, "-c", MAIN, "testbed", *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=False,
    )


def ping(testbed: Testbed, *options: str, to: str = SERVER) -> list[float]:
    """Return the round trips in milliseconds of the answers that came."""
    output = testbed.exec("client", ["ping", "-n", *options, to], timeout_s=60).stdout
    assert "packets transmitted" in output
    return [float(text) for text in re.findall(r"time=([0-9.]+)", output)]


def leftovers(name: str) -> list[str]:
    """Return whatever is still there of a testbed."""
    namespaces = subprocess.run(
        ("ip", "netns", "list"), capture_output=True, text=True, check=True
    ).stdout.split()
    found = [entry for entry in namespaces if entry.startswith(f"{name}-")]
    found += [str(file) for file in state.DIRECTORY.glob(f"{name}.*")]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                argv = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            ours = {b"nfq_zerortt.testbed.delayline", b"nfq_zerortt.testbed.injector"}
            if ours & set(argv) and name.encode() in argv:
                found.append(f"process {process.name}")
    return found


def allowed_congestion_control() -> str:
    """Return what the initial namespace allows while no `up` is in the midst of a change.

    Neither one that has been killed in it, perhaps by another worker's test: that puts it right.
    """

    def undisturbed() -> str:
        with state.locked():
            return "" if ADDED.exists() else ALLOWED.read_text().strip()

    return until(undisturbed, f"what {ADDED} names being taken out again")


@pytest.fixture(scope="module")
def line(testbed_factory: MakeTestbed) -> Testbed:
    """A testbed with the delay line, shared by the tests that leave it as it is but for the WAN."""
    return testbed_factory(rtt_ms=20, emulation="delay-line")


@pytest.fixture
def fresh(testbed_factory: MakeTestbed) -> Iterator[Testbed]:
    """A testbed that is not up; nothing of it may be left after the test."""
    testbed = testbed_factory(up=False, rtt_ms=20, emulation="delay-line")
    allowed = allowed_congestion_control()
    yield testbed
    testbed.down()
    assert leftovers(testbed.name) == []
    assert allowed_congestion_control() == allowed


# The topology.


def test_topology_is_a_chain_in_which_no_address_ends_in_1() -> None:
    topology = load_topology()
    assert topology.host_names == ("client", "clientnic", "servernic", "server")
    assert [link.hosts for link in topology.links] == list(
        zip(topology.host_names, topology.host_names[1:], strict=False)
    )
    for host in topology.hosts:
        for own, other in topology.neighbours(host):
            assert own.name == other.name
            assert own.ipv4.network == other.ipv4.network
            assert own.ipv6.network == other.ipv6.network
            assert own.ipv4.packed[-1] != 1
            assert own.ipv6.packed[-1] != 1


def test_every_network_is_reached_from_every_host() -> None:
    topology = load_topology()
    networks = {
        str(network)
        for host in topology.hosts
        for interface in host.interfaces
        for network in (interface.ipv4.network, interface.ipv6.network)
    }
    for host in topology.hosts:
        own = {
            str(network)
            for interface in host.interfaces
            for network in (interface.ipv4.network, interface.ipv6.network)
        }
        assert own | {route.to for route in host.routes} == networks
        gateways = {
            str(address.ip)
            for _, other in topology.neighbours(host)
            for address in (other.ipv4, other.ipv6)
        }
        assert {route.via for route in host.routes} <= gateways


# Settings and units.


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--rtt", "100", "100ms or 0.1s"),
        ("--rtt", "-5ms", "100ms or 0.1s"),
        ("--rtt", "1e2ms", "100ms or 0.1s"),
        ("--rtt", "60s", "0ms to 10000ms"),
        ("--loss", "1", "1% or 0.5%"),
        ("--loss", "101%", "0% to 100%"),
        ("--reorder", "5", "1% or 0.5%"),
        ("--reorder-by", "0ms", "above 0ms"),
        ("--duplicate", "101%", "0% to 100%"),
        ("--rate", "100", "100mbit or 1gbit"),
        ("--rate", "0mbit", "0.01mbit to"),
        ("--name", "../etc", "must be"),
    ],
)
def test_bad_value_names_option_value_and_what_is_allowed(
    option: str, value: str, allowed: str
) -> None:
    done = command("up", f"{option}={value}")
    assert done.returncode == ConfigError.exit_status
    assert len(done.stderr.splitlines()) == 1
    assert option in done.stderr
    assert allowed in done.stderr


def test_not_a_number_is_no_setting() -> None:
    with pytest.raises(ConfigError):
        WanSettings(rtt_ms=float("nan"))
    with pytest.raises(ConfigError):
        WanSettings(rate_mbit=float("inf"))


@pytest.mark.parametrize(
    "arguments", [("up",), ("down",), ("status",), ("exec", "client", "--", "true")]
)
def test_not_root_is_said_in_one_line(arguments: tuple[str, ...]) -> None:
    done = command(*arguments, prefix=UNPRIVILEGED)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "root" in done.stderr


# The WAN.


@pytest.mark.parametrize("emulation", ["auto", "delay-line"])
@pytest.mark.parametrize("rtt_ms", [10, 100])
def test_rtt(testbed_factory: MakeTestbed, emulation: str, rtt_ms: float) -> None:
    with testbed_factory(rtt_ms=rtt_ms, emulation=emulation) as testbed:
        times = ping(testbed, "-c", "50", "-i", "0.01")
        assert len(times) == 50
        assert rtt_ms <= statistics.median(times) < rtt_ms + 3


def test_rtt_over_ipv6(line: Testbed) -> None:
    line.set_wan(20)
    times = ping(line, "-6", "-c", "20", "-i", "0.01", to=SERVER_V6)
    assert len(times) == 20
    assert 20 <= statistics.median(times) < 23


def test_both_nics_take_one_off_the_ttl(line: Testbed) -> None:
    line.set_wan(20)
    output = line.exec("client", ["ping", "-n", "-c", "1", SERVER]).stdout
    assert "ttl=62" in output


def test_delay_line_acts_on_tcp_too(line: Testbed) -> None:
    line.set_wan(60)
    assert 0.06 <= min(_transfer_seconds(line, 1) for _ in range(3)) < 1


def test_wan_changes_while_it_is_up(line: Testbed) -> None:
    for rtt_ms in (50, 10):
        line.set_wan(rtt_ms)
        assert rtt_ms <= statistics.median(ping(line, "-c", "20", "-i", "0.01")) < rtt_ms + 3
        assert line.status().rtt_ms == rtt_ms


def test_loss_is_of_each_direction(line: Testbed) -> None:
    line.set_wan(10, loss_percent=10)
    came_back = len(ping(line, "-c", "400", "-i", "0.005", "-W", "1"))
    line.set_wan(10)
    # 0.9² of 400, and five standard deviations.
    assert abs(came_back - 324) < 40
    assert len(ping(line, "-c", "50", "-i", "0.005")) == 50


def test_rate_is_an_upper_bound(line: Testbed) -> None:
    size = 1_000_000
    line.set_wan(10, rate_mbit=10)
    seconds = _transfer_seconds(line, size)
    line.set_wan(10)
    assert seconds > size * 8 / 10e6
    assert line.status().rate_mbit is None


def test_delay_line_says_its_own_lateness(line: Testbed) -> None:
    line.set_wan(12)
    ping(line, "-c", "50", "-i", "0.01")
    time.sleep(1.2)  # it reports once a second
    status = line.status()
    assert status.wan == DELAY_LINE
    figures = status.delay_line
    assert figures is not None
    assert figures.alive
    assert figures.packets >= 100
    assert figures.queue == KernelQueue()
    late = figures.lateness
    assert 0 < late.median_ms <= late.p95_ms <= late.p99_ms <= late.max_ms
    assert late.median_ms < 1.5


SEND = """
import socket, sys
listener = socket.create_server(("", 9000))
print("listening", flush=True)
connection, _ = listener.accept()
connection.sendall(bytes(int(sys.argv[1])))
connection.close()
"""
RECEIVE = """
import socket, sys, time
started = time.monotonic()
connection = socket.create_connection((sys.argv[1], 9000), timeout=30)
received = 0
while data := connection.recv(65536):
    received += len(data)
print(received, time.monotonic() - started)
"""


def _transfer_seconds(testbed: Testbed, size: int) -> float:
    """Send ``size`` bytes from the server to the client; return connect to last byte."""
    with testbed.popen(
        "server", [sys.executable, "-c", SEND, str(size)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        done = testbed.exec(
            "client", [sys.executable, "-c", RECEIVE, SERVER], timeout_s=60, check=True
        )
    received, seconds = done.stdout.split()
    assert int(received) == size
    return float(seconds)


# Faults of the WAN.

UPLOADED = 400_000
RECEIVE_ALL = """
import socket, sys
listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
connection, _ = listener.accept()
received = 0
while data := connection.recv(65536):
    received += len(data)
print(received, flush=True)
"""
SEND_ALL = """
import socket, sys
source = ("", int(sys.argv[3]))
with socket.create_connection((sys.argv[1], 9000), 30, source) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
"""


def upload(testbed: Testbed, directory: Path, to: str, size: int, client_port: int = 0) -> Captures:
    """Send from the client to the server; return what was captured everywhere."""
    receive = [sys.executable, "-c", RECEIVE_ALL]
    with (
        Captures(testbed, directory, 9000) as captures,
        testbed.popen("server", receive, stdout=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
            send = [sys.executable, "-c", SEND_ALL, to, str(size), str(client_port)]
            testbed.exec("client", send, timeout_s=20, check=True)
            assert server.stdout.readline() == f"{size}\n"
        finally:
            server.kill()
    return captures


def counted(testbed: Testbed) -> InjectorStatus:
    """Return the injector's figures, which it writes down every 0.2 s."""
    time.sleep(0.4)
    found = testbed.status().injector
    assert found is not None
    assert found.alive
    assert found.queue == KernelQueue()
    return found


@dataclass
class Crossing:
    """What servernic did to one direction's packets, as the two captures beside it show."""

    lost: int
    duplicated: int
    late: int
    """More than half of the hold-back behind the delay."""

    @classmethod
    def of(cls, arrived: list[Captured], left: list[Captured], delay_s: float) -> Crossing:
        came, went = _times(arrived), _times(left)
        assert went.keys() <= came.keys()
        return cls(
            lost=sum(max(0, len(times) - len(went[name])) for name, times in came.items()),
            duplicated=sum(max(0, len(went[name]) - len(times)) for name, times in came.items()),
            late=sum(
                max(went[name]) - max(times) > delay_s for name, times in came.items() if went[name]
            ),
        )


def _times(packets: list[Captured]) -> dict[bytes, list[float]]:
    times: dict[bytes, list[float]] = defaultdict(list)
    for packet in packets:
        times[_name(packet)].append(packet.time)
    return times


def _name(packet: Captured) -> bytes:
    """The packet but for what changes on its way: the TTL and the checksums (offloads)."""
    raw = packet.raw
    header = 20 if raw[0] >> 4 == 4 else 40
    ip = raw[:8] + raw[9:10] + raw[12:20] if header == 20 else raw[:7] + raw[8:40]
    return ip + raw[header : header + 16] + raw[header + 18 :]


def crossings(captures: Captures, hold_s: float) -> list[Crossing]:
    """Return what befell the packets towards the server, and those towards the client."""
    wan, lan = captures.packets[WAN], captures.packets[LAN]
    return [
        Crossing.of(
            [packet for packet in before if _to_server(packet) is up],
            [packet for packet in after if _to_server(packet) is up],
            0.010 + hold_s / 2,
        )
        for before, after, up in ((wan, lan, True), (lan, wan, False))
    ]


def _to_server(packet: Captured) -> bool:
    header = 20 if packet.raw[0] >> 4 == 4 else 40
    return packet.raw[header + 2 : header + 4] == (9000).to_bytes(2, "big")


@pytest.fixture
def faulty(line: Testbed) -> Iterator[Callable[..., None]]:
    """Sets faults on the shared testbed, at RTT 20 ms; they are gone after the test."""

    def set_faults(**faults: Any) -> None:
        line.set_wan_to(WanSettings(rtt_ms=20, **faults))

    yield set_faults
    line.set_wan(20)
    assert line.status().injector is None
    rules = line.exec("servernic", ["iptables", "-t", "mangle", "-S", "POSTROUTING"], check=True)
    assert rules.stdout.strip() == "-P POSTROUTING ACCEPT"


@pytest.mark.alone  # what comes 15 ms too late has been held back
@pytest.mark.parametrize(("to", "client_port"), [(SERVER, 20_004), (SERVER_V6, 20_006)])
def test_what_the_injector_says_is_what_happens_on_the_wire(
    line: Testbed, faulty: Callable[..., None], tmp_path: Path, to: str, client_port: int
) -> None:
    faulty(loss_percent=2, reorder_percent=4, reorder_ms=30, duplicate_percent=3, seed=7)
    # What is drawn depends on the client's port.
    captures = upload(line, tmp_path, to, UPLOADED, client_port)
    up, down = crossings(captures, hold_s=0.030)
    said = counted(line)
    assert (up.lost + down.lost, up.duplicated + down.duplicated) == (said.lost, said.duplicated)
    assert up.late + down.late == said.reordered
    assert min(up.lost, up.duplicated, up.late, down.late) > 0
    # 400 packets or more: the shares, and five standard deviations.
    for count, share in ((said.lost, 0.02), (said.reordered, 0.04), (said.duplicated, 0.03)):
        mean = said.packets * share
        assert abs(count - mean) < 5 * mean**0.5


@pytest.mark.parametrize("to", [SERVER, SERVER_V6])
@pytest.mark.parametrize("first", First)
def test_one_segment_is_lost_once(
    line: Testbed, faulty: Callable[..., None], tmp_path: Path, to: str, first: First
) -> None:
    faulty(lose_first=(first,))
    captures = upload(line, tmp_path, to, 5000)
    before, after = (WAN, LAN) if first is not First.SYN_ACK else (LAN, WAN)
    left = [_name(packet) for packet in captures.packets[after]]
    missing = [p for p in captures.packets[before] if _name(p) not in left]
    lost = [p for p in missing if _to_server(p) is (first is not First.SYN_ACK)]
    assert [_kind(packet) for packet in lost] == [first]
    said = counted(line)
    assert (said.lost, said.first[first]) == (1, 1)


def _kind(packet: Captured) -> First:
    """Name a lost segment by its flags and its length alone."""
    header = 20 if packet.raw[0] >> 4 == 4 else 40
    flags = packet.raw[header + 13]
    if flags & 2:
        return First.SYN_ACK if flags & 16 else First.SYN
    data = len(packet.raw) - header - (packet.raw[header + 12] >> 4) * 4
    return First.DATA if data else First.ACK


def fates(seed: int, server_port: int, packets: int = 500) -> list[Fate]:
    """Return what happens to a client's packets, the first a SYN, on the way to a server's port."""
    faults = Faults(
        WanSettings(loss_percent=10, reorder_percent=10, duplicate_percent=10, seed=seed)
    )
    return [
        faults.fate(
            bytes(
                IP(src="10.0.1.2", dst=SERVER)
                / TCP(sport=12345, dport=server_port, seq=number, flags="S" if not number else "A")
            )
        )
        for number in range(packets)
    ]


def test_the_same_seed_is_the_same_fate_whatever_the_servers_port() -> None:
    assert fates(1, 80) == fates(1, 80) == fates(1, 8080)
    assert fates(1, 80) != fates(2, 80)
    for name in ("lost", "held_back", "doubled"):
        assert 20 < sum(getattr(fate, name) for fate in fates(1, 80)) < 90


def test_link_down(line: Testbed) -> None:
    line.set_wan(20)
    with line.link_down():
        assert ping(line, "-c", "3", "-i", "0.01", "-W", "0.3") == []
        assert "link down" in (line.status().problem or "")
    assert line.status().up
    assert len(ping(line, "-c", "3", "-i", "0.01")) == 3


def test_dead_injector_is_noticed_and_repaired(testbed_factory: MakeTestbed) -> None:
    testbed = testbed_factory(rtt_ms=10, emulation="delay-line", duplicate_percent=100)
    dead = testbed.status().injector
    assert dead is not None
    real = ProcessId.of(dead.pid)
    assert real is not None
    end(real)
    assert f"fault injector (pid {dead.pid}) has died" in (testbed.status().problem or "")
    assert ping(testbed, "-c", "2", "-i", "0.01", "-W", "0.3") == []
    testbed.up()
    # Each request arrives twice, and each of the two answers.
    assert len(ping(testbed, "-c", "1", "-W", "1", "-w", "1")) >= 1
    assert counted(testbed).duplicated >= 3


def test_faults_from_the_command_line(line: Testbed) -> None:
    arguments = ("up", "--name", line.name, "--rtt", "20ms")
    done = command(*arguments, "--reorder", "5%", "--reorder-by", "3ms", "--duplicate", "1%")
    assert done.returncode == 0, done.stderr
    assert "reordered 5 % (by 3 ms), duplicated 1 %" in done.stdout
    settings = line.status().settings
    assert settings == WanSettings(rtt_ms=20, reorder_percent=5, reorder_ms=3, duplicate_percent=1)
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "faults" not in done.stdout


# The life of a testbed.


def test_tcp_settings_of_the_hosts(line: Testbed) -> None:
    status = line.status()
    for host in status.hosts:
        got = line.exec(host.name, ["sysctl", "-n", "net.ipv4.tcp_congestion_control"]).stdout
        assert got.strip() == status.congestion_control
        saves = line.exec(host.name, ["sysctl", "-n", "net.ipv4.tcp_no_metrics_save"]).stdout
        assert saves.strip() == "1"


def test_unknown_congestion_control_leaves_the_default(testbed_factory: MakeTestbed) -> None:
    allowed = allowed_congestion_control()
    with testbed_factory(congestion_control="nosuch") as testbed:
        got = testbed.status().congestion_control
    assert got
    assert got != "nosuch"
    assert allowed_congestion_control() == allowed


def test_up_twice_keeps_what_runs_and_down_twice_is_fine(fresh: Testbed) -> None:
    fresh.up()
    before = fresh.status().delay_line
    with fresh.popen("server", ["sleep", "600"]) as sleeper:
        Testbed(fresh.name, rtt_ms=40, emulation="delay-line").up()
        again = fresh.status()
        assert again.up
        assert again.rtt_ms == 40
        assert before is not None
        assert again.delay_line is not None
        assert again.delay_line.pid == before.pid
        assert sleeper.poll() is None
        assert fresh.down()
        assert sleeper.wait(timeout=5) == -signal.SIGTERM
    assert not fresh.down()


def test_down_ends_what_ignores_sigterm(fresh: Testbed) -> None:
    fresh.up()
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    with fresh.popen("client", ["sh", "-c", script], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == b"ready\n"
        fresh.down()
        assert stubborn.wait(timeout=5) == -signal.SIGKILL


def test_dead_delay_line_is_noticed_and_repaired(fresh: Testbed) -> None:
    fresh.up()
    dead = fresh.status().delay_line
    assert dead is not None
    os.kill(dead.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while (status := fresh.status()).up and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not status.up
    assert f"delay line (pid {dead.pid}) has died" in (status.problem or "")
    assert status.delay_line is not None
    assert not status.delay_line.alive
    # The WAN must not have become a fast one.
    assert ping(fresh, "-c", "2", "-i", "0.01", "-W", "0.3") == []
    done = command("status", "--name", fresh.name)
    assert done.returncode == 1
    assert "has died" in done.stdout
    with pytest.raises(ZeroRttError, match="has died"):
        fresh.set_wan(30)
    fresh.up()
    assert fresh.status().up
    assert len(ping(fresh, "-c", "3", "-i", "0.01")) == 3


@pytest.mark.parametrize(
    ("host", "damage", "problem"),
    [
        ("server", "ip link del eth2", "eth2 of servernic is gone"),
        ("client", "ip route del 10.0.3.0/24", "client has lost its route"),
        ("clientnic", "ip addr flush dev eth1", "eth1 of clientnic has lost its address"),
        ("servernic", "iptables -t mangle -F FORWARD", "rules in mangle FORWARD are gone"),
    ],
)
def test_damage_is_noticed_and_repaired(
    fresh: Testbed, host: str, damage: str, problem: str
) -> None:
    fresh.up()
    fresh.exec(host, damage.split(), check=True)
    assert problem in (fresh.status().problem or "")
    fresh.up()
    assert fresh.status().up
    assert len(ping(fresh, "-c", "3", "-i", "0.01")) == 3


def test_lost_namespace_is_repaired(fresh: Testbed) -> None:
    fresh.up()
    subprocess.run(("ip", "netns", "del", fresh.netns("server")), check=True)
    assert "is gone" in (fresh.status().problem or "")
    fresh.up()
    assert fresh.status().up


# `up` announces each command before it runs it; this many lines later it is killed. The last ones
# are only reached by time: after the last command the delay line starts.
@pytest.mark.parametrize("lines", [1, 2, 3, 5, 8, 10, 12, 14, 18, 19, 20, 21, 22])
@pytest.mark.parametrize("then", ["up", "down"])
def test_up_killed_in_the_midst(fresh: Testbed, lines: int, then: str) -> None:
    _start_and_stop_up(fresh.name, lines, 0.0, signal.SIGKILL)
    _then(fresh, then)


@pytest.mark.parametrize("seconds", [0.03, 0.06, 0.1, 0.2])
def test_up_killed_while_the_delay_line_starts(fresh: Testbed, seconds: float) -> None:
    _start_and_stop_up(fresh.name, 22, seconds, signal.SIGKILL)
    _then(fresh, "down")


def test_up_interrupted_from_the_keyboard_clears_away(fresh: Testbed) -> None:
    assert _start_and_stop_up(fresh.name, 12, 0.0, signal.SIGINT) == 130
    assert leftovers(fresh.name) == []


def _start_and_stop_up(name: str, lines: int, seconds: float, number: signal.Signals) -> int:
    with subprocess.Popen(
        (sys.executable, "-c", MAIN, "testbed", "up", "--verbose", "--name", name),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines -= line.startswith("+ ")
            if lines == 0:
                break
        time.sleep(seconds)
        process.send_signal(number)
        rest = process.stderr.read()
        assert "Traceback" not in rest
        return process.wait(timeout=30)


def _then(testbed: Testbed, then: str) -> None:
    if then == "up":
        done = command("up", "--name", testbed.name, "--rtt", "10ms")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(ping(testbed, "-c", "3", "-i", "0.01")) == 3
    done = command("down", "--name", testbed.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert leftovers(testbed.name) == []


def test_damaged_state_file_is_ours_all_the_same(fresh: Testbed) -> None:
    fresh.up()
    state.state_file(fresh.name).write_text("{")
    assert not fresh.status().up
    fresh.up()
    assert fresh.status().up


def test_namespace_of_others_is_left_alone(fresh: Testbed) -> None:
    subprocess.run(("ip", "netns", "add", fresh.netns("server")), check=True)
    try:
        with pytest.raises(ZeroRttError, match="no testbed has made"):
            fresh.up()
        assert not fresh.down()
        assert Path("/run/netns", fresh.netns("server")).exists()
    finally:
        subprocess.run(("ip", "netns", "del", fresh.netns("server")), check=True)


def test_process_that_has_got_the_number_of_ours_is_left_alone(fresh: Testbed) -> None:
    fresh.up()
    line = fresh.status().delay_line
    assert line is not None
    real = ProcessId.of(line.pid)
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            document = json.loads(state.state_file(fresh.name).read_text())
            document["delay_line"]["pid"] = innocent.pid
            state.state_file(fresh.name).write_text(json.dumps(document))
            assert "has died" in (fresh.status().problem or "")
            fresh.down()
            assert innocent.poll() is None
            assert real is not None
            assert not real.alive()
        finally:
            innocent.kill()


def test_killed_while_congestion_control_was_allowed(fresh: Testbed) -> None:
    allowed = allowed_congestion_control()
    spare = [
        name
        for name in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        if name not in allowed.split()
    ]
    if not spare:
        pytest.skip("this kernel allows every congestion control that it has")
    # What `up` leaves behind when it is killed in the moment of the switch.
    with state.locked():
        ADDED.write_text(spare[0])
        ALLOWED.write_text(f"{allowed} {spare[0]}")
    fresh.down()
    assert allowed_congestion_control() == allowed


# The command.


def test_exec_passes_the_exit_status(line: Testbed) -> None:
    for script, status in (("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)):
        done = command("exec", "--name", line.name, "client", "--", "sh", "-c", script)
        assert done.returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("script", "said", "status"),
    [
        ("trap 'echo asked; exit 9' TERM HUP; echo started; while :; do sleep 0.05; done", 1, 9),
        ("echo started; exec sleep 60", 0, None),
    ],
    ids=["heard", "fatal"],
)
def test_exec_passes_signals(
    line: Testbed, number: signal.Signals, script: str, said: int, status: int | None
) -> None:
    options = ("exec", "--name", line.name, "client", "--", "sh", "-c", script)
    process = subprocess.Popen(
        (sys.executable, "-c", MAIN, "testbed", *options),
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        # The output ends when the command has ended.
        assert process.communicate(timeout=10)[0] == said * "asked\n"
        assert process.returncode == (128 + number if status is None else status)
    finally:
        process.kill()
        process.wait()


def test_exec_passes_options_of_the_command(line: Testbed) -> None:
    done = command("exec", "--name", line.name, "server", "ip", "-br", "addr", "show", "eth2")
    assert done.returncode == 0
    assert f"{SERVER}/24" in done.stdout


def test_exec_on_an_unknown_host(line: Testbed) -> None:
    done = command("exec", "--name", line.name, "nosuch", "--", "true")
    assert done.returncode == ConfigError.exit_status
    assert "client, clientnic, servernic, server" in done.stderr


def test_exec_without_a_testbed() -> None:
    done = command("exec", "--name", f"zt{os.getpid()}-none", "client", "--", "true")
    assert done.returncode == 1
    assert "testbed up" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_as_json(line: Testbed) -> None:
    done = command("status", "--json", "--name", line.name)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["up"] is True
    assert [host["name"] for host in found["hosts"]] == list(load_topology().host_names)
    assert found["delay_line"]["alive"] is True


def test_find(line: Testbed) -> None:
    assert Testbed.find(line.name).netns("client") == f"{line.name}-client"
    with pytest.raises(ZeroRttError, match="not up"):
        Testbed.find(f"{line.name}-none")
    with pytest.raises(ConfigError, match="client, clientnic"):
        line.netns("nosuch")
