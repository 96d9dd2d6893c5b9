"""What the whole machine has used: processor time by all, by strangers, and kernel memory.

All hosts share one kernel, so what forwarding costs is not any process' time: it is spent in
softirqs, for whichever process happens to run. Hence the whole machine's busy time is taken: the
ends' work and that of all four hosts. What processes elsewhere use meanwhile in user mode is
taken off; what they use in the kernel cannot be told apart, so nothing else should run meanwhile.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.counters import cpu_time, resident_bytes
from nfq_zerortt.testbed.processes import pids_in

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_OTHER_KERNEL_MEMORY = ("KernelStack", "PageTables", "Percpu", "VmallocUsed")


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time between two moments, seconds; or since the start of the machine.

    Attributes:
        wall_s: time that passed.
        busy_s: of all processors together, all but idle, iowait and stolen time.
        strangers_s: in user mode, of processes that run on none of the lab's hosts.
        own_s: of the contender's processes.
    """

    wall_s: float
    busy_s: float
    strangers_s: float
    own_s: float

    def since(self, earlier: Usage) -> Usage:
        """Return what was used after ``earlier``."""
        return Usage(
            self.wall_s - earlier.wall_s,
            self.busy_s - earlier.busy_s,
            self.strangers_s - earlier.strangers_s,
            self.own_s - earlier.own_s,
        )

    @property
    def forwarding_s(self) -> float:
        """The busy time without the strangers'."""
        return self.busy_s - max(self.strangers_s, 0.0)

    @property
    def strangers_share(self) -> float:
        """The strangers' share of the processors' time."""
        return self.strangers_s / (self.wall_s * (os.cpu_count() or 1))


def usage(namespaces: Iterable[Path], own: Iterable[int]) -> Usage:
    """Return what was used until now.

    ``namespaces``: the network namespaces of the lab's hosts; ``own``: the contender's processes.
    """
    line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq = (int(n) for n in line.split()[1:8])
    at = time.monotonic()
    lab = [os.getpid(), *(pid for namespace in namespaces for pid in pids_in(namespace))]
    times = {pid: cpu_time(pid) for pid in lab}
    strangers_s = (user + nice) * _TICK_S - sum(used.user_s for used in times.values())
    busy_s = (user + nice + system + irq + softirq) * _TICK_S
    return Usage(at, busy_s, strangers_s, sum(times[pid].total_s for pid in own))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: of the contender's processes (RSS), and of the kernel for all that it does."""

    process: int
    kernel: int

    def since(self, earlier: Memory) -> Memory:
        """Return what came after ``earlier``."""
        return Memory(self.process - earlier.process, self.kernel - earlier.kernel)


def memory(own: Iterable[int]) -> Memory:
    """Return the memory that is used now; ``own``: the contender's processes."""
    return Memory(sum(resident_bytes(pid) for pid in own), _kernel_bytes())


def _kernel_bytes() -> int:
    """Return what the kernel uses for itself: objects in slabs, and what is not in slabs.

    Free places in slabs do not count: the kernel keeps them for a while.
    """
    slabs = 0
    for line in Path("/proc/slabinfo").read_text(encoding="ascii").splitlines()[2:]:
        _name, active, _number, size = line.split()[:4]
        slabs += int(active) * int(size)
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    found = dict(re.findall(r"^(\w+): +(\d+) kB$", meminfo, re.MULTILINE))
    return slabs + sum(int(found[name]) for name in _OTHER_KERNEL_MEMORY) * 1024
