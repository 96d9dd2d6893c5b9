"""Servers that refused, or could not be reached: left alone for a while.

A client whose SYN is answered by us learns of a refusal only by a RST on a
connection that it took for established. So a server that has just refused is
not spoofed again soon: the next client sees the real refusal, as fast as it
comes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MOST = 16_384
_LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    wait: float
    until: float


class Refusals:
    """The servers, by address and port; bounded, those that refused first forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _Refusal] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def note(self, server: bytes, reason: str, wait: float, now: float) -> None:
        """Take in that a server accepted no connection; ``reason`` is why it is left alone now.

        ``wait``: for how many seconds, the first time. If it does it again as soon as it is
        asked again, twice as long, up to an hour.
        """
        known = self._known.get(server)
        if known is not None:
            if now < known.until:
                return  # it is left alone already: an earlier connection had this end, too
            if now < known.until + known.wait:
                wait = max(wait, min(2 * known.wait, _LONGEST_S))
        if wait <= 0:
            return
        self._known[server] = _Refusal(reason, wait, now + wait)
        self._known.move_to_end(server)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)

    def reason(self, server: bytes, now: float) -> str | None:
        """Return why a server is left alone now, or None."""
        known = self._known.get(server)
        return known.reason if known is not None and now < known.until else None

    def forget(self, server: bytes) -> None:
        """The server has accepted a connection."""
        self._known.pop(server, None)
