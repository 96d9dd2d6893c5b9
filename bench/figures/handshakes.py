"""How many connections a second one worker carries, and how fast it answers at half that load.

Each connection is a whole one: the spoofed SYN-ACK, a request, the answer of a
real web server, translated or handed over, and the end by FIN. There is no WAN:
whoever opens connections as fast as they go is to wait for nothing but the
machine, which client, server and service share. So beside the connections a
second stands what the service's process itself has used for each: from that
follows what a worker does that has a core for itself. (With virtual links a
packet is received by the next hosts in the time of the process that has sent
it; on real ones that part falls away.)

At half of the target the connections begin at fixed times, whatever becomes of
those before, so that a slow answer is not excused by a slower load.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from bench.comparison.generator import build
from bench.comparison.laboratory import ComparisonLab
from bench.lab import AUTO, DIRECT, HOLD
from bench.rows import Row, median, percentile
from bench.turns import Load, Turn, Way, packets_each, take_turn, total_cpu_us

PATHS = ("python", "kernel")
TARGET = 3000
"""Connections a second that one worker is to carry."""
RTT_MS = 20.0
_TARGET_P99_US = 1000.0
_HALF = TARGET // 2
_AT_A_TIME = 64
_MOST = 1000  # at a time, where the rate is given: the web server takes 2000
_WARM_UP = Load(300, 0, 16)
_ROUNDS, _FAR_ROUNDS = 5, 3

_TOML = """\
strategy = "auto"
data_path = "{path}"
workers = {workers}
ports = "{hold},{auto}"
fast_open_ports = "{auto}"

