"""What the service answers from several places at once: each flow is told of once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

from nfq_zerortt.answers import Answers
from nfq_zerortt.config import Limits
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.journal import Journal
from nfq_zerortt.observe.log import EventLog
from nfq_zerortt.workers.crew import Crew
from tests.core.test_roll import flow
from tests.test_control_docs import Resting


class Carrying(Resting):
    """A service whose kernel carries flows."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []

    def carried(self) -> Iterator[Flow]:
        return iter(self.flows)

    def max_entries(self) -> int:
        return 100


def test_a_flow_that_the_kernel_gets_meanwhile_is_told_of_once() -> None:
    engine, service = Engine("hold", Limits(), bytes(32)), Carrying()
    there = [flow(number) for number in range(1, 5)]
    for one in there:
        engine.table.add(one)
    service.flows.append(flow(9))
    answers = Answers(engine, Journal(EventLog(file=os.devnull)), Crew(), service)

    async def told() -> list[int]:
        asked = answers.requests()["flows"].answer()
        assert isinstance(asked, AsyncIterator)
        numbers = []
        async for record in asked:
            numbers.append(record["flow_id"])
            if record["flow_id"] == 2:  # one that was told of is handed over, one that was not
                for number in (1, 3):
                    engine.table.remove(there[number - 1])
                    service.flows.append(flow(number))
        return numbers

    assert sorted(asyncio.run(told())) == [1, 2, 3, 4, 9]
