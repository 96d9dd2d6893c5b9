"""The four machines, up while the tests run; what the tests saw, as a document."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nfq_zerortt.testbed.topology import load_topology
from vagrant.selftest.machines import WORK, Machine, ServiceOn, vagrant

Saw = Callable[[str], None]


@dataclass
class Step:
    """One test: what it shows, what it saw, how it ended."""

    title: str
    saw: list[str] = field(default_factory=list)
    outcome: str = "not run"


_STEPS: dict[str, Step] = {}


@pytest.fixture
def saw(request: pytest.FixtureRequest) -> Saw:
    """Say, here and in the document, what a test has seen."""
    step = _STEPS[request.node.nodeid]

    def say(text: str) -> None:
        step.saw += text.splitlines()
        print("".join(f"\n    {line}" for line in text.splitlines()), end="", flush=True)

    return say


@pytest.fixture(scope="session", autouse=True)
def up() -> Iterator[float]:
    """Bring the machines up; the value is how many seconds that took."""
    if not WORK.is_dir():
        pytest.fail("these tests need their virtual machines: run 'make vm'", pytrace=False)
    begun = time.monotonic()
    try:
        try:
            vagrant("up", timeout_s=2400)
        except AssertionError as error:
            pytest.exit(str(error), returncode=1)
        (WORK / "ssh-config").write_text(vagrant("ssh-config", timeout_s=120), encoding="utf-8")
        yield time.monotonic() - begun
    finally:
        print("\ntaking the machines down", flush=True)
        vagrant("destroy", "--force", timeout_s=300)


@pytest.fixture(scope="session")
def client() -> Machine:
    return Machine("client")


@pytest.fixture(scope="session")
def clientnic() -> ServiceOn:
    return ServiceOn("clientnic")


@pytest.fixture(scope="session")
def servernic() -> Machine:
    return Machine("servernic")


@pytest.fixture(scope="session")
def server() -> Machine:
    return Machine("server")


@pytest.fixture(scope="session")
def address() -> str:
    """The server's IPv4 address."""
    return str(load_topology().host("server").interfaces[0].ipv4.ip)


# The document.


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note the first line of each test's docstring as its title."""
    text = getattr(item, "obj", None).__doc__ or item.name
    callspec = getattr(item, "callspec", None)
    which = f" ({callspec.id})" if callspec else ""
    _STEPS[item.nodeid] = Step(text.strip().splitlines()[0].rstrip(".") + which)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each test ended: the worst of its three phases."""
    step = _STEPS[report.nodeid]
    if report.when == "call" or report.outcome != "passed":
        step.outcome = report.outcome
    if report.failed:
        step.saw += report.longreprtext.splitlines()[-15:]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was seen, if somebody wants it."""
    target = os.environ.get("ZERORTT_VM_REPORT")
    if not target:
        return
    head = Path(__file__).with_name("report.md").read_text(encoding="utf-8").rstrip("\n")
    passed = sum(step.outcome == "passed" for step in _STEPS.values())
    lines = [
        head,
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, on Linux {platform.release()} with "
        f"{os.cpu_count()} processors: {passed} of {len(_STEPS)} steps passed.",
    ]
    for number, step in enumerate(_STEPS.values(), 1):
        lines += ["", f"## {number}. {step.title}: {step.outcome}"]
        if step.saw:
            lines += ["", "```", *step.saw, "```"]
    Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")
