"""The service as a process on clientnic, started and stopped as an administrator would."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from nfq_zerortt import programs
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.testbed.network import Testbed
from support.namespaces import inside
from support.waiting import until

STOPS_WITHIN_S = 5.0
"""What the interface promises for SIGTERM and SIGINT."""

_START_S = 60.0
_NUMBERS = itertools.count()

ENVIRONMENT = programs.python_environment()
"""For commands that must find this very package, installed or not."""

COMMAND = (sys.executable, "-m", "nfq_zerortt")
BOTH_SIDES = ("--client-iface", "eth0", "--server-iface", "eth1")

Event = dict[str, Any]


def rules(testbed: Testbed) -> str:
    """Return all iptables rules on clientnic, without the packet counts."""
    saved = testbed.exec("clientnic", ["iptables-legacy-save"], timeout_s=10, check=True).stdout
    return "\n".join(line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#"))


class ServiceProcess:
    """``nfq-zerortt run`` on clientnic; as a context manager it is ready inside the block.

    On leaving it gets SIGTERM, and must then end as the interface says.
    """

    def __init__(
        self,
        testbed: Testbed,
        directory: Path,
        *options: str,
        command: Sequence[str] = COMMAND,
        control_socket: str | None = "",
    ) -> None:
        """``control_socket``: none unless it is given; None leaves it to the configuration.

        The default path may belong to a service of somebody else's: it is the same for all.
        """
        number = next(_NUMBERS)
        self._testbed = testbed
        self._argv = [*command, "run", *BOTH_SIDES, *options]
        if control_socket is not None:
            self._argv += ["--control-socket", control_socket]
        self.log_file = directory / f"service-{number}.jsonl"
        self._stderr_file = directory / f"service-{number}.stderr"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process is not None:
                self.stop()
        finally:
            # Flows that go on without it are none of the next test's.
            with inside(self._testbed.netns("clientnic")):
                KernelPath.remove_all(0)

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        with self._stderr_file.open("wb") as stderr:
            self.process = self._testbed.popen(
                "clientnic",
                [*self._argv, "--log-file", str(self.log_file)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=ENVIRONMENT,
            )
        try:
            until(self._is_ready, lambda: f"service.ready; {self.stderr() or self.log()}", _START_S)
        except BaseException:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"ended at once, {self.process.returncode}: {self.stderr()}")
        return bool(self.events("service.ready"))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, and see that it ends well: in time, status 0, without rules or a fault."""
        process, self.process = self.process, None
        assert process is not None
        assert process.poll() is None, f"it had ended, {process.returncode}: {self.stderr()}"
        process.send_signal(number)
        began = time.monotonic()
        try:
            status = process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"still running {STOPS_WITHIN_S} s after {number.name}") from None
        took = time.monotonic() - began
        assert status == 0, f"status {status} after {took:.1f} s: {self.stderr()}"
        assert self.stderr() == ""
        assert "ZERORTT" not in rules(self._testbed)
        assert self.faults() == []
        assert self.events()[-1]["event"] == "service.stopped"

    def kill(self) -> None:
        """End it as a crash would."""
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        process.wait()

    def stderr(self) -> str:
        """Return what it said on stdout and stderr."""
        return self._stderr_file.read_text(encoding="utf-8")

    def log(self) -> str:
        """Return the log as it stands in the file."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    def events(self, name: str | None = None, *, port: int | None = None) -> list[Event]:
        """Return the log's events so far: those called ``name``, of flows to server ``port``."""
        complete = self.log().rpartition("\n")[0].splitlines()
        return [
            event
            for event in map(json.loads, complete)
            if (name is None or event["event"] == name)
            and (port is None or event.get("flow", "").endswith(f":{port}"))
        ]

    def event(self, name: str, *, port: int | None = None) -> Event:
        """Return the one event of that name; wait for it if it is not there yet."""
        found = self.wait_for(name, port=port)
        assert len(found) == 1, found
        return found[0]

    def wait_for(self, name: str, *, port: int | None = None, count: int = 1) -> list[Event]:
        """Wait until the log has ``count`` events of that name, and return them."""

        def enough() -> list[Event]:
            found = self.events(name, port=port)
            return found if len(found) >= count else []

        return until(
            enough,
            lambda: f"{count} {name} for port {port}; there is {self.events(port=port)}",
        )

    def faults(self) -> list[Event]:
        """Return the events that say that the service itself went wrong."""
        wrong = ("service.fault", "service.not_sent")
        return [event for event in self.events() if event["event"] in wrong]
