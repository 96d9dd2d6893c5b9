"""docs/PROGRAMS.md: the table of real programs, and what it means."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.addresses import OPTED_IN, TOML
from bench.lab import AUTO, DIRECT, FASTOPEN, HOLD
from bench.real_programs.packages import versions
from bench.real_programs.tasks import TASKS, Task
from bench.rows import Row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "PROGRAMS.md"

_COLUMNS = (DIRECT, HOLD, AUTO, FASTOPEN)

_FIGURES = len(_COLUMNS) + 4

_MEANING = """\
## Where the gain is, and where it is not

- *hold* brings no program its answer sooner. The connection is open at once, and what a program
  does before it reads overlaps with the handshake; none of these programs does anything worth it.
- *auto* and *fastopen* save one round trip for each connection, at its start, from servers that
  do Fast Open. Nothing else becomes shorter: TLS keeps the round trip of its own handshake (three
  become two), PostgreSQL keeps those in which it negotiates.
- A connection that is kept alive gains once, whatever it carries: the page over 6 connections and
  `git clone` save the same round trip as a single request.
- The first contact of *auto* is as *hold*: it learns. From the second on it carries the request,
  if the port is one of `fast_open_ports` and the first bytes may be delivered twice. Redis' and
  PostgreSQL's ports are not among them. A `[[destination]]` with `strategy = "fastopen"` opts a
  server in (the row "opted in"); the column *fastopen* is the same for each program.
- How long *auto* keeps a SYN back for the first data depends on what it knows. With a cookie, or
  once the server has accepted data: up to `fast_open_wait_ms` (10 ms). Where neither is known, as
  at first with 0x602: 2 ms, so that a server that never accepts costs no more. A client that
  needs longer for its first bytes stays as with *hold* then; that depends on the client's
  processor, and on how busy it is.
- ssh on its own port gains nothing: its server speaks unasked, so no SYN is ever kept back there.
  The client's first line goes early, but the server reads it no sooner. On another port
  *fastopen* carries that line, and saves the round trip, because OpenSSH's client does not wait
  for the server's line; *auto* does not try.
- A server without Fast Open: as *hold* (the row with 0x0).
"""


def as_page(rows: Sequence[Row], host: Mapping[str, Any], rtt_ms: float) -> str:
    """Return the page for docs/."""
    by_name = {row.figure: row for row in rows}
    today = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        "# Real programs",
        "",
        "Written by `.venv/bin/python -m bench programs --write` (as root); do not edit.",
        f"Measured on {today}: nfq_zerortt {host['version']}, Python {host['python']}, "
        f"Linux {host['kernel']}, {host['cores']} cores ({host['processor']}); the load average "
        f"before was {host['load_average']:.1f}.",
        "",
        *(f"- {version}" for version in versions()),
        "",
        "Programs as the distribution has them, unmodified. Four hosts as network namespaces on",
        f"one machine; the WAN's round trip time is {rtt_ms:g} ms. Every program runs by turns in",
        "each way. Medians in milliseconds, from the start of the process to its end: its own work",
        "is in them. In brackets: to the first byte of the answer, where the program tells it, and",
        "then what is saved counts to that byte. net.ipv4.tcp_fastopen of the server host is 0x402",
        "where the row says nothing else, and was set before the servers began to listen.",
        f"Carried by {AUTO}: connections whose first data the server took with the SYN, of",
        "those of all runs, the first contact included.",
        "",
        f"| program | {' | '.join(_COLUMNS)} | {AUTO}, first contact | saved by {AUTO} | "
        f"saved by {FASTOPEN} | carried by {AUTO} | |",
        "|---|" + "---:|" * _FIGURES + "---|",
        *(_line(task, by_name[task.name]) for task in TASKS if task.name in by_name),
        "",
        *_remarks(by_name),
        "",
        _MEANING,
        "## The service's configuration",
        "",
        "One service plays all ways; the server's address tells which.",
        "",
        "```toml",
        TOML.rstrip(),
        "```",
        "",
        "## The commands",
        "",
        "| program | command |",
        "|---|---|",
        *(f"| {task.name} | `{task.shown}` |" for task in TASKS),
    ]
    return "\n".join(lines) + "\n"


def _line(task: Task, row: Row) -> str:
    if not row.values:
        return f"| {task.name} | {row.measured} |" + " |" * _FIGURES
    said = "" if row.met else "**NOT met**"
    auto = OPTED_IN if OPTED_IN in task.ways else AUTO
    cells = [task.name, *(_cell(row, auto if way == AUTO else way) for way in _COLUMNS)]
    cells.append(f"{row.values[f'{auto}_first_contact_ms']:.0f}")
    for way in (auto, FASTOPEN):
        saved = row.values.get(f"{way}_saved_ms")
        cells.append("" if saved is None else f"{saved:.0f}")
    accepted, connections = (row.values[f"{auto}_{each}"] for each in ("accepted", "connections"))
    cells += [f"{accepted:.0f} of {connections:.0f}", said]
    return "| " + " | ".join(cells) + " |"


def _cell(row: Row, way: str) -> str:
    took = row.values.get(f"{way}_ms")
    if took is None:
        return ""
    first_byte = row.values.get(f"{way}_first_byte_ms")
    return f"{took:.0f}" + ("" if first_byte is None else f" ({first_byte:.0f})")


def _remarks(by_name: Mapping[str, Row]) -> list[str]:
    lines = [f"- {task.name}: {task.note}." for task in TASKS if task.note]
    lines += [
        f"- **NOT met**: {task.name}: {by_name[task.name].target}."
        for task in TASKS
        if task.name in by_name and by_name[task.name].values and by_name[task.name].met is False
    ]
    return lines
