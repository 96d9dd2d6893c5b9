"""2 MB up and down at RTT 100 ms and 100 Mbit/s: as fast as without us."""

from __future__ import annotations

from bench.lab import DIRECT, HOLD, OBSERVE, PORTS, SERVER, Conversation, Lab
from bench.rows import Row, median
from nfq_zerortt.errors import ZeroRttError

RTT_MS = 100.0
RATE_MBIT = 100.0
_BYTES = 2_000_000
_WITHIN = 0.10
# Congestion control; rounds, and in a quick run; whether it is judged.
_RUNS = (("cubic", 7, 1, True), ("reno", 3, 0, False))
_WAYS = (DIRECT, HOLD, OBSERVE)
_TIMEOUT_S = 60.0


def measure(quick: bool) -> list[Row]:
    """Time the transfers, direct, hold and observe by turns."""
    rows: list[Row] = []
    with Lab(rtt_ms=RTT_MS, rate_mbit=RATE_MBIT) as lab:
        lab.server("transfer", _WAYS)
        services = [lab.service(HOLD), lab.service(OBSERVE)]
        client = lab.interactive_client("timed_client")
        for congestion, many, few, judged in _RUNS:
            rounds = few if quick else many
            if not rounds:
                continue
            took = _measure(client, congestion, rounds)
            rows += [
                _row(f"2 MB {direction}, {congestion}", times, rounds, judged)
                for direction, times in took.items()
            ]
        lost = sum(service.counters().lost for service in services)
    rows.append(Row("2 MB: packets dropped by the queues", str(lost), "0", lost == 0))
    return rows


def _measure(
    client: Conversation, congestion: str, rounds: int
) -> dict[str, dict[str, list[float]]]:
    took: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for direction, up, down in (("up", _BYTES, 0), ("down", 0, _BYTES)):
            for way in _WAYS:
                plan = {
                    "host": SERVER,
                    "port": PORTS[way],
                    "up": up,
                    "down": down,
                    "congestion": congestion,
                }
                result = client.ask(plan, _TIMEOUT_S)
                if result["error"]:
                    raise ZeroRttError(f"2 MB {direction}, {way}: {result['error']}")
                took.setdefault(direction, {}).setdefault(way, []).append(result["took_s"])
    return took


def _row(figure: str, times: dict[str, list[float]], rounds: int, judged: bool) -> Row:
    middle = {way: median(values) for way, values in times.items()}
    ratio = middle[HOLD] / middle[DIRECT]
    return Row(
        f"{figure}: hold against direct",
        f"{middle[HOLD]:.3f} s against {middle[DIRECT]:.3f} s: {ratio - 1:+.1%} "
        f"(observe {middle[OBSERVE]:.3f} s)",
        f"within {_WITHIN:.0%}" if judged else "",
        ratio <= 1 + _WITHIN if judged else None,
        f"RTT {RTT_MS:g} ms, {RATE_MBIT:g} Mbit/s, from connect() on; medians of {rounds} by turns",
        {f"{way}_s": value for way, value in middle.items()} | {"ratio": ratio},
    )
