"""The privileges of this process."""

from __future__ import annotations

from pathlib import Path

_BITS = {
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""The numbers of linux/capability.h."""


def effective() -> frozenset[str]:
    """Return which of the privileges that matter to this product are in force."""
    for line in Path("/proc/thread-self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for name, bit in _BITS.items() if mask & 1 << bit)
    return frozenset()
