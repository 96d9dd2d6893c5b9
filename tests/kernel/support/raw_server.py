"""A server made by hand: it answers as the test says, where a kernel would answer by itself.

Its address belongs to nobody. servernic sends what is for it to the host server, whose
kernel takes no notice, and a packet socket there reads it.
"""

from __future__ import annotations

import select
import socket
import time

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from nfq_zerortt.testbed.network import Testbed
from support.addresses import Family
from support.captures import Captured
from support.namespaces import inside
from support.reading import Option, Read, read_ip
from support.waiting import PATIENCE_S

WINDOW = 60_000
_LINK = "eth2"
_OUTGOING = 4
_TYPES = {4: 0x0800, 6: 0x86DD}
_LONGEST = 4096
_TCP = 6


class RawServer:
    """The server of the connections to ``address`` and ``port``."""

    def __init__(self, testbed: Testbed, family: Family, port: int) -> None:
        self.address = f"{family.server.removesuffix('2')}77"
        self.port = port
        self._family = family
        hosts = {name: testbed.topology.host(name) for name in ("server", "servernic")}
        macs = {name: host.interface(_LINK).mac for name, host in hosts.items()}
        self._router = bytes.fromhex(macs["servernic"].replace(":", ""))
        neighbour = ["ip", "neigh", "replace", self.address, "dev", _LINK]
        testbed.exec("servernic", [*neighbour, "lladdr", macs["server"]], check=True)
        with inside(testbed.netns("server")):
            self._wire = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_TYPES[family.version])
            )
            self._wire.bind((_LINK, _TYPES[family.version]))

    def close(self) -> None:
        self._wire.close()

    def receive(self, timeout_s: float = PATIENCE_S) -> Read:
        """Return the next packet; fail when none comes."""
        packet = self._receive(time.monotonic() + timeout_s)
        assert packet is not None, f"nothing came to {self.address} within {timeout_s} s"
        return packet

    def receive_for(self, seconds: float) -> list[Read]:
        """Return all packets that come within a time."""
        until, packets = time.monotonic() + seconds, []
        while (packet := self._receive(until)) is not None:
            packets.append(packet)
        return packets

    def packets(self, seconds: float = 0.0) -> list[bytes]:
        """Return the packets to the address as they are, fragments too, that come in a time."""
        until, packets = time.monotonic() + seconds, []
        while (raw := self._read(until)) is not None:
            packets.append(raw)
        return packets

    def _receive(self, until: float) -> Read | None:
        while (raw := self._read(until)) is not None:
            if raw[9 if self._family.version == 4 else 6] == _TCP:
                packet = Read(Captured(time.time(), raw))
                if packet.tcp.dport == self.port:
                    return packet
        return None

    def _read(self, until: float) -> bytes | None:
        while True:
            left = max(until - time.monotonic(), 0.0)
            if not select.select([self._wire], [], [], left)[0]:
                return None
            raw, about = self._wire.recvfrom(_LONGEST)
            if about[2] != _OUTGOING and read_ip(raw).dst == self.address:
                return raw

    def send(
        self,
        to: Read,
        flags: str,
        *,
        seq: int,
        ack: int = 0,
        payload: bytes = b"",
        window: int = WINDOW,
        options: tuple[Option, ...] = (),
    ) -> None:
        """Send a segment to where ``to`` came from; the numbers are modulo 2**32."""
        layer = IP if self._family.version == 4 else IPv6
        segment = TCP(
            sport=self.port,
            dport=to.tcp.sport,
            flags=flags,
            seq=seq % 2**32,
            ack=ack % 2**32,
            window=window,
            options=list(options),
        )
        packet = bytes(layer(src=self.address, dst=to.source) / segment / Raw(payload))
        kind = _TYPES[self._family.version]
        self._wire.sendto(packet, (_LINK, kind, 0, 0, self._router))
