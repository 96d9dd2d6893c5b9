"""A testbed as its tests look at it: commands, pings, what is left of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.network import Testbed
from support.service import ENVIRONMENT
from support.waiting import until

MakeTestbed = Callable[..., Testbed]

MAIN = "from nfq_zerortt.cli import main; main()"
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
ADDED = state.DIRECTORY / "added_congestion_control"
SERVER = "10.0.3.2"
SERVER_V6 = "fd6e:6671:7a01:3::2"


def command(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``nfq-zerortt testbed …``."""
    return subprocess.run(
        (*prefix, sys.executable, "-c", MAIN, "testbed", *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=False,
    )


def ping(testbed: Testbed, *options: str, to: str = SERVER) -> list[float]:
    """Return the round trips in milliseconds of the answers that came."""
    output = testbed.exec("client", ["ping", "-n", *options, to], timeout_s=60).stdout
    assert "packets transmitted" in output
    return [float(text) for text in re.findall(r"time=([0-9.]+)", output)]


def leftovers(name: str) -> list[str]:
    """Return whatever is still there of a testbed."""
    namespaces = subprocess.run(
        ("ip", "netns", "list"), capture_output=True, text=True, check=True
    ).stdout.split()
    found = [entry for entry in namespaces if entry.startswith(f"{name}-")]
    found += [str(file) for file in state.DIRECTORY.glob(f"{name}.*")]
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                argv = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            ours = {b"nfq_zerortt.testbed.delayline", b"nfq_zerortt.testbed.injector"}
            if ours & set(argv) and name.encode() in argv:
                found.append(f"process {process.name}")
    return found


def allowed_congestion_control() -> str:
    """Return what the initial namespace allows while no `up` is in the midst of a change.

    Neither one that has been killed in it, perhaps by another worker's test: that puts it right.
    """

    def undisturbed() -> str:
        with state.locked():
            return "" if ADDED.exists() else ALLOWED.read_text().strip()

    return until(undisturbed, f"what {ADDED} names being taken out again")
