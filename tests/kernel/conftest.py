"""Fixtures of the tests that send real packets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.addresses import IPV4, Family
from support.captures import POINTS
from support.counters import checksum_errors, queue_drops
from support.peers import Peers, next_port
from support.service import ENVIRONMENT, RunningService

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
def testbed_factory() -> Iterator[Callable[..., Testbed]]:
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


# The service on real packets (tests/kernel/test_service_*.py).


@pytest.fixture(scope="session")
def network(testbed_factory: Callable[..., Testbed]) -> Testbed:
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
def service(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The service with its defaults, shared by the tests of a module."""
    before = checksum_errors(network)
    with RunningService(network, tmp_path_factory.mktemp("service")) as running:
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
