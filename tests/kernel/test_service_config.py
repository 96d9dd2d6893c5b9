"""What the configuration file says of destinations, and SIGHUP, with connections that live on."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.addresses import FAMILIES, IPV4, IPV6, Family
from support.captures import Captures
from support.checker import check_captures
from support.judge.links import check_untouched
from support.peers import Peers, content, receive, receive_all, sending, transfer
from support.service import Event, ServiceProcess, rules

from nfq_zerortt.testbed.network import Testbed

HALF = 60_000
ELSEWHERE = 10_000
"""Between the ports that one test uses."""


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


class Configured:
    """The service with a configuration file that a test rewrites."""

    def __init__(self, network: Testbed, directory: Path) -> None:
        self._file = directory / "config.toml"
        options = ("--config", str(self._file), "--strategy", "hold")
        self.service = ServiceProcess(network, directory, *options)

    def start(self, text: str) -> ServiceProcess:
        self._write(text)
        self.service.start()
        return self.service

    def reload(self, text: str) -> Event:
        """Change the file, send SIGHUP, and return what the service says of it."""
        self._write(text)
        said = ("service.reloaded", "service.reload_failed")
        before = sum(len(self.service.events(name)) for name in said)
        assert self.service.process is not None
        self.service.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            events = [event for event in self.service.events() if event["event"] in said]
            if len(events) > before:
                return events[-1]
            time.sleep(0.01)
        raise AssertionError("nothing was said of SIGHUP")

    def _write(self, text: str) -> None:
        self._file.write_text(text, encoding="utf-8")


@pytest.fixture
def configured(network: Testbed, tmp_path: Path) -> Iterator[Configured]:
    made = Configured(network, tmp_path)
    yield made
    if made.service.process is not None:
        made.service.stop()


def played(service: ServiceProcess, port: int) -> list[str]:
    """Return what became of the connections to a port: a strategy, or why they were left alone."""
    names = ("flow.established", "flow.bypassed")
    events = [event for event in service.events(port=port) if event["event"] in names]
    return [event.get("strategy") or event["reason"] for event in events]


def expect(service: ServiceProcess, port: int, *wanted: str) -> None:
    name = "flow.bypassed" if wanted[-1] not in ("hold", "observe") else "flow.established"
    service.wait_for(name, port=port)
    assert [what for what in played(service, port) if what != "mid_stream"] == list(wanted)


class Ends:
    """Connections to any port; who listens there does so to the end of the test."""

    def __init__(self, peers: Peers) -> None:
        self.family = peers.family
        self._peers = peers
        self._listeners: dict[int, socket.socket] = {}

    def pair(self, port: int) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection: the client's and the server's."""
        if port not in self._listeners:
            self._listeners[port] = self._peers.listen(port)
        client = self._peers.connect(port)
        return client, self._peers.accept(self._listeners[port])


@pytest.fixture
def ends(peers: Peers) -> Ends:
    return Ends(peers)


def talk(ends: Ends, port: int) -> None:
    """One connection that serves its purpose."""
    client, server = ends.pair(port)
    transfer(client, server, content(3000, port))
    transfer(server, client, content(3000, port + 1))
    client.close()
    assert receive_all(server) == b""
    server.close()


def test_destinations(
    configured: Configured, network: Testbed, ends: Ends, port: int, tmp_path: Path
) -> None:
    """The first table that matches counts, by address and port; the rest is played as ever."""
    server, client = ends.family.server, ends.family.client
    direct, observed = port + ELSEWHERE, port + 2 * ELSEWHERE
    service = configured.start(
        f"""
        strategy = "hold"
        [[destination]]
        address = "{client}"
        strategy = "direct"

        [[destination]]
        address = ["192.0.2.0/24", "2001:db8::/32", "{server}"]
        ports = "{direct}-{direct + 5},1"
        strategy = "direct"

        [[destination]]
        ports = "{direct},{observed}"
        strategy = "observe"
        """
    )
    with Captures(network, tmp_path, direct) as of_direct:
        talk(ends, direct)
    with Captures(network, tmp_path, observed) as of_observed:
        talk(ends, observed)
    with Captures(network, tmp_path, port) as of_held:
        talk(ends, port)
    expect(service, direct, "direct")
    expect(service, observed, "observe")
    expect(service, port, "hold")
    check_untouched(of_direct, ends.family)
    check_untouched(of_observed, ends.family)
    check_captures(of_held)
    assert service.events("flow.synack_spoofed", port=direct) == []


class Live:
    """A connection in mid-transfer in both directions, to be ended after something happened."""

    def __init__(self, ends: Ends, port: int) -> None:
        self.client, self.server = ends.pair(port)
        self._halves = [content(HALF, seed) for seed in range(4)]
        self._exchange(*self._halves[:2])

    def _exchange(self, up: bytes, down: bytes) -> None:
        with sending(self.client, up), sending(self.server, down):
            assert receive(self.server, HALF) == up
            assert receive(self.client, HALF) == down

    def finish(self) -> None:
        self._exchange(*self._halves[2:])
        self.client.shutdown(socket.SHUT_WR)
        assert receive_all(self.server) == b""
        self.server.close()
        assert receive_all(self.client) == b""
        self.client.close()


