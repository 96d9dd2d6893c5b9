"""How long connect() takes across a WAN of 100 ms."""

from __future__ import annotations

from bench.lab import CLIENTNIC, DIRECT, HOLD, OBSERVE, PORTS, SERVER, Lab
from bench.rows import Row, median, percentile

RTT_MS = 100.0
NEAREST = "to ClientNIC itself"
_MEDIAN_MS = 0.7
_P99_MS = 2.0

# After each of these rounds the next one begins so much later, seconds: the handshake is over.
_PAUSE_S = {NEAREST: 0.02, HOLD: 0.03, OBSERVE: 0.13, DIRECT: 0.13}
# hold is what is judged, so it has the most samples; each round meets the same moments.
_PATTERN = (HOLD, NEAREST, HOLD, OBSERVE, HOLD, NEAREST, HOLD, DIRECT, HOLD)
# Clients; seconds from one to the next; how often the pattern is repeated, and in a quick run.
_LOADS = ((1, 0.0, 80, 5), (10, 0.0, 20, 3), (10, 0.004, 10, 1))


def measure(quick: bool) -> list[Row]:
    """Time connect() for 1 client, for 10 in the same moment, and for 10 one after the other."""
    rows: list[Row] = []
    with Lab(rtt_ms=RTT_MS) as lab:
        lab.server("echo", [DIRECT, OBSERVE, HOLD])
        lab.server("echo", [DIRECT], host="clientnic")
        services = [lab.service(OBSERVE), lab.service(HOLD)]
        for at_a_time, spread_s, many, few in _LOADS:
            rows += _rows(lab, at_a_time, spread_s, few if quick else many)
        lost = sum(service.counters().lost for service in services)
    rows.append(Row("connect: packets dropped by the queues", str(lost), "0", lost == 0))
    return rows


def _rows(lab: Lab, at_a_time: int, spread_s: float, patterns: int) -> list[Row]:
    rounds: list[tuple[float, str, str, int]] = []
    offset = 0.0
    for name in _PATTERN * patterns:
        host, port = (CLIENTNIC, PORTS[DIRECT]) if name == NEAREST else (SERVER, PORTS[name])
        rounds.append((offset, name, host, port))
        offset += _PAUSE_S[name] * (1 if at_a_time == 1 else 2)
    result = lab.client(
        "connect_client",
        {"at_a_time": at_a_time, "spread_s": spread_s, "rounds": rounds},
        timeout_s=offset + 30,
    )
    failures: list[str] = result["failures"]
    took = {name: [us / 1000 for us in values] for name, values in result["connect_us"].items()}
    said = f"connect() at RTT {RTT_MS:g} ms, {at_a_time} at a time"
    if at_a_time > 1:
        said += ", evenly spread" if spread_s else ", in the same moment"
    rows = [_row(f"{said}: {name}", values) for name, values in took.items() if name != HOLD]
    hold = took[HOLD]
    p50, p99 = median(hold), percentile(hold, 99)
    target = f"median ≤ {_MEDIAN_MS} ms, p99 < {_P99_MS:g} ms"
    met = p50 <= _MEDIAN_MS and p99 < _P99_MS
    judged = _row(f"{said}: {HOLD}", hold, target, met)
    failed = Row(
        f"{said}: connections that failed",
        f"{len(failures)} of {len(rounds) * at_a_time}" + "".join(f"; {f}" for f in failures[:3]),
        "0",
        not failures,
        "each echoes 200 bytes",
    )
    return [judged, *rows, failed]


def _row(figure: str, took: list[float], target: str = "", met: bool | None = None) -> Row:
    values = {
        "median_ms": median(took),
        "p90_ms": percentile(took, 90),
        "p99_ms": percentile(took, 99),
        "max_ms": max(took),
        "connections": len(took),
    }
    return Row(
        figure,
        f"median {values['median_ms']:.2f}, p90 {values['p90_ms']:.2f}, "
        f"p99 {values['p99_ms']:.2f}, max {values['max_ms']:.2f} ms (n={len(took)})",
        target,
        met,
        "blocking connect(), each client a process",
        values,
    )
