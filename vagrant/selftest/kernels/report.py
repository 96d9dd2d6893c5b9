"""What the machines with other kernels said (kernels/run.sh), as a table and a document.

    python -m vagrant.selftest.kernels.report SUITE.said...

Several files of one suite (bookworm.said, bookworm.2.said) are put together, in the order in which
they are given: a file of tests counts as it was the last time that it came to its end. With
ZERORTT_VM_REPORT=FILE the document is written there, too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_RESULT = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED) (.*)")


@dataclass
class Kernel:
    """One kernel: its facts, and for each file of tests what became of them.

    Attributes:
        starts: how often its machine was started.
        took: seconds, of the files that came to their end.
    """

    suite: str
    starts: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    check: list[str] = field(default_factory=list)
    files: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    took: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, *outcomes: str) -> int:
        """How many tests of a file ended so."""
        return sum(outcome in outcomes for outcome, _ in self.files.get(name, []))

    @property
    def ended(self) -> bool:
        """Whether all files of tests came to their end."""
        return bool(self.files) and self.files.keys() == self.took.keys()

    def read(self, path: Path) -> None:
        """Take in what the machine said at one start."""
        self.starts += 1
        results: list[tuple[str, str]] = []
        checking = False
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            word, _, rest = line.partition(" ")
            if checking and line.startswith("    "):
                self.check.append(line.strip().partition("; to mend it: ")[0])
            elif word == "check":
                checking = True
                self.check = []
            elif word == "fact":
                key, _, value = rest.partition(": ")
                self.facts[key] = value
            elif word == "file":
                checking = False
                results = []
                if rest not in self.took:
                    self.files[rest] = results
            elif word == "took":
                name, seconds = rest.split()
                self.files[name], self.took[name] = results, int(seconds)
            elif found := _RESULT.fullmatch(line):
                results.append((found[1], found[2]))


def read(paths: Iterable[Path]) -> list[Kernel]:
    """Read what the machines said, by suite."""
    kernels: dict[str, Kernel] = {}
    for path in paths:
        suite = path.name.partition(".")[0]
        kernels.setdefault(suite, Kernel(suite)).read(path)
    return list(kernels.values())


def document(kernels: list[Kernel]) -> str:
    """The document, as Markdown."""
    lines = [
        "# Kernels",
        "",
        "The tests with real packets on the kernels of Debian 12 and 13, each in a virtual machine",
        "built from that Debian's packages, with its own Python, iptables and netem. Written by",
        "`ZERORTT_VM_REPORT=docs/KERNELS.md make kernels`. The processors were emulated. Only",
        "tests that a kernel can make fail are run, with fewer packets drawn by chance than usual.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]
    for kernel in kernels:
        lines += ["", f"## {kernel.facts.get('Debian', kernel.suite)}", ""]
        lines += [f"- {key}: {value}" for key, value in kernel.facts.items()]
        if kernel.starts > 1:
            lines.append(f"- put together from {kernel.starts} starts of the machine")
        lines += ["", "`nfq-zerortt check` says there:", "", "```", *kernel.check, "```"]
        lines += [
            "",
            "| tests/kernel/ | passed | failed | skipped | seconds |",
            "|---|---|---|---|---|",
        ]
        for name in kernel.files:
            counts = (
                kernel.count(name, "PASSED"),
                kernel.count(name, "FAILED", "ERROR"),
                kernel.count(name, "SKIPPED"),
                kernel.took.get(name, "-"),
            )
            lines.append(f"| test_{name}.py | {' | '.join(map(str, counts))} |")
        for title, outcomes in (("Failed", ("FAILED", "ERROR")), ("Skipped", ("SKIPPED",))):
            which = {
                text: None
                for results in kernel.files.values()
                for outcome, text in results
                if outcome in outcomes
            }
            if which:
                lines += ["", f"{title}:", "", *(f"- `{text}`" for text in which)]
        if not kernel.ended:
            lines += ["", "**Not all files of tests came to their end.**"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the document, and write it."""
    text = document(read(map(Path, sys.argv[1:])))
    print(text)
    if target := os.environ.get("ZERORTT_VM_REPORT"):
        Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
