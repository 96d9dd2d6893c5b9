"""What a demonstration found, as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nfq_zerortt.demo.work import Work
from nfq_zerortt.observe.capture import CaptureCounts
from nfq_zerortt.observe.hops import Path
from nfq_zerortt.observe.records import Endpoint, PacketRecord
from nfq_zerortt.testbed.lateness import LatenessFigures

DIRECT = "direct"
HOLD = "hold"
FASTOPEN = "fastopen"

STRATEGIES = (HOLD, FASTOPEN)
"""The ways through the service; each is called as its strategy."""

WAYS = (DIRECT, *STRATEGIES)
"""In the order in which they are gone."""

Family = Literal["IPv4", "IPv6"]
"""Which addresses the two applications use."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the times: its key, what it is called, what it means, and who measured it."""

    key: str
    name: str
    meaning: str


FIGURES = (
    Figure(
        "connect_ms",
        "connect() returns",
        "to the client application; by the application's own clock, from calling connect()",
    ),
    Figure(
        "first_byte_sent_ms",
        "first byte sent",
        "the request's first byte leaves the client host; captured there, from the SYN's leaving",
    ),
    Figure(
        "first_byte_at_server_ms",
        "first byte at the server",
        "the request's first byte reaches the server host; captured there",
    ),
    Figure(
        "first_byte_back_ms",
        "first byte back",
        "the answer's first byte reaches the client host; captured there",
    ),
)

LAST_BYTE_BACK = Figure(
    "last_byte_back_ms",
    "last byte back",
    "the answer's last byte reaches the client host; captured there",
)


@dataclass(frozen=True, slots=True)
class Times:
    """One connection's times in milliseconds; see FIGURES for what each is."""

    connect_ms: float
    first_byte_sent_ms: float
    first_byte_at_server_ms: float
    first_byte_back_ms: float
    last_byte_back_ms: float


@dataclass(frozen=True, slots=True)
class FastOpen:
    """What the server's host saw of TCP Fast Open (RFC 7413) in one connection, from its packets.

    Attributes:
        data_bytes: so much data was in the SYN; ``taken``: the SYN-ACK covers it.
        sent_cookie: length of the cookie in the SYN, 0 in a request for one; None: no option.
        given_cookie: length of the cookie in the SYN-ACK; None: no option.
    """

    data_bytes: int
    taken: bool
    sent_cookie: int | None
    given_cookie: int | None


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of a run.

    ``error`` says what went wrong, None when the bytes went both ways unharmed; ``times`` and
    ``client`` (its endpoint) are None when it did not get so far. ``sent_twice`` counts the
    client's segments with data that it had sent before. ``fast_open`` is None when the SYN
    reached the server without data and without the option.
    """

    work: str
    number: int
    error: str | None
    client: Endpoint | None = None
    times: Times | None = None
    sent_twice: int = 0
    fast_open: FastOpen | None = None


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """What the service's own log said of a run through it."""

    exit_status: int
    flows_spoofed: int
    synack_latency_us: float | None
    """Median time from the SYN's being read from the queue to the SYN-ACK's being sent."""


