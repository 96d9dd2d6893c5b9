"""The command: ``python -m bench [NAMES] [--quick] [--json] [--write]``, as root."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from functools import partial

import click
from rich.console import Console

from bench import report
from bench.command import run
from bench.figures import (
    bulk,
    connect,
    datapath,
    fast_open,
    flows,
    handshakes,
    programs,
    synack,
    transfers,
    uploads,
)
from bench.real_programs import page
from bench.report import Result
from bench.rows import Row
from nfq_zerortt.config import MOST_WORKERS
from nfq_zerortt.testbed.commands import require_programs, require_root

HANDSHAKES = "handshakes"
PROGRAMS = "programs"
"""It has a page of its own."""

FIGURES: dict[str, Callable[[bool], list[Row]]] = {
    "connect": connect.measure,
    "synack": synack.measure,
    "transfers": transfers.measure,
    "datapath": datapath.measure,
    "flows": flows.measure,
    HANDSHAKES: handshakes.measure,
    "bulk": bulk.measure,
    "uploads": uploads.measure,
    "fast_open": fast_open.measure,
    PROGRAMS: programs.measure,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(FIGURES)), metavar="[NAMES]...")
@click.option("--quick", is_flag=True, help="Few samples: does everything work?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--write", is_flag=True, help=f"Write docs/{report.PAGE.name} and {page.PAGE.name} too."
)
@click.option(
    "--data-path",
    "paths",
    multiple=True,
    type=click.Choice(handshakes.PATHS),
    help="Of handshakes: only by this one.",
)
@click.option(
    "--workers",
    type=click.IntRange(2, MOST_WORKERS),
    help="Of handshakes: by a service with so many workers as well.",
)
def bench(
    *,
    names: tuple[str, ...],
    quick: bool,
    as_json: bool,
    write: bool,
    paths: tuple[str, ...],
    workers: int | None,
) -> int:
    """Measure the figures NAMES: connect, synack, transfers, datapath, flows, handshakes, bulk,
    uploads, fast_open, programs; or all.

    Exit status 1 if a target is not met.
    """
    if write and (quick or names not in ((), (PROGRAMS,))):
        raise click.UsageError("--write is for a whole run, or for programs: without --quick")
    require_root()
    require_programs()
    # As Ctrl-C: everything is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else 180)
    host = report.machine()
    results: list[Result] = []
    figures = dict(FIGURES)
    if paths or workers:
        figures[HANDSHAKES] = partial(
            handshakes.measure,
            paths=paths or handshakes.PATHS,
            workers=(1, workers) if workers else (1,),
        )
    for name in names or FIGURES:
        started = time.monotonic()
        with console.status(f"{name} …"):
            rows = figures[name](quick)
        results.append(Result(name, tuple(rows), time.monotonic() - started))
        if not as_json:
            report.print_table(console, results[-1])
    if as_json:
        print(report.as_json(results, host))
    if write:
        rest = [result for result in results if result.name != PROGRAMS]
        for result in results:
            if result.name == PROGRAMS:
                text = page.as_page(result.rows, host, programs.RTT_MS)
                page.PAGE.write_text(text, encoding="utf-8")
        if rest:
            report.PAGE.write_text(report.as_page(rest, host), encoding="utf-8")
    missed = [row for result in results for row in result.rows if row.met is False]
    for row in missed:
        console.print(f"[bold red]NOT met[/] {row.figure}: {row.measured} (target {row.target})")
    return 1 if missed else 0


if __name__ == "__main__":
    run(bench, "bench")
