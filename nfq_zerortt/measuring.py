"""Measures what is there now: flows, memory, and what the kernel counts.

Everything is given in small records that are to be added up
(:func:`nfq_zerortt.observe.metrics.add`): after each, packets may come first.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from nfq_zerortt.config import Limits
from nfq_zerortt.core import descriptions, remembered
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.states import State
from nfq_zerortt.journal import Journal
from nfq_zerortt.kernel.queue_table import bound_queues
from nfq_zerortt.observe.metrics import COUNTER, GAUGE, Record

_AT_ONCE = 32  # flows or entries: some tens of microseconds


def of_process(journal: Journal) -> Iterator[Record]:
    """Give what this process has counted, and what it takes."""
    yield journal.tally.record()
    yield {
        COUNTER: {
            "log_events_suppressed": journal.suppressed,
            "cpu_seconds": round(time.process_time(), 3),
        },
        GAUGE: {"resident_memory_bytes": _resident(), "processes": 1},
    }


def of_flows(engine: Engine) -> Iterator[Record]:
    """Give what this process keeps of flows and servers."""
    table = engine.table
    yield {
        GAUGE: {
            "flows": {},
            "kernel_entries": {"flow": 0, "passing": 0},
            "half_open_flows": table.half_open,
            "held_bytes": table.held_cost,
            "passing_connections": len(engine.passing),
            "learned": remembered.counts(engine.memory),
        }
    }
    there = iter(table)
    while some := list(islice(there, _AT_ONCE)):
        flows: dict[str, Counter[str]] = {}
        for flow in some:
            if flow.handed_over is None:  # else it is among the kernel's entries
                states = flows.setdefault(flow.state.name, Counter())
                states[descriptions.data_path(flow)] += 1
        yield {GAUGE: {"flows": flows}}


def of_entries(entries: Iterator[State | str]) -> Iterator[Record]:
    """Count the entries of the kernel's table, each of which is called what it is."""
    while some := list(islice(entries, _AT_ONCE)):
        flows = Counter(one.name for one in some if isinstance(one, State))
        others = Counter(one for one in some if isinstance(one, str))
        yield {
            GAUGE: {
                "flows": {state: {"kernel": count} for state, count in flows.items()},
                "kernel_entries": {"flow": flows.total(), **others},
            }
        }


def of_bounds(limits: Limits, max_entries: int) -> Record:
    """Return the bounds that were set; ``max_entries`` is that of the kernel's table."""
    return {
        GAUGE: {
            "limit": {
                "flows": limits.max_flows,
                "half_open_flows": limits.max_half_open,
                "held_bytes": limits.held_bytes_total,
                "kernel_entries": max_entries,
            }
        }
    }


def of_queues(queues: range) -> Record:
    """Return what the kernel has counted of these queues, and of how many that cannot be read."""
    packets, dropped, waiting = {}, {}, {}
    try:
        found = bound_queues()
    except (PermissionError, FileNotFoundError):
        found = {}
    for number, queue in found.items():
        if number in queues:
            name = str(number)
            packets[name] = queue.packets
            dropped[name] = {"full": queue.dropped, "not_taken": queue.user_dropped}
            waiting[name] = queue.waiting
    return {
        COUNTER: {"queue_packets": packets, "queue_dropped": dropped},
        GAUGE: {"queue_waiting": waiting, "queues_unread": len(queues) - len(waiting)},
    }


def _resident() -> int:
    """Return the memory of this process that is in use, bytes (proc(5), statm)."""
    _, pages, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
