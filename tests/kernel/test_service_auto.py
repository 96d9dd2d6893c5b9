"""The strategy auto on real packets: no first contact waits; Fast Open where it does no harm."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.addresses import FAMILIES, Family
from support.captures import CLIENT_SIDE, SERVER_SIDE, Captures
from support.checker import check_captures
from support.conversation import talk
from support.fast_open import SYSCTL, FastOpened, check_fast_open
from support.judge.links import check_untouched
from support.peers import Peers, content, receive, receive_all
from support.reading import Side, connections
from support.service import ServiceProcess
from support.settings import sysctls

from nfq_zerortt.testbed.network import Testbed

_PORTS = itertools.count(50_000)
HELD_PORT, FAST_OPEN_PORT, DIRECT_PORT = 40_001, 40_002, 40_003
SETTINGS = f"""\
strategy = "auto"
fast_open_ports = "50000-59999"
[limits]
fast_open_wait_ms = 500
[[destination]]
ports = "{HELD_PORT}"
strategy = "hold"
[[destination]]
ports = "{FAST_OPEN_PORT}"
strategy = "fastopen"
[[destination]]
ports = "{DIRECT_PORT}"
strategy = "direct"
"""
"""A SYN that is kept back waits so long that no chance hides it."""

PATIENT_TRIES = 30
GET = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"
POST = b"POST /pay HTTP/1.1\r\nHost: server\r\nContent-Length: 3\r\n\r\n100"
BANNER = b"SSH-2.0-banner\r\n"

believed_to_speak_at_once = pytest.mark.alone
"""A client that has once been late by some milliseconds is not waited for the next time."""


def client_hello() -> bytes:
    """Return what a TLS client says first."""
    from_server, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(from_server, to_server, server_hostname="server")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return to_server.read()


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def port() -> int:
    """A server port of which nothing was learned, and on which auto may do Fast Open."""
    return next(_PORTS)


@pytest.fixture(scope="module")
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with these settings, shared by the tests of this file."""
    directory = tmp_path_factory.mktemp("service")
    config = directory / "config.toml"
    config.write_text(SETTINGS, encoding="utf-8")
    with ServiceProcess(network, directory, "--config", str(config)) as running:
        yield running


def exchanged(
    network: Testbed,
    peers: Peers,
    port: int,
    directory: Path,
    requests: list[bytes],
    *,
    mode: str = "0x402",
) -> list[FastOpened]:
    """Let clients send requests, one after the other, and return what was seen of them."""
    with sysctls(network, "server", {SYSCTL: mode}), Captures(network, directory, port) as captures:
        talk(peers, peers.listen(port), requests)
    return check_fast_open(captures)


def waited(near: Side, far: Side) -> bool:
    """Tell whether the SYN left only after the client had spoken."""
    spoke = next(p for p in near.up if p.payload)
    return far.syns[0].time >= spoke.time


@believed_to_speak_at_once
@pytest.mark.parametrize("mode", ["0x402", "0x0"])
def test_first_contact_asks_and_does_not_wait(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path, mode: str
) -> None:
    """Then the server's own way is followed: its cookie, or nothing of the kind."""
    first, second, third = exchanged(network, peers, port, tmp_path, [GET] * 3, mode=mode)
    assert (first.cookie, first.data) == (b"", b"")
    said = [event["event"] for event in service.events(port=port)]
    assert said.index("flow.syn_forwarded") < said.index("flow.data_held")
    if mode == "0x402":
        assert first.given is not None
        assert second.cookie == third.cookie == first.given
        assert second.data == third.data == GET
        assert second.accepted == third.accepted == len(GET)
    else:
        assert first.given is None
        assert second.accepted == third.accepted == 0
        assert [len(one.syns) for one in (first, second, third)] == [1, 1, 1]


def test_server_that_wants_no_cookie_is_found_out(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int
) -> None:
    """It gives none, so auto tries, where clients speak at once; on a busy machine some do not."""
    with sysctls(network, "server", {SYSCTL: "0x602"}):
        listener = peers.listen(port)
        for _ in range(PATIENT_TRIES):
            talk(peers, listener, [GET])
            told = [event["fast_open"] for event in service.events("flow.syn_forwarded", port=port)]
            if told[-1] == "cookieless":
                break
        talk(peers, listener, [GET])
    told = [e["fast_open"] for e in service.wait_for("flow.synack_captured", port=port)]
    assert told[0] == "none"
    assert "accepted" in told


