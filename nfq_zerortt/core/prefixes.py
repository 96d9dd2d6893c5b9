"""How many SYN-ACKs each prefix of clients may leave unanswered.

A SYN with somebody else's address makes us send a SYN-ACK to that somebody.
A client that is there answers it and costs nothing; who does not answer uses
up what its network is allowed, so that we are of no use as a reflector.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST = 65_536
_IPV4_PREFIX = 3  # bytes: /24
_IPV6_PREFIX = 7  # bytes: /56, what a site is often given (RFC 6177 asks for more than a /64)
_REFILL = 0.1  # of the bucket, each second


class Prefixes:
    """A token bucket for each prefix; bounded, the one used longest ago forgotten first."""

    def __init__(self, size: int) -> None:
        """``size``: tokens in a full bucket; a tenth of them comes back each second."""
        self.size = size
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: bytes, now: float) -> bool:
        """Take a token for a SYN-ACK to ``client`` (its address and port), if there is one."""
        prefix = _prefix(client)
        left = self._left(prefix, now) - 1.0
        if left < 0.0:
            return False
        self._set(prefix, left, now)
        return True

    def give_back(self, client: bytes, count: int, now: float) -> None:
        """The client has answered: what its ``count`` SYN-ACKs cost comes back."""
        prefix = _prefix(client)
        self._set(prefix, self._left(prefix, now) + count, now)

    def _left(self, prefix: bytes, now: float) -> float:
        bucket = self._buckets.get(prefix)
        if bucket is None:
            return float(self.size)
        left, since = bucket
        return min(left + (now - since) * self.size * _REFILL, float(self.size))

    def _set(self, prefix: bytes, left: float, now: float) -> None:
        if left >= self.size:
            self._buckets.pop(prefix, None)  # as if it had never been used
            return
        self._buckets[prefix] = (left, now)
        self._buckets.move_to_end(prefix)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)


def _prefix(client: bytes) -> bytes:
    return client[:_IPV6_PREFIX] if len(client) > 6 else client[:_IPV4_PREFIX]
