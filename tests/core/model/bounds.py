"""What must be true of the flow table after every call of the engine."""

from __future__ import annotations

from nfq_zerortt.config import Limits
from nfq_zerortt.core.held import cost_of
from nfq_zerortt.core.states import ENDED, HALF_OPEN
from nfq_zerortt.core.table import FlowTable

_BOUNDS = ("max_flows", "max_half_open", "held_bytes_total", "held_bytes_per_flow")


class Bounds:
    """The limits that hold for a table. A bound that became smaller holds for new flows only."""

    def __init__(self, limits: Limits) -> None:
        self._most = {name: getattr(limits, name) for name in _BOUNDS}

    def widen(self, limits: Limits) -> None:
        """Take in new limits."""
        self._most = {name: max(most, getattr(limits, name)) for name, most in self._most.items()}

    def check(self, table: FlowTable) -> None:
        """See that the table's account is true, its bounds hold, and every flow has a timer."""
        flows = list(table)
        assert len(flows) == len(table) <= self._most["max_flows"]
        half_open = sum(flow.state in HALF_OPEN for flow in flows)
        assert half_open == table.half_open <= self._most["max_half_open"], "half-open flows"
        held = [flow.held.cost for flow in flows]
        ahead = [sum(map(cost_of, flow.ahead)) for flow in flows]
        kept = sum(held) + sum(ahead)
        assert kept == table.held_cost <= self._most["held_bytes_total"], "held account"
        assert max(ahead, default=0) <= self._most["held_bytes_per_flow"], "ahead of one flow"
        assert max(held, default=0) <= self._most["held_bytes_per_flow"], "held of one flow"
        for flow in flows:
            assert flow.scheduled is not None, f"no timer: {flow}"
            assert flow.scheduled <= flow.deadline or flow.state in ENDED, f"timer too late: {flow}"
