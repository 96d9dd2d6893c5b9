"""Servers that are treated in a way of their own: ``[[destination]]`` in the configuration file."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.ports import ALL_PORTS, PortSet

DIRECT = "direct"
"""In place of a strategy: connections there pass untouched."""

_KEYS = ("address", "ports", "strategy")
_BITS = {4: 32, 16: 128}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Destination:
    """Servers, by address and port, and how connections to them are played.

    Attributes:
        strategy: the name of a strategy, or :data:`DIRECT`.
        networks: the servers' addresses; empty for all.
        ports: the servers' ports.
    """

    strategy: str
    networks: tuple[Network, ...] = ()
    ports: PortSet = ALL_PORTS

    def matches(self, address: bytes, port: int) -> bool:
        """Tell whether a server is meant; ``address`` is 4 or 16 bytes in network order."""
        if port not in self.ports:
            return False
        return not self.networks or any(_contains(network, address) for network in self.networks)


def _contains(network: Network, address: bytes) -> bool:
    if len(network.network_address.packed) != len(address):
        return False
    free = _BITS[len(address)] - network.prefixlen
    number = int.from_bytes(address, "big")
    return number >> free == int(network.network_address) >> free


def read(tables: object, strategies: Iterable[str], where: str) -> tuple[Destination, ...]:
    """Read the ``[[destination]]`` tables of the file; ``where`` begins the error's text.

    Raises:
        ConfigError: a key or a value that is not allowed.
    """
    if not isinstance(tables, list):
        raise ConfigError(f"{where}destination must be a list of tables: write [[destination]]")
    return tuple(
        _destination(table, (*strategies, DIRECT), f"{where}destination[{number}]")
        for number, table in enumerate(tables, start=1)
    )


def _destination(table: object, strategies: tuple[str, ...], where: str) -> Destination:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table: write [[destination]]")
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f"{where}.{key} is unknown; allowed: {', '.join(_KEYS)}")
    strategy = table.get("strategy")
    if strategy not in strategies:
        told = "is missing" if strategy is None else f"= {strategy!r}"
        raise ConfigError(f"{where}.strategy {told}: allowed are {', '.join(strategies)}")
    return Destination(strategy, _networks(table, where), _ports(table, where))


def _networks(table: Mapping[str, Any], where: str) -> tuple[Network, ...]:
    value = table.get("address", [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where}.address = {value!r}: an address, a prefix or a list is allowed")
    if not texts and "address" in table:
        raise ConfigError(f"{where}.address is empty: leave it out to mean all addresses")
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(_network(text))
        except ValueError as error:
            raise ConfigError(
                f"{where}.address = {text!r}: {error}; allowed is an address or a prefix such as "
                "192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
            ) from None
    return tuple(networks)


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network):
        inside = network.network_address.ipv4_mapped
        if inside is not None:
            raise ValueError(f"no packet carries it; write {inside}")
        if network.network_address.scope_id is not None:
            raise ValueError("a zone is not allowed")
    return network


def _ports(table: Mapping[str, Any], where: str) -> PortSet:
    value = table.get("ports", "all")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(f"{where}.ports = {value!r}: a text such as '80,8000-8999' is allowed")
    return PortSet.parse(str(value), f"{where}.ports")
