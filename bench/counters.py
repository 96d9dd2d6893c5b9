"""What Linux counts: a process' time and memory, a host's TCP, an NFQUEUE's packets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nfq_zerortt.kernel.queue_table import bound_queues

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

CHECKSUM_ERRORS = ("Tcp.InCsumErrors", "Tcp.InErrs", "Ip.InHdrErrors", "IpExt.InCsumErrors")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Processor time of a process in seconds: in its own code, and in the kernel for it."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.user_s + self.system_s

    def since(self, earlier: CpuTime) -> CpuTime:
        """Return what was used after ``earlier``."""
        return CpuTime(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


def cpu_time(pid: int) -> CpuTime:
    """Return the time a process has used (proc_pid_stat(5)), to a hundredth of a second."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    fields = stat[stat.rindex(")") + 2 :].split()
    return CpuTime(int(fields[11]) * _TICK_S, int(fields[12]) * _TICK_S)


def resident_bytes(pid: int) -> int:
    """Return the memory of a process that is in RAM (RSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Rss in /proc/{pid}/smaps_rollup")


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """An NFQUEUE as /proc/net/netfilter/nfnetlink_queue shows it.

    Attributes:
        packets: packets that were queued since the queue was bound.
        dropped: packets dropped because the queue was full.
        user_dropped: packets dropped because the listener's socket buffer was full.
    """

    packets: int
    dropped: int
    user_dropped: int

    @property
    def lost(self) -> int:
        """All that was dropped."""
        return self.dropped + self.user_dropped


def queue_counters(pid: int, number: int) -> QueueCounters:
    """Return the counters of queue ``number`` in the network namespace of process ``pid``.

    Raises:
        ValueError: nobody listens on that queue.
    """
    found = bound_queues(pid).get(number)
    if found is None:
        raise ValueError(f"NFQUEUE {number} has no listener")
    return QueueCounters(found.packets, found.dropped, found.user_dropped)


class HostCounters:
    """The counters of a host's network stack, named as nstat does: ``Tcp.RetransSegs``."""

    def __init__(self, values: Mapping[str, int]) -> None:
        self._values = dict(values)

    @classmethod
    def parse(cls, text: str) -> HostCounters:
        """Read /proc/net/snmp and /proc/net/netstat: a line of names, a line of values."""
        values: dict[str, int] = {}
        lines = text.splitlines()
        for names, numbers in zip(lines[::2], lines[1::2], strict=True):
            group, fields = names.split(":")
            for name, number in zip(fields.split(), numbers.split()[1:], strict=True):
                values[f"{group}.{name}"] = int(number)
        return cls(values)

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def since(self, earlier: HostCounters) -> HostCounters:
        """Return what was counted after ``earlier``."""
        return HostCounters({k: v - earlier._values.get(k, 0) for k, v in self._values.items()})

    def __add__(self, other: HostCounters) -> HostCounters:
        return HostCounters({k: v + other._values.get(k, 0) for k, v in self._values.items()})

    def checksum_errors(self) -> int:
        """Return how many packets were thrown away for a wrong checksum or header."""
        return sum(self._values[name] for name in CHECKSUM_ERRORS)


def total(counters: Iterable[HostCounters]) -> HostCounters:
    """Add several."""
    result = HostCounters({})
    for each in counters:
        result = each + result
    return result
