"""Fast Open where no connection comes about, and where it ends before it has begun."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.addresses import FAMILIES, IPV4, IPV6, Family
from support.captures import SERVER_SIDE, Captures
from support.fast_open import PATIENT, SYSCTL, check_fast_open, cookie_of
from support.peers import (
    LINGER_0,
    Peers,
    expect_reset,
    receive,
)
from support.reading import RST, SYN, connections
from support.service import ServiceProcess
from support.settings import sysctls, wan
from support.wan_faults import dropping

from nfq_zerortt.testbed.network import Testbed


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Tests of this file that do not say otherwise run over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with this strategy, shared by the tests of this file."""
    directory = tmp_path_factory.mktemp("service")
    config = directory / "config.toml"
    config.write_text(PATIENT + "syn_retries = 2\nsyn_retry_ms = 100\n", encoding="utf-8")
    with ServiceProcess(network, directory, "--config", str(config)) as running:
        yield running


def test_refused_with_data_in_the_syn(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """It might be the data or the option that is refused: the plain SYN tells."""
    with Captures(network, tmp_path, port) as captures:
        client = peers.connect(port)
        client.sendall(b"for nobody")
        expect_reset(client)
    (side,) = connections(captures.packets[SERVER_SIDE]).values()
    assert [(p.flags, p.payload) for p in side.up] == [(SYN, b"for nobody"), (SYN, b"")]
    assert service.event("flow.reset", port=port)["reason"] == "refused"


def test_unreachable_with_data_in_the_syn(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, family: Family
) -> None:
    error = "icmp-host-unreachable" if family.version == 4 else "icmp6-addr-unreachable"
    match = ["FORWARD", "-p", "tcp", "--dport", str(port), "-j", "REJECT", "--reject-with", error]
    network.exec("servernic", [family.iptables, "-I", *match], check=True)
    try:
        client = peers.connect(port)
        client.sendall(b"for nobody")
        expect_reset(client)
    finally:
        network.exec("servernic", [family.iptables, "-D", *match], check=True)
    assert service.event("flow.reset", port=port)["reason"] == "unreachable"
    assert data_of_syns(service, port) == [len("for nobody"), 0]


def data_of_syns(service: ServiceProcess, port: int) -> list[int]:
    return [event["data_bytes"] for event in service.events("flow.syn_forwarded", port=port)]


def test_silent_server(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    family: Family,
    tmp_path: Path,
) -> None:
    """The data goes with the first SYN and no other; then the client is told."""
    with (
        dropping(network, family, "--dport", str(port)) as rule,
        Captures(network, tmp_path, port) as captures,
    ):
        client = peers.connect(port)
        client.sendall(b"for nobody")
        expect_reset(client)
        assert service.event("flow.reset", port=port)["reason"] == "no_answer"
        assert rule.count == 3
    (side,) = connections(captures.packets[SERVER_SIDE]).values()
    assert [p.payload for p in side.syns] == [b"for nobody", b"", b""]
    assert [cookie_of(p) for p in side.syns] == [b"", None, None]


def abort(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    client.close()


def test_client_aborts_while_the_syn_is_kept_back(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with Captures(network, tmp_path, port) as captures:
        abort(peers.connect(port))
        service.event("flow.closed", port=port)
    assert captures.packets[SERVER_SIDE] == [], "the server need never know"


def test_client_aborts_when_the_syn_has_left(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The server gets the data and a reset, as from a client that aborts after a direct one."""
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        Captures(network, tmp_path, port) as captures,
    ):
        listener = peers.listen(port)
        client = peers.connect(port)
        client.sendall(b"data")
        abort(client)
        server = peers.accept(listener)
        assert receive(server, 4) == b"data"
        expect_reset(server)
        service.event("flow.closed", port=port)
    (opened,) = check_fast_open(captures, may_reset=True, complete=False)
    assert [p.flags for p in opened.translated.server_side.up] == [SYN, RST]
    assert opened.translated.server_side.up[1].seq == opened.translated.server_side.syn_acks[0].ack


# The end of the service. These must be the last: they start one of their own, and so they end
# the one that the tests before them share.


@pytest.fixture
def stopping(network: Testbed, service: ServiceProcess, tmp_path: Path) -> Iterator[ServiceProcess]:
    """The service, to be stopped by the test. What it hands over to the kernel would go on."""
    if service.process is not None:
        service.stop()
    config = tmp_path / "config.toml"
    config.write_text(PATIENT, encoding="utf-8")
    options = ("--config", str(config), "--data-path", "python")
    with ServiceProcess(network, tmp_path, *options) as running:
        yield running


@pytest.mark.parametrize("family", [IPV4], indirect=True, ids=str)
def test_stopped_while_the_syn_is_kept_back(
    stopping: ServiceProcess, network: Testbed, peers: Peers, port: int
) -> None:
    """Whether it is given up or still goes out: nobody is left with half a connection."""
    with sysctls(network, "server", {SYSCTL: "0x602"}), wan(network, 200):
        listener = peers.listen(port)
        client = peers.connect(port)
        stopping.stop()
        expect_reset(client)
        listener.settimeout(0.5)
        if stopping.events("flow.syn_forwarded"):
            expect_reset(peers.accept(listener))
        else:
            with pytest.raises(TimeoutError):
                listener.accept()


@pytest.mark.parametrize("family", [IPV6], indirect=True, ids=str)
def test_stopped_while_the_syn_is_under_way(
    stopping: ServiceProcess, network: Testbed, peers: Peers, port: int, family: Family
) -> None:
    """Nothing that the server says comes through: only a reset of ours can tell it."""
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        dropping(network, family, "--sport", str(port)),
    ):
        listener = peers.listen(port)
        client = peers.connect(port)
        client.sendall(b"data")
        server = peers.accept(listener)
        assert receive(server, 4) == b"data"
        stopping.stop()
        expect_reset(client)
        expect_reset(server)
