"""What a server, or somebody in its name, may answer that no kernel answers on demand.

The server is made by hand (support/raw_server.py), the client is a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.addresses import FAMILIES, Family
from support.peers import Peers, receive
from support.raw_server import RawServer
from support.reading import ACK, RST, SYN, Read
from support.service import ServiceProcess

from nfq_zerortt.testbed.network import Testbed

ISN = 1_000_000
OTHER_ISN = 3_000_000_000
EARLY = b"early data"
ROUND_TRIP_S = 0.08
"""Four of the test network's round trips: what is on its way has come."""


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server(network: Testbed, family: Family, port: int) -> Iterator[RawServer]:
    made = RawServer(network, family, port)
    yield made
    made.close()


class Connection:
    """A client that has connected and sent ``EARLY``; its SYN is at the server, unanswered."""

    def __init__(self, peers: Peers, server: RawServer) -> None:
        self.server = server
        self.client = peers.tcp("client")
        self.client.connect((server.address, server.port))
        self.client.sendall(EARLY)
        self.syn = server.receive()
        assert self.syn.flags == SYN
        self.next = self.syn.seq + 1
        """The number of the client's next byte, as far as the server has acknowledged."""

    def syn_ack(self, isn: int = ISN) -> None:
        self.server.send(self.syn, "SA", seq=isn, ack=self.syn.seq + 1)

    def receive(self) -> Read:
        """Return the client's next packet, but for a SYN that comes again: it was answered late."""
        packet = self.server.receive()
        while packet.flags == SYN:
            packet = self.server.receive()
        return packet

    def expect_early(self, isn: int = ISN) -> list[Read]:
        """The handshake is completed, and what was held comes; return the ACKs before it."""
        before: list[Read] = []
        while not (packet := self.receive()).payload:
            assert (packet.flags, packet.ack) == (ACK, isn + 1)
            before.append(packet)
        assert (packet.seq, packet.ack, packet.payload) == (self.next, isn + 1, EARLY)
        self.next += len(EARLY)
        return before

    def rest(self) -> list[Read]:
        """Return what comes within some round trips, but for SYNs."""
        return [p for p in self.server.receive_for(ROUND_TRIP_S) if p.flags != SYN]

    def answer(self, text: bytes, isn: int = ISN) -> None:
        """The server's first bytes reach the client, and are acknowledged to it."""
        self.server.send(self.syn, "PA", seq=isn + 1, ack=self.next, payload=text)
        assert receive(self.client, len(text)) == text
        wanted = (isn + 1 + len(text)) % 2**32
        assert any(p.ack == wanted for p in self.server.receive_for(ROUND_TRIP_S))


