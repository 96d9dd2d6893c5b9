"""The description of the four hosts, read from ``topology.json``.

The same file describes the virtual machines of ``vagrant/``, so an address
or a route is written down once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from ipaddress import (
    IPv4Interface,
    IPv6Interface,
    ip_address,
    ip_network,
)
from typing import Any


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a link, as its host sees it."""

    name: str
    mac: str
    ipv4: IPv4Interface
    ipv6: IPv6Interface


@dataclass(frozen=True, slots=True)
class Link:
    """A cable between two hosts. Both ends' interfaces carry the link's name."""

    name: str
    hosts: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Route:
    """A static route: network ``to`` is reached through the neighbour ``via``."""

    to: str
    via: str


@dataclass(frozen=True, slots=True)
class Host:
    """One of the four hosts. ``forwards`` tells a router from an end host."""

    name: str
    purpose: str
    forwards: bool
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]

    def interface(self, name: str) -> Interface:
        """Return the interface called ``name``; KeyError when the host has none of that name."""
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Topology:
    """All hosts, in the order of the chain, and the links between them."""

    hosts: tuple[Host, ...]
    links: tuple[Link, ...]
    wan_host: str

    @property
    def host_names(self) -> tuple[str, ...]:
        """The hosts' names, in the order of the chain."""
        return tuple(host.name for host in self.hosts)

    def host(self, name: str) -> Host:
        """Return the host called ``name``; KeyError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def neighbours(self, host: Host) -> tuple[tuple[Interface, Interface], ...]:
        """Return (the host's own interface, the interface at the other end) for each link."""
        return tuple(
            (
                host.interface(link.name),
                self.host(link.hosts[1 - link.hosts.index(host.name)]).interface(link.name),
            )
            for link in self.links
            if host.name in link.hosts
        )


@cache
def load_topology() -> Topology:
    """Read ``topology.json``; an address or a route in it that is none raises ValueError."""
    text = resources.files(__package__).joinpath("topology.json").read_text(encoding="utf-8")
    document = json.loads(text)
    links = document["links"]
    return Topology(
        hosts=tuple(_host(entry, links) for entry in document["hosts"]),
        links=tuple(
            Link(link["name"], (link["ends"][0]["host"], link["ends"][1]["host"])) for link in links
        ),
        wan_host=document["wan_host"],
    )


def _host(entry: dict[str, Any], links: list[dict[str, Any]]) -> Host:
    return Host(
        name=entry["name"],
        purpose=entry["purpose"],
        forwards=entry["forwards"],
        interfaces=tuple(
            Interface(
                name=link["name"],
                mac=end["mac"],
                ipv4=IPv4Interface(end["ipv4"]),
                ipv6=IPv6Interface(end["ipv6"]),
            )
            for link in links
            for end in link["ends"]
            if end["host"] == entry["name"]
        ),
        routes=tuple(
            Route(str(ip_network(route["to"])), str(ip_address(route["via"])))
            for route in entry["routes"]
        ),
    )
