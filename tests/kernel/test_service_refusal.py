"""Servers that refuse, cannot be reached, or do not answer.

The client has been told that it is connected. So it must learn soon that it is not,
and the next one shall see the server's own answer, as fast as that comes.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.addresses import FAMILIES, IPV4, IPV6, Family
from support.captures import CLIENT, CLIENT_SIDE, SERVER_SIDE, Captures
from support.judge.links import check_checksums
from support.peers import Peers, content, transfer
from support.reading import RST, SYN, connections
from support.service import Event, ServiceProcess
from support.settings import many_icmp_errors, sysctls
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

LEAVE_ALONE_S = 2
SYN_RETRIES = 2
LIMITS = f"""\
[limits]
leave_alone_s = {LEAVE_ALONE_S}
syn_retry_ms = 100
syn_retries = {SYN_RETRIES}
"""

# iptables' name of an ICMP error, and what a connect() without us makes of it.
ERRORS = [
    (IPV4, "icmp-net-unreachable", errno.ENETUNREACH),
    (IPV4, "icmp-host-unreachable", errno.EHOSTUNREACH),
    (IPV4, "icmp-port-unreachable", errno.ECONNREFUSED),
    (IPV4, "icmp-admin-prohibited", errno.EHOSTUNREACH),
    (IPV6, "icmp6-no-route", errno.ENETUNREACH),
    (IPV6, "icmp6-addr-unreachable", errno.EHOSTUNREACH),
    (IPV6, "icmp6-port-unreachable", errno.ECONNREFUSED),
    (IPV6, "icmp6-adm-prohibited", errno.EACCES),
]


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with short waits, shared by the tests of this file."""
    directory = tmp_path_factory.mktemp("service")
    config = directory / "config.toml"
    config.write_text(LIMITS, encoding="utf-8")
    with (
        many_icmp_errors(network, "servernic"),
        many_icmp_errors(network, "clientnic"),
        ServiceProcess(network, directory, "--config", str(config)) as running,
    ):
        yield running


@contextmanager
def rule(network: Testbed, host: str, family: Family, *words: str) -> Iterator[None]:
    """Let a host have an iptables rule in the block."""
    network.exec(host, [family.iptables, "-A", *words], check=True)
    try:
        yield
    finally:
        network.exec(host, [family.iptables, "-D", *words], check=True)


def be_reset(peers: Peers, port: int, address: str | None = None) -> None:
    """Connect, send, and be reset; connect() may see that already, if the scheduler is slow."""
    client = peers.tcp("client")
    with pytest.raises(ConnectionResetError):
        send_and_wait(client, (address or peers.family.server, port))


def send_and_wait(client: socket.socket, to: tuple[str, int]) -> None:
    client.connect(to)
    client.sendall(b"data for nobody")
    client.recv(1)


def attempt(peers: Peers, port: int, address: str | None = None) -> int:
    """Connect, and return the error number: 0 for none."""
    client = peers.tcp("client")
    return client.connect_ex((address or peers.family.server, port))


def the_reset(service: ServiceProcess, port: int, reason: str, by: str) -> Event:
    reset = service.event("flow.reset", port=port)
    assert (reset["reason"], reset["by"]) == (reason, by)
    return reset


def left_alone(service: ServiceProcess, port: int) -> list[str]:
    """Return why connections were left alone; what a client says to a flow that is gone aside."""
    reasons = [event["reason"] for event in service.events("flow.bypassed", port=port)]
    return [reason for reason in reasons if reason != "mid_stream"]


def expect_left_alone(service: ServiceProcess, port: int, *reasons: str) -> None:
    until(
        lambda: left_alone(service, port) == list(reasons),
        lambda: f"{reasons}, not {left_alone(service, port)}",
    )


@pytest.mark.parametrize(
    ("family", "error", "number"), ERRORS, ids=[error for _, error, _ in ERRORS]
)
def test_icmp_error_for_the_syn(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    family: Family,
    port: int,
    tmp_path: Path,
    error: str,
    number: int,
) -> None:
    """To a client that is connected already, an error for its SYN would mean nothing."""
    which = ["-i", "eth1", "-p", "tcp", "--dport", str(port)]
    with rule(
        network, "servernic", family, "FORWARD", *which, "-j", "REJECT", "--reject-with", error
    ):
        with Captures(network, tmp_path, port, errors=True) as captures:
            be_reset(peers, port)
        the_reset(service, port, "unreachable", "clientnic")
        assert attempt(peers, port) == number, "the next client sees the error itself"
        expect_left_alone(service, port, "unreachable_lately")
    check_checksums(captures)
    (near,) = connections(captures.packets[CLIENT_SIDE]).values()
    (far,) = connections(captures.packets[SERVER_SIDE]).values()
    assert [packet.flags for packet in far.up] == [SYN], "only the SYN went on, once"
    assert [packet.flags & RST for packet in near.down] == [0, RST]
    assert captures.errors[SERVER_SIDE]
    assert captures.errors[CLIENT] == []


