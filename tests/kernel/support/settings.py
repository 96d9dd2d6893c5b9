"""Settings of a host that a test changes, and puts back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from nfq_zerortt.testbed.network import Testbed
from support.addresses import Family

_NO_RATE_LIMIT = {
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.icmp_msgs_per_sec": "100000",
    "net.ipv6.icmp.ratelimit": "0",
}


def _write(testbed: Testbed, host: str, settings: Mapping[str, str]) -> None:
    words = [f"{name}={value}" for name, value in settings.items()]
    done = testbed.exec(host, ["sysctl", "-q", "-w", *words], timeout_s=10)
    assert done.returncode == 0, done.stderr


@contextmanager
def sysctls(testbed: Testbed, host: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Let kernel settings of a host be others in the block."""
    if not settings:
        yield
        return
    names = list(settings)
    done = testbed.exec(host, ["sysctl", "-n", *names], timeout_s=10, check=True)
    before = dict(zip(names, done.stdout.splitlines(), strict=True))
    _write(testbed, host, settings)
    try:
        yield
    finally:
        _write(testbed, host, before)


@contextmanager
def route_option(testbed: Testbed, host: str, *option: str) -> Iterator[None]:
    """Let the server's or client's route to the other end have an option, as ``advmss 536``."""
    (old,) = testbed.exec(
        host, ["ip", "route", "show", {"server": "10.0.1.0/24", "client": "10.0.3.0/24"}[host]]
    ).stdout.splitlines()
    change = ["ip", "route", "change", *old.split()]
    assert testbed.exec(host, [*change, *option]).returncode == 0
    try:
        yield
    finally:
        assert testbed.exec(host, change).returncode == 0


@contextmanager
def wan(network: Testbed, rtt_ms: float, loss_percent: float = 0.0) -> Iterator[None]:
    """Let the shared testbed's WAN be another one in the block."""
    before = network.settings
    network.set_wan(rtt_ms, loss_percent)
    try:
        yield
    finally:
        network.set_wan(before.rtt_ms, before.loss_percent, before.rate_mbit)


@contextmanager
def many_icmp_errors(testbed: Testbed, host: str) -> Iterator[None]:
    """Let a host send every ICMP error: otherwise it is about one a second to each address."""
    with sysctls(testbed, host, _NO_RATE_LIMIT):
        yield


@contextmanager
def narrow_path(testbed: Testbed, family: Family, mtu: int) -> Iterator[None]:
    """Let both ways out of servernic take no packet longer than ``mtu``.

    Both ends' own links stay as they are, so they have to find out. A smaller MTU of the
    link would not do: with veth the other end's longer packets would vanish there, unheard.
    """
    ip = ["ip", f"-{family.version}"]
    with many_icmp_errors(testbed, "servernic"), ExitStack() as undo:
        undo.callback(_forget_path_mtu, testbed, ip)
        for target in (family.client, family.server):
            network = f"{target.removesuffix('2')}{'0/24' if family.version == 4 else '/64'}"
            show = testbed.exec("servernic", [*ip, "route", "show", network], check=True)
            change = [*ip, "route", "change", *show.stdout.split()]
            undo.callback(testbed.exec, "servernic", change, check=True)
            testbed.exec("servernic", [*change, "mtu", str(mtu)], check=True)
        yield


def _forget_path_mtu(testbed: Testbed, ip: list[str]) -> None:
    for host in testbed.topology.host_names:
        testbed.exec(host, [*ip, "route", "flush", "cache"], check=True)
