"""Strategies: how a handshake is played.

A strategy is one small file that answers three questions: when does the SYN
leave and with what, what becomes of early data, and what does the real
SYN-ACK mean. The moves that it plays are in
:mod:`nfq_zerortt.core.handshake`. The engine does not know how many
strategies there are; a new one is a file here and a line in
:func:`by_name`.
"""

from __future__ import annotations

from typing import Protocol

from nfq_zerortt.core.actions import Action
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.handshake import Handshake
from nfq_zerortt.core.strategies.auto import Auto
from nfq_zerortt.core.strategies.fastopen import FastOpen
from nfq_zerortt.core.strategies.hold import Hold
from nfq_zerortt.core.strategies.observe import Observe
from nfq_zerortt.wire.view import SegmentView


class Strategy(Protocol):
    """How a handshake is played. Each answer contains one verdict on the packet given.

    The Send of the spoofed SYN-ACK stands before the verdict on the SYN, so that the SYN can
    still pass untouched if it fails, and its report stands right behind it, for the latency.
    A strategy that spoofs nothing sets ``flow.observed``: then the flow is only looked at, also
    later.

    Attributes:
        name: what it is called in the settings and in the log.
        spoofs: it answers the client before the server has.
    """

    name: str
    spoofs: bool

    def on_syn(self, flow: Flow, syn: SegmentView, now: float) -> list[Action]:
        """When does the SYN leave, and with what? ``flow`` is new."""

    def on_early(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """What becomes of a client's segment that comes before the server's SYN-ACK?"""

    def on_syn_ack(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """What does the real SYN-ACK mean? It acknowledges the SYN and comes for the first time."""


def by_name(name: str, handshake: Handshake) -> Strategy:
    """Return the strategy of that name.

    Raises:
        ValueError: there is none of that name.
    """
    for strategy in (Auto, FastOpen, Hold, Observe):
        if strategy.name == name:
            return strategy(handshake)
    raise ValueError(f"no strategy {name!r}")
