"""A testbed whose `up` is killed in the midst of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from support.service import ENVIRONMENT
from support.testbeds import MAIN, command, leftovers, ping

from nfq_zerortt.testbed.network import Testbed


# `up` announces each command before it runs it; this many lines later it is killed. The last ones
# are only reached by time: after the last command the delay line starts.
@pytest.mark.parametrize("lines", [1, 2, 3, 5, 8, 10, 12, 14, 18, 19, 20, 21, 22])
@pytest.mark.parametrize("then", ["up", "down"])
def test_up_killed_in_the_midst(fresh: Testbed, lines: int, then: str) -> None:
    _start_and_stop_up(fresh.name, lines, 0.0, signal.SIGKILL)
    _then(fresh, then)


@pytest.mark.parametrize("seconds", [0.03, 0.06, 0.1, 0.2])
def test_up_killed_while_the_delay_line_starts(fresh: Testbed, seconds: float) -> None:
    _start_and_stop_up(fresh.name, 22, seconds, signal.SIGKILL)
    _then(fresh, "down")


def test_up_interrupted_from_the_keyboard_clears_away(fresh: Testbed) -> None:
    assert _start_and_stop_up(fresh.name, 12, 0.0, signal.SIGINT) == 130
    assert leftovers(fresh.name) == []


def _start_and_stop_up(name: str, lines: int, seconds: float, number: signal.Signals) -> int:
    with subprocess.Popen(
        (sys.executable, "-c", MAIN, "testbed", "up", "--verbose", "--name", name),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines -= line.startswith("+ ")
            if lines == 0:
                break
        time.sleep(seconds)
        process.send_signal(number)
        rest = process.stderr.read()
        assert "Traceback" not in rest
        return process.wait(timeout=30)


def _then(testbed: Testbed, then: str) -> None:
    if then == "up":
        done = command("up", "--name", testbed.name, "--rtt", "10ms")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(ping(testbed, "-c", "3", "-i", "0.01")) == 3
    done = command("down", "--name", testbed.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert leftovers(testbed.name) == []
