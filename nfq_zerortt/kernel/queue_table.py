"""The kernel's table of packet queues: who is bound to each, and what it has counted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

TABLE = "net/netfilter/nfnetlink_queue"
"""Its file, for each process in /proc: it is that of the process's network namespace."""


class BoundQueue(NamedTuple):
    """One queue (nfnetlink_queue.c, seq_show).

    Attributes:
        number: of the queue.
        port_id: the netlink port that is bound to it, as a rule the process id.
        waiting: packets that no verdict was given for yet.
        dropped: packets that were dropped because the queue was full, or had no listener.
        user_dropped: packets dropped because the listener's socket buffer was full.
        packets: packets that were queued since it was bound: the id of the last one.
    """

    number: int
    port_id: int
    waiting: int
    dropped: int
    user_dropped: int
    packets: int


def bound_queues(process: int | str = "thread-self") -> dict[int, BoundQueue]:
    """Return the queues in the network namespace of a process, or of this thread, by number.

    Raises:
        FileNotFoundError: there is no such process, or no support for queues in the kernel.
        PermissionError: only root may read it.
    """
    found = {}
    for line in Path("/proc", str(process), TABLE).read_text(encoding="ascii").splitlines():
        number, port_id, waiting, _, _, dropped, user_dropped, packets, *_ = map(int, line.split())
        found[number] = BoundQueue(number, port_id, waiting, dropped, user_dropped, packets)
    return found
