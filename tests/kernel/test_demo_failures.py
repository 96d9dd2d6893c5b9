"""The demonstration where something goes wrong: it says so, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.demos import COMMAND, PACKAGE_PARENT, STRATEGIES, WAYS, Demo, start
from support.namespaces import UNPRIVILEGED

pytestmark = pytest.mark.waits

PHASES = {"direct": "direct,", "hold": "service, hold", "fastopen": "service, fastopen"}


def kill_in(demo: Demo, way: str, part: str) -> None:
    """Kill the one process of the demonstration that has ``part`` in its command, on the way."""
    demo.wait_for(PHASES[way])
    time.sleep(0.3)
    (found,) = (pid for pid, argv in demo.processes().items() if part in " ".join(argv))
    os.kill(found, signal.SIGKILL)


@pytest.mark.parametrize("ways", [("direct",), STRATEGIES], ids=" ".join)
def test_a_server_that_dies_is_a_failure(tmp_path: Path, ways: tuple[str, ...]) -> None:
    demo = start(tmp_path, "--rtt", "40ms", "--json", "--report", "report.html")
    for way in ways:
        kill_in(demo, way, "server.py")
    status, stdout, stderr = demo.end()
    assert status == 1
    found = json.loads(stdout)
    assert found["ok"] is False
    count = 0
    for way in WAYS:
        failed = {key: work[way]["failed"] for key, work in found["work"].items()}
        problems = [p for p in found["problems"] if p.startswith(f"{way}: connection ")]
        assert len(problems) == sum(failed.values())
        last = found["work"]["thinking"]
        assert failed["thinking"] == (last["connections"] if way in ways else 0)
        assert (last[way]["connect_ms"]["median"] is None) is (way in ways)
        count += len(problems)
    assert count == len(found["problems"])
    assert f"FAILED {found['problems'][0]}" in stderr
    assert "Traceback" not in stderr
    assert 'class="bad"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert demo.leftovers() == []


def test_a_service_that_dies_is_a_failure(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "40ms")
    for strategy in STRATEGIES:
        kill_in(demo, strategy, "--client-iface")
    status, stdout, stderr = demo.end()
    assert status == 1
    for strategy in STRATEGIES:
        assert f"{strategy}: the service ended by itself" in " ".join(stdout.split())
    assert "Traceback" not in stderr
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("number", "phase", "after_s", "expected"),
    [
        (signal.SIGINT, "bringing up", 0.1, 130),
        (signal.SIGTERM, "connections direct", 0.2, 143),
        (signal.SIGINT, "connections through", 0.2, 130),
        (signal.SIGTERM, "through the service, fastopen", 0.2, 143),
        (signal.SIGTERM, "taking", 0.0, 143),
    ],
)
def test_interrupted_it_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, phase: str, after_s: float, expected: int
) -> None:
    demo = start(tmp_path, "--rtt", "10ms")
    demo.wait_for(phase)
    time.sleep(after_s)
    demo.process.send_signal(number)
    time.sleep(0.05)
    demo.process.send_signal(signal.SIGINT)  # an impatient user
    status, _, stderr = demo.end(timeout_s=30)
    assert status == expected
    assert "Traceback" not in stderr
    assert demo.leftovers() == []


@pytest.mark.alone  # any other demonstration would clear it away, too
def test_a_killed_one_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    elsewhere = tmp_path / "killed"
    elsewhere.mkdir()
    killed = start(elsewhere, "--rtt", "20ms")
    killed.wait_for("connections direct")
    killed.process.kill()
    killed.end()
    assert f"demo-{killed.process.pid}-client" in killed.leftovers()

    demo = start(tmp_path, "--rtt", "20ms")
    demo.wait_for("connections direct")
    for directory in elsewhere.iterdir():  # of its temporary files; all else has to be gone
        shutil.rmtree(directory)
    assert killed.leftovers() == []
    demo.process.send_signal(signal.SIGINT)
    assert demo.end()[0] == 130
    assert demo.leftovers() == []


def run(*argv: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(p for p in (PACKAGE_PARENT, os.environ.get("PYTHONPATH")) if p)
    changed = {"PYTHONPATH": search} | ({} if path is None else {"PATH": path})
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=30, check=False, env=os.environ | changed
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rtt", "fast"), "--rtt"),
        (("--rtt", "11s"), "--rtt"),
        (("--report", "/nowhere/report.html"), "/nowhere"),
        (("--speed", "9"), "--speed"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = run(*COMMAND, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_root_it_says_so_at_once() -> None:
    done = run(*UNPRIVILEGED, *COMMAND)
    assert done.returncode == 3
    assert "root" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_tcpdump_it_names_the_package(tmp_path: Path) -> None:
    if shutil.which("tcpdump", path="/usr/local/sbin:/usr/sbin:/sbin"):
        pytest.skip("tcpdump is where PATH cannot hide it")
    done = run(*COMMAND, path=str(tmp_path))
    assert done.returncode == 3
    assert done.stderr == "nfq-zerortt: missing program tcpdump: apt-get install tcpdump\n"
