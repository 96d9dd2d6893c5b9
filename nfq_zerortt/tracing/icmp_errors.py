"""ICMP errors about a flow: which that came is which that left."""

from __future__ import annotations

from collections import deque

from nfq_zerortt.tracing.known import Known
from nfq_zerortt.tracing.packets import Packet, Role, follows_soon
from nfq_zerortt.wire.seqnum import add

_KEPT = 8


class Errors:
    """The latest errors that came."""

    def __init__(self) -> None:
        self._came: deque[Packet] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._came)

    def clear(self) -> None:
        """Keep none of those that came."""
        self._came.clear()

    def add(self, flow: Known, packet: Packet) -> None:
        """Take in the next one."""
        if packet.came:
            self._came.append(packet)
            about_syn = not packet.to_server and flow.answered is None and flow.syns_left
            # Of several at once the first one has ended the flow; the others find none.
            former = flow.unreachable
            if about_syn and (former is None or not follows_soon(former, packet)):
                flow.unreachable = packet
            return
        may_be = [
            came
            for came in self._came
            if came.role is Role.UNKNOWN
            and came.to_server == packet.to_server
            and follows_soon(came, packet)
            and _quotes_same(flow, came, packet)
        ]
        if may_be:
            came = next((one for one in may_be if one.ident == packet.ident), may_be[0])
            came.role, packet.role = Role.PASSED, Role.LEFT
            came.settled = True
            came.onward.append(packet)
            packet.origin = came
            return
        packet.role = Role.MADE
        packet.because.append("an ICMP error of this host's")


def _quotes_same(flow: Known, came: Packet, left: Packet) -> bool:
    there, here = came.quote, left.quote
    assert there is not None
    assert here is not None
    # The server's numbers are quoted on the way to the server, and shifted.
    shift = (flow.delta or 0) if left.to_server else 0
    return here.seq in (there.seq, add(there.seq, shift))
