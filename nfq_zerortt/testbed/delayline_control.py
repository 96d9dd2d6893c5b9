"""Starting, changing and watching the delay line from outside its namespace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.commands import Commands, environment
from nfq_zerortt.testbed.lateness import LatenessFigures
from nfq_zerortt.testbed.processes import ProcessId
from nfq_zerortt.testbed.wan import QUEUE_NUMBER, WanSettings

# The module is not imported here: it needs the NetfilterQueue library, which a host with netem
# can do without in its testbed.
_MODULE = "nfq_zerortt.testbed.delayline"
_RULE = ("FORWARD", "-j", "NFQUEUE", "--queue-num", str(QUEUE_NUMBER))
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_START_TIMEOUT_S = 20.0
_CHANGE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class DelayLineStatus:
    """The delay line's own figures since it was started or last changed."""

    pid: int
    alive: bool
    scheduling: str
    packets: int
    lost: int
    lateness: LatenessFigures
    queued: int
    """Packets that wait in the kernel's queue now."""
    queue_dropped: int
    """Packets that the kernel dropped because its queue was full, or had no listener."""
    user_dropped: int
    """Packets that the kernel dropped because the listener's socket buffer was full."""


def add_rules(commands: Commands, namespace: str) -> None:
    """Send all that crosses the host to the delay line's queue."""
    for program in ("iptables", "ip6tables"):
        commands.run(*_iptables(namespace, program, "-A"))


def has_rules(commands: Commands, namespace: str) -> bool:
    """Say whether the rules are in place."""
    return all(
        commands.succeeds(*_iptables(namespace, program, "-C"))
        for program in ("iptables", "ip6tables")
    )


def start(
    name: str, namespace: str, record: Callable[[ProcessId], None]
) -> subprocess.Popen[bytes]:
    """Start the delay line and wait until it serves its queue.

    ``record`` is called with the new process before it does anything, so
    that it can be found whatever happens next.
    """
    search_path = os.pathsep.join(
        path for path in (_PACKAGE_PARENT, os.environ.get("PYTHONPATH")) if path
    )
    state.status_file(name).unlink(missing_ok=True)
    with state.log_file(name).open("wb") as log:
        process = subprocess.Popen(
            ("ip", "netns", "exec", namespace, sys.executable, "-m", _MODULE, name),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=environment() | {"PYTHONPATH": search_path},
        )
    identity = ProcessId.of(process.pid)
    assert process.stdin is not None
    try:
        if identity is not None:
            record(identity)
            process.stdin.write(b"go\n")
            process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended already; found out below
    finally:
        process.stdin.close()
    if not _await_report(name, process.pid, None, _START_TIMEOUT_S):
        raise _failure(name, process)
    return process


def change(name: str, process: ProcessId, settings: WanSettings) -> None:
    """Have the delay line read its (saved) settings again; wait until they are in effect."""
    if not process.send(signal.SIGHUP) or not _await_report(
        name, process.pid, settings, _CHANGE_TIMEOUT_S
    ):
        raise ZeroRttError(f"the delay line (pid {process.pid}) does not answer: run `up` again")


def status(name: str, process: ProcessId) -> DelayLineStatus:
    """Return the delay line's figures, its last ones if it has died."""
    report = _report(name) or {}
    kernel = _kernel_counters(process) if process.alive() else (0, 0, 0)
    return DelayLineStatus(
        pid=process.pid,
        alive=process.alive(),
        scheduling=report.get("scheduling", "unknown"),
        packets=report.get("packets", 0),
        lost=report.get("lost", 0),
        lateness=LatenessFigures(**report.get("lateness", asdict(LatenessFigures(0, 0, 0, 0)))),
        queued=kernel[0],
        queue_dropped=kernel[1],
        user_dropped=kernel[2],
    )


def _iptables(namespace: str, program: str, action: str) -> tuple[str, ...]:
    # -w: wait for others who use iptables; the legacy variant has one lock for all namespaces.
    return ("ip", "netns", "exec", namespace, program, "-w", "-t", "mangle", action, *_RULE)


def _report(name: str) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = json.loads(state.status_file(name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return report


def _await_report(name: str, pid: int, settings: WanSettings | None, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        report = _report(name)
        if (
            report
            and report["pid"] == pid
            and (settings is None or report["settings"] == asdict(settings))
        ):
            return True
        if ProcessId.of(pid) is None:
            return False
        time.sleep(0.005)
    return False


def _failure(name: str, process: subprocess.Popen[bytes]) -> ZeroRttError:
    process.kill()
    process.wait()
    said = state.log_file(name).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    if "netfilterqueue" in last and "No module" in last:
        return MissingFeatureError(
            "the kernel has no netem and the Python package NetfilterQueue is missing: "
            f"{sys.executable} -m pip install NetfilterQueue"
        )
    return ZeroRttError(f"the WAN's delay line did not start: {last}")


def _kernel_counters(process: ProcessId) -> tuple[int, int, int]:
    """Return (waiting, dropped by the queue, dropped before the user) of the kernel's queue."""
    try:
        text = Path(f"/proc/{process.pid}/net/netfilter/nfnetlink_queue").read_text("ascii")
    except OSError:  # it has just ended
        return (0, 0, 0)
    for line in text.splitlines():
        fields = line.split()
        if fields[0] == str(QUEUE_NUMBER):
            return (int(fields[2]), int(fields[5]), int(fields[6]))
    return (0, 0, 0)