def test_time_exceeded(service: ServiceProcess, peers: Peers, port: int) -> None:
    """A SYN whose hops are used up on the way, as with a routing loop."""

    def connecting() -> tuple[socket.socket, tuple[str, int]]:
        client = peers.tcp("client")
        if peers.family.version == 4:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)
        else:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 2)
        return client, (peers.family.server, port)

    with pytest.raises(ConnectionResetError):
        send_and_wait(*connecting())
    the_reset(service, port, "unreachable", "clientnic")
    # It was about that packet: others to the same server are answered by us.
    assert not left_alone(service, port)
    with pytest.raises(ConnectionResetError):
        send_and_wait(*connecting())
    assert not left_alone(service, port)


@pytest.mark.parametrize("beside", ["servernic", "clientnic"])
def test_host_that_does_not_exist(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, beside: str
) -> None:
    """The last router asks for its MAC address in vain. That router may be clientnic itself."""
    family = peers.family
    interface, neighbour = {
        "servernic": ("eth2", family.server),
        "clientnic": ("eth1", family.servernic),
    }[beside]
    nobody = f"{neighbour[:-1]}99"
    patience = {f"net.ipv{family.version}.neigh.{interface}.retrans_time_ms": "100"}
    with sysctls(network, beside, patience):
        be_reset(peers, port, nobody)
        the_reset(service, port, "unreachable", "clientnic")
        assert attempt(peers, port, nobody) == errno.EHOSTUNREACH
    expect_left_alone(service, port, "unreachable_lately")


def test_refusal_and_recovery(service: ServiceProcess, peers: Peers, port: int) -> None:
    """A server that comes up is reached directly the first time, and accelerated from then on."""
    be_reset(peers, port)
    the_reset(service, port, "refused", "server")
    assert attempt(peers, port) == errno.ECONNREFUSED
    expect_left_alone(service, port, "refused_lately")

    other = peers.listen(port + 10_000)
    transfer(peers.connect(port + 10_000), peers.accept(other), content(5000))
    service.event("flow.established", port=port + 10_000)

    listener = peers.listen(port)
    for number in range(3):
        transfer(peers.connect(port), peers.accept(listener), content(5000, number))
    service.wait_for("flow.established", port=port, count=2)
    expect_left_alone(service, port, "refused_lately", "refused_lately")


def test_refuses_again_after_the_while(service: ServiceProcess, peers: Peers, port: int) -> None:
    be_reset(peers, port)
    the_reset(service, port, "refused", "server")

    def reset() -> bool:
        client = peers.tcp("client")
        try:
            send_and_wait(client, (peers.family.server, port))
        except ConnectionRefusedError:
            return False  # by the server itself
        except ConnectionResetError:
            return True
        raise AssertionError("nobody was meant to answer")

    assert not reset()
    asked = time.monotonic()
    time.sleep(LEAVE_ALONE_S / 2)
    assert not reset(), "it was left alone for less than it should after the last who asked"
    time.sleep(LEAVE_ALONE_S + 0.2)
    assert reset(), "nobody has asked for longer than it is left alone"
    assert time.monotonic() - asked > LEAVE_ALONE_S
    assert attempt(peers, port) == errno.ECONNREFUSED
    assert set(left_alone(service, port)) == {"refused_lately"}


def test_server_that_does_not_answer(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    family = peers.family
    silent = rule(
        network, "server", family, "INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP"
    )
    with ExitStack() as stack:
        stack.enter_context(silent)
        with Captures(network, tmp_path, port) as captures:
            be_reset(peers, port)
            the_reset(service, port, "no_answer", "clientnic")
            client = peers.tcp("client")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.connect((family.server, port))
    expect_left_alone(service, port, "no_answer_lately")
    ours, direct = connections(captures.packets[SERVER_SIDE]).values()
    assert [packet.flags for packet in ours.up] == [SYN] * (1 + SYN_RETRIES)
    assert [packet.flags for packet in direct.up] == [SYN]
