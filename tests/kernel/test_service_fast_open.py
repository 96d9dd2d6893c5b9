"""The strategy fastopen on real packets: TCP Fast Open between two kernels that are not told."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.addresses import FAMILIES, IPV4, IPV6, Family
from support.captures import SERVER, WAN, Captures
from support.conversation import converse, talk
from support.fast_open import KEY_SYSCTL, PATIENT, SYSCTL, FastOpened, check_fast_open, cookie_of
from support.peers import (
    Peers,
    content,
    digest,
    receive,
    receive_all,
)
from support.reading import ACK, SYN, Read, connections
from support.service import ServiceProcess
from support.settings import sysctls, wan
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

FAR_RTT_MS = 150
"""So far that an end has spoken before the other's next packet comes, on a busy machine as well."""
DIRECT_PORT = 40_009
DIRECT = f"""
[[destination]]
ports = "{DIRECT_PORT}"
strategy = "direct"
"""
FULL = {4: 1428, 6: 1408}
"""The longest first segment: 1500 bytes less IP, TCP, timestamps and 20 for Fast Open."""


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Tests of this file that do not say otherwise run over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with this strategy, shared by the tests of this file."""
    directory = tmp_path_factory.mktemp("service")
    config = directory / "config.toml"
    config.write_text(PATIENT + DIRECT, encoding="utf-8")
    with ServiceProcess(network, directory, "--config", str(config)) as running:
        yield running


@contextmanager
def server_route(network: Testbed, family: Family, *option: str) -> Iterator[None]:
    """Let the server's route to the client have an option."""
    ip = ["ip", f"-{family.version}", "route"]
    target = f"{family.client.removesuffix('2')}{'0/24' if family.version == 4 else '/64'}"
    (old,) = network.exec("server", [*ip, "show", target], check=True).stdout.splitlines()
    network.exec("server", [*ip, "change", *old.split(), *option], check=True)
    try:
        yield
    finally:
        network.exec("server", [*ip, "change", *old.split()], check=True)


def answered_before_the_third_ack(captures: Captures) -> list[bool]:
    """Tell of each connection whether the server's data left before the client's ACK came."""
    told = []
    for side in connections(captures.packets[SERVER]).values():
        answer = next(p for p in side.down if p.payload)
        third = next(p for p in side.up if not p.flags & SYN)
        told.append(answer.time < third.time)
    return told


def request_in(opened: FastOpened) -> tuple[int, int]:
    """How many bytes the SYN carried, and how many of them the server took."""
    return len(opened.data), opened.accepted


@pytest.mark.parametrize("mode", ["0x402", "0x602"])
def test_request_goes_with_the_syn(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path, mode: str
) -> None:
    """Where a cookie is asked for, the first contact brings it, and the second uses it."""
    requests = [content(200, seed=number) for number in range(2)]
    setting = sysctls(network, "server", {SYSCTL: mode})
    with setting, wan(network, FAR_RTT_MS), Captures(network, tmp_path, port) as captures:
        converse(peers, port, requests)
    first, second = check_fast_open(captures)
    assert first.cookie == b""
    assert first.data == requests[0]
    assert second.data == requests[1]
    if mode == "0x402":
        assert first.accepted == 0
        assert first.given is not None
        assert len(first.given) == 8
        assert second.cookie == first.given
        assert answered_before_the_third_ack(captures) == [False, True]
    else:
        assert first.accepted == len(requests[0])
        assert (first.given, second.cookie) == (None, b"")
        assert answered_before_the_third_ack(captures) == [True, True]
    assert second.accepted == len(requests[1])
    reported = [
        event["fast_open"] for event in service.wait_for("flow.syn_forwarded", port=port, count=2)
    ]
    assert reported == ["cookieless", "cookie" if mode == "0x402" else "cookieless"]


@pytest.mark.parametrize("family", [IPV4], indirect=True, ids=str)
@pytest.mark.parametrize("mode", ["0x0", "0x1", "0x2"])
def test_server_without_fast_open(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path, mode: str
) -> None:
    """The data follows after the handshake; the next SYN leaves at once, without the option."""
    requests = [content(200, seed=number) for number in range(2)]
    with sysctls(network, "server", {SYSCTL: mode}), Captures(network, tmp_path, port) as captures:
        converse(peers, port, requests)
    first, second = check_fast_open(captures)
    assert (first.cookie, request_in(first), first.given) == (b"", (200, 0), None)
    assert (second.cookie, request_in(second)) == (None, (0, 0))
    assert answered_before_the_third_ack(captures) == [False, False]
    told = [e["fast_open"] for e in service.wait_for("flow.synack_captured", port=port, count=2)]
    assert told == ["rejected", "none"]


