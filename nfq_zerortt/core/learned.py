"""What was learned of servers: the next spoofed SYN-ACK promises what the last real one did."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from nfq_zerortt.core.fast_open import FastOpenMemory
from nfq_zerortt.core.refusals import Refusals

_KEEP_S = 3600.0
MOST = 16384


class Server(NamedTuple):
    """One server as its last SYN-ACK showed it.

    Attributes:
        mss: the segment size that it asked for, bytes.
        window: its first window field, in bytes (never scaled in a SYN-ACK).
        window_scale: its shift; None if it was not asked for one.
        denied: option kinds that it was asked for and did not grant, each with the time.
        rtt: seconds from the first SYN to the SYN-ACK: never less than the round trip.
        learned_at: when, in the core's time.
    """

    mss: int
    window: int
    window_scale: int | None
    denied: Mapping[int, float]
    rtt: float
    learned_at: float


class Memory:
    """The servers met lately, by address and port; bounded, the oldest forgotten first.

    ``servers``: how each answered the last time; ``refusals``: those that accepted no connection;
    ``fast_open``: cookies, and who accepts them.
    """

    def __init__(self) -> None:
        self.refusals = Refusals()
        self.fast_open = FastOpenMemory()
        self.servers: OrderedDict[bytes, Server] = OrderedDict()

    def __len__(self) -> int:
        return len(self.servers)

    def clear(self) -> None:
        """Forget everything."""
        self.servers.clear()
        self.refusals.clear()
        self.fast_open.clear()

    def recall(self, server: bytes, now: float) -> Server | None:
        """Return what is known of a server, or None; ``server`` is its address and port."""
        known = self.servers.get(server)
        if known is not None and now - known.learned_at > _KEEP_S:
            del self.servers[server]
            return None
        return known

    def learn(self, server: bytes, met: Server) -> None:
        """Take in what a SYN-ACK showed."""
        self.refusals.forget(server)
        self.servers[server] = met
        self.servers.move_to_end(server)
        if len(self.servers) > MOST:
            self.servers.popitem(last=False)
