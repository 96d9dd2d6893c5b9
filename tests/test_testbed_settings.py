"""What a testbed is made from, which takes no root: the topology, settings, the dice."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.testbed.faults import Fate, Faults
from nfq_zerortt.testbed.topology import load_topology
from nfq_zerortt.testbed.wan import WanSettings


def test_topology_is_a_chain_in_which_no_address_ends_in_1() -> None:
    topology = load_topology()
    assert topology.host_names == ("client", "clientnic", "servernic", "server")
    assert [link.hosts for link in topology.links] == list(
        zip(topology.host_names, topology.host_names[1:], strict=False)
    )
    for host in topology.hosts:
        for own, other in topology.neighbours(host):
            assert own.name == other.name
            assert own.ipv4.network == other.ipv4.network
            assert own.ipv6.network == other.ipv6.network
            assert own.ipv4.packed[-1] != 1
            assert own.ipv6.packed[-1] != 1


def test_every_network_is_reached_from_every_host() -> None:
    topology = load_topology()
    networks = {
        str(network)
        for host in topology.hosts
        for interface in host.interfaces
        for network in (interface.ipv4.network, interface.ipv6.network)
    }
    for host in topology.hosts:
        own = {
            str(network)
            for interface in host.interfaces
            for network in (interface.ipv4.network, interface.ipv6.network)
        }
        assert own | {route.to for route in host.routes} == networks
        gateways = {
            str(address.ip)
            for _, other in topology.neighbours(host)
            for address in (other.ipv4, other.ipv6)
        }
        assert {route.via for route in host.routes} <= gateways


def test_not_a_number_is_no_setting() -> None:
    with pytest.raises(ConfigError):
        WanSettings(rtt_ms=float("nan"))
    with pytest.raises(ConfigError):
        WanSettings(rate_mbit=float("inf"))


def fates(seed: int, server_port: int, packets: int = 500) -> list[Fate]:
    """Return what happens to a client's packets, the first a SYN, on the way to a server's port."""
    faults = Faults(
        WanSettings(loss_percent=10, reorder_percent=10, duplicate_percent=10, seed=seed)
    )
    return [
        faults.fate(
            bytes(
                IP(src="10.0.1.2", dst="10.0.3.2")
                / TCP(sport=12345, dport=server_port, seq=number, flags="S" if not number else "A")
            )
        )
        for number in range(packets)
    ]


def test_the_same_seed_is_the_same_fate_whatever_the_servers_port() -> None:
    assert fates(1, 80) == fates(1, 80) == fates(1, 8080)
    assert fates(1, 80) != fates(2, 80)
    for name in ("lost", "held_back", "doubled"):
        assert 20 < sum(getattr(fate, name) for fate in fates(1, 80)) < 90
