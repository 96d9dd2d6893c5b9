"""Which side of a host a packet was seen on, by its direction alone.

Linux cooked v1, as tcpdump before 4.99.0 writes it for ``-i any``, does not name the interface. A
host that forwards packets has each of them twice there: when it comes, and when it leaves. What
comes from a client has come on the clients' side, and leaves on the servers'.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from nfq_zerortt.observe.records import Endpoint
from nfq_zerortt.tracing.packets import Packet, Seen, likely_client, read
from nfq_zerortt.wire import flags as tcp

NAMES = ("clients' side", "servers' side")
_MOST_FLOWS = 65_536


def is_mixed(packets: Iterable[Seen]) -> bool:
    """Tell whether packets of the same direction of a flow both came and left at one place."""
    came: set[tuple[Endpoint, Endpoint]] = set()
    left: set[tuple[Endpoint, Endpoint]] = set()
    for seen in packets:
        packet = read(0, seen) if seen.outgoing is not None else None
        if packet is not None and packet.segment is not None:
            (left if packet.outgoing else came).add((packet.source, packet.destination))
    return bool(came & left)


class Directions:
    """Finds the side, with the flows that were met as its memory."""

    def __init__(self) -> None:
        self._clients: OrderedDict[frozenset[Endpoint], Endpoint] = OrderedDict()

    def side(self, seen: Seen) -> int | None:
        """Return 0 for the clients' side, 1 for the servers'; None if that does not show."""
        packet = read(0, seen)
        if packet is None or packet.outgoing is None:
            return None
        flow = frozenset((packet.source, packet.destination))
        client = self._clients.get(flow)
        if client is None or _is_syn(packet):
            client = self._clients[flow] = likely_client(packet)
            if len(self._clients) > _MOST_FLOWS:
                self._clients.popitem(last=False)
        # An ICMP error travels against the segment that it quotes.
        from_client = (packet.source == client) != (packet.quote is not None)
        return int(from_client == packet.outgoing)


def _is_syn(packet: Packet) -> bool:
    segment = packet.segment
    return segment is not None and segment.flags & (tcp.SYN | tcp.ACK) == tcp.SYN
