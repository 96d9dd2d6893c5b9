"""How many packets a second the Python data path carries, beside a handler that only accepts.

Bulk traffic without a WAN: the verdict handler is the bottleneck. The rounds go
by turns, upload and download, so that all handlers meet the same machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bench.counters import CpuTime, QueueCounters
from bench.lab import ACCEPT_ONLY, HOLD, OBSERVE, PORTS, SERVER, Conversation, Lab, Listener
from bench.rows import Row, median
from nfq_zerortt.errors import ZeroRttError

_TARGET = 0.6
_BYTES, _QUICK_BYTES = 24_000_000, 4_000_000
_ROUNDS, _QUICK_ROUNDS = 7, 2
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class _Handler:
    """One verdict handler and what it has done."""

    listener: Listener
    before: QueueCounters
    started: CpuTime
    rates: list[float] = field(default_factory=list)
    packets: int = 0

    @property
    def rate(self) -> float:
        """Packets a second: the median of the rounds."""
        return median(self.rates)

    def cpu_us(self) -> tuple[float, float]:
        """Return microseconds of processor time for a packet: in all, and outside the kernel."""
        used = self.listener.cpu_time().since(self.started)
        return used.total_s / self.packets * 1e6, used.user_s / self.packets * 1e6


def measure(quick: bool) -> list[Row]:
    """Measure packets a second and processor time a packet of the three handlers."""
    size = _QUICK_BYTES if quick else _BYTES
    with Lab(rtt_ms=0) as lab:
        lab.take_wan_away()
        lab.server("transfer", [ACCEPT_ONLY, OBSERVE, HOLD])
        client = lab.interactive_client("timed_client")
        listeners = [lab.accept_only(), lab.service(OBSERVE), lab.service(HOLD)]
        for listener in listeners:
            _transfer(client, listener, 1_000_000, 0)  # so that nothing is done for the first time
        handlers = [_Handler(each, each.counters(), each.cpu_time()) for each in listeners]
        for number in range(_QUICK_ROUNDS if quick else _ROUNDS):
            for handler in handlers if number % 2 else handlers[::-1]:
                for up, down in ((size, 0), (0, size)):
                    _round(client, handler, up, down)
        rows = _rows(handlers)
        lost = sum(each.counters().lost for each in listeners)
    rows.append(Row("data path: packets dropped by the queues", str(lost), "0", lost == 0))
    return rows


def _transfer(client: Conversation, listener: Listener, up: int, down: int) -> float:
    plan = {
        "host": SERVER,
        "port": PORTS[listener.way],
        "up": up,
        "down": down,
        "congestion": "",
    }
    result = client.ask(plan, _TIMEOUT_S)
    if result["error"]:
        raise ZeroRttError(f"data path, {listener.way}: {result['error']}")
    return float(result["took_s"])


def _round(client: Conversation, handler: _Handler, up: int, down: int) -> None:
    before = handler.listener.counters().packets
    took_s = _transfer(client, handler.listener, up, down)
    packets = handler.listener.counters().packets - before
    handler.packets += packets
    handler.rates.append(packets / took_s)
    time.sleep(0.02)


def _rows(handlers: list[_Handler]) -> list[Row]:
    plain = handlers[0]
    plain_us, _ = plain.cpu_us()
    rows: list[Row] = []
    for handler in handlers:
        all_us, user_us = handler.cpu_us()
        ratio, cpu_ratio = handler.rate / plain.rate, plain_us / all_us
        judged = handler.listener.way == HOLD
        values = {
            "packets_per_s": handler.rate,
            "cpu_us_per_packet": all_us,
            "user_us_per_packet": user_us,
            "packets": handler.packets,
            "ratio": ratio,
            "ratio_by_cpu": cpu_ratio,
        }
        beside = f"{ratio:.2f} of accept only" if handler is not plain else ""
        rows.append(
            Row(
                f"data path: {handler.listener.way}",
                ", ".join(filter(None, [f"{handler.rate / 1000:.1f} k packets/s", beside]))
                + f"; {all_us:.1f} µs CPU a packet ({user_us:.1f} of it in user mode)"
                + ("" if handler is plain else f", {cpu_ratio:.2f} by CPU"),
                f"≥ {_TARGET} of accept only" if judged else "",
                ratio >= _TARGET if judged else None,
                "one bulk TCP connection up, then down, by turns; the queue's packet counter; "
                "median of rounds",
                values,
            )
        )
    return rows
