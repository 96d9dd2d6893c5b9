"""Times, counts and endpoints as people read them."""

from __future__ import annotations

from nfq_zerortt.observe.records import Endpoint
from nfq_zerortt.tracing.packets import Packet


def endpoint_name(endpoint: Endpoint) -> str:
    """Return address and port as the log writes them."""
    address, port = endpoint
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def later_by(before: Packet, after: Packet) -> str:
    """Return how much later one packet was seen than another."""
    return milliseconds((after.time_ns - before.time_ns) / 1e6)


def milliseconds(value: float) -> str:
    """Return a time as people read it: three digits, and seconds where it is long."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.1f} s"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} ms"