@pytest.mark.parametrize("mode", ["0x402", "0x0"])
def test_server_that_speaks_first_is_never_waited_for(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path, mode: str
) -> None:
    with sysctls(network, "server", {SYSCTL: mode}), Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        for _ in range(3):
            client = peers.connect(port)
            server = peers.accept(listener)
            server.sendall(BANNER)
            assert receive(client, len(BANNER)) == BANNER
            client.sendall(b"hello")
            assert receive(server, 5) == b"hello"
            client.close()
            assert receive_all(server) == b""
            server.close()
    opened = check_fast_open(captures)
    assert len(opened) == 3
    for one in opened:
        near, far = one.translated.client_side, one.translated.server_side
        assert not waited(near, far)
        assert len(far.syns) == 1
        assert one.data == b""
    # Asked once; where the answer was no, not again.
    assert [one.cookie for one in opened] == [b"", None, None]


@believed_to_speak_at_once
def test_what_may_be_said_twice_and_what_may_not(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    hello = client_hello()
    requests = [GET, GET, POST, hello, b"HEAD / HTTP/1.0\r\n\r\n", b"\x16\x03anything"]
    opened = exchanged(network, peers, port, tmp_path, requests)
    assert [one.data for one in opened] == [b"", GET, b"", hello, requests[4], b""]
    assert [one.translated.sent for one in opened] == requests


@believed_to_speak_at_once
def test_long_client_hello_goes_as_far_as_a_segment_does(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """As with post-quantum key shares: two segments."""
    hello = client_hello() + content(1500)
    _, second = exchanged(network, peers, port, tmp_path, [GET, hello])
    assert 0 < len(second.data) == second.accepted < len(hello)
    assert second.translated.sent == hello


def test_other_ports_are_played_as_by_hold(
    service: ServiceProcess, network: Testbed, peers: Peers, tmp_path: Path
) -> None:
    """Nothing is asked and nothing is kept back, however early the client speaks."""
    port = next(_PORTS) - 20_000
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        Captures(network, tmp_path, port) as captures,
    ):
        talk(peers, peers.listen(port), [GET] * 3)
    check_captures(captures)  # which allows no Fast Open option
    told = [
        event["fast_open"] for event in service.wait_for("flow.syn_forwarded", port=port, count=3)
    ]
    assert told == ["none"] * 3


def test_destinations_have_strategies_of_their_own(
    service: ServiceProcess, network: Testbed, peers: Peers, tmp_path: Path
) -> None:
    """What is said does not matter where the administrator has chosen fastopen."""
    captured = {}
    with sysctls(network, "server", {SYSCTL: "0x602"}):
        for port in (HELD_PORT, FAST_OPEN_PORT, DIRECT_PORT):
            directory = tmp_path / str(port)
            directory.mkdir()
            with Captures(network, directory, port) as captured[port]:
                talk(peers, peers.listen(port), [POST])
    check_captures(captured[HELD_PORT])
    (opened,) = check_fast_open(captured[FAST_OPEN_PORT])
    assert (opened.data, opened.accepted) == (POST, len(POST))
    check_untouched(captured[DIRECT_PORT], peers.family)
    strategies = {
        port: {e["strategy"] for e in service.wait_for("flow.established", port=port)}
        for port in (HELD_PORT, FAST_OPEN_PORT)
    }
    assert strategies == {HELD_PORT: {"hold"}, FAST_OPEN_PORT: {"fastopen"}}


@believed_to_speak_at_once
def test_one_client_that_says_nothing_does_not_spoil_it_for_the_others(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """A browser opens connections before it needs them."""
    with (
        sysctls(network, "server", {SYSCTL: "0x402"}),
        Captures(network, tmp_path, port) as captures,
    ):
        listener = peers.listen(port)
        talk(peers, listener, [GET])
        silent = peers.connect(port)
        server = peers.accept(listener)
        silent.close()
        assert receive_all(server) == b""
        server.close()
        talk(peers, listener, [GET, GET])
    opened = check_fast_open(captures)
    assert [len(one.data) for one in opened][-1] == len(GET)


@believed_to_speak_at_once
def test_sides_agree_on_who_spoke_when(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The judge of waiting is right: at the second contact the SYN does wait."""
    with (
        sysctls(network, "server", {SYSCTL: "0x402"}),
        Captures(network, tmp_path, port) as captures,
    ):
        listener = peers.listen(port)
        talk(peers, listener, [GET])
        client = peers.connect(port)
        service.wait_for("flow.synack_spoofed", port=port, count=2)
        client.sendall(GET)
        server = peers.accept(listener)
        assert receive(server, len(GET)) == GET
        client.close()
        assert receive_all(server) == b""
    near = connections(captures.packets[CLIENT_SIDE])
    far = connections(captures.packets[SERVER_SIDE])
    first, second = ((near[key], far[key]) for key in near)
    assert waited(*second)
    assert not first[1].syns[0].payload
