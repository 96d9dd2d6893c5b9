"""The faults of the WAN: what the injector says is what happens on the wire."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import LAN, WAN, Captured, Captures
from support.crossing import crossings, name_of, to_server
from support.testbeds import SERVER, SERVER_V6, MakeTestbed, ping

from nfq_zerortt.testbed.injector_control import InjectorStatus
from nfq_zerortt.testbed.network import Testbed
from nfq_zerortt.testbed.processes import ProcessId, end
from nfq_zerortt.testbed.queue_process_control import KernelQueue
from nfq_zerortt.testbed.wan import First, WanSettings

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
    left = [name_of(packet) for packet in captures.packets[after]]
    missing = [p for p in captures.packets[before] if name_of(p) not in left]
    lost = [p for p in missing if to_server(p) is (first is not First.SYN_ACK)]
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
