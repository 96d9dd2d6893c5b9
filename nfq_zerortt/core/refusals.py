"""Servers that refused, or could not be reached: left alone until they accept.

A client whose SYN is answered by us learns of a refusal only by a RST on a
connection that it took for established. So a server that has just refused is
not spoofed again: the next client sees the real refusal, as fast as it comes,
and a SYN-ACK that it gets ends this. When nobody has asked for the server for a
while, it is spoofed again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

MOST = 16_384


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a server is left alone, for how many seconds, and until when (the core's clock)."""

    reason: str
    wait: float
    until: float


class Refusals:
    """The servers, by address and port; bounded, those that refused first forgotten first."""

    def __init__(self) -> None:
        self.known: OrderedDict[bytes, Refusal] = OrderedDict()

    def __len__(self) -> int:
        return len(self.known)

    def clear(self) -> None:
        """Forget everything."""
        self.known.clear()

    def note(self, server: bytes, reason: str, wait: float, now: float) -> None:
        """Take in that a server accepted no connection; ``reason`` is why it is left alone now.

        ``wait``: for how many seconds after the last client that asked for it.
        """
        if wait <= 0:
            return
        self.known[server] = Refusal(reason, wait, now + wait)
        self.known.move_to_end(server)
        if len(self.known) > MOST:
            self.known.popitem(last=False)

    def reason(self, server: bytes, now: float) -> str | None:
        """Return why a server is left alone now, or None; a connection to it is about to begin.

        It passes, and shows what there is: as long as that goes on, nobody has to try anew.
        """
        known = self.known.get(server)
        if known is None or now >= known.until:
            return None
        self.known[server] = replace(known, until=now + known.wait)
        self.known.move_to_end(server)
        return known.reason

    def forget(self, server: bytes) -> None:
        """The server has accepted a connection."""
        self.known.pop(server, None)
