"""Starting, changing and watching servernic's queue processes from outside its namespace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nfq_zerortt import programs
from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel.queue_table import bound_queues
from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.commands import Commands
from nfq_zerortt.testbed.processes import ProcessId
from nfq_zerortt.testbed.wan import WanSettings

_START_TIMEOUT_S = 20.0
_CHANGE_TIMEOUT_S = 5.0

Record = Callable[[ProcessId], None]


@dataclass(frozen=True, slots=True)
class KernelQueue:
    """The kernel's counters of a queue."""

    waiting: int = 0
    dropped: int = 0
    """Packets that the kernel dropped because its queue was full, or had no listener."""
    user_dropped: int = 0
    """Packets that the kernel dropped because the listener's socket buffer was full."""


@dataclass(frozen=True, slots=True)
class Control:
    """A kind of queue process: what it is called, its program, its queue and its rule.

    The program is named by its module, which is not imported here: it needs the NetfilterQueue
    library, which a host with netem and without faults can do without in its testbed.
    """

    role: str
    called: str
    module: str
    queue_number: int
    rule: tuple[str, ...]

    def add_rules(self, commands: Commands, namespace: str) -> None:
        """Send packets to its queue, of either IP version."""
        for program in ("iptables", "ip6tables"):
            commands.run(*self._iptables(namespace, program, "-A"))

    def remove_rules(self, commands: Commands, namespace: str) -> None:
        """Send no more packets to its queue."""
        for program in ("iptables", "ip6tables"):
            commands.run(*self._iptables(namespace, program, "-D"))

    def has_rules(self, commands: Commands, namespace: str) -> bool:
        """Say whether the rules are in place."""
        return all(
            commands.succeeds(*self._iptables(namespace, program, "-C"))
            for program in ("iptables", "ip6tables")
        )

    def _iptables(self, namespace: str, program: str, action: str) -> tuple[str, ...]:
        return mangle(namespace, program, action, *self.rule)

    def start(self, name: str, namespace: str, record: Record) -> subprocess.Popen[bytes]:
        """Start it and wait until it serves its queue.

        ``record`` is called with the new process before it does anything, so
        that it can be found whatever happens next.
        """
        state.status_file(name, self.role).unlink(missing_ok=True)
        with state.log_file(name, self.role).open("wb") as log:
            process = subprocess.Popen(
                ("ip", "netns", "exec", namespace, sys.executable, "-m", self.module, name),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=programs.python_environment(),
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
        if not self._await_report(name, process.pid, None, _START_TIMEOUT_S):
            raise self._failure(name, process)
        return process

    def change(self, name: str, process: ProcessId, settings: WanSettings) -> None:
        """Have it read its (saved) settings again; wait until they are in effect."""
        if not process.send(signal.SIGHUP) or not self._await_report(
            name, process.pid, settings, _CHANGE_TIMEOUT_S
        ):
            raise ZeroRttError(
                f"the {self.called} (pid {process.pid}) does not answer: run `up` again"
            )

    def report(self, name: str) -> dict[str, Any]:
        """Return its figures, the last ones if it has died; empty when there are none."""
        try:
            text = state.status_file(name, self.role).read_text(encoding="utf-8")
            report: dict[str, Any] = json.loads(text)
        except (FileNotFoundError, ValueError):
            return {}
        return report

    def kernel_queue(self, process: ProcessId) -> KernelQueue:
        """Return the kernel's counters of its queue; zeros when it does not run."""
        try:
            found = bound_queues(process.pid).get(self.queue_number)
        except OSError:  # it has just ended
            found = None
        if found is None:
            return KernelQueue()
        return KernelQueue(found.waiting, found.dropped, found.user_dropped)

    def _await_report(
        self, name: str, pid: int, settings: WanSettings | None, timeout_s: float
    ) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            report = self.report(name)
            if (
                report
                and report["pid"] == pid
                and (settings is None or report["settings"] == settings.document())
            ):
                return True
            if ProcessId.of(pid) is None:
                return False
            time.sleep(0.005)
        return False

    def _failure(self, name: str, process: subprocess.Popen[bytes]) -> ZeroRttError:
        process.kill()
        process.wait()
        log = state.log_file(name, self.role)
        said = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
        if "netfilterqueue" in last and "No module" in last:
            return MissingFeatureError(
                f"the WAN's {self.called} needs the Python package NetfilterQueue: "
                f"{sys.executable} -m pip install NetfilterQueue"
            )
        return ZeroRttError(f"the WAN's {self.called} did not start: {last}")


def mangle(namespace: str, program: str, *words: str) -> tuple[str, ...]:
    """Return an iptables command on the mangle table of a namespace."""
    # -w: wait for others who use iptables; the legacy variant has one lock for all namespaces.
    return ("ip", "netns", "exec", namespace, program, "-w", "-t", "mangle", *words)
