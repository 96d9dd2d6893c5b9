"""How many hosts are between the two places of a capture, by the TTL of what passed them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nfq_zerortt.tracing.packets import Packet


def hosts_between(packets: Iterable[Packet]) -> int | None:
    """Return by how much the TTL (hop limit) mostly falls; None if nothing passed.

    Each host that forwards a packet takes one off (RFC 791, section 3.2; RFC 8200, section 3).
    """
    falls = Counter(
        _ttl(packet.origin) - _ttl(packet) for packet in packets if packet.origin is not None
    )
    return falls.most_common(1)[0][0] if falls else None


def _ttl(packet: Packet) -> int:
    return packet.data[8 if packet.data[0] >> 4 == 4 else 7]
