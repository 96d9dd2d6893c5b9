"""A load of whole connections that goes one way, and what everybody counted meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.capture import Capture, answer_times
from bench.counters import CpuTime
from bench.lab import SERVER, Lab, Listener
from nfq_zerortt.errors import ZeroRttError

_TIMEOUT_S = 60.0
_SETTLE_S = 0.5  # the log is written, the last FINs are dealt with
_NO_CPU = CpuTime(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Way:
    """A way for connections to go: the server's ``port`` decides. ``service``: None for direct."""

    name: str
    port: int
    service: Listener | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What the client does: ``count`` connections, ``rate`` a second.

    With rate 0 the next one begins when one has ended. Never more than ``most`` at a time.
    """

    count: int
    rate: int
    most: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of one load.

    Attributes:
        connections: how many there were; ``failed`` of them, ``error`` is the first one's.
        not_begun: would have been more at a time than allowed.
        took_s: how long all took.
        late_ms: how much later than it should the client has begun one, at most.
        cpu: what the service's process has used.
        packets: how many packets its queue had; ``lost`` of them were dropped there.
        logged_us: latency_us of each spoofed SYN-ACK that the log tells of.
        unlogged: events that were left out of the log.
        wire_us: from each SYN to its SYN-ACK at ClientNIC's client side, if that was captured.
    """

    connections: int
    failed: int
    error: str
    not_begun: int
    took_s: float
    late_ms: float
    cpu: CpuTime = _NO_CPU
    packets: int = 0
    lost: int = 0
    logged_us: Sequence[float] = ()
    unlogged: int = 0
    wire_us: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """Connections a second."""
        return self.connections / self.took_s


def take_turn(lab: Lab, program: Path, way: Way, load: Load, *, capture: bool = False) -> Turn:
    """Let the compiled ``program`` (connections.c) open connections.

    Raises:
        ZeroRttError: it failed itself, or was not done in time.
    """
    service = way.service
    wire = Capture(lab, "clientnic", "eth0", _syns(way.port)) if capture else None
    if service is None:
        done = _open(lab, program, way, load)
    else:
        service.events()
        counted, used = service.counters(), service.cpu_time()
        done = _open(lab, program, way, load)
        time.sleep(_SETTLE_S)
        now, events = service.counters(), service.events()
        done |= {
            "cpu": service.cpu_time().since(used),
            "packets": now.packets - counted.packets,
            "lost": now.lost - counted.lost,
            "logged_us": [float(event["latency_us"]) for event in events if "latency_us" in event],
            "unlogged": sum(
                int(event["events"]) for event in events if event["event"] == "log.suppressed"
            ),
        }
    if wire is not None:
        missed = wire.stop()
        if missed:
            raise ZeroRttError(f"{missed} packets were not captured: the machine is too busy")
        done["wire_us"] = answer_times(wire.segments())
    return Turn(**done)


def _syns(port: int) -> str:
    return f"tcp[tcpflags] & tcp-syn != 0 and port {port}"


def _open(lab: Lab, program: Path, way: Way, load: Load) -> dict[str, Any]:
    plan = [SERVER, *map(str, (way.port, load.count, load.rate, load.most))]
    try:
        done = lab.testbed.exec("client", [str(program), *plan], timeout_s=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ZeroRttError(f"{way.name}: {load.count} connections took too long") from None
    if done.returncode:
        raise ZeroRttError(f"{way.name}: {done.stderr.strip()}")
    said = json.loads(done.stdout)
    return {
        "connections": said["complete"] + said["failed"],
        "failed": said["failed"],
        "error": said["error"],
        "not_begun": said["not_begun"],
        "took_s": said["took_s"],
        "late_ms": said["latest_ms"],
    }


def total_cpu_us(turns: Sequence[Turn]) -> tuple[float, float]:
    """Return microseconds of processor time for a connection: in all, and outside the kernel."""
    connections = sum(turn.connections for turn in turns)
    total = sum(turn.cpu.total_s for turn in turns)
    user = sum(turn.cpu.user_s for turn in turns)
    return total / connections * 1e6, user / connections * 1e6


def packets_each(turns: Sequence[Turn]) -> float:
    """Return how many packets of a connection came through the queue."""
    return sum(turn.packets for turn in turns) / sum(turn.connections for turn in turns)
