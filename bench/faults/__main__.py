"""The command: ``python -m bench.faults [ROW]... [--family 4|6] [--write]``, as root."""

from __future__ import annotations

import signal
import sys
import time

import click
from rich.console import Console

from bench import report
from bench.command import run
from bench.faults import page
from bench.faults.laboratory import FAMILIES, Comparison, FaultLab
from bench.faults.rows import ROWS
from bench.faults.verdict import failings
from nfq_zerortt.testbed.commands import require_programs, require_root

_CONNECTIONS = 240
_TITLES = [row.title for row in ROWS]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("titles", nargs=-1, type=click.Choice(_TITLES), metavar="[ROW]...")
@click.option("--family", type=click.Choice(["4", "6"]), help="IPv4 or IPv6 alone.")
@click.option(
    "--connections",
    type=click.IntRange(12, 300),
    default=_CONNECTIONS,
    show_default=True,
    help="Of each way in each row.",
)
@click.option("--write", is_flag=True, help=f"Write docs/{page.PAGE.name} too.")
def faults(titles: tuple[str, ...], family: str | None, connections: int, write: bool) -> int:
    """Let a few hundred connections meet each fault, directly and through the service.

    ROW is a fault's title, such as "loss 1 %"; all without one. Exit status 1 if through the
    service is worse than direct anywhere.
    """
    if write and (titles or family):
        raise click.UsageError("--write is for a whole run: without ROW and --family")
    require_root()
    require_programs()
    # As Ctrl-C: everything is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else 180)
    host = report.machine()
    rows = [row for row in ROWS if not titles or row.title in titles]
    started = time.monotonic()
    done: list[Comparison] = []
    with FaultLab(connections=connections) as lab:
        lab.begin()
        settings = lab.settings()
        for number in [int(family)] if family else FAMILIES:
            for row in rows:
                with console.status(f"IPv{number}: {row.title} …"):
                    done.append(lab.run(row, number))
                page.print_comparison(console, done[-1])
    took_s = time.monotonic() - started
    console.print(f"{took_s:.0f} s in all")
    if write:
        page.PAGE.write_text(page.as_page(done, host, settings, took_s), encoding="utf-8")
    return 1 if any(failings(comparison) for comparison in done) else 0


if __name__ == "__main__":
    run(faults, "bench.faults")
