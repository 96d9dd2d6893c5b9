"""What the machines with other kernels said (kernels/run.sh), as a table and a document.

    python -m vagrant.selftest.kernels.report FILE.said...

With ZERORTT_VM_REPORT=FILE the document is written there, too.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_RESULT = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED) (.*)")


@dataclass
class Kernel:
    """One machine: its facts, and for each file of tests what became of them."""

    suite: str
    facts: dict[str, str] = field(default_factory=dict)
    check: list[str] = field(default_factory=list)
    files: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    took: dict[str, int] = field(default_factory=dict)
    ended: bool = False

    def count(self, name: str, *outcomes: str) -> int:
        """How many tests of a file ended so."""
        return sum(outcome in outcomes for outcome, _ in self.files.get(name, []))


def read(path: Path) -> Kernel:
    """Read what one machine said."""
    kernel = Kernel(path.stem)
    name = ""
    checking = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, _, rest = line.partition(" ")
        if checking and line.startswith("    "):
            kernel.check.append(line.strip().partition("; to mend it: ")[0])
        elif word == "check":
            checking = True
        elif word == "fact":
            key, _, value = rest.partition(": ")
            kernel.facts[key] = value
        elif word == "file":
            checking = False
            name = rest
            kernel.files[name] = []
        elif word == "took":
            kernel.took[rest.split()[0]] = int(rest.split()[1])
        elif line.startswith("exit status"):
            kernel.ended = True
        elif found := _RESULT.fullmatch(line):
            kernel.files[name].append((found[1], found[2]))
    return kernel


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
            lines += ["", "**The machine did not come to the end.**"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the document, and write it."""
    text = document([read(Path(name)) for name in sys.argv[1:]])
    print(text)
    if target := os.environ.get("ZERORTT_VM_REPORT"):
        Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
