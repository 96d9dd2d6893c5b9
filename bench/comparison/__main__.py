"""The command: ``python -m bench.comparison [--quick] [--json] [--write]``, as root."""

from __future__ import annotations

import datetime
import json
import signal
import sys
import time

import click
from rich.console import Console
from rich.table import Table

from bench import report
from bench.command import run
from bench.comparison import page, tables
from bench.comparison.contenders import CONTENDERS
from bench.comparison.plan import QUICK, WHOLE
from bench.comparison.results import Results
from bench.comparison.run import Run
from bench.comparison.verdict import verdicts
from bench.real_programs.packages import program
from nfq_zerortt.testbed.commands import require_programs, require_root

PROGRAMS = ("nginx", "cc", "ethtool")
"""What the ends need."""

_NAMES = [contender.name for contender in CONTENDERS]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(_NAMES), metavar="[CONTENDER]...")
@click.option("--quick", is_flag=True, help="Few samples: does everything work?")
@click.option("--repetitions", type=click.IntRange(1, 50), help="Instead of the usual number.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--write", is_flag=True, help=f"Write docs/{page.PAGE.name} and its plot too.")
def comparison(
    names: tuple[str, ...], quick: bool, repetitions: int | None, as_json: bool, write: bool
) -> int:
    """Compare this service with what else could stand on ClientNIC.

    CONTENDER is a column's name, such as "HAProxy"; all without one. Plain forwarding is always
    there. Exit status 1 if something failed or, in a whole run, a target is not met.
    """
    if write and (names or quick):
        raise click.UsageError("--write is for a whole run: without CONTENDER and --quick")
    require_root()
    require_programs()
    for name in PROGRAMS:
        program(name)
    # As Ctrl-C: everything is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else 220)
    chosen = [one for one in CONTENDERS if not names or one.name in (_NAMES[0], *names)]
    host = report.machine()
    started = time.monotonic()
    plan = (QUICK if quick else WHOLE).with_repetitions(repetitions)
    with console.status("…") as status:
        results = Run(chosen, plan, status.update).measure()
    took_s = time.monotonic() - started
    columns = [contender.name for contender in chosen]
    judged = [] if quick else verdicts(results)
    if as_json:
        today = datetime.datetime.now(datetime.UTC).date()
        document = {"date": str(today), "machine": host, **results.document(columns)}
        print(json.dumps(document, indent=2))
    else:
        _print(console, results, columns)
    for verdict in judged:
        style, said = ("green", "met") if verdict.met else ("bold red", "NOT met")
        console.print(f"[{style}]{said}[/] {verdict.target}: {verdict.measured}", highlight=False)
    if write:
        page.write(results, chosen, plan, judged, page.head(host, took_s))
    return 1 if results.failures or not all(verdict.met for verdict in judged) else 0


def _print(console: Console, results: Results, columns: list[str]) -> None:
    for section in tables.tables(results, columns):
        table = Table(title=section.title, title_justify="left")
        for column in section.columns:
            table.add_column(column, overflow="fold")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
    for name, (right, number) in results.checked.items():
        console.print(f"{name}: {right} of {number} transfers right by SHA-256", highlight=False)
    for name, reason in results.absent.items():
        console.print(f"[bold]absent:[/] {name}: {reason}", highlight=False)
    for failure in results.failures:
        console.print(f"[bold red]failed:[/] {failure}", highlight=False)


if __name__ == "__main__":
    run(comparison, "bench.comparison")
