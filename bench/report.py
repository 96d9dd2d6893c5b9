"""The results as a table for people, as JSON, and as the page in docs/."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.rows import Row
from nfq_zerortt import __version__

PAGE = Path(__file__).resolve().parents[1] / "docs" / "BENCHMARKS.md"


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark said, and how long it took."""

    name: str
    rows: tuple[Row, ...]
    took_s: float

    @property
    def command(self) -> str:
        """The command that runs it alone."""
        return f".venv/bin/python -m bench {self.name}"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "version": __version__,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def verdict(row: Row) -> str:
    """Return ``met``, ``NOT met``, or nothing where there is no target."""
    if row.met is None:
        return ""
    return "met" if row.met else "NOT met"


def print_table(console: Console, result: Result) -> None:
    """Print one benchmark's rows."""
    table = Table(title=f"{result.command}   ({result.took_s:.0f} s)", title_justify="left")
    for column, ratio in (("Figure", 4), ("Measured", 5), ("Target", 2), ("", 1), ("How", 5)):
        table.add_column(column, ratio=ratio, overflow="fold")
    before = ""
    for row in result.rows:
        style = {True: "green", False: "bold red", None: ""}[row.met]
        said = f"[{style}]{verdict(row)}[/]" if style else ""
        how = row.how if row.how != before else ""
        before = row.how
        table.add_row(_plain(row.figure), _plain(row.measured), _plain(row.target), said, how)
    console.print(table)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def as_json(results: Sequence[Result], host: Mapping[str, Any]) -> str:
    """Return everything as one JSON object."""
    document = {
        "machine": dict(host),
        "results": [
            {**asdict(row), "benchmark": result.name, "command": result.command}
            for result in results
            for row in result.rows
        ],
    }
    return json.dumps(document, indent=2)


def as_page(results: Sequence[Result], host: Mapping[str, Any]) -> str:
    """Return the page for docs/."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench ARGS=--write`; do not edit. Each table's heading is the command",
        "that measures it alone (as root). Everything ran on one machine: four hosts as network",
        "namespaces, the WAN, clients and servers share its cores with the service.",
        "",
        f"Measured on {host['date']}: nfq_zerortt {host['version']}, Python {host['python']}, "
        f"Linux {host['kernel']}, {host['cores']} cores ({host['processor']}); the load average "
        f"before was {host['load_average']:.1f}.",
        "",
    ]
    for result in results:
        lines += [
            f"## `{result.command}`",
            "",
            "| figure | measured | target | | how |",
            "|---|---|---|---|---|",
        ]
        for row in result.rows:
            said = f"**{verdict(row)}**" if row.met is False else verdict(row)
            cells = (row.figure, row.measured, row.target, said, row.how)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)
