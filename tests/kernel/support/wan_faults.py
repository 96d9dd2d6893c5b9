"""What happens to chosen packets on the WAN: lost before the delay, or seen once more behind it."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from nfq_zerortt.testbed.network import Testbed
from support.addresses import Family
from support.namespaces import inside

_NUMBERS = itertools.count()


class Rule:
    """A rule of iptables on servernic that takes packets out of the WAN; ``count`` of them."""

    def __init__(self, network: Testbed, family: Family, match: list[str]) -> None:
        self._network = network
        self._command = [family.iptables, "-t", "raw"]
        self._name = f"lost-{next(_NUMBERS)}-"
        self._match = [*match, "-m", "comment", "--comment", self._name]

    def call(self, *words: str) -> str:
        done = self._network.exec("servernic", [*self._command, *words], timeout_s=10)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def add(self) -> None:
        self.call("-I", "PREROUTING", *self._match, "-j", "DROP")

    def remove(self) -> None:
        self.call("-D", "PREROUTING", *self._match, "-j", "DROP")

    @property
    def count(self) -> int:
        (line,) = (line for line in self.call("-nvxL").splitlines() if self._name in line)
        return int(line.split()[0])


FIRST = ["-m", "statistic", "--mode", "nth", "--every", "1000000", "--packet", "0"]
"""Only the first packet that the rest of the rule matches."""


@contextmanager
def dropping(network: Testbed, family: Family, *match: str) -> Iterator[Rule]:
    """Let servernic drop the packets that match, while the block runs."""
    rule = Rule(network, family, ["-p", "tcp", *match])
    rule.add()
    try:
        yield rule
    finally:
        rule.remove()


def replay(network: Testbed, packet: bytes) -> None:
    """Put a packet that has been captured on the server's wire once more, behind servernic."""
    kind = {4: 0x0800, 6: 0x86DD}[packet[0] >> 4]
    mac = network.topology.host("server").interface("eth2").mac
    with inside(network.netns("servernic")):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
    with wire:
        wire.sendto(packet, ("eth2", kind, 0, 0, bytes.fromhex(mac.replace(":", ""))))