def test_syn_ack_that_comes_three_times(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    connection = Connection(peers, server)
    for _ in range(3):
        connection.syn_ack()
    connection.expect_early()
    assert {p.ack for p in connection.rest()} <= {ISN + 1}
    connection.answer(b"answer")
    connection.syn_ack()  # and once more when everything is long done
    assert all(p.flags & ACK and not p.flags & RST for p in connection.rest())
    assert len(service.events("flow.synack_captured", port=port)) == 1


def test_second_syn_ack_with_another_number(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    """A server that was started anew while its SYN-ACK was under way, or somebody's guess."""
    connection = Connection(peers, server)
    connection.syn_ack()
    connection.syn_ack(OTHER_ISN)
    came = connection.expect_early() + connection.rest()
    assert len(came) >= 2, "the other SYN-ACK was meant to be challenged (RFC 5961, section 4)"
    assert {packet.ack for packet in came} == {ISN + 1}
    connection.answer(b"the first one goes on")
    assert service.event("flow.synack_captured", port=port)["isn_server"] == ISN


def test_server_started_anew(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    """The new server knows nothing of the challenge's number, and says so."""
    connection = Connection(peers, server)
    connection.syn_ack()
    connection.syn_ack(OTHER_ISN)
    connection.expect_early()
    server.send(connection.syn, "R", seq=ISN + 1)
    with pytest.raises(ConnectionResetError):
        connection.client.recv(1)
    assert service.event("flow.reset", port=port)["by"] == "server"


def test_lost_syn_is_repeated_by_us(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    connection = Connection(peers, server)
    again = server.receive()
    assert again.raw[1:] == connection.syn.raw[1:], "the same SYN"
    connection.syn_ack(OTHER_ISN)
    connection.expect_early(OTHER_ISN)
    connection.answer(b"answer", OTHER_ISN)
    assert [e["attempt"] for e in service.events("flow.syn_forwarded", port=port)] == [1, 2]


def test_remnant_of_an_earlier_connection(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    """An old SYN-ACK, or an old connection's challenge: answered with RST, then the SYN again."""
    connection = Connection(peers, server)
    server.send(connection.syn, "SA", seq=ISN, ack=connection.next + 5000)
    reset = connection.receive()
    assert (reset.flags, reset.seq) == (RST, (connection.next + 5000) % 2**32)
    assert server.receive().flags == SYN
    connection.syn_ack()
    connection.expect_early()
    connection.answer(b"answer")
    assert service.events("flow.reset", port=port) == []


def test_server_data_ahead_of_its_syn_ack(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    """The SYN-ACK was lost, or overtaken: nobody knows yet what the numbers mean."""
    connection = Connection(peers, server)
    server.send(connection.syn, "PA", seq=ISN + 1, ack=connection.next, payload=b"answer")
    assert connection.rest() == []
    connection.syn_ack()
    connection.expect_early()
    connection.answer(b"answer")
    service.event("flow.established", port=port)


@pytest.mark.parametrize("guess", ["RST", "RST and ACK"])
def test_reset_with_a_guessed_number_before_the_answer(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int, guess: str
) -> None:
    connection = Connection(peers, server)
    if guess == "RST":
        server.send(connection.syn, "R", seq=0)
    else:
        server.send(connection.syn, "RA", seq=0, ack=connection.next + 77)
    connection.syn_ack()
    connection.expect_early()
    connection.answer(b"answer")
    assert service.events("flow.reset", port=port) == []


@pytest.mark.parametrize(
    ("flags", "offset"),
    [("R", 1 << 24), ("R", -(1 << 24)), ("R", 5000), ("S", 1 << 24), ("S", 5000), ("SA", 5000)],
)
def test_guesses_in_mid_stream(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int, flags: str, offset: int
) -> None:
    """RST and SYN outside the window, or inside but not exact: it goes on (RFC 5961)."""
    connection = Connection(peers, server)
    connection.syn_ack()
    connection.expect_early()
    connection.answer(b"answer")
    for _ in range(5):
        server.send(connection.syn, flags, seq=ISN + 7 + offset, ack=connection.next)
    challenges = [p for p in connection.rest() if p.flags & ACK]
    assert all(p.ack == ISN + 7 for p in challenges)
    connection.client.sendall(b"more")
    packet = connection.receive()
    assert (packet.payload, packet.seq, packet.ack) == (b"more", connection.next, ISN + 7)
    server.send(connection.syn, "PA", seq=ISN + 7, ack=packet.seq + 4, payload=b"and more")
    assert receive(connection.client, 8) == b"and more"


def test_reset_with_the_right_number(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    connection = Connection(peers, server)
    connection.syn_ack()
    connection.expect_early()
    server.send(connection.syn, "R", seq=ISN + 1)
    with pytest.raises(ConnectionResetError):
        connection.client.recv(1)
    assert service.event("flow.reset", port=port)["by"] == "server"


def test_zero_window_probes(
    service: ServiceProcess, peers: Peers, server: RawServer, port: int
) -> None:
    """Each probe comes through and its answer goes back; then the window opens."""
    connection = Connection(peers, server)
    connection.syn_ack()
    connection.expect_early()

    def window(size: int) -> None:
        server.send(connection.syn, "A", seq=ISN + 1, ack=connection.next, window=size)

    window(0)
    server.receive_for(ROUND_TRIP_S)
    connection.client.sendall(b"as soon as there is room")
    for _ in range(3):
        probe = server.receive()
        assert (probe.payload, probe.seq) == (b"", connection.next - 1)
        assert probe.ack == ISN + 1
        window(0)
    window(1000)
    packet = server.receive()
    while not packet.payload:
        packet = server.receive()
    assert (packet.seq, packet.payload) == (connection.next, b"as soon as there is room")
    service.event("flow.established", port=port)
