"""Packets of no known flow: a client's SYN may begin one, everything else passes untouched.

Which SYNs do is decided by :mod:`~nfq_zerortt.core.admission`. A connection that passes is
remembered (:mod:`~nfq_zerortt.core.passing`): it stays that way, and is reported once.
"""

from __future__ import annotations

from nfq_zerortt.core.actions import Accept, Actions, Report, Side
from nfq_zerortt.core.admission import Admission
from nfq_zerortt.core.flow import Flow, flow_name, report
from nfq_zerortt.core.passing import Passing
from nfq_zerortt.core.refusals import Refusals
from nfq_zerortt.core.strategies import Strategy
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.flags import ACK, SYN
from nfq_zerortt.wire.view import SegmentView


class Beginning:
    """Begins flows and gives them their numbers, for one engine.

    Attributes:
        admission: decides; to be set before the first packet, and whenever it becomes another.
        draining: no new flow is taken on any more.
    """

    admission: Admission

    def __init__(self, table: FlowTable, passing: Passing, refusals: Refusals) -> None:
        self.draining = False
        self._table = table
        self._passing = passing
        self._refusals = refusals
        self._count, self._step = 0, 1

    # --- numbers --------------------------------------------------------------------------

    def number_by(self, first: int, step: int) -> None:
        """Number new flows ``first``, ``first + step`` and so on, but higher than all so far."""
        highest, self._count, self._step = self._count, first - step, step
        self.count_on(highest)

    def count_on(self, highest: int) -> None:
        """See that the next number is higher than that."""
        self._count += max((highest - self._count) // self._step, 0) * self._step

    def _next_number(self) -> int:
        self._count += self._step
        return self._count

    # --- packets --------------------------------------------------------------------------

    def first_packet(self, view: SegmentView, side: Side, now: float) -> Actions:
        """Begin a flow with a client's SYN; let everything else pass."""
        if self._passing.knows(view, now):
            return self._passes(view, side, now)
        if not view.flags & SYN or view.flags & ACK:
            return self.let_pass(view, "mid_stream", now)
        if self.draining:
            return self.let_pass(view, "service_stopping", now)
        decided = self.admission.decide(view, side, now)
        if isinstance(decided, str):
            return self.let_pass(view, decided, now)
        return self._begin(view, decided, now)

    def _passes(self, view: SegmentView, side: Side, now: float) -> Actions:
        """Deal with a packet of a connection that passes untouched.

        Also a SYN: again the one that was let pass, or a stranger's guess.
        """
        if view.flags & SYN:
            if view.flags & ACK and side is Side.SERVER:
                self._refusals.forget(view.source)
        elif not view.fragment:
            client_key = view.flow_key if side is Side.CLIENT else view.reply_key
            self._passing.hand_over(client_key, now)
        return [Accept("bypassed")]

    def let_pass(
        self, view: SegmentView, reason: str, now: float, number: int | None = None
    ) -> Actions:
        """Let a connection pass untouched from now on, and say so once.

        ``number``: that of the flow which it was until now, if it was one.
        """
        self._passing.add(view, now)
        if number is None:
            number = self._next_number()
        said = Report("flow.bypassed", number, flow_name(view), {"reason": reason})
        return [Accept(reason), said]

    def _begin(self, syn: SegmentView, strategy: Strategy, now: float) -> Actions:
        self._passing.forget(syn)
        flow = Flow.begun(self._next_number(), syn, strategy.name, now)
        self._table.add(flow)
        received = report(
            flow,
            "flow.syn_received",
            strategy=flow.strategy,
            isn_client=flow.isn_client,
            options=flow.client_options.describe(),
        )
        return [received, *strategy.on_syn(flow, syn, now)]
