"""A client with many addresses: workers are chosen by these."""

from __future__ import annotations

import socket

from support.addresses import FAMILIES, IPV6, Family
from support.peers import Peers, content, transfer

CLIENTS = range(0x20, 0x30)
"""The ends of further addresses of the client's. Which worker a pair of addresses comes to depends
on a number that the kernel has drawn at its start; all of them to one: once in 32,768 starts."""


def addresses() -> list[str]:
    return [client_address(family, end) for family in FAMILIES for end in CLIENTS]


def with_length(address: str) -> str:
    return address + ("/64" if ":" in address else "/24")


def client_address(family: Family, end: int) -> str:
    whole, separator, _ = family.client.rpartition(":" if family is IPV6 else ".")
    return f"{whole}{separator}{end:x}" if family is IPV6 else f"{whole}{separator}{end}"


def connect(peers: Peers, end: int, port: int, server: str = "") -> socket.socket:
    """Connect from one of the client's addresses."""
    client = peers.tcp("client")
    client.bind((client_address(peers.family, end), 0))
    client.connect((server or peers.family.server, port))
    return client


def from_everywhere(peers: Peers, port: int) -> list[tuple[socket.socket, socket.socket]]:
    """Return both ends of a connection from each address; all have carried data both ways."""
    listener = peers.listen(port)
    ends = []
    for end in CLIENTS:
        client = connect(peers, end, port)
        server = peers.accept(listener)
        transfer(client, server, content(3000, end))
        transfer(server, client, content(5000, end))
        ends.append((client, server))
    listener.close()
    return ends
