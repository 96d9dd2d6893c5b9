"""The four machines as the tests see them: commands by ssh, as ``vagrant ssh`` gives them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

WORK = Path(os.environ.get("ZERORTT_VM_WORK", "/nonexistent"))
"""Where run.sh keeps what belongs to this run."""

SERVICE = "nfq-zerortt"

Found = TypeVar("Found")


def vagrant(*arguments: str, timeout_s: float, **environment: str) -> str:
    """Run vagrant and return what it said; AssertionError with the end of that when it fails."""
    log = WORK / "vagrant.log"
    with log.open("a", encoding="utf-8") as written:
        before = log.stat().st_size
        done = subprocess.run(
            ["vagrant", *arguments],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    said = log.read_bytes()[before:].decode(errors="replace")
    end = "\n".join(said.splitlines()[-40:])
    assert done.returncode == 0, f"vagrant {' '.join(arguments)} failed:\n{end}"
    return said


class Machine:
    """One virtual machine; its commands share one ssh connection."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _ssh(self, *arguments: str) -> list[str]:
        return [
            *("ssh", "-F", str(WORK / "ssh-config"), "-o", "ControlMaster=auto"),
            *(
                "-o",
                f"ControlPath={WORK}/ssh-%n",
                "-o",
                "ControlPersist=yes",
                "-o",
                "LogLevel=ERROR",
            ),
            *arguments,
        ]

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command there; its output comes by the pipe."""
        return subprocess.Popen(
            self._ssh(self.name, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str, *, timeout_s: float = 120, check: bool = True) -> str:
        """Run a shell command there and return what it said, without the last newline."""
        process = self.start(command)
        try:
            said, _ = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
            process.wait()
        assert not check or process.returncode == 0, (
            f"on {self.name}: {command}: exit status {process.returncode}:\n{said}"
        )
        return said.rstrip("\n")

    def reboot(self, timeout_s: float = 600) -> float:
        """Restart the machine; return how many seconds it took until ssh answered again."""
        before = self._boot()
        begun = time.monotonic()
        self.run("sudo systemctl reboot", check=False)
        subprocess.run(self._ssh("-O", "exit", self.name), capture_output=True, check=False)

        def other() -> str | None:
            now = self._boot()
            return now if now != before else None

        until(other, f"{self.name} after its restart", timeout_s)
        return time.monotonic() - begun

    def _boot(self) -> str | None:
        """What the kernel calls this boot; None while the machine does not answer."""
        try:
            said = self.run("cat /proc/sys/kernel/random/boot_id", timeout_s=60, check=False)
        except subprocess.TimeoutExpired:
            return None
        return said if re.fullmatch(r"[0-9a-f-]{36}", said) else None


class ServiceOn(Machine):
    """The machine on which the service runs."""

    def shows(self, name: str) -> str:
        """A property of the unit, as ``systemctl show`` has it."""
        return self.run(f"systemctl show --value --property {name} {SERVICE}")

    @property
    def pid(self) -> int:
        """The main process; 0 while there is none."""
        return int(self.shows("MainPID"))

    def clock(self) -> str:
        """The machine's time, for ``events``."""
        return self.run("date +%s.%N")

    def events(self, since: str) -> list[dict[str, Any]]:
        """The log's events in the journal since that moment; systemd's own lines are none."""
        said = self.run(f"sudo journalctl --unit {SERVICE} --output cat --since @{since}")
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def await_event(
        self, name: str, since: str, *, timeout_s: float = 90, **fields: object
    ) -> dict[str, Any]:
        """Wait for an event with these fields in the journal and return it."""

        def found() -> dict[str, Any] | None:
            for event in self.events(since):
                if event["event"] == name and fields.items() <= event.items():
                    return event
            return None

        return until(found, f"the event {name} {fields or ''}", timeout_s)


def until(look: Callable[[], Found | None], what: str, timeout_s: float) -> Found:
    """Look again and again until there is something; AssertionError when there is not in time."""
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        time.sleep(1)
    return found
