"""How fast ClientNIC answers a SYN, with 1, 10 and 100 in the same moment."""

from __future__ import annotations

from bench.capture import Capture, answer_times
from bench.lab import HOLD, PORTS, SERVER, Lab
from bench.rows import Row, percentile

RTT_MS = 100.0
_TARGET_US = 1000.0
# Clients in the same moment; rounds, and in a quick run; seconds from one round to the next.
_LOADS = ((1, 300, 20, 0.02), (10, 60, 4, 0.1), (100, 10, 2, 0.5))


def measure(quick: bool) -> list[Row]:
    """Measure by the service's own log, and on the wire in front of it."""
    rows: list[Row] = []
    with Lab(rtt_ms=RTT_MS) as lab:
        lab.server("echo", [HOLD])
        service = lab.service(HOLD)
        for at_a_time, many, few, pause_s in _LOADS:
            rounds = [
                (number * pause_s, HOLD, SERVER, PORTS[HOLD])
                for number in range(few if quick else many)
            ]
            service.events()
            wire = Capture(lab, "clientnic", "eth0", "tcp[tcpflags] & tcp-syn != 0")
            result = lab.client(
                "connect_client", {"at_a_time": at_a_time, "spread_s": 0, "rounds": rounds}, 60
            )
            missed = wire.stop()
            logged = [
                float(event["latency_us"])
                for event in service.events()
                if event["event"] == "flow.synack_spoofed"
            ]
            connections = at_a_time * len(rounds)
            said = f"SYN → SYN-ACK, {at_a_time} at a time"
            rows.append(
                _row(
                    f"{said}: read → sent",
                    logged,
                    "latency_us of flow.synack_spoofed",
                    judged=True,
                )
            )
            rows.append(
                _row(
                    f"{said}: on the wire",
                    answer_times(wire.segments()),
                    "tcpdump at ClientNIC's client side; the wait for the SYNs before it counts"
                    + (f"; {missed} packets not captured" if missed else ""),
                )
            )
            failures: list[str] = result["failures"]
            if failures or len(logged) != connections:
                rows.append(
                    Row(
                        f"{said}: connections",
                        f"{len(failures)} of {connections} failed, {len(logged)} SYN-ACKs logged",
                        "all",
                        False,
                        "; ".join(failures[:3]),
                    )
                )
        lost = service.counters().lost
    rows.append(Row("SYN → SYN-ACK: packets dropped by the queue", str(lost), "0", lost == 0))
    return rows


def _row(figure: str, took: list[float], how: str, *, judged: bool = False) -> Row:
    p50, p99 = percentile(took, 50), percentile(took, 99)
    return Row(
        figure,
        f"p50 {p50:.0f}, p99 {p99:.0f}, max {max(took):.0f} µs (n={len(took)})",
        f"p99 < {_TARGET_US:.0f} µs" if judged else "",
        p99 < _TARGET_US if judged else None,
        how,
        {"p50_us": p50, "p99_us": p99, "max_us": max(took), "connections": len(took)},
    )
