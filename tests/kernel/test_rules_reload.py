"""Rules that are replaced while packets come: none passes the queue by, none is tracked."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Iterator

import pytest
from support.chain import CLIENT, CLIENT6, SERVER, SERVER6, Chain, Namespace

MARKER = """
from netfilterqueue import NetfilterQueue
def mark(packet):
    packet.set_mark(1)
    packet.accept()
queue = NetfilterQueue()
queue.bind(0, mark, max_len=60000, sock_len=16 << 20)
print("ready", flush=True)
queue.run()
"""

STREAM = """
import socket, sys, time
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
source, target = sys.argv[1:]
version = 6 if ":" in target else 4
head = IPv6(src=source, dst=target) if version == 6 else IP(src=source, dst=target)
packet = bytes(head / TCP(sport=40000, dport=80, flags="A", seq=1, ack=1))
family = socket.AF_INET6 if version == 6 else socket.AF_INET
raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
print("ready", flush=True)
while True:
    raw.sendto(packet, (target, 0))
    time.sleep(0.0002)
"""


@contextlib.contextmanager
def running(host: Namespace, code: str, *argv: str) -> Iterator[None]:
    process = host.start(sys.executable, "-c", textwrap.dedent(code), *argv)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("family", "source", "target"), [("", CLIENT, SERVER), ("6", CLIENT6, SERVER6)]
)
def test_no_packet_passes_the_queue_by_while_rules_are_replaced(
    chain: Chain, family: str, source: str, target: str
) -> None:
    router, command = chain.router, f"ip{family}tables-legacy"
    router.do("rules(ports='80').apply()")
    for mark in (("--mark", "1"), ("!", "--mark", "1")):
        router.run(command, "-t", "mangle", "-A", "POSTROUTING", "-p", "tcp", "-m", "mark", *mark)
    with running(router, MARKER), running(chain.client, STREAM, source, target):
        router.do("""
            import time
            for number in range(40):
                rules(ports=('80', '80,443')[number % 2]).apply()
                time.sleep(0.02)
        """)
    marked, unmarked = router.packets("mangle", "POSTROUTING", family, "-m mark")
    assert marked > 500
    assert unmarked == 0
    assert "dport=80 " not in chain.tracked()


def test_a_change_of_ports_that_fails_leaves_the_rules_as_they_were(chain: Chain) -> None:
    router = chain.router
    router.do("rules(ports='80').apply()")
    before = [router.saved(family) for family in ("", "6")]
    done = router.python("""
        from nfq_zerortt.kernel.declarations import Table
        new = RuleSet((rules(ports='80,443').tables[0], Table("nosuch", (), ())))
        new.apply(instead_of=rules(ports='80'))
    """)
    assert done.returncode == 1
    assert "nosuch" in done.stderr
    assert [router.saved(family) for family in ("", "6")] == before
