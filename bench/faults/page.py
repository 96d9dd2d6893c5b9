"""The results as a table for people, and as the page in docs/."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.faults.laboratory import (
    AT_A_TIME,
    FAMILIES,
    SERVICE_SYN_RETRIES,
    SYN_RETRIES,
    Comparison,
    Tally,
)
from bench.faults.rows import RTT_MS
from bench.faults.verdict import (
    HANG_S,
    HANG_SHARE,
    HANG_SHARE_DRAWN,
    WALL_TIME_ROW,
    WALL_TIME_SHARE,
    errors,
    failings,
    sentence,
)
from bench.faults.work import SIZES
from nfq_zerortt.config import Limits

PAGE = Path(__file__).resolve().parents[2] / "docs" / "FAULTS.md"

_COLUMNS = (
    *("fault", "way", "connections", "complete", "right at the server", "errors seen"),
    *("median", "p95", "longest", "all"),
)


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print one row's result."""
    table = Table(title=f"IPv{comparison.family}: {comparison.row.title}", title_justify="left")
    for column in _COLUMNS[1:]:
        table.add_column(column)
    for way, tally in comparison.ways.items():
        table.add_row(*_cells(comparison, way, tally)[1:])
    console.print(table)
    if comparison.faults:
        console.print(", ".join(f"{name} {n}" for name, n in comparison.faults.items()))
    console.print(sentence(comparison))
    for failing in failings(comparison):
        console.print(f"[bold red]worse than direct:[/] {failing}", highlight=False)


def as_page(
    comparisons: Sequence[Comparison], host: Mapping[str, Any], settings: str, took_s: float
) -> str:
    """Return the page for docs/."""
    today = datetime.datetime.now(datetime.UTC).date()
    numbers = [len(tally.results) for tally in comparisons[0].ways.values()]
    sizes = ", ".join(f"{size:,}" for size in SIZES)
    lines = [
        "# Faults",
        "",
        "Written by `make faults`; do not edit.",
        "",
        f"{today}: nfq_zerortt {host['version']}, Linux {host['kernel']}, {host['cores']} cores "
        f"({host['processor']}), {took_s:.0f} s in all. RTT {RTT_MS:g} ms, {settings}.",
        "",
        f"Each row: {numbers[0]} connections of each way or more, {AT_A_TIME} of each way at a "
        f"time, of {sizes} bytes; uploads, downloads, and downloads in which the server speaks "
        "first. The data are checked by SHA-256 at the end that receives them.",
        "",
        "Direct and through us run at the same time on the same four hosts, across the same WAN; "
        "only the server's port tells them apart. What happens to a packet depends on the "
        "client's port, the direction and the packet's number in its connection, and each "
        "connection has a twin of the other way with the same client port and the same data: both "
        "ways meet the same faults at the same places.",
        "",
        "`longest` is the longest of all connections from before connect() to the end, whatever "
        "the end was; `all` is the time from the first one's beginning to the last one's end. An "
        "error has the name that the application gets. `ended early`: the other end closed in the "
        "midst of the data, without a reset.",
        "",
    ]
    for family in FAMILIES:
        of_family = [one for one in comparisons if one.family == family]
        if of_family:
            lines += [f"## IPv{family}", "", *_table(of_family), "", *_sentences(of_family), ""]
    lines += _notes()
    return "\n".join(lines) + "\n"


def _table(comparisons: Sequence[Comparison]) -> list[str]:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    for comparison in comparisons:
        for way, tally in comparison.ways.items():
            lines.append("| " + " | ".join(_cells(comparison, way, tally)) + " |")
    return lines


def _cells(comparison: Comparison, way: str, tally: Tally) -> tuple[str, ...]:
    served = f"{tally.served}" if comparison.row.should_complete else "–"
    return (
        comparison.row.title,
        way,
        f"{len(tally.results)}",
        f"{tally.complete}",
        served,
        errors(tally.outcomes),
        *(_time(tally.seconds(percent)) for percent in (50, 95, 100)),
        _time(tally.took_s),
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _sentences(comparisons: Sequence[Comparison]) -> list[str]:
    lines = []
    for comparison in comparisons:
        said = f"- **{comparison.row.title}**: {comparison.row.says} {sentence(comparison)}"
        done = comparison.faults
        if done:
            said += (
                f" (Of {done['packets']:,} packets {done['lost']} were lost, "
                f"{done['reordered']} held back, {done['duplicated']} doubled.)"
            )
        worse = failings(comparison)
        if worse:
            said += f" **Worse than direct: {'; '.join(worse)}.**"
        lines.append(said)
    return lines


def _notes() -> list[str]:
    return [
        "## Notes",
        "",
        "- Closed port: the client was told that it is connected before the server refused, so "
        "the first ones see ECONNRESET where a direct connection sees ECONNREFUSED. After that "
        "the service leaves the address and port alone for a while, and the error is the "
        "genuine one. The same holds for a host that cannot be reached.",
        "- Silent server: by default a direct connection gives up after about 130 s, the service "
        "after 130.75 s. To keep the run short the client's kernel has net.ipv4.tcp_syn_retries = "
        f"{SYN_RETRIES} in this row (default 6), and the service syn_retries = "
        f"{SERVICE_SYN_RETRIES} (default {Limits().syn_retries}). All connections are open at "
        "the same time.",
        "- Link down: everything that reaches the WAN's router is dropped there. An interface "
        "that is set down would lose its routes and IPv6 addresses too, and the routers would "
        "answer with ICMP errors: another fault.",
        "- Reordering: the client's kernel takes the spoofed handshake, well under 1 ms, for the "
        "path's minimum RTT, and a quarter of that for how long it waits for an overtaken packet "
        "before it takes it for lost (RFC 8985, section 6.2). So it repeats more of an upload "
        "than direct, needlessly, and a long upload takes longer. Downloads are not concerned: "
        "the server has measured the real path.",
        "- Server dies: the kernel answers with a RST where it had not read all of an upload; of "
        "a download it sends what was handed to it, then FIN, so the data end early.",
        "- Client dies: what the server's application sees, and how long after it had accepted.",
        "- Judged are: connections that complete; the data; the longest wait (worse is more than "
        f"{HANG_SHARE:g} times direct's and {HANG_S:g} s; {HANG_SHARE_DRAWN:g} times where the "
        "faults are drawn, since the longest of all is a matter of chance there); and the time of "
        f"the row “{WALL_TIME_ROW}” (worse is more than {WALL_TIME_SHARE:g} times direct's).",
    ]
