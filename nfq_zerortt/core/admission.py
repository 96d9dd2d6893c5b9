"""Which SYNs begin a flow of ours, and by which strategy; the others pass untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nfq_zerortt.config import FAST_OPEN_PORTS, Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.negotiation import reason_to_bypass
from nfq_zerortt.core.prefixes import Prefixes
from nfq_zerortt.core.refusals import Refusals
from nfq_zerortt.core.strategies import Strategy
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.destinations import DIRECT, Destination
from nfq_zerortt.ports import ALL_PORTS, PortSet
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import FIN, RST, names
from nfq_zerortt.wire.view import SegmentView


@dataclass(frozen=True, slots=True)
class Policy:
    """What is wanted: of the ``destinations`` the first that matches, else ``strategy``.

    ``ports``: servers on other ports are left alone. ``fast_open_ports``: those on which the
    strategy *auto* may do Fast Open. ``kernel_full``: when the kernel has no room for another flow,
    new ones are not handed over to it ("python"), or pass untouched ("pass").
    """

    strategy: str
    destinations: tuple[Destination, ...] = ()
    ports: PortSet = ALL_PORTS
    fast_open_ports: PortSet = FAST_OPEN_PORTS
    kernel_full: str = "python"

    @property
    def strategies(self) -> set[str]:
        """The names of all strategies that it may choose."""
        return {self.strategy, *(one.strategy for one in self.destinations)} - {DIRECT}

    def strategy_for(self, server: bytes, port: int) -> str:
        """Return how connections to a server are played; its address in network order."""
        for destination in self.destinations:
            if destination.matches(server, port):
                return destination.strategy
        return self.strategy


class Admission:
    """The decision about each SYN of a client that begins a connection."""

    def __init__(
        self,
        *,
        policy: Policy,
        limits: Limits,
        table: FlowTable,
        refusals: Refusals,
        prefixes: Prefixes,
        strategy_named: Callable[[str], Strategy],
        make_room: Callable[[], bool],
        kernel_is_full: Callable[[], bool],
    ) -> None:
        """``make_room`` forgets a flow that has ended and tells whether there was one."""
        self._policy = policy
        self._limits = limits
        self._table = table
        self._refusals = refusals
        self._prefixes = prefixes
        self._strategy_named = strategy_named
        self._make_room = make_room
        self._kernel_is_full = kernel_is_full

    def decide(self, syn: SegmentView, side: Side, now: float) -> Strategy | str:
        """Return the strategy by which the connection is played, or why it is left alone."""
        if self._policy.kernel_full == "pass" and self._kernel_is_full():
            return "kernel_full"
        reason = self._odd(syn, side)
        if reason is not None:
            return reason
        if syn.dport not in self._policy.ports:
            return "port_not_selected"
        name = self._policy.strategy_for(syn.dst, syn.dport)
        if name == DIRECT:
            return "direct"
        strategy = self._strategy_named(name)
        if self._table.half_open >= self._limits.max_half_open:
            return "too_many_half_open"
        if strategy.spoofs:
            reason = self._refusals.reason(syn.destination, now)
            if reason is not None:
                return reason
        # The last two take something: room from an ended flow, and from the prefix's allowance.
        if len(self._table) >= self._limits.max_flows and not self._make_room():
            return "flow_table_full"
        if strategy.spoofs and not self._prefixes.take(syn.source, now):
            return "prefix_unanswered"
        return strategy

    def _odd(self, syn: SegmentView, side: Side) -> str | None:
        if side is not Side.CLIENT:
            return "from_server_side"
        if syn.flags & (FIN | RST):
            return f"odd_flags {names(syn.flags)}"
        if syn.source == syn.destination:
            return "source_is_destination"  # its answers would be packets of its own
        if syn.fragment:
            return "fragment"
        if not packets.is_intact(syn):
            return "wrong_checksum"  # the server will not answer it
        try:
            options = syn.options
        except WireError as error:
            return f"malformed: {error}"
        by_option = reason_to_bypass(options)
        if by_option is not None:
            return by_option
        return "syn_with_data" if syn.payload_length else None