[[destination]]
ports = "{hold}"
strategy = "hold"
"""


def measure(quick: bool, paths: Sequence[str] = PATHS, workers: Sequence[int] = (1,)) -> list[Row]:
    """Measure by each data path: without a WAN at full and half load, with one at half.

    ``workers``: how many a service has; there is a service for each number.
    """
    full = Load(1000 if quick else 6000, 0, _AT_A_TIME)
    half = Load(_HALF if quick else 2 * _HALF, _HALF, _MOST)
    many, few = (1, 1) if quick else (_ROUNDS, _FAR_ROUNDS)
    rows: list[Row] = []
    for load, rounds, rtt_ms in ((full, many, 0.0), (half, many, 0.0), (half, few, RTT_MS)):
        # Hosts of its own for each, so that none has to forget what another has left behind.
        with ComparisonLab(rtt_ms=rtt_ms) as lab:
            if not rtt_ms:
                lab.take_wan_away()
            turns = _turns(lab, _ways(lab, paths, workers), load, rounds)
        if load is full:
            rows += _rows_of_rate(turns)
        else:
            rows += _rows_of_answers(turns, rtt_ms)
    return rows


def _ways(lab: ComparisonLab, paths: Sequence[str], workers: Sequence[int]) -> list[Way]:
    """Start the servers, and a service for each data path and number of workers."""
    ways = [Way(DIRECT, 8000)]
    for number, (path, several) in enumerate(product(paths, workers), start=1):
        hold, auto = 8000 + 10 * number, 8001 + 10 * number
        toml = _TOML.format(path=path, workers=several, hold=hold, auto=auto)
        name = f"{path}, {several} workers" if several > 1 else path
        service = lab.configured_service(f"service-{number}", 8000 + 20 * number, toml)
        ways += [Way(f"{HOLD}, {name}", hold, service), Way(f"{AUTO}, {name}", auto, service)]
    lab.do("client", "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=10000 65000")
    lab.do("server", "sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=0x402")
    for way in ways:
        lab.web_server(way.port)
    return ways


def _turns(
    lab: ComparisonLab, ways: Sequence[Way], load: Load, rounds: int
) -> dict[Way, list[Turn]]:
    """Let each way have its turn, round by round, every other one backwards."""
    program = build(lab.directory)
    for way in ways:
        take_turn(lab, program, way, _WARM_UP)
    turns: dict[Way, list[Turn]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 else ways[::-1]:
            turns[way].append(take_turn(lab, program, way, load, capture=load.rate > 0))
    return turns


def _rows_of_rate(turns: dict[Way, list[Turn]]) -> list[Row]:
    rows: list[Row] = []
    for way, taken in turns.items():
        rate = median([turn.rate for turn in taken])
        said = f"{rate:.0f} connections/s"
        values = {"connections_per_s": rate, "connections": sum(t.connections for t in taken)}
        if way.service is not None:
            cpu_us, user_us = total_cpu_us(taken)
            packets = packets_each(taken)
            said += (
                f"; {cpu_us:.0f} µs CPU each ({user_us:.0f} in user mode),"
                f" so {1e6 / cpu_us:.0f}/s on a core; {packets:.1f} packets each through the queue"
            )
            values |= {
                "cpu_us": cpu_us,
                "user_us": user_us,
                "packets_each": packets,
                "unlogged": sum(turn.unlogged for turn in taken),
            }
        rows.append(
            Row(
                f"handshakes at full load: {way.name}",
                said,
                f"≥ {TARGET}/s" if way.service else "",
                rate >= TARGET if way.service else None,
                f"{_AT_A_TIME} at a time, each with request, answer and FINs; median of rounds",
                values,
            )
        )
    return [*rows, _failures("at full load", turns)]


def _rows_of_answers(turns: dict[Way, list[Turn]], rtt_ms: float) -> list[Row]:
    load = f"at {_HALF}/s, " + (f"RTT {rtt_ms:g} ms" if rtt_ms else "no WAN")
    rows: list[Row] = []
    for way, taken in turns.items():
        p99s = [percentile(turn.wire_us, 99) for turn in taken]
        values = {
            "p50_us": median([percentile(turn.wire_us, 50) for turn in taken]),
            "p99_us": median(p99s),
            "worst_p99_us": max(p99s),
            "max_us": max(max(turn.wire_us) for turn in taken),
            "connections": sum(turn.connections for turn in taken),
            "late_ms": max(turn.late_ms for turn in taken),
        }
        said = (
            "p50 {p50_us:.0f}, p99 {p99_us:.0f}, worst round's p99 {worst_p99_us:.0f},"
            " max {max_us:.0f} µs".format(**values)
        )
        if way.service is not None:
            logged = [us for turn in taken for us in turn.logged_us]
            cpu_us, _ = total_cpu_us(taken)
            values |= {
                "logged_p50_us": percentile(logged, 50),
                "logged_p99_us": percentile(logged, 99),
                "cpu_us": cpu_us,
                "packets_each": packets_each(taken),
            }
            said += (
                "; read → sent p50 {logged_p50_us:.0f}, p99 {logged_p99_us:.0f} µs;"
                " {cpu_us:.0f} µs CPU and {packets_each:.1f} packets each".format(**values)
            )
        is_judged = way.service is not None and not rtt_ms
        rows.append(
            Row(
                f"SYN → SYN-ACK {load}: {way.name}",
                said,
                f"p99 < {_TARGET_P99_US:.0f} µs" if is_judged else "",
                values["p99_us"] < _TARGET_P99_US if is_judged else None,
                "on the wire at ClientNIC's client side; begun at fixed times; median of rounds",
                values,
            )
        )
    return [*rows, _failures(load, turns)]


def _failures(load: str, turns: dict[Way, list[Turn]]) -> Row:
    """Say what must not happen at all: connections that fail or cannot begin, packets lost."""
    taken = [turn for each in turns.values() for turn in each]
    failed = sum(turn.failed for turn in taken)
    not_begun = sum(turn.not_begun for turn in taken)
    lost = sum(turn.lost for turn in taken)
    errors = "".join(f"; {error}" for error in sorted({t.error for t in taken if t.error})[:3])
    return Row(
        f"handshakes {load}: failed, not begun, packets dropped by the queues",
        f"{failed}, {not_begun}, {lost} of {sum(turn.connections for turn in taken)}{errors}",
        "0",
        not (failed or not_begun or lost),
    )
