"""The result in a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from nfq_zerortt.demo.result import (
    FASTOPEN,
    FIGURES,
    HOLD,
    LAST_BYTE_BACK,
    Connection,
    Figure,
    Result,
    Run,
)
from nfq_zerortt.demo.verdict import ONE_CLOCK, gain_text, is_gain, refused, sentences
from nfq_zerortt.demo.work import BULK, FIRST, SMALL, THINKING, Work
from nfq_zerortt.observe import ladder

_MAX_LADDER_WIDTH = 110
_FORWARDING_S = 0.0005
# 80 columns: a figure's name, three medians, two gains with the space before them.
_NAME = 25
_MEDIANS = (7, 8, 9)
_GAINS = ((2, 14), (1, 14))


def show(result: Result, console: Console) -> None:
    """Print figures, what they mean, and ladders of one connection through each strategy."""
    for line in table(result):
        console.print(line, no_wrap=True, crop=False, overflow="ignore")
    for sentence in sentences(result):
        console.print(Text(sentence))
    console.print(Text(ONE_CLOCK, style="dim"))
    console.print(Text(_surroundings(result), style="dim"))
    _ladder(result, result.hold, f"{HOLD}, until the answer has come", console, whole=False)
    _ladder(result, result.fastopen, FASTOPEN, console)
    if result.ok:
        count = sum(len(run.connections) for run in result.runs)
        console.print(
            f"[green]All {count} connections complete; SHA-256 equal at both ends, "
            "all three ways.[/green]"
        )
    for problem in result.problems:
        console.print(f"[bold red]FAILED[/bold red] {escape(problem)}", highlight=False)


def table(result: Result) -> Iterator[Text]:
    """Return the figures of all ways side by side, as lines of at most 80 characters."""
    yield Text(f"{result.family}, RTT {result.rtt_ms:g} ms, the same work three ways: medians")
    yield Text()
    ways = [run.way for run in result.runs]
    yield Text(_line("", ways, [f"gain {run.way}" for run in result.through_service]))
    yield Text(_line("", ["ms"] * len(ways), ["ms, RTT"] * len(_GAINS)))
    yield Text("-" * (_NAME + sum(_MEDIANS) + sum(map(sum, _GAINS))), style="dim")
    for key, figures in (
        (FIRST, (FIGURES[0], FIGURES[3])),
        (SMALL, FIGURES),
        (BULK, (LAST_BYTE_BACK,)),
        (THINKING, (FIGURES[3],)),
    ):
        work = result.work(key)
        if work.think_ms == 0 and key == THINKING:
            continue  # without a round trip there is no handshake to overlap with
        yield Text(work.title, style="bold")
        for figure in figures:
            yield _row(result, work, figure)
    line = refused(result)
    if line is not None:
        yield Text(line)
    yield Text()


def _row(result: Result, work: Work, figure: Figure) -> Text:
    medians = [run.median(work, figure) for run in result.runs]
    shown = ["-" if value is None else f"{value:.1f}" for value in medians]
    gains = [result.gain_ms(run, work, figure) for run in result.through_service]
    texts = [gain_text(gain, result.rtt_ms) for gain in gains]
    row = Text(_line(f" {figure.name}", shown, texts))
    for gain, text in zip(gains, texts, strict=True):
        if gain is not None and is_gain(gain, result.rtt_ms) and work.connections > 1:
            row.highlight_words([text], style="bold green")
    return row


def _line(name: str, medians: Sequence[str], gains: Sequence[str]) -> str:
    parts = [f"{name:<{_NAME}}"]
    parts += [f"{text:>{width}}" for text, width in zip(medians, _MEDIANS, strict=True)]
    parts += [
        f"{'':{space}}{text:<{width}}" for text, (space, width) in zip(gains, _GAINS, strict=True)
    ]
    return "".join(parts).rstrip()


def _surroundings(result: Result) -> str:
    found = result.environment
    late = found.lateness
    precise = f", late by {late.median_ms:.2f} ms (median), {late.p99_ms:.2f} (p99)" if late else ""
    return (
        f"WAN by {found.wan}{precise}; kernel {found.kernel}, Python {found.python}, "
        f"nfq_zerortt {found.version}, {found.cpus} CPUs, load {found.load:.1f} before; "
        f"{found.congestion_control}; net.ipv4.tcp_fastopen on the server's host: "
        f"{sysctl_text(result)}."
    )


def sysctl_text(result: Result) -> str:
    """Return the server host's net.ipv4.tcp_fastopen as it is written, or that it has none."""
    value = result.fast_open_sysctl
    return "not there" if value is None else f"{value:#x}"


def _ladder(result: Result, run: Run, what: str, console: Console, *, whole: bool = True) -> None:
    diagram = diagram_of(result, run)
    if diagram is None:
        return
    if not whole:
        diagram = diagram.until_answer()
    console.print()
    console.print(Text(f"One real connection, {what} (captured packets)", style="bold"))
    width = min(console.width, _MAX_LADDER_WIDTH)
    plain = not console.encoding.startswith("utf")
    for line in ladder.render(diagram, width=width, ascii_only=plain):
        console.print(Text(line), no_wrap=True, overflow="ignore", crop=False)
    for line in diagram.legend():
        console.print(Text(line))


def diagram_of(
    result: Result, run: Run, connection: Connection | None = None
) -> ladder.Layout | None:
    """Return a connection's ladder, of the run's typical small one by default.

    None when there is none.
    """
    connection = connection or run.typical(result.work(SMALL))
    if connection is None or connection.client is None:
        return None
    return ladder.layout(
        run.records,
        result.path,
        connection.client,
        result.server,
        wan_host=result.wan_host,
        # At a short round trip a wait of 2 ms may be the WAN's; forwarding takes some time, too.
        merge_s=max(min(ladder.MERGE_S, result.rtt_ms / 8000), _FORWARDING_S),
    )
