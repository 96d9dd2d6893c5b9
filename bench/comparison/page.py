"""The page and the plot in docs/."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.comparison import notes, plot, tables
from bench.comparison.contenders.contender import Contender
from bench.comparison.plan import Plan
from bench.comparison.results import Results
from bench.comparison.verdict import Verdict
from bench.real_programs.packages import find
from bench.rows import median

_DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = _DOCS / "COMPARISON.md"
PLOT = _DOCS / "comparison.svg"


def head(host: Mapping[str, Any], took_s: float) -> str:
    """Return when and where the figures were measured."""
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{today}, Linux {host['kernel']}, {host['cores']} cores ({host['processor']}), "
        f"nfq_zerortt {host['version']}{_haproxy()}, {took_s / 60:.0f} min in all"
    )


def write(
    results: Results,
    contenders: Sequence[Contender],
    plan: Plan,
    judged: Sequence[Verdict],
    where: str,
) -> None:
    """Write both; ``where``: what :func:`head` says."""
    names = [contender.name for contender in contenders]
    PLOT.write_text(plot.plot(results, names, plan.levels, where), encoding="utf-8")
    PAGE.write_text(as_page(results, contenders, plan, judged, where), encoding="utf-8")


def as_page(
    results: Results,
    contenders: Sequence[Contender],
    plan: Plan,
    judged: Sequence[Verdict],
    where: str,
) -> str:
    """Return the page for docs/."""
    names = [contender.name for contender in contenders]
    lines = ["# Comparison", "", "Written by `make compare`; do not edit.", "", f"{where}.", ""]
    lines += [*notes.introduction(plan), ""]
    lines += ["## The contenders", "", "| | how |", "|---|---|"]
    lines += [f"| {contender.name} | {contender.about} |" for contender in contenders]
    lines += ["", *_absent(results)]
    for table in tables.tables(results, names):
        lines += [f"## {table.title}", "", *notes.of_section(table.title, plan), *_markdown(table)]
        lines.append("")
    lines += [f"![How the figures change with the number of flows]({PLOT.name})", ""]
    lines += ["## What is asked of nfq-zerortt", "", *_judged(judged), ""]
    lines += ["## Data", "", *_data(results), "", "## Notes", "", *notes.END]
    return "\n".join(lines) + "\n"


def _markdown(table: tables.Table) -> list[str]:
    head = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return head + ["| " + " | ".join(row) + " |" for row in table.rows]


def _absent(results: Results) -> list[str]:
    if not results.absent:
        return []
    lines = ["Not on this machine:", ""]
    return [*lines, *(f"- {name}: {reason}" for name, reason in results.absent.items()), ""]


def _judged(judged: Sequence[Verdict]) -> list[str]:
    lines = ["| target | measured | |", "|---|---|---|"]
    for verdict in judged:
        said = "met" if verdict.met else "**NOT met**"
        lines.append(f"| {verdict.target} | {verdict.measured} | {said} |")
    return lines


def _data(results: Results) -> list[str]:
    lines = [
        f"- {name}: {right} of {number} transfers right by SHA-256 at the end that receives."
        for name, (right, number) in results.checked.items()
    ]
    lines += [f"- Failed: {failure}" for failure in results.failures]
    if results.strangers:
        shares = results.strangers
        lines.append(
            f"- Other programs of this machine had {median(shares):.1%} (median) to "
            f"{max(shares):.1%} of the processors while bulk streams were measured."
        )
    return lines


def _haproxy() -> str:
    found = find("haproxy")
    if found is None:
        return ""
    done = subprocess.run([found, "-v"], capture_output=True, text=True, check=False)
    return f", {' '.join(done.stdout.split()[:3])}"
