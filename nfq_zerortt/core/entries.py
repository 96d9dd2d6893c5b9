"""Entries in the carrier: how a flow gets there, and what is left to us right afterwards.

For a moment a flow is in both places. The carrier leaves its packets to us until we have done all
that came before, so that none overtakes another (:meth:`Entries.done`), but not for long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.flow import Flow, reverse_key
from nfq_zerortt.core.states import State

SETTLED_S = 0.15
"""So long after its hand-over a flow is here as well; packets are left to us for less."""
_TICKETS = 1 << 32


class Carrier(Protocol):
    """What carries flows: the kernel. A flow is found by its :attr:`Flow.client_key`."""

    def find(self, client_key: bytes) -> Flow | None:
        """Return the flow as it stands, or None."""

    def insert(self, flow: Flow) -> bool:
        """Take on a flow; False if there is no room."""

    def take(self, client_key: bytes) -> Flow | None:
        """Give the flow back as it stands, and carry it no longer."""

    def mark_reported(self, flow: Flow) -> None:
        """Remember that the end of the flow was reported."""

    def remove(self, client_key: bytes) -> None:
        """Carry the flow no longer, if it is there."""

    def make_room(self) -> bool:
        """Carry some flows no longer that have ended and were reported; False if none is found."""

    def publish(self, flow: Flow, side: Side, amount: int) -> None:
        """Tell how much of what was left to us since the hand-over is done, of one side.

        And how far both sides have come by now, which the carrier may not have seen.
        """


@dataclass(slots=True)
class Moving:
    """A flow that was put in a moment ago.

    Attributes:
        state: the flow's at that moment.
        done: how much of what was left to us of each side is done.
    """

    flow: Flow
    state: State
    done: dict[Side, int] = field(default_factory=lambda: {Side.CLIENT: 0, Side.SERVER: 0})


class Entries:
    """The entries of one carrier, as far as this process makes them.

    Attributes:
        carrier: where they are.
        enabled: more may be made; those that are there go on in any case.
        is_full: there was no room lately.
        ticket: names the latest hand-over. Those of other processes with the same carrier must
            have other numbers.
        moving: the flows that were put in a moment ago.
    """

    def __init__(self, carrier: Carrier, seed: int) -> None:
        """``seed``: the first ticket, some number."""
        self.carrier = carrier
        self.enabled = True
        self.is_full = False
        self.ticket = seed
        self.moving: dict[bytes, Moving] = {}

    def insert(self, flow: Flow, now: float) -> bool:
        """Make an entry of a flow; False if there is no room."""
        self.ticket = (self.ticket + 1) % _TICKETS
        flow.handed_over, flow.ticket = now, self.ticket
        if not self.carrier.insert(flow):
            flow.handed_over = None
            return False
        self.moving[flow.client_key] = Moving(flow, flow.state)
        return True

    def take(self, client_key: bytes) -> Flow | None:
        """Take an entry out; return the flow as it stood, if it was there."""
        flow = self.carrier.take(client_key)
        if flow is not None:
            self.is_full = False
        return flow

    def remove(self, client_key: bytes) -> None:
        """Take an entry out, if it is there."""
        self.carrier.remove(client_key)
        self.is_full = False

    def done(self, raw: bytes, side: Side) -> None:
        """Take in that a packet is done which was left to us: its verdict was given.

        What counts are its bytes of data, or 1 if it has none. Only packets are left whose headers
        the kernel understands: without IPv4 options, without IPv6 extension headers.
        """
        if raw[0] >> 4 == 4:
            flow_key, tcp, end = raw[12:24], 20, raw[2] << 8 | raw[3]
        else:
            flow_key, tcp, end = raw[8:44], 40, 40 + (raw[4] << 8 | raw[5])
        moving = self.moving.get(flow_key if side is Side.CLIENT else reverse_key(flow_key))
        if moving is None:
            return
        moving.done[side] += end - tcp - (raw[tcp + 12] >> 4) * 4 or 1
        self.carrier.publish(moving.flow, side, moving.done[side])
