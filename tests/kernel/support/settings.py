"""Settings of a host that a test changes, and puts back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nfq_zerortt.testbed.network import Testbed


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
