"""The WAN of the test network: delay, loss, rate, and a link that is down."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.testbeds import SERVER, SERVER_V6, MakeTestbed, ping

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.testbed.emulation import DELAY_LINE, NETEM
from nfq_zerortt.testbed.network import Testbed
from nfq_zerortt.testbed.queue_process_control import KernelQueue


@pytest.fixture(scope="module", params=[DELAY_LINE, NETEM])
def wan(
    request: pytest.FixtureRequest, line: Testbed, testbed_factory: MakeTestbed
) -> Iterator[Testbed]:
    """A testbed by each of the two ways to make a delay."""
    if request.param == DELAY_LINE:
        yield line
        return
    testbed = testbed_factory(up=False, rtt_ms=20, emulation="netem")
    try:
        testbed.up()
    except ZeroRttError as error:
        if "has no netem" not in str(error):
            raise
        pytest.skip(str(error))
    assert testbed.status().wan == NETEM
    yield testbed
    testbed.down()


def assert_round_trips(times: list[float], rtt_ms: float) -> None:
    """None is shorter than the WAN's, and the shortest is that: others wait for a busy machine."""
    assert rtt_ms <= min(times) < rtt_ms + 3


@pytest.mark.parametrize("rtt_ms", [10, 100])
def test_rtt(testbed_factory: MakeTestbed, rtt_ms: float) -> None:
    """As a user gets it who does not choose how."""
    with testbed_factory(rtt_ms=rtt_ms) as testbed:
        times = ping(testbed, "-c", "50", "-i", "0.01")
        assert len(times) == 50
        assert_round_trips(times, rtt_ms)


def test_rtt_over_ipv6(wan: Testbed) -> None:
    wan.set_wan(20)
    times = ping(wan, "-6", "-c", "20", "-i", "0.01", to=SERVER_V6)
    assert len(times) == 20
    assert_round_trips(times, 20)


def test_both_nics_take_one_off_the_ttl(wan: Testbed) -> None:
    wan.set_wan(20)
    output = wan.exec("client", ["ping", "-n", "-c", "1", SERVER]).stdout
    assert "ttl=62" in output


def test_delay_acts_on_tcp_too(wan: Testbed) -> None:
    wan.set_wan(60)
    assert 0.06 <= min(_transfer_seconds(wan, 1) for _ in range(3)) < 1


def test_wan_changes_while_it_is_up(wan: Testbed) -> None:
    for rtt_ms in (50, 10):
        wan.set_wan(rtt_ms)
        assert_round_trips(ping(wan, "-c", "20", "-i", "0.01"), rtt_ms)
        assert wan.status().rtt_ms == rtt_ms


def test_loss_is_of_each_direction(wan: Testbed) -> None:
    wan.set_wan(10, loss_percent=10)
    came_back = len(ping(wan, "-c", "400", "-i", "0.005", "-W", "1"))
    wan.set_wan(10)
    # 0.9² of 400, and five standard deviations.
    assert abs(came_back - 324) < 40
    assert len(ping(wan, "-c", "50", "-i", "0.005")) == 50


def test_rate_is_an_upper_bound(wan: Testbed) -> None:
    size = 1_000_000
    wan.set_wan(10, rate_mbit=10)
    seconds = _transfer_seconds(wan, size)
    wan.set_wan(10)
    assert seconds > size * 8 / 10e6
    assert wan.status().rate_mbit is None


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


def test_link_down(wan: Testbed) -> None:
    wan.set_wan(20)
    with wan.link_down():
        assert ping(wan, "-c", "3", "-i", "0.01", "-W", "0.3") == []
        assert "link down" in (wan.status().problem or "")
    assert wan.status().up
    assert len(ping(wan, "-c", "3", "-i", "0.01")) == 3
