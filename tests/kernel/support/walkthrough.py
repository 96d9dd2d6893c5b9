"""Walks through a document as its reader would: types its commands, compares what they print.

In the document:

- ````` ```sh ````` is typed into the first terminal, a shell that lasts until the end. With
  ``<!-- in: NAME, until: TEXT -->`` before it, it gets a terminal of its own and goes on until
  ``<!-- stop: NAME -->``, which is Ctrl-C; the reader waits for TEXT.
- ````` ```text ````` after it is what it prints: each line must occur in what the last commands
  printed, in this order, perhaps with others in between. "…" stands for anything. A number may be
  another one, but seconds ("0.1 s") may differ by TOLERANCE at most.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.waiting import until

TOLERANCE = 0.06
_PATIENCE_S = 60.0

_PART = re.compile(
    r"<!-- in: (?P<terminal>\w+), until: (?P<until>.*?) -->\n```sh\n(?P<lasting>.*?)^```$"
    r"|<!-- stop: (?P<stop>\w+) -->"
    r"|^```sh\n(?P<typed>.*?)^```$"
    r"|^```text\n(?P<printed>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to do or to see; ``kind`` is typed, lasting, stop or printed."""

    kind: str
    text: str
    terminal: str = ""
    until: str = ""


def parts(markdown: str) -> Iterator[Part]:
    """Give what is to be done and seen, in the document's order."""
    for found in _PART.finditer(markdown):
        if found["stop"]:
            yield Part("stop", "", found["stop"])
        elif found["lasting"] is not None:
            yield Part("lasting", found["lasting"], found["terminal"], found["until"])
        elif found["typed"] is not None:
            yield Part("typed", found["typed"])
        else:
            yield Part("printed", found["printed"])


def differences(expected: str, printed: str) -> list[str]:
    """Return the lines that should have been printed, in this order, and were not."""
    lines = iter([_flat(line) for line in printed.splitlines()])
    return [
        line for line in expected.splitlines() if not any(_same(_flat(line), one) for one in lines)
    ]


def _flat(line: str) -> str:
    return " ".join(line.split())


def _same(expected: str, printed: str) -> bool:
    words = [re.escape(word).replace("…", ".*") for word in _NUMBER.split(expected)]
    match = re.search(rf"({_NUMBER.pattern})".join(words), printed)
    if match is None:
        return False
    pairs = zip(_NUMBER.finditer(expected), match.groups(), strict=True)
    return all(
        abs(float(one[0]) - float(real)) <= TOLERANCE
        for one, real in pairs
        if re.match(r" s\b", expected[one.end() :])
    )


class Walk:
    """The reader, with as many terminals as the document wants.

    Attributes:
        last: what the last commands printed that were typed into the first terminal.
        status: the exit status of the last one of them.
    """

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._printed = directory / "terminal.txt"
        self._shell = self._open("exec bash --norc --noprofile", self._printed)
        self._lasting: dict[str, tuple[subprocess.Popen[str], Path]] = {}
        self._commands = 0
        self.last = ""
        self.status = 0

    def _open(self, command: str, output: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=output.open("w"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C gets to all that runs in a terminal
        )

    def do(self, part: Part) -> None:
        """Do what the document says; AssertionError says what is not as it is printed there."""
        if part.kind == "typed":
            self.last = self._type(part.text)
        elif part.kind == "lasting":
            self._begin(part)
        elif part.kind == "stop":
            self._stop(part.terminal)
        else:
            missing = differences(part.text, self.last)
            assert not missing, f"not printed:\n{chr(10).join(missing)}\nbut:\n{self.last}"

    def _type(self, text: str) -> str:
        assert self._shell.stdin is not None
        self._commands += 1
        marker = f"--- end of commands {self._commands}, status"
        before = self._printed.stat().st_size
        self._shell.stdin.write(f"{text}\necho '{marker}' $?.\n")
        self._shell.stdin.flush()

        def said() -> str:
            return self._printed.read_bytes()[before:].decode(errors="replace")

        ended = re.compile(rf"{marker} (\d+)\.")
        found = until(
            lambda: ended.search(said()), lambda: f"the end of:\n{text}\n{said()}", _PATIENCE_S
        )
        assert found is not None
        self.status = int(found[1])
        return said()[: found.start()]

    def _begin(self, part: Part) -> None:
        output = self._directory / f"{part.terminal}-{len(list(self._directory.iterdir()))}.txt"
        process = self._open(part.text, output)
        self._lasting[part.terminal] = (process, output)

        def ready() -> bool:
            assert process.poll() is None, f"{part.text}\nended: {output.read_text()}"
            return part.until in output.read_text()

        until(ready, lambda: f"{part.until}: {output.read_text()}", _PATIENCE_S)

    def _stop(self, terminal: str) -> None:
        process, output = self._lasting.pop(terminal)
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"Ctrl-C does not end {terminal}: {output.read_text()}") from None

    def close(self) -> None:
        """Close all terminals."""
        for process in (self._shell, *(one for one, _ in self._lasting.values())):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
