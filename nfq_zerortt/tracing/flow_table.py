"""All flows of a capture."""

from __future__ import annotations

from collections import OrderedDict

from nfq_zerortt.observe.records import Endpoint
from nfq_zerortt.tracing.conversations import Conversation
from nfq_zerortt.tracing.known import CLIENT_SIDE
from nfq_zerortt.tracing.packets import Packet, likely_client, segment_of
from nfq_zerortt.wire import flags as tcp

MOST_FLOWS = 4096
MOST_HELD = 65_536
"""So many packets are kept of all flows together, beside a dozen of each: what came, to be found
again when it leaves, and what left, to tell repetitions."""
_IDLE_S = 200.0
_FORGOTTEN_S = 120.0
"""Another SYN after so long a silence begins another connection, whatever became of the first."""

_Key = frozenset[Endpoint]


class Conversations:
    """All flows of a capture, of which ``count`` is the number.

    As many as MOST_FLOWS are known at a time; those that were quiet longest are forgotten first.
    Likewise, if MOST_HELD is reached, those that were quiet longest keep no packets.
    """

    def __init__(self) -> None:
        self._flows: OrderedDict[_Key, Conversation] = OrderedDict()
        self._held: OrderedDict[_Key, int] = OrderedDict()
        self.held = 0
        self.count = 0

    def add(self, packet: Packet) -> Conversation:
        """Take in the next packet, and return its flow."""
        flow = self.find(packet)
        flow.add(packet)
        key = _key(packet)
        self._put_down(key)
        self._held[key] = held = flow.held
        self.held += held
        while self.held > MOST_HELD and len(self._held) > 1:
            quiet, held = self._held.popitem(last=False)
            self.held -= held
            self._flows[quiet].shed()
        return flow

    def _put_down(self, key: _Key) -> None:
        self.held -= self._held.pop(key, 0)

    def _forget_quietest(self) -> None:
        key, _ = self._flows.popitem(last=False)
        self._put_down(key)

    def find(self, packet: Packet) -> Conversation:
        """Return the flow of the next packet, without adding it there."""
        key = _key(packet)
        flow = self._flows.get(key)
        if flow is None or _begins_anew(flow, packet):
            self._put_down(key)
            flow = self._flows[key] = Conversation(*_ends(packet))
            self.count += 1
            flow.number = self.count
            flow.first_seq = None if packet.segment is None else packet.segment.seq
            if len(self._flows) > MOST_FLOWS:
                self._forget_quietest()
        self._flows.move_to_end(key)
        flow.last_s = packet.time_s
        # An ICMP error travels against the segment that it quotes.
        packet.to_server = (packet.source == flow.client) != (packet.quote is not None)
        while next(iter(self._flows.values())).last_s < packet.time_s - _IDLE_S:
            self._forget_quietest()
        return flow


def _key(packet: Packet) -> _Key:
    return frozenset((packet.source, packet.destination))


def _ends(packet: Packet) -> tuple[Endpoint, Endpoint]:
    """Return which endpoint is on the clients' side and which on the servers'."""
    source, destination = packet.source, packet.destination
    if packet.quote is not None and packet.outgoing is not None:
        # The error goes to the sender of what it quotes.
        to_sender = (packet.tap == CLIENT_SIDE) == packet.outgoing
        return (source, destination) if to_sender else (destination, source)
    if packet.outgoing is not None:
        towards_server = (packet.tap == CLIENT_SIDE) != packet.outgoing
        return (source, destination) if towards_server else (destination, source)
    client = likely_client(packet)
    return (client, source if client == destination else destination)


def _begins_anew(flow: Conversation, packet: Packet) -> bool:
    """Whether a SYN begins another connection on the same addresses and ports."""
    segment = packet.segment
    if segment is None or segment.flags & (tcp.SYN | tcp.ACK) != tcp.SYN:
        return False
    if packet.tap != CLIENT_SIDE or packet.source != flow.client:
        return False
    if flow.syn is None:  # of one side only, nothing is added to it
        return segment.seq != flow.first_seq
    over = flow.over or packet.time_s - flow.last_s > _FORGOTTEN_S
    return over and segment_of(flow.syn).seq != segment.seq
