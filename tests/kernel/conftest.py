"""Fixtures of the tests that send real packets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.addresses import IPV4, Family
from support.captures import POINTS
from support.carried import command
from support.chain import FOREIGN_RULES, Chain, Namespace, namespaces
from support.counters import checksum_errors, queue_drops
from support.many_clients import addresses, with_length
from support.namespaces import inside
from support.pair import Pair
from support.peers import Peers, next_port
from support.service import ENVIRONMENT, ServiceProcess
from support.testbeds import MakeTestbed, allowed_congestion_control, leftovers

from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.testbed.network import Testbed


@pytest.fixture(scope="session", autouse=True)
def lock_of_iptables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the iptables commands of this run wait for no others: the machine has one lock for all.

    Without -w a command fails while somebody holds it, and the other workers' namespaces are
    none of ours.
    """
    path = str(tmp_path_factory.mktemp("iptables") / "xtables.lock")
    with pytest.MonkeyPatch.context() as patch:
        for environment in (os.environ, ENVIRONMENT):
            patch.setitem(environment, "XTABLES_LOCKFILE", path)
        yield


@pytest.fixture(scope="session")
def testbed_factory() -> Iterator[MakeTestbed]:
    """Make testbeds with unique names, brought up unless ``up=False``; all go down at the end.

    The other keywords are those of Testbed.
    """
    if os.geteuid() != 0:
        pytest.fail("tests/kernel make network namespaces: run them as root", pytrace=False)
    numbers = itertools.count()
    made: list[Testbed] = []

    def make(*, up: bool = True, **keywords: Any) -> Testbed:
        testbed = Testbed(f"zt{os.getpid()}-{next(numbers)}", **keywords)
        made.append(testbed)
        if up:
            testbed.up()
        return testbed

    try:
        yield make
    finally:
        for testbed in made:
            testbed.down()


# The rules, in namespaces without the testbed's WAN (tests/kernel/test_rules*.py).


@pytest.fixture
def host() -> Iterator[Namespace]:
    """One namespace with rules that are not ours."""
    with namespaces(1) as (one,):
        for command in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            one.run(command, stdin=FOREIGN_RULES)
        yield one


@pytest.fixture
def chain() -> Iterator[Chain]:
    """A client, a router and a server; a module may have a fixture that changes it first."""
    with namespaces(3) as ends:
        yield Chain(*ends)


# The kernel data path, without a service (tests/kernel/test_kernel_path*.py).


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A namespace with two interfaces for the programs."""
    made = Pair()
    try:
        yield made
    finally:
        made.remove()


# The test network itself (tests/kernel/test_testbed*.py).


@pytest.fixture(scope="session")
def line(testbed_factory: MakeTestbed) -> Testbed:
    """A testbed with the delay line, shared by the tests that leave it as it is but for the WAN."""
    return testbed_factory(rtt_ms=20, emulation="delay-line")


@pytest.fixture
def fresh(testbed_factory: MakeTestbed) -> Iterator[Testbed]:
    """A testbed that is not up; nothing of it may be left after the test."""
    testbed = testbed_factory(up=False, rtt_ms=20, emulation="delay-line")
    allowed = allowed_congestion_control()
    yield testbed
    testbed.down()
    assert leftovers(testbed.name) == []
    assert allowed_congestion_control() == allowed


# The service on real packets (tests/kernel/test_service_*.py).


@pytest.fixture(scope="session")
def network(testbed_factory: MakeTestbed) -> Testbed:
    """A testbed for captures, shared by the tests of the service; they leave it as they found it.

    No offloads: with them a capture at the sending host shows checksums and segments that
    the network card would still fill in and cut. The tests with independent programs run with
    offloads on, as hosts do.
    """
    testbed = testbed_factory(rtt_ms=20)
    for point in POINTS:
        off = [word for name in ("tx", "rx", "tso", "gso", "gro") for word in (name, "off")]
        done = testbed.exec(point.host, ["ethtool", "-K", point.interface, *off], timeout_s=10)
        assert done.returncode == 0, done.stderr
    return testbed


@pytest.fixture(scope="module")
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service with its defaults, shared by the tests of a module."""
    before = checksum_errors(network)
    with ServiceProcess(network, tmp_path_factory.mktemp("service")) as running:
        yield running
        assert queue_drops(network) == 0
    assert checksum_errors(network) == before


@pytest.fixture
def family() -> Family:
    """The family of addresses of ``peers``; a module that tests both has a fixture of its own."""
    return IPV4


@pytest.fixture
def peers(network: Testbed, family: Family) -> Iterator[Peers]:
    """Sockets at both ends of the shared testbed, closed after the test."""
    made = Peers(network, family)
    yield made
    made.close()


@pytest.fixture
def port() -> int:
    """A server port of which the service has not learned anything."""
    return next_port()


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """Where the services of a test are asked."""
    return tmp_path / "control"


@pytest.fixture
def nothing_is_left(network: Testbed) -> Iterator[None]:
    """Whatever a test leaves in the kernel, it leaves to itself alone."""
    yield
    with inside(network.netns("clientnic")):
        KernelPath.remove_all(0)
    command(network, "rules", "remove")


@pytest.fixture(scope="module")
def crowd(network: Testbed) -> Iterator[Testbed]:
    """The test network, with a client that has many addresses."""
    words = [
        ["address", "ACT", address, "dev", "eth0"] for address in map(with_length, addresses())
    ]
    for word in words:
        network.exec("client", ["ip", *[w.replace("ACT", "add") for w in word]], check=True)
    yield network
    for word in words:
        network.exec("client", ["ip", *[w.replace("ACT", "del") for w in word]], check=True)
