"""All sequence spaces and the timestamps wrap in the middle of one connection of real kernels.

- The client's ISN is set by the socket option TCP_REPAIR.
- The server's ISN is a hash of the 4-tuple plus a clock of 64 ns (RFC 6528; Linux,
  secure_tcp_seq): so many source ports are asked for their ISN, and the test
  connects from one of them at the moment in which it is about to wrap.
- The spoofed numbers are the service's own: it is started with them given.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from support.captures import SERVER as SERVER_WIRE
from support.captures import Captures
from support.checker import check_captures
from support.crafted import send
from support.peers import SERVER, Peers, content, digest, receive, sending
from support.reading import CLIENT_ADDRESS, Read
from support.service import ServiceProcess

from nfq_zerortt.testbed.network import Testbed

SIZE = 400_000
BEFORE_WRAP = 200_000
MODULUS = 2**32
NUMBERS_PER_SECOND = 1e9 / 64
HALF_RTT_S = 0.010
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
SEND_QUEUE = 2

WITH_GIVEN_NUMBERS = f"""
from nfq_zerortt.core.isn import InitialNumbers
InitialNumbers.draw = lambda self, four_tuple, now: ({MODULUS - BEFORE_WRAP}, {MODULUS - 50})
from nfq_zerortt.cli import main
main()
"""


def moments_of_wrap(
    network: Testbed, peers: Peers, port: int, directory: Path
) -> list[tuple[float, int]]:
    """Return when the server's ISN for a source port is about to wrap, the soonest first."""
    asked = range(41_000, 41_300)
    syns = [
        bytes(IP(src=CLIENT_ADDRESS, dst=SERVER) / TCP(sport=source, dport=port, flags="S"))
        for source in asked
    ]
    directory.mkdir()
    with Captures(network, directory, port) as captures:
        send(network, syns, pause_s=0.001)
    moments = []
    for captured in captures.packets[SERVER_WIRE]:
        packet = Read(captured)
        if packet.tcp.flags == "SA":
            ahead = (MODULUS - BEFORE_WRAP - packet.seq) % MODULUS
            moments.append((packet.time + ahead / NUMBERS_PER_SECOND, packet.tcp.dport))
    assert len(moments) >= len(asked) // 2, "the server was meant to answer"
    return sorted(moments)


def connect(peers: Peers, port: int, source: int, at: float) -> socket.socket:
    """Connect from a port at a moment, with an ISN that is about to wrap."""
    client = peers.tcp("client")
    client.bind(("", source))
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, SEND_QUEUE)
    isn = struct.pack("=I", MODULUS - BEFORE_WRAP)
    client.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, isn)
    client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    time.sleep(max(at - HALF_RTT_S - time.time(), 0))
    client.connect((SERVER, port))
    return client


def test_everything_wraps(network: Testbed, peers: Peers, port: int, tmp_path: Path) -> None:
    listener = peers.listen(port)
    moments = moments_of_wrap(network, peers, port, tmp_path / "asked")
    up, down = content(SIZE, 1), content(SIZE, 2)
    command = (sys.executable, "-c", WITH_GIVEN_NUMBERS)
    with ServiceProcess(network, tmp_path, command=command) as service:
        for attempt in range(8):
            with Captures(network, tmp_path, port) as captures:
                soon = time.time() + 0.2
                moment, source = next(one for one in moments if one[0] > soon)
                client = connect(peers, port, source, moment)
                server = peers.accept(listener)
                known = service.wait_for("flow.synack_captured", port=port, count=attempt + 1)
                left = MODULUS - known[-1]["isn_server"]
                if left < SIZE - 20_000:
                    with sending(client, up), sending(server, down):
                        got, sent = receive(client, SIZE), receive(server, SIZE)
                    assert (digest(got), digest(sent)) == (digest(down), digest(up))
                client.close()
                server.close()
            if left < SIZE - 20_000:
                break
        else:
            pytest.fail("the machine was too busy to connect at a given moment, eight times")
    (found,) = check_captures(captures)
    assert found.isn_client + SIZE > MODULUS
    assert found.isn_spoofed + SIZE > MODULUS
    assert found.isn_server + SIZE > MODULUS
    spoofed = [p.timestamps[0] for p in found.client_side.down if p.timestamps]
    assert spoofed[0] > MODULUS - 100
    assert spoofed[-1] < 60_000
