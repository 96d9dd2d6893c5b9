"""What is said of a host's forwarding: true, and nothing where nothing is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from support.chain import Namespace, namespaces

SAY = """
import json
from nfq_zerortt.kernel.features.host import forwarding, ipv6
found = [{probe}("cl0", "eth0.7"), {probe}()]
print(json.dumps([[one.status, one.detail, one.remedy] for one in found]))
"""
Said = Callable[..., list[list[str]]]


@pytest.fixture(scope="module")
def router() -> Iterator[Namespace]:
    """It has two interfaces, one of them with a dot in its name as of a VLAN, and a third one."""
    with namespaces(1) as (router,):
        for number, name in enumerate(("cl0", "eth0.7", "mgmt0")):
            router.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"peer{number}")
            router.run("ip", "link", "set", name, "up")
        yield router


@pytest.fixture
def said(router: Namespace) -> Iterator[Said]:
    """Write settings, and tell what is said between the two, and of the host."""

    def said(probe: str, *settings: str) -> list[list[str]]:
        if settings:
            router.run("sysctl", "-qw", *settings)
        found: list[list[str]] = json.loads(router.do(SAY.format(probe=probe)))
        return found

    yield said
    for name in ("cl0", "eth0.7", "mgmt0"):
        router.run("ip", "-6", "address", "flush", "dev", name, "scope", "global")


def test_ipv4_is_forwarded_by_interface(said: Said) -> None:
    between, host = said("forwarding", "net.ipv4.ip_forward=0")
    assert (between[0], between[2]) == ("warning", "sysctl -w net.ipv4.ip_forward=1")
    assert host[0] == "warning"
    # As network managers set it: on some interfaces, and not for the host.
    both = ("net.ipv4.conf.cl0.forwarding=1", "net.ipv4.conf.eth0/7.forwarding=1")
    assert said("forwarding", *both)[0][0] == "ok"


def test_ipv4_that_one_interface_does_not_forward(router: Namespace, said: Said) -> None:
    between, host = said("forwarding", "net.ipv4.ip_forward=1", "net.ipv4.conf.eth0/7.forwarding=0")
    assert host[0] == "ok"
    assert (between[0], between[2]) == ("warning", "sysctl -w net.ipv4.conf.eth0/7.forwarding=1")
    assert "comes in by eth0.7" in between[1]
    router.run(*between[2].split())
    assert said("forwarding", "net.ipv4.conf.all.rp_filter=0")[0][0] == "ok"


def test_ipv6_addresses_of_a_third_interface_are_no_sign(router: Namespace, said: Said) -> None:
    """A host with an IPv6 address to be managed by, which forwards IPv4 only."""
    router.run("ip", "-6", "address", "add", "2001:db8::1/64", "dev", "mgmt0", "nodad")
    router.run("ip", "-6", "address", "add", "2001:db8:1::1/64", "dev", "cl0", "nodad")
    assert said("ipv6", "net.ipv6.conf.all.forwarding=0")[0][0] == "ok"
    router.run("ip", "-6", "address", "add", "2001:db8:2::1/64", "dev", "eth0.7", "nodad")
    between, host = said("ipv6")
    assert between[0] == host[0] == "warning"
    assert "(cl0, eth0.7)" in between[1]
    assert said("ipv6", "net.ipv6.conf.all.forwarding=1")[0][0] == "ok"


def test_ipv6_that_is_switched_off_in_general_and_on_here(router: Namespace, said: Said) -> None:
    said("ipv6", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.all.forwarding=1")
    between, host = said(
        "ipv6", "net.ipv6.conf.cl0.disable_ipv6=0", "net.ipv6.conf.eth0/7.disable_ipv6=0"
    )
    assert between[:2] == ["ok", "is forwarded, and served like IPv4"]
    assert "only IPv4 is served" in host[1]
    router.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
