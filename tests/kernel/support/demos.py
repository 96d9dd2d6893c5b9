"""The demonstration as a process, and all that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

import nfq_zerortt
from nfq_zerortt.testbed import state

COMMAND = (sys.executable, "-m", "nfq_zerortt", "demo")
PACKAGE_PARENT = str(Path(nfq_zerortt.__file__).parents[1])
STRATEGIES = ("hold", "fastopen")
WAYS = ("direct", *STRATEGIES)
FIGURES = ("connect_ms", "first_byte_sent_ms", "first_byte_at_server_ms", "first_byte_back_ms")


@dataclass
class Demo:
    """A running demonstration, and a mark by which all that it starts is known."""

    process: subprocess.Popen[str]
    mark: str
    directory: Path

    @property
    def stderr(self) -> IO[str]:
        assert self.process.stderr is not None
        return self.process.stderr

    def wait_for(self, text: str) -> None:
        """Read progress until a line contains the text."""
        for line in self.stderr:
            if text in line:
                return
        pytest.fail(f"it ended ({self.process.wait()}) before it said {text!r}")

    def processes(self) -> dict[int, list[str]]:
        """Return all processes that carry the mark, with their commands."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        argv = (entry / "cmdline").read_bytes().decode().split("\0")
                        found[int(entry.name)] = argv
                except OSError:  # it has just ended
                    continue
        return found

    def end(self, timeout_s: float = 180) -> tuple[int, str, str]:
        """Wait for its end; return exit status, stdout, and what is left of stderr."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stdout, stderr

    def leftovers(self) -> list[str]:
        """Return whatever is still there of it: namespaces, files, processes."""
        name = f"demo-{self.process.pid}"
        listed = subprocess.run(
            ("ip", "netns", "list"), capture_output=True, text=True, check=True
        ).stdout.split()
        found = [entry for entry in listed if entry.startswith(f"{name}-")]
        found += [str(file) for file in state.DIRECTORY.glob(f"{name}.*")]
        found += [str(file) for file in self.directory.glob("nfq-zerortt-*")]
        return found + [str(argv) for argv in self.processes().values()]


def start(directory: Path, *arguments: str) -> Demo:
    if os.geteuid() != 0:
        pytest.fail("the demonstration needs root", pytrace=False)
    mark = f"DEMO_OF_TEST={os.getpid()}-{time.monotonic_ns()}"
    key, value = mark.split("=")
    path = os.pathsep.join(p for p in (PACKAGE_PARENT, os.environ.get("PYTHONPATH")) if p)
    process = subprocess.Popen(
        (*COMMAND, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(directory), key: value},
    )
    return Demo(process, mark, directory)