def test_reload_of_ports(configured: Configured, network: Testbed, ends: Ends, port: int) -> None:
    """Flows on a port that is no longer wanted go on; on one that is wanted now, new ones begin."""
    other = port + ELSEWHERE
    service = configured.start(f'ports = "{port}"')
    live, passing = Live(ends, port), Live(ends, other)
    assert played(service, other) == [], "packets of other ports never come to the queue"

    assert configured.reload(f'ports = "{other}"')["changed"] == ["ports"]
    assert f"--dports {port},{other}" in rules(network)
    talk(ends, other)
    talk(ends, port)
    live.finish()
    passing.finish()
    service.event("flow.closed", port=port)
    expect(service, port, "hold", "port_not_selected")
    expect(service, other, "hold")
    # The old connection on the other port is met in mid-stream, whichever end speaks first there.
    met = [
        event
        for event in service.wait_for("flow.bypassed", count=2)
        if event["reason"] == "mid_stream"
    ]
    assert [f":{other}" in event["flow"] for event in met] == [True]

    assert configured.reload('ports = "all"')["event"] == "service.reloaded"
    talk(ends, port + 2 * ELSEWHERE)
    expect(service, port + 2 * ELSEWHERE, "hold")


def test_reload_of_destinations(configured: Configured, ends: Ends, port: int) -> None:
    """Each flow is played to its end by the strategy that it began with."""
    other = port + ELSEWHERE

    def table(ports: int, strategy: str) -> str:
        server = ends.family.server
        return (
            f'[[destination]]\naddress = "{server}"\nports = "{ports}"\nstrategy = "{strategy}"\n'
        )

    service = configured.start("")
    flows = [Live(ends, port)]
    for text in (table(port, "direct"), table(port, "observe") + table(other, "direct"), ""):
        assert configured.reload(text)["changed"] == ["destinations"]
        flows.append(Live(ends, port))
    talk(ends, other)
    for flow in flows:
        flow.finish()
    service.wait_for("flow.closed", port=port, count=3)
    assert played(service, port) == ["hold", "direct", "observe", "hold"]
    assert played(service, other) == ["hold"]
    assert {event["reason"] for event in service.events("flow.bypassed")} == {"direct"}


@pytest.mark.parametrize("family", [IPV4], ids=str)
def test_reload_while_a_handshake_is_under_way(
    configured: Configured, peers: Peers, port: int
) -> None:
    """The client is connected already and its data is held, when the destination goes direct."""
    request = content(4000)
    service = configured.start("")
    listener = peers.listen(port)
    client = peers.connect(port)
    client.sendall(request)
    said = configured.reload(f'[[destination]]\nports = "{port}"\nstrategy = "direct"\n')
    assert said["event"] == "service.reloaded"
    transfer(peers.accept(listener), client, content(4000, 2))
    expect(service, port, "hold")


NOT_POSSIBLE = {
    "ports = 'x'": "ports",
    "[[destination]]\nports = '80'\n": "destination[1].strategy",
    "[[destination]]\naddress = '10.0.0.1/8'\nstrategy = 'hold'\n": "destination[1].address",
    "queue = 7": "queue",
    "[limits]\nmax_flows = 0": "limits.max_flows",
    "strategy =": "TOML",
}


@pytest.mark.parametrize("family", [IPV4], ids=str)
def test_reload_of_what_cannot_be(configured: Configured, ends: Ends, port: int) -> None:
    """The service says what is wrong, and goes on as it was."""
    service = configured.start("")
    live = Live(ends, port)
    for text, named in NOT_POSSIBLE.items():
        said = configured.reload(text)
        assert said["event"] == "service.reload_failed"
        assert named in said["error"]
    live.finish()
    talk(ends, port)
    service.wait_for("flow.established", port=port, count=2)
    assert played(service, port) == ["hold", "hold"]


@pytest.mark.parametrize("family", [IPV6], ids=str)
def test_reload_of_limits(configured: Configured, ends: Ends, port: int) -> None:
    """A table that is full lets new connections pass, and those in it go on."""
    python = 'data_path = "python"\n'  # the size of the kernel's table is fixed at the start
    service = configured.start(python)
    flows = [Live(ends, port + number) for number in range(3)]
    configured.reload(python + "[limits]\nmax_flows = 2\n")
    talk(ends, port + ELSEWHERE)
    expect(service, port + ELSEWHERE, "flow_table_full")
    for flow in flows:
        flow.finish()
    for number in range(3):
        service.event("flow.closed", port=port + number)
