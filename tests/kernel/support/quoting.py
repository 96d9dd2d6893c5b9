"""ICMP errors and the packets that they quote, read and made by scapy."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, IPerror, TCPerror
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPerror6, IPv6, in6_chksum
from scapy.packet import Raw
from scapy.utils import checksum

from support.addresses import Family
from support.captures import Captured
from support.reading import read_ip

_ICMPV6_AT = 40


class Quoting:
    """One captured ICMP error about a TCP segment."""

    def __init__(self, captured: Captured) -> None:
        self.time = captured.time
        self.raw = captured.raw
        self.ip = read_ip(captured.raw)
        self.source: str = self.ip.src
        self.target: str = self.ip.dst
        inner = self.ip[IPerror] if self.ip.version == 4 else self.ip[IPerror6]
        self.quoted_source: str = inner.src
        # A TCP header that is quoted as a whole, as Linux and all IPv6 routers do.
        tcp = inner[TCPerror]
        self.seq: int = tcp.seq
        self.ack: int = tcp.ack
        self.sport: int = tcp.sport
        self.dport: int = tcp.dport

    @property
    def is_intact(self) -> bool:
        """Whether the checksum of the ICMP message is right."""
        if self.ip.version == 4:
            return bool(checksum(self.raw[self.ip.ihl * 4 : self.ip.len]) == 0)
        message = self.raw[_ICMPV6_AT : _ICMPV6_AT + self.ip.plen]
        return bool(in6_chksum(58, self.ip, message) == 0)


def too_big(
    family: Family, *, quoted: TCP, mtu: int, to_server: bool, quoted_size: int = 1400
) -> bytes:
    """Return a packet-too-big of a router beside the receiver's peer.

    ``quoted`` is the TCP header of the segment that did not fit; the error goes to the server
    if ``to_server``, and then it was the server that sent the segment.
    """
    sender, other = family.server, family.client
    if not to_server:
        sender, other = other, sender
    data = Raw(bytes(quoted_size - 40))
    if family.version == 4:
        segment = bytes(IP(src=sender, dst=other, flags="DF") / quoted / data)[:548]
        error = IP(src=other, dst=sender) / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(segment)
    else:
        segment = bytes(IPv6(src=sender, dst=other) / quoted / data)[:1232]
        error = IPv6(src=other, dst=sender) / ICMPv6PacketTooBig(mtu=mtu) / Raw(segment)
    return bytes(error)
