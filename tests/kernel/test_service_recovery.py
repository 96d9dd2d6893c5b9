"""Loss on the WAN, and a client that repeats early data because it believes the path is short."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.addresses import FAMILIES, Family
from support.captures import Captures
from support.checker import check_captures
from support.peers import Peers, content, digest, receive, receive_all, sending
from support.reading import Read
from support.service import ServiceProcess
from support.settings import sysctls, wan

from nfq_zerortt.testbed.network import Testbed

SIZE = 400_000
LONG_RTT_MS = 300


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


def with_sack(packets: list[Read]) -> list[Read]:
    return [packet for packet in packets if packet.sack]


def test_losses_are_repaired_with_translated_sack(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    up, down = content(SIZE, 1), content(SIZE, 2)
    with wan(network, 20, loss_percent=3), Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        with sending(client, up), sending(server, down):
            got, sent = receive(client, SIZE), receive(server, SIZE)
        assert (digest(got), digest(sent)) == (digest(down), digest(up))
        client.close()
        assert receive_all(server) == b""
        server.close()
        service.wait_for("flow.closed", port=port)
    (found,) = check_captures(captures, lossy=True)
    assert with_sack(found.server_side.up), "the client was meant to report losses"
    assert with_sack(found.server_side.down), "the server was meant to report losses"


def test_losses_are_repaired_when_the_server_does_not_grant_sack(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The client was promised SACK and uses it; the server must not see what it did not grant."""
    down = content(SIZE)
    without_sack = sysctls(network, "server", {"net.ipv4.tcp_sack": "0"})
    lossy = wan(network, 20, loss_percent=3)
    with without_sack, lossy, Captures(network, tmp_path, port) as captures:
        client, server = peers.pair(port)
        with sending(server, down):
            assert digest(receive(client, SIZE)) == digest(down)
        client.close()
        assert receive_all(server) == b""
        server.close()
        service.wait_for("flow.closed", port=port)
    (found,) = check_captures(captures, lossy=True)
    assert with_sack(found.client_side.up), "the client was meant to report losses"
    assert not with_sack(found.server_side.up)


def test_needless_repetitions_stay_here_and_are_reported_to_the_client(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The client's timers run on the round trip to clientnic: it repeats what is held."""
    request = content(6_000)
    with wan(network, LONG_RTT_MS), Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        client = peers.connect(port)
        client.sendall(request)
        server = peers.accept(listener)
        assert receive(server, len(request)) == request
        server.sendall(b"answer")
        assert receive(client, 6) == b"answer"
        client.close()
        server.close()
        suppressed = service.event("flow.closed", port=port)["retransmissions_suppressed"]
    (found,) = check_captures(captures)
    assert suppressed > 0, "the client was meant to repeat what was held"
    seen = [(packet.seq, packet.payload) for packet in found.server_side.up if packet.payload]
    assert len(seen) == len(set(seen)), "early data crossed the WAN twice"
    repeated = [p for p in found.client_side.up if p.payload]
    assert len(repeated) == len(seen) + suppressed
    reported = with_sack(found.client_side.down)
    assert len(reported) == suppressed
    first = (found.isn_client + 1) % 2**32
    for packet in reported:
        left, right = packet.sack
        assert 0 <= (left - first) % 2**32 < (right - first) % 2**32 <= len(request)
