"""Fragments and IPv6 extension headers: which of them the rules take, and that all get through.

Nobody listens on the queue, so what is taken passes; the counters tell what was taken.
"""

from __future__ import annotations

import sys

import pytest
from support.chain import CLIENT, CLIENT6, SERVER, SERVER6, Chain
from support.waiting import until

SEND = f"""
import socket, sys
from scapy.layers.inet import IP, TCP, IPOption_NOP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.inet6 import IPv6ExtHdrRouting, PadN
from scapy.layers.ipsec import AH
from scapy.packet import Raw
four, six = IP(src="{CLIENT}", dst="{SERVER}", id=7), IPv6(src="{CLIENT6}", dst="{SERVER6}")
segment = TCP(sport=40000, dport=80, flags="A", seq=1) / (b"x" * 1000)
padding = [PadN(optdata=bytes(4))]

def fragments(first_header, head=b""):
    # By hand: scapy would put an extension header before the fragment header.
    whole = head + bytes(six / segment)[40:]
    for offset in (0, 400, 800):
        yield (IPv6(src="{CLIENT6}", dst="{SERVER6}", nh=44)
               / IPv6ExtHdrFragment(nh=first_header, id=9, offset=offset // 8, m=offset < 800)
               / Raw(whole[offset:offset + 400] if offset < 800 else whole[offset:]))

packets = {{
    "IPv4 options": lambda: [IP(src="{CLIENT}", dst="{SERVER}", options=[IPOption_NOP()] * 4)
                             / segment],
    "IPv4 fragments": lambda: fragment(four / segment, fragsize=400),
    "hop-by-hop options": lambda: [six / IPv6ExtHdrHopByHop(options=padding) / segment],
    "destination options": lambda: [six / IPv6ExtHdrDestOpt(options=padding) / segment],
    "routing header": lambda: [six / IPv6ExtHdrRouting(type=4, segleft=0, addresses=["{SERVER6}"])
                               / segment],
    "authentication header": lambda: [six / AH(nh=6, payloadlen=4, spi=1, seq=1, icv=b"0" * 12)
                                      / segment],
    "whole packet with fragment header": lambda: [six / IPv6ExtHdrFragment(id=11) / segment],
    "IPv6 fragments": lambda: fragments(6),
    "fragmented destination options": lambda: fragments(
        60, bytes(IPv6ExtHdrDestOpt(nh=6, options=padding))),
}}
for packet in packets[sys.argv[1]]():
    family, target = (socket.AF_INET6, "{SERVER6}") if packet.version == 6 else \\
        (socket.AF_INET, "{SERVER}")
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(bytes(packet), (target, 0))
"""


@pytest.fixture
def chain(chain: Chain) -> Chain:
    for family, source in (("", CLIENT), ("6", CLIENT6)):
        # The operator's firewall goes, and with it tracking, which puts fragments together.
        chain.router.run(f"ip{family}tables-legacy", "-F")
        # To be counted; a rule with -p would drop some of the fragments here.
        chain.server.run(f"ip{family}tables-legacy", "-t", "raw", "-A", "PREROUTING", "-s", source)
    return chain


def track(chain: Chain, family: str) -> None:
    """Let the router track connections, as a stateful firewall makes it do."""
    chain.router.run(f"ip{family}tables-legacy", "-A", "FORWARD",
                     "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")  # fmt: skip


@pytest.mark.parametrize("ports", ["all", "80"])
@pytest.mark.parametrize(
    ("what", "sent", "taken"),
    [
        # With all ports -p tcp alone is compared, which an IPv4 fragment's header satisfies, too.
        ("IPv4 options", 1, {"all": 1, "80": 1}),
        ("IPv4 fragments", 3, {"all": 3, "80": 1}),
        ("hop-by-hop options", 1, {"all": 1, "80": 1}),
        ("destination options", 1, {"all": 1, "80": 1}),
        ("routing header", 1, {"all": 1, "80": 1}),
        ("authentication header", 1, {"all": 1, "80": 1}),
        ("whole packet with fragment header", 1, {"all": 1, "80": 1}),
        ("IPv6 fragments", 3, {"all": 1, "80": 1}),
        ("fragmented destination options", 3, {"all": 1, "80": 1}),
    ],
)
def test_what_is_taken_without_tracking_and_that_all_arrives(
    chain: Chain, what: str, sent: int, taken: dict[str, int], ports: str
) -> None:
    family = "" if "IPv4" in what else "6"
    chain.router.do(f"rules(ports='{ports}').apply()")
    chain.client.run(*python(), what)
    assert arrived(chain, family, sent) == sent
    assert chain.router.taken(family)[0] == taken[ports]


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("IPv4 fragments", 3),
        ("IPv6 fragments", 3),
        # The kernel does not part it again, with our rules or without.
        ("fragmented destination options", 1),
    ],
)
def test_tracking_puts_fragments_together_before_they_are_taken(
    chain: Chain, what: str, count: int
) -> None:
    family = "" if "IPv4" in what else "6"
    track(chain, family)
    chain.router.do("rules().apply()")
    chain.client.run(*python(), what)
    assert arrived(chain, family, count) == count
    assert chain.router.taken(family)[0] == 1


def python() -> tuple[str, ...]:
    """The command that sends what its argument names."""
    return (sys.executable, "-c", SEND)


def arrived(chain: Chain, family: str, count: int) -> int:
    """How many packets came to the server; waits until they are ``count``, for a moment."""

    def there() -> int:
        return chain.server.packets("raw", "PREROUTING", family)[0]

    until(lambda: there() >= count, lambda: f"{count} packets; there are {there()}", 5)
    return there()
