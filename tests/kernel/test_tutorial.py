"""The tutorial stays true: all of its commands are run, and print what it says they print.

Of the how-tos, those that can be tried on the four hosts are typed, too, and must succeed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.service import rules
from support.walkthrough import Part, Walk, differences, parts

from nfq_zerortt.testbed.network import Testbed

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs/tutorial/README.md"
ROUTER = ROOT / "docs/howto/router.md"
SHOW = ROOT / "docs/howto/show.md"

SET_UP = ("make demo\n", 'export PATH="$PWD/.venv/bin:$PATH"\n')
"""Not run here: the set-up, which has run if tests do, and the demonstration (test_demo.py)."""

SHIM = """\
#!/bin/bash
# The command as in .venv/bin, but on a testbed and with a control socket of the test's own.
words=("$@")
own=(--control-socket {directory}/control.sock)
case $1 in
    testbed) words=(testbed "$2" --name {name} "${{@:3}}") ;;
    run) words=(run --config {directory}/busy.toml "${{own[@]}}" "${{@:2}}") ;;
    flows | trace) words=("$1" "${{own[@]}}" "${{@:2}}") ;;
esac
PYTHONPATH=${{PYTHONPATH:+$PYTHONPATH:}}{root} exec {python} -P -m nfq_zerortt "${{words[@]}}"
"""


ON_THE_ROUTER = """\
#!/bin/bash
# The command in a shell on clientnic, with a control socket of the test's own.
words=("$@")
case $1 in
    run | flows | stats) words+=(--control-socket {directory}/control.sock) ;;
esac
PYTHONPATH={root} exec ip netns exec {name}-clientnic {python} -P -m nfq_zerortt "${{words[@]}}"
"""

ALL_THE_TIME = """
while :; do
    nfq-zerortt testbed exec client -- bash -c ': </dev/tcp/10.0.3.2/80'
    sleep 0.2
done
"""
"""Connections, refused as nobody listens there."""

SERVICE = """
nfq-zerortt testbed exec clientnic -- nfq-zerortt run --client-iface eth0 --server-iface eth1
"""

PATIENT = "[limits]\nfast_open_wait_ms = 200\n"
"""While other tests run, a client's first data may come later than a SYN is kept back for it."""


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a testbed, which is down afterwards."""
    name = f"tutorial-{os.getpid()}"
    try:
        yield name
    finally:
        Testbed(name).down()


@pytest.fixture
def shim(request: pytest.FixtureRequest) -> str:
    """What is called when the reader types ``nfq-zerortt``."""
    return str(getattr(request, "param", SHIM))


@pytest.fixture
def walk(tmp_path: Path, name: str, shim: str) -> Iterator[Walk]:
    """A checkout's copy to walk in: what the tutorial changes there is not ours."""
    for folder in ("nfq_zerortt", "iptables_rules"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    command = tmp_path / "bin/nfq-zerortt"
    command.parent.mkdir()
    command.write_text(
        shim.format(name=name, directory=tmp_path, root=tmp_path, python=sys.executable)
    )
    command.chmod(0o755)
    (tmp_path / "busy.toml").write_text(PATIENT)
    path = f"{command.parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    reader = Walk(tmp_path, os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""})
    try:
        yield reader
    finally:
        reader.close()


def test_the_whole_tutorial(walk: Walk) -> None:
    for part in parts(TUTORIAL.read_text(encoding="utf-8")):
        if part.text not in SET_UP:
            walk.do(part)


def follow(walk: Walk, document: Path) -> None:
    """Do what a how-to says; all that is typed must succeed."""
    found = list(parts(document.read_text(encoding="utf-8")))
    assert len(found) > 4
    for part in found:
        walk.do(part)
        assert walk.status == 0, f"{part.text}\n{walk.last}"


@pytest.mark.parametrize("shim", [ON_THE_ROUTER], indirect=True)
def test_how_to_run_it_on_a_router(walk: Walk, name: str) -> None:
    with Testbed(name, rtt_ms=20) as network:
        follow(walk, ROUTER)
        assert "ZERORTT" not in rules(network)


@pytest.mark.waits
def test_how_to_show_it(walk: Walk, name: str) -> None:
    with Testbed(name, rtt_ms=20):
        walk.do(Part("lasting", SERVICE, "running", "service.ready"))
        walk.do(Part("lasting", ALL_THE_TIME, "asking", "refused"))
        follow(walk, SHOW)


def test_nothing_of_it_is_overlooked() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    found = list(parts(text))
    for fence in ("sh", "text"):
        kinds = {"sh": {"typed", "lasting"}, "text": {"printed"}}[fence]
        blocks = len(re.findall(rf"^```{fence}$", text, re.MULTILINE))
        assert sum(part.kind in kinds for part in found) == blocks > 5
    assert sum(part.text in SET_UP for part in found) == len(SET_UP)
    begun = [part.terminal for part in found if part.kind == "lasting"]
    stopped = [part.terminal for part in found if part.kind == "stop"]
    assert sorted(begun) == sorted(stopped)
    assert "\t@$(bin)/nfq-zerortt demo --report demo-report.html" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    ("printed", "missing"),
    [
        ("connected after 0.0012 s, port 80", False),
        ("x connected  after 0.05 s, port 8080 and more", False),
        ("connected after 0.1001 s, port 80", True),
        ("connected before 0.001 s, port 80", True),
        ("", True),
    ],
)
def test_what_is_printed_is_compared(printed: str, missing: bool) -> None:
    assert bool(differences("connected after 0.001 s, port 80\n", printed)) is missing


def test_a_document_is_taken_apart() -> None:
    text = "a\n```sh\nls\n```\n<!-- in: b, until: c -->\n```sh\nd\n```\n```text\ne\n```\n"
    assert list(parts(text + "<!-- stop: b -->\n")) == [
        Part("typed", "ls\n"),
        Part("lasting", "d\n", "b", "c"),
        Part("printed", "e\n"),
        Part("stop", "", "b"),
    ]
