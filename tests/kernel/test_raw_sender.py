"""The raw sockets: a packet leaves as it was built, or the problem is told as a text.

What arrives is read by a packet socket at the other end, and taken apart by scapy.
"""

from __future__ import annotations

import sys
import textwrap

import pytest
from support.chain import CLIENT, CLIENT6, SERVER, SERVER6, Chain

RECEIVER = """
import socket
import scapy.layers.inet6  # with it Ether knows what follows
from scapy.layers.l2 import Ether
receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
receiver.bind(("eth0", 0))
receiver.settimeout(8)
print("ready", flush=True)
while True:
    packet = Ether(receiver.recv(4096))
    if packet.haslayer("TCP"):
        print(bytes(packet.payload).hex())
        break
"""

SENDER = """
from nfq_zerortt.core.actions import Side
from nfq_zerortt.kernel.raw import RawSender
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
sender = RawSender("cl0", "sv0")
def built(source, target):
    head = IPv6(src=source, dst=target, hlim=7, tc=4, fl=99) if ":" in target else \\
        IP(src=source, dst=target, ttl=7, tos=4, id=77, flags="DF")
    return bytes(head / TCP(sport=80, dport=40000, flags="SA", seq=1, ack=2))
"""


def received(chain: Chain, source: str, target: str) -> tuple[str, str, str]:
    """Send from the router to the client: what was said, what was sent, what arrived."""
    receiver = chain.client.start(sys.executable, "-c", textwrap.dedent(RECEIVER))
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        said, sent = chain.router.do(
            SENDER
            + textwrap.dedent(f"""
                packet = built("{source}", "{target}")
                print(sender.send(Side.CLIENT, packet))
                print(packet.hex())
            """)
        ).split()
        return said, sent, receiver.stdout.readline().strip()
    finally:
        receiver.kill()
        receiver.communicate()


@pytest.mark.parametrize(("source", "target"), [(SERVER, CLIENT), (SERVER6, CLIENT6)])
def test_a_packet_arrives_byte_for_byte_as_it_was_built(
    chain: Chain, source: str, target: str
) -> None:
    """Hop limit, traffic class, flow label and identification included; no conntrack in the way."""
    chain.router.do("rules().apply()")
    said, sent, arrived = received(chain, source, target)
    assert said == "None"
    assert arrived == sent


@pytest.mark.parametrize(
    ("source", "target", "via"),
    [(SERVER, "10.88.0.9", CLIENT), (SERVER6, "fd88::9", CLIENT6)],
)
def test_a_route_by_a_next_hop_is_taken(chain: Chain, source: str, target: str, via: str) -> None:
    chain.router.do("rules().apply()")
    chain.router.run("ip", "route", "add", target, "via", via)
    said, sent, arrived = received(chain, source, target)
    assert said == "None"
    assert arrived == sent


def test_a_link_local_address_is_that_of_the_sides_interface(chain: Chain) -> None:
    chain.router.do("rules().apply()")
    chain.client.run("ip", "address", "add", "fe80::7/64", "dev", "eth0", "nodad")
    chain.server.run("ip", "address", "add", "fe80::7/64", "dev", "eth0", "nodad")
    said, sent, arrived = received(chain, SERVER6, "fe80::7")
    assert said == "None"
    assert arrived == sent


@pytest.mark.parametrize("route", ["", "unreachable", "prohibit", "blackhole"])
def test_an_address_without_a_way_to_it_is_told_as_a_text(chain: Chain, route: str) -> None:
    """For IPv6. For IPv4, a bound socket takes the address for that of a neighbour."""
    chain.router.do("rules().apply()")
    if route:
        chain.router.run("ip", "route", "add", route, "fd88::9")
        chain.router.run("ip", "route", "add", route, "10.88.0.9")
    said = chain.router.do(
        SENDER
        + textwrap.dedent(f"""
            print(sender.send(Side.CLIENT, built("{SERVER6}", "fd88::9")))
            print(sender.send(Side.CLIENT, built("{SERVER}", "10.88.0.9")))
        """)
    )
    assert said.splitlines() == ["Network is unreachable", "None"]


@pytest.mark.parametrize(("source", "target"), [(SERVER, CLIENT), (SERVER6, CLIENT6)])
def test_a_packet_that_the_firewall_refuses_is_told_as_a_text(
    chain: Chain, source: str, target: str
) -> None:
    """Without our rules the segment belongs to no connection that the kernel tracks."""
    said = chain.router.do(
        SENDER + f'print(sender.send(Side.CLIENT, built("{source}", "{target}")))'
    )
    assert said == "Operation not permitted\n"


@pytest.mark.parametrize(("source", "target"), [(SERVER, CLIENT), (SERVER6, CLIENT6)])
def test_a_packet_longer_than_the_link_takes_is_told_as_a_text(
    chain: Chain, source: str, target: str
) -> None:
    chain.router.do("rules().apply()")
    head = "IPv6" if ":" in target else "IP"
    said = chain.router.do(
        SENDER + f"print(sender.send(Side.CLIENT, "
        f'bytes({head}(src="{source}", dst="{target}") / TCP() / (b"x" * 1500))))'
    )
    assert said == "Message too long\n"
