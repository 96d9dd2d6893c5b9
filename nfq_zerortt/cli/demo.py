"""``nfq-zerortt demo``: the same work direct, with hold and with fastopen, side by side."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nfq_zerortt.demo import page, runner, stage, terminal
from nfq_zerortt.demo.interrupt import orderly_end
from nfq_zerortt.demo.result import to_json
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.testbed.units import parse_milliseconds


@click.command()
@click.option("--rtt", default="100ms", show_default=True, help="The WAN's round trip, as in 0.1s.")
@click.option("--ipv6", is_flag=True, help="Over IPv6 instead of IPv4.")
@click.option(
    "--report",
    "report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Write the result as a self-contained page, too.",
)
@click.option("--json", "as_json", is_flag=True, help="All figures as one JSON object on stdout.")
def demo(rtt: str, ipv6: bool, report: Path | None, as_json: bool) -> int:
    """Show what is gained and what is not: the same work direct and through the service.

    Brings up four hosts of its own as network namespaces, does the work three ways with two
    ordinary applications (direct, and through the service with the strategies hold and
    fastopen), and takes the hosts down. Exit status 1 when a connection failed or
    a byte was harmed. Progress goes to stderr.
    """
    rtt_ms = parse_milliseconds("--rtt", rtt)
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {str(report)!r}: there is no directory {str(report.parent)!r}")
    with orderly_end(), _progress() as progress:
        result = runner.perform(rtt_ms, progress, "IPv6" if ipv6 else "IPv4")
    if report is not None:
        try:
            report.write_text(page.page(result), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--report {str(report)!r}: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps(to_json(result)))
        for problem in result.problems:
            click.echo(f"FAILED {problem}", err=True)
    else:
        console = Console(highlight=False)
        terminal.show(result, console)
        if report is not None:
            console.print(f"The same with plots: {report}", markup=False, soft_wrap=True)
    return 0 if result.ok else 1


@contextmanager
def _progress() -> Iterator[stage.Progress]:
    """Show progress on stderr: a live line on a terminal, plain lines elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as display:
        yield _Live(display)


class _Live:
    """A line that changes."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._task = display.add_task("", total=None, count="")

    def step(self, text: str) -> None:
        self._display.reset(self._task, description=text, count="")

    def connections(self, done: int, total: int) -> None:
        self._display.update(self._task, count=f"{done} of {total}")


class _Lines:
    """A line for each step."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def step(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:5.1f} s  {text}", file=sys.stderr, flush=True)

    def connections(self, done: int, total: int) -> None:
        """Say nothing: each step has its line."""
