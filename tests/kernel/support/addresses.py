"""The addresses of the test network's two ends, in each family."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One IP version: its sockets, and the addresses of the hosts in it."""

    version: int
    sockets: socket.AddressFamily
    client: str
    server: str
    servernic: str
    """On the WAN, towards clientnic."""
    iptables: str
    """The command that sets the rules of this family."""

    def __str__(self) -> str:
        return f"IPv{self.version}"


IPV4 = Family(4, socket.AF_INET, "10.0.1.2", "10.0.3.2", "10.0.2.3", "iptables-legacy")
IPV6 = Family(
    6,
    socket.AF_INET6,
    "fd6e:6671:7a01:1::2",
    "fd6e:6671:7a01:3::2",
    "fd6e:6671:7a01:2::3",
    "ip6tables-legacy",
)
FAMILIES = (IPV4, IPV6)
