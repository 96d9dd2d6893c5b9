"""1,000 connections open and alive at once, and the memory that they take."""

from __future__ import annotations

import time

from bench.lab import HOLD, PORTS, SERVER, Lab
from bench.rows import Row

RTT_MS = 50.0
_FLOWS, _QUICK = 1000, 100
_WARM_UP = 50
_SETTLE_S = 1.0  # until the log is written
_TIMEOUT_S = 60.0


def measure(quick: bool) -> list[Row]:
    """Open them, let each echo a byte twice, and read the service's memory."""
    number = _QUICK if quick else _FLOWS
    with Lab(rtt_ms=RTT_MS) as lab:
        lab.server("echo", [HOLD])
        service = lab.service(HOLD)
        client = lab.interactive_client("crowd_client")
        ask = {"host": SERVER, "port": PORTS[HOLD]}
        client.ask({"open": _WARM_UP, **ask}, _TIMEOUT_S)
        time.sleep(_SETTLE_S)
        before = service.resident_bytes()
        opened = client.ask({"open": number, **ask}, _TIMEOUT_S)
        time.sleep(_SETTLE_S)
        memory = service.resident_bytes() - before
        again = client.ask({"open": 0, **ask}, _TIMEOUT_S)
        lost = service.counters().lost
    alive: int = again["alive"] - _WARM_UP
    failures = opened["failures"] + again["failures"]
    how = (
        f"RTT {RTT_MS:g} ms; each echoes a byte when it is open, and again when all are "
        f"({again['took_s']:.2f} s for all)"
    )
    return [
        Row(
            f"flows: {number} open at once, alive",
            f"{alive} of {number}" + "".join(f"; {failure}" for failure in failures[:3]),
            "all",
            alive == number and not failures,
            how,
            {"alive": alive, "flows": number, "all_echo_s": again["took_s"]},
        ),
        Row(
            "flows: memory of the service for one",
            f"{memory / number / 1024:.1f} KiB",
            "reported",
            None,
            f"RSS {before / 2**20:.1f} MiB before, {(before + memory) / 2**20:.1f} MiB with all",
            {"bytes_per_flow": memory / number, "rss_before_bytes": before},
        ),
        Row("flows: packets dropped by the queue", str(lost), "0", lost == 0),
    ]
