"""The result in a terminal of 80 columns or more."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nfq_zerortt.demo.result import FIGURES, LAST_BYTE_BACK, Figure, Result, Run
from nfq_zerortt.demo.verdict import ONE_CLOCK, gain_text, is_gain, sentences
from nfq_zerortt.demo.work import BULK, SMALL, THINKING, Work
from nfq_zerortt.observe import ladder

_MAX_LADDER_WIDTH = 110
_FORWARDING_S = 0.0005


def show(result: Result, console: Console) -> None:
    """Print figures, what they mean, and the ladders of one connection of each run."""
    console.print(_table(result))
    for sentence in sentences(result):
        console.print(Text(sentence))
    console.print(Text(ONE_CLOCK, style="dim"))
    console.print(Text(_surroundings(result), style="dim"))
    for run, what in zip(result.runs, ("direct", "through the service, hold"), strict=True):
        _ladder(result, run, what, console)
    if result.ok:
        count = sum(len(run.connections) for run in result.runs)
        console.print(
            f"[green]All {count} connections complete; SHA-256 equal at both ends, "
            "both ways.[/green]"
        )
    for problem in result.problems:
        console.print(f"[bold red]FAILED[/bold red] {escape(problem)}", highlight=False)


def _table(result: Result) -> Table:
    table = Table(
        title=f"{result.family}, RTT {result.rtt_ms:g} ms, the same work both ways: medians in ms",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title_justify="left",
    )
    table.add_column("", max_width=40)
    table.add_column("direct", justify="right", no_wrap=True, min_width=7)
    table.add_column("hold", justify="right", no_wrap=True, min_width=7)
    table.add_column("gain", no_wrap=True, min_width=19)
    for key, figures in (
        (SMALL, FIGURES),
        (THINKING, (FIGURES[3],)),
        (BULK, (LAST_BYTE_BACK,)),
    ):
        work = result.work(key)
        if work.think_ms == 0 and key == THINKING:
            continue  # without a round trip there is no handshake to overlap with
        table.add_row(f"[bold]{escape(work.title)}[/bold]")
        for figure in figures:
            table.add_row(*_row(result, work, figure))
    return table


def _row(result: Result, work: Work, figure: Figure) -> tuple[str, str, str, str]:
    gain = result.gain_ms(work, figure)
    text = gain_text(gain, result.rtt_ms)
    if gain is not None and is_gain(gain, result.rtt_ms):
        text = f"[bold green]{text}[/bold green]"
    medians = [run.median(work, figure) for run in result.runs]
    direct, hold = ("-" if value is None else f"{value:.1f}" for value in medians)
    return (f"  {figure.name}", direct, hold, text)


def _surroundings(result: Result) -> str:
    found = result.environment
    late = found.lateness
    precise = f", late by {late.median_ms:.2f} ms (median), {late.p99_ms:.2f} (p99)" if late else ""
    return (
        f"WAN by {found.wan}{precise}; kernel {found.kernel}, Python {found.python}, "
        f"nfq_zerortt {found.version}, {found.cpus} CPUs, load {found.load:.1f} before; "
        f"{found.congestion_control}."
    )


def _ladder(result: Result, run: Run, what: str, console: Console) -> None:
    diagram = diagram_of(result, run)
    if diagram is None:
        return
    console.print()
    console.print(Text(f"One real connection, {what} (captured packets)", style="bold"))
    width = min(console.width, _MAX_LADDER_WIDTH)
    plain = not console.encoding.startswith("utf")
    for line in ladder.render(diagram, width=width, ascii_only=plain):
        console.print(Text(line), no_wrap=True, overflow="ignore", crop=False)
    for line in diagram.legend():
        console.print(Text(line))


def diagram_of(result: Result, run: Run) -> ladder.Layout | None:
    """Return the ladder of the run's typical small connection; None when there is none."""
    typical = run.typical(result.work(SMALL))
    if typical is None or typical.client is None:
        return None
    return ladder.layout(
        run.records,
        result.path,
        typical.client,
        result.server,
        wan_host=result.wan_host,
        # At a short round trip a wait of 2 ms may be the WAN's; forwarding takes some time, too.
        merge_s=max(min(ladder.MERGE_S, result.rtt_ms / 8000), _FORWARDING_S),
    )
