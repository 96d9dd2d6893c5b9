"""Which SYNs may leave for the server, when, and with what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Action, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, SYN
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.view import look
from tests.core.model.content import GREETINGS, REPEATABLE

SPEAKS_FIRST = (21, 22, 25, 110, 143, 587, 3306)
_OVER = ("flow.closed", "flow.bypassed")
_ROUNDING_S = 1e-6
_TELLING = 4
"""So many bytes of a greeting say what it is."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A flow as its SYN found it: the strategy, whether its port may do Fast Open, its deadline."""

    strategy: str
    selected: bool
    until: float | None


class Departures:
    """Watches what the engine does about SYNs, flow by flow.

    Attributes:
        with_data: how many carried data.
        patience: seconds that the engine may be late, because it is not called.
    """

    def __init__(self, engine: Engine) -> None:
        self.with_data = 0
        self.patience = 0.0
        self._engine = engine
        self._begun: dict[int, _Begun] = {}
        self._kept: set[int] = set()
        self._left: set[int] = set()
        self._carried: set[tuple[bytes, int]] = set()
        self._spoken: set[tuple[bytes, int]] = set()

    def watch(
        self,
        arrived: bytes | None,
        actions: Iterable[Action],
        now: float,
        policy: Policy,
        limits: Limits,
    ) -> None:
        """See what becomes of a packet, or of the timers.

        Raises:
            AssertionError: a SYN leaves that must not, or one that must does not.
        """
        for action in actions:
            if isinstance(action, Drop) and arrived is not None:
                self._dropped(action.reason, arrived, now, policy, limits)
            elif isinstance(action, Replace) or (
                isinstance(action, Send) and action.side is Side.SERVER
            ):
                self._leaves(action.data, action.reason, now, policy)
            elif isinstance(action, Report) and action.event in _OVER:
                self._kept.discard(action.flow_id)
        for number in self._kept:
            until = self._begun[number].until
            assert until is not None
            late = now - until - self.patience
            assert late < _ROUNDING_S, f"flow {number}: its SYN is kept back for too long"

    def _dropped(self, reason: str, raw: bytes, now: float, policy: Policy, limits: Limits) -> None:
        if reason not in ("held", "syn_kept_back"):
            return
        view = look(raw)
        server = (view.dst, view.dport)
        if reason == "held":
            self._spoken.add(server)
            return
        flow = self._engine.find(view.raw)
        assert flow is not None
        assert flow.number not in self._begun, "kept back twice"
        assert limits.fast_open_wait_ms, "kept back for no time"
        assert view.dport not in SPEAKS_FIRST, "kept back for a server that speaks first"
        strategy = policy.strategy_for(view.dst, view.dport)
        assert strategy in ("fastopen", "auto"), f"kept back by {strategy}"
        selected = view.dport in policy.fast_open_ports
        if strategy == "auto":
            assert selected, "auto keeps back on a port that was not selected"
            assert server in self._spoken, "auto keeps back for a client that may have nothing"
        until = now + limits.fast_open_wait_ms / 1000
        self._begun[flow.number] = _Begun(strategy, selected, until)
        self._kept.add(flow.number)

    def _leaves(self, data: bytes, reason: str, now: float, policy: Policy) -> None:
        try:
            view = look(data)
        except WireError:
            return  # an ICMP error
        if not view.flags & SYN or view.flags & ACK:
            return
        flow = self._engine.find(data)
        if flow is None or reason not in ("syn", "syn_repeated"):
            assert reason == "translated", f"a SYN leaves for {reason}"
            return
        number, segment = flow.number, Segment.from_view(view)
        asks = any(option[0] == opt.FAST_OPEN for option in segment.options)
        if reason == "syn_repeated":
            assert number in self._left, "repeated before it left"
            assert not asks, "repeated with the option"
            assert not segment.payload, "repeated with data"
            return
        assert number not in self._left, "the SYN left twice"
        self._left.add(number)
        kept = number in self._kept
        self._kept.discard(number)
        begun = self._begun.get(number)
        if begun is None:
            selected = view.dport in policy.fast_open_ports
            begun = _Begun(policy.strategy_for(view.dst, view.dport), selected, None)
        assert not asks or begun.strategy in ("fastopen", "auto"), f"{begun.strategy} asks"
        assert not asks or begun.strategy != "auto" or begun.selected, "asks on another port"
        if not segment.payload:
            return
        assert kept, "data in a SYN that was not kept back"
        assert asks, "data without the option"
        if begun.strategy == "auto":
            repeatable = GREETINGS[:REPEATABLE]
            assert any(
                segment.payload.startswith(greeting[:_TELLING]) for greeting in repeatable
            ), f"auto carries {segment.payload[:20]!r}"
        name = (view.flow_key, flow.isn_client)
        assert name not in self._carried, "data leaves in a SYN a second time"
        self._carried.add(name)
        self.with_data += 1
