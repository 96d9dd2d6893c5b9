"""How much is measured: a whole run, or a quick one that shows that everything works."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, how long, how many.

    Attributes:
        repetitions: of latency, bulk and handshakes; each contender has one turn in each.
        growth_repetitions: the same of the growth, each with hosts made anew.
        probes: connections whose median is a value of a latency.
        window_s: how long a bulk stream, or the opening of connections, is measured.
        levels: connections that are open while the growth is measured.
        begin_s: from the beginning of bulk streams until they are measured: slow start is over,
            and whatever is done once is done.
        settle_s: from the last of those connections until something is measured: logs are written,
            the last ACK has come.
    """

    repetitions: int = 7
    growth_repetitions: int = 3
    probes: int = 6
    window_s: float = 0.8
    levels: tuple[int, ...] = (10, 100, 1_000, 10_000)
    begin_s: float = 0.3
    settle_s: float = 1.0

    def with_repetitions(self, number: int | None) -> Plan:
        """Return it with another number of repetitions, if one is given; no more growth."""
        if number is None:
            return self
        return replace(
            self, repetitions=number, growth_repetitions=min(number, self.growth_repetitions)
        )


WHOLE = Plan()
QUICK = Plan(1, 1, 2, 0.2, (10, 50))
