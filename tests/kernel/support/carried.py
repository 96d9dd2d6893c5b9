"""What the kernel carries on clientnic, as a user sees it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from nfq_zerortt.testbed.network import Testbed
from support.service import COMMAND, ENVIRONMENT
from support.waiting import until

KERNEL = ("--data-path", "kernel")


def command(testbed: Testbed, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``nfq-zerortt`` on clientnic."""
    argv = [*COMMAND, *words]
    running = testbed.popen(
        "clientnic",
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        said, wrong = running.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        raise
    return subprocess.CompletedProcess(argv, running.returncode, said, wrong)


def filters(testbed: Testbed) -> str:
    """Return the filters on both interfaces."""
    return "".join(
        testbed.exec("clientnic", ["tc", "filter", "show", "dev", name, "ingress"]).stdout
        for name in ("eth0", "eth1")
    )


def flows(testbed: Testbed, control_socket: Path) -> list[dict[str, Any]]:
    """Return what ``nfq-zerortt flows`` shows."""
    done = command(testbed, "flows", "--json", "--control-socket", str(control_socket))
    assert (done.returncode, done.stderr) == (0, "")
    shown: list[dict[str, Any]] = json.loads(done.stdout)
    return shown


def until_settled(testbed: Testbed, control_socket: Path, port: int, count: int) -> None:
    """Wait until so many flows to a server's port are the kernel's."""

    def carried() -> bool:
        ours = [f for f in flows(testbed, control_socket) if f["server"].endswith(f":{port}")]
        return len([flow for flow in ours if flow["data_path"] == "kernel"]) >= count

    until(carried, f"{count} flows in the kernel", 20.0)