SIZES = [(IPV4, size) for size in (1, 1428, 1429, 4000, 100_000)]
SIZES += [(IPV6, size) for size in (1408, 4000)]


@pytest.mark.parametrize(("family", "size"), SIZES, indirect=["family"], ids=str)
def test_sizes(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    family: Family,
    size: int,
) -> None:
    """And with a FIN right behind the request, from the second client."""
    requests = [content(size, seed=number) for number in range(2)]
    accepting = sysctls(network, "server", {SYSCTL: "0x602"})
    with accepting, Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        talk(peers, listener, requests[:1])
        talk(peers, listener, requests[1:], fin=True)
    for opened, request in zip(check_fast_open(captures), requests, strict=True):
        carried = min(size, FULL[family.version])
        assert request_in(opened) == (carried, carried)
        assert digest(opened.translated.sent) == digest(request)


def test_second_piece_while_the_syn_is_under_way(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    pieces = [content(100, seed=1), content(150, seed=2)]
    accepting = sysctls(network, "server", {SYSCTL: "0x602"})
    with accepting, wan(network, FAR_RTT_MS), Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.connect(port)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(pieces[0])
        client.sendall(pieces[1])
        server = peers.accept(listener)
        assert receive(server, 250) == b"".join(pieces)
        server.sendall(b"answer")
        assert receive(client, 6) == b"answer"
        client.close()
        assert receive_all(server) == b""
    (opened,) = check_fast_open(captures)
    assert request_in(opened) == (100, 100)
    assert service.event("flow.data_released", port=port)["bytes"] == 150


def test_urgent_data_stays_urgent(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int
) -> None:
    """A SYN has no place for it: its last byte must not become one among others."""
    with sysctls(network, "server", {SYSCTL: "0x602"}):
        listener = peers.listen(port)
        client = peers.connect(port)
        client.send(b"abc!", socket.MSG_OOB)
        server = peers.accept(listener)
        until(lambda: select.select([], [], [server], 0)[2], "urgent data", 2.0)
        assert server.recv(1, socket.MSG_OOB) == b"!"
        assert receive(server, 3) == b"abc"
        client.sendall(b"def")
        client.close()
        assert receive_all(server) == b"def"


WITHOUT = {
    "timestamps": {"net.ipv4.tcp_timestamps": "0"},
    "sack": {"net.ipv4.tcp_sack": "0"},
    "window_scaling": {"net.ipv4.tcp_window_scaling": "0"},
    "anything": {
        "net.ipv4.tcp_timestamps": "0",
        "net.ipv4.tcp_sack": "0",
        "net.ipv4.tcp_window_scaling": "0",
    },
}


@pytest.mark.parametrize("family", [IPV4], indirect=True, ids=str)
@pytest.mark.parametrize("host", ["client", "server"])
@pytest.mark.parametrize("missing", WITHOUT)
def test_host_without(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    host: str,
    missing: str,
) -> None:
    requests = [content(size) for size in (200, 4000, 4000)]
    settings = {SYSCTL: "0x402"}
    with (
        sysctls(network, "server", settings),
        sysctls(network, host, WITHOUT[missing]),
        Captures(network, tmp_path, port) as captures,
    ):
        converse(peers, port, requests)
    first, second, third = check_fast_open(captures)
    assert request_in(first) == (200, 0)
    for opened in (second, third):
        carried, accepted = request_in(opened)
        assert carried == accepted > 1200
        assert opened.cookie == first.given


def test_server_with_a_small_mss(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """From the second contact on it is known: options and data of the SYN keep to it."""
    if peers.family.version == 6:
        option, mss = "advmss", 1220
    else:
        option, mss = "advmss", 536
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        server_route(network, peers.family, option, str(mss)),
        Captures(network, tmp_path, port) as captures,
    ):
        converse(peers, port, [content(4000, seed=1), content(4000, seed=2)])
    first, second = check_fast_open(captures)
    assert first.accepted == len(first.data) > mss
    assert second.accepted == len(second.data)
    assert len(second.data) == mss - 12 - 20, "timestamps, and what is kept for Fast Open"
    for packet in second.translated.server_side.up:
        assert len(packet.payload) + int(packet.tcp.dataofs) * 4 - 20 <= mss


# Cookies.


def test_cookie_belongs_to_a_client(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    family: Family,
) -> None:
    """A second client of the same server asks for its own."""
    requests = [content(200, seed=number) for number in range(2)]
    other = family.client + "2"
    no_wait = ["nodad"] if family.version == 6 else []
    address = [f"{other}/{24 if family.version == 4 else 64}", "dev", "eth0", *no_wait]
    network.exec("client", ["ip", "addr", "add", *address], check=True)
    try:
        cookie_mode = sysctls(network, "server", {SYSCTL: "0x402"})
        with cookie_mode, Captures(network, tmp_path, port) as captures:
            listener = peers.listen(port)
            for source in (family.client, other, other):
                client = peers.tcp("client")
                client.bind((source, 0))
                client.connect((family.server, port))
                client.sendall(requests[0])
                server = peers.accept(listener)
                assert receive(server, 200) == requests[0]
                client.close()
                assert receive_all(server) == b""
                server.close()
    finally:
        network.exec("client", ["ip", "addr", "del", *address], check=True)
    packets = [Read(captured) for captured in captures.packets[WAN]]
    cookies = [cookie_of(p) for p in packets if p.flags & (SYN | ACK) == SYN]
    given = [cookie_of(p) for p in packets if p.flags & (SYN | ACK) == SYN | ACK]
    assert cookies == [b"", b"", given[1]]
    assert given[0] not in (None, given[1])
    assert given[2] is None


def test_bad_cookie_is_replaced(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The server has changed its key: the data follows after the handshake, the next goes along."""
    settings = {SYSCTL: "0x402", KEY_SYSCTL: "00000001-00000002-00000003-00000004"}
    with sysctls(network, "server", settings), Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        talk(peers, listener, [content(200, seed=number) for number in range(2)])
        with sysctls(network, "server", {KEY_SYSCTL: "00000005-00000006-00000007-00000008"}):
            talk(peers, listener, [content(200, seed=number) for number in range(2)])
    first, second, third, fourth = check_fast_open(captures)
    assert second.cookie == third.cookie == first.given
    assert (second.accepted, third.accepted) == (200, 0)
    assert third.given not in (None, first.given)
    assert (fourth.cookie, fourth.accepted) == (third.given, 200)


# What the client's kernel thinks of it.

TCP_INFO = {
    "lost": 32,
    "retrans": 36,
    "rtt": 68,
    "snd_ssthresh": 76,
    "snd_cwnd": 80,
    "total_retrans": 100,
}
"""Where the fields of struct tcp_info (linux/tcp.h) begin; 32 bits each."""


@pytest.mark.parametrize("rtt_ms", [100, 300])
def test_clients_tcp_sees_nothing_odd(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, rtt_ms: int
) -> None:
    """As after a direct connection: nothing is thought lost, the window is not reduced.

    On a long way the client repeats what it believes to go a short one; it takes that back.
    """
    with sysctls(network, "server", {SYSCTL: "0x602"}), wan(network, rtt_ms):
        direct = tcp_info_after(peers, DIRECT_PORT)
        played = tcp_info_after(peers, port)
    assert service.event("flow.synack_captured", port=port)["fast_open"] == "accepted"
    assert {e["reason"] for e in service.events("flow.bypassed", port=DIRECT_PORT)} == {"direct"}
    assert direct["total_retrans"] == 0
    if rtt_ms == 100:
        assert played["total_retrans"] == 0
    assert played["lost"] == played["retrans"] == 0
    assert played["snd_cwnd"] >= direct["snd_cwnd"] >= 10
    assert played["snd_ssthresh"] == direct["snd_ssthresh"], "never reduced"
    assert direct["rtt"] / 20 < played["rtt"] < 2 * direct["rtt"]


def tcp_info_after(peers: Peers, port: int) -> dict[str, int]:
    """Let a client send a short request and get an answer; return what its kernel thinks then."""
    listener = peers.listen(port)
    client = peers.connect(port)
    client.sendall(b"request")
    server = peers.accept(listener)
    assert receive(server, 7) == b"request"
    server.sendall(b"answer")
    assert receive(client, 6) == b"answer"
    raw = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    client.close()
    assert receive_all(server) == b""
    return {name: struct.unpack_from("=I", raw, at)[0] for name, at in TCP_INFO.items()}