@dataclass(frozen=True, slots=True)
class Run:
    """The whole work done once, in one of WAYS."""

    way: str
    connections: tuple[Connection, ...]
    records: tuple[PacketRecord, ...]
    captures: dict[str, CaptureCounts]
    service: ServiceFigures | None = None
    problems: tuple[str, ...] = ()
    """What went wrong beside single connections."""

    def of(self, work: Work) -> list[Connection]:
        """Return the connections of one kind of work that succeeded."""
        return [c for c in self.connections if c.work == work.key and c.error is None]

    def values(self, work: Work, figure: Figure) -> list[float]:
        """Return one figure of those connections, in milliseconds."""
        return [getattr(c.times, figure.key) for c in self.of(work) if c.times is not None]

    def median(self, work: Work, figure: Figure) -> float | None:
        """Return the median of one figure, None when no connection succeeded."""
        values = self.values(work, figure)
        return statistics.median(values) if values else None

    def typical(self, work: Work) -> Connection | None:
        """Return the connection in the middle, by the time of the first byte back."""
        found = sorted(
            (c for c in self.of(work) if c.times is not None),
            key=lambda c: c.times.first_byte_back_ms if c.times else 0.0,
        )
        return found[(len(found) - 1) // 2] if found else None

    def data_taken(self, *works: Work) -> tuple[int, int]:
        """Return of how many connections the SYN's data was taken, and how many there are."""
        keys = {work.key for work in works}
        made = [c for c in self.connections if c.work in keys]
        taken = sum(c.fast_open is not None and c.fast_open.taken for c in made)
        return taken, len(made)


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what the demonstration ran."""

    date: str
    version: str
    python: str
    kernel: str
    cpus: int
    load: float
    """Processes that wanted to run, on average over the minute before."""
    wan: str
    lateness: LatenessFigures | None
    """The WAN emulation's own: how much later than planned it let packets go."""
    congestion_control: str


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a demonstration found.

    ``fast_open_sysctl`` is net.ipv4.tcp_fastopen on the server's host; None if it has none.
    """

    rtt_ms: float
    family: Family
    works: tuple[Work, ...]
    direct: Run
    hold: Run
    fastopen: Run
    environment: Environment
    server: Endpoint
    path: Path
    wan_host: str
    fast_open_sysctl: int | None

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order in which they were made."""
        return (self.direct, *self.through_service)

    @property
    def through_service(self) -> tuple[Run, ...]:
        """The runs through the service, one for each of STRATEGIES."""
        return (self.hold, self.fastopen)

    @property
    def problems(self) -> list[str]:
        """Everything that went wrong, one line each; empty when all is well."""
        found = []
        for run in self.runs:
            found += [f"{run.way}: {problem}" for problem in run.problems]
            found += [
                f"{run.way}: connection {c.number + 1} of {c.work!r}: {c.error}"
                for c in run.connections
                if c.error is not None
            ]
        return found

    @property
    def ok(self) -> bool:
        """Whether every connection succeeded and every byte arrived unharmed."""
        return not self.problems

    def gain_ms(self, run: Run, work: Work, figure: Figure) -> float | None:
        """Return by how much the median came earlier in this run than direct; None: not known."""
        direct, through = self.direct.median(work, figure), run.median(work, figure)
        return None if direct is None or through is None else direct - through

    def work(self, key: str) -> Work:
        """Return the kind of work with this key."""
        return next(work for work in self.works if work.key == key)


def to_json(result: Result) -> dict[str, Any]:
    """Return all figures as one JSON object; times in milliseconds, rounded to microseconds."""
    figures = (*FIGURES, LAST_BYTE_BACK)
    return {
        "ok": result.ok,
        "problems": result.problems,
        "rtt_ms": result.rtt_ms,
        "family": result.family,
        "server": {"address": result.server[0], "port": result.server[1]},
        "environment": _environment(result.environment),
        "server_tcp_fastopen": result.fast_open_sysctl,
        "figures": {figure.key: f"{figure.name}: {figure.meaning}" for figure in figures},
        "work": {
            work.key: {
                "title": work.title,
                "connections": work.connections,
                "request_bytes": work.request_bytes,
                "answer_bytes": work.answer_bytes,
                "think_ms": work.think_ms,
                **{run.way: _run(run, work, figures) for run in result.runs},
                "gain_ms": {
                    run.way: {
                        figure.key: _rounded(result.gain_ms(run, work, figure))
                        for figure in figures
                    }
                    for run in result.through_service
                },
            }
            for work in result.works
        },
        "captures": {
            run.way: {
                tap: {"packets": counts.captured, "dropped": counts.dropped}
                for tap, counts in run.captures.items()
            }
            for run in result.runs
        },
        "service": {run.way: _service(run.service) for run in result.through_service},
    }


def _run(run: Run, work: Work, figures: Sequence[Figure]) -> dict[str, Any]:
    made = [c for c in run.connections if c.work == work.key]
    return {
        "connections": len(made),
        "failed": sum(c.error is not None for c in made),
        "segments_sent_twice": sum(c.sent_twice for c in made),
        "fast_open": [_fast_open(c.fast_open) for c in made],
        **{figure.key: _summary(run.values(work, figure)) for figure in figures},
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    def apply(function: Callable[[Sequence[float]], float]) -> float | None:
        return _rounded(function(values)) if values else None

    return {
        "median": apply(statistics.median),
        "min": apply(min),
        "max": apply(max),
        "values": [_rounded(value) for value in values],
    }


def _fast_open(found: FastOpen | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "syn_data_bytes": found.data_bytes,
        "syn_data_taken": found.taken,
        "cookie_bytes_sent": found.sent_cookie,
        "cookie_bytes_given": found.given_cookie,
    }


def _environment(found: Environment) -> dict[str, Any]:
    late = found.lateness
    return {
        "date": found.date,
        "nfq_zerortt": found.version,
        "python": found.python,
        "kernel": found.kernel,
        "cpus": found.cpus,
        "load": found.load,
        "wan": found.wan,
        "wan_lateness_ms": None
        if late is None
        else {"median": late.median_ms, "p95": late.p95_ms, "p99": late.p99_ms, "max": late.max_ms},
        "congestion_control": found.congestion_control,
    }


def _service(found: ServiceFigures | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "exit_status": found.exit_status,
        "flows_spoofed": found.flows_spoofed,
        "synack_latency_us_median": found.synack_latency_us,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
