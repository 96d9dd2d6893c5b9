"""What stands on ClientNIC, one file each."""

from __future__ import annotations

from bench.comparison.contenders import haproxy, ours, plain, synproxy
from bench.comparison.contenders.contender import Contender

PLAIN: Contender = plain.Plain()
KERNEL: Contender = ours.Ours("kernel")
CONTENDERS: tuple[Contender, ...] = (
    PLAIN,
    synproxy.SynProxy(timestamps=True),
    synproxy.SynProxy(timestamps=False),
    haproxy.HaProxy(),
    ours.Ours("python"),
    KERNEL,
)
"""In the order of the table; what the others are compared with comes first."""
