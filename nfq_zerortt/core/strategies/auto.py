"""auto: hold, and Fast Open where it was learned to pay and can do no harm.

The first contact with a server is as in hold; its SYN leaves at once, and asks
for a cookie. If the client was seen to speak early, the next SYN waits for its
data: as long as configured where the server gives cookies or has accepted data
before, else for two milliseconds, once in a while, to find out. Only ports that
the configuration names are treated so, and there only data that may be
delivered twice without harm.
"""

from __future__ import annotations

from nfq_zerortt.core.first_data import repeatable
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.strategies.fastopen import FastOpen

_ASK_AGAIN_S = 3600.0
_TRIAL_S = 0.002
"""What a server that was never seen to accept anything may cost its client."""


class Auto(FastOpen):
    """The strategy ``auto``."""

    name = "auto"

    def _wait(self, flow: Flow, port: int, now: float) -> float:
        wait = super()._wait(flow, port, now)
        habits = self._memory.habits(flow.server)
        if not wait or port not in self._moves.fast_open_ports or habits.gap is None:
            return 0.0
        if not habits.accepts and not self._memory.cookie(flow.client_address, flow.server, now):
            wait = min(wait, _TRIAL_S)
        return wait if habits.gap <= wait else 0.0

    def _asks(self, flow: Flow, port: int, now: float) -> bool:
        habits = self._memory.habits(flow.server)
        return (
            port in self._moves.fast_open_ports
            and not (habits.asked and now - habits.asked_at < _ASK_AGAIN_S)
            and self._memory.may_be_asked(flow.server, now)
            and not self._memory.cookie(flow.client_address, flow.server, now)
        )

    def _data_for_syn(self, flow: Flow) -> bytes:
        return repeatable(super()._data_for_syn(flow))
