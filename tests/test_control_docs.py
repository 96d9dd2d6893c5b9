"""docs/reference/control.md says what the control socket does: nothing is missing or made up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nfq_zerortt.answers import Answers
from nfq_zerortt.config import Limits
from nfq_zerortt.core import descriptions
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.fast_open import COOKIE_KEEP_S
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.remembered import by_server, counts, records, restore
from nfq_zerortt.core.states import State
from nfq_zerortt.journal import Journal
from nfq_zerortt.live.rates import WINDOW_S
from nfq_zerortt.observe import control, recent
from nfq_zerortt.observe.log import EventLog
from nfq_zerortt.running import RunningService
from nfq_zerortt.slices import SLICE_S
from nfq_zerortt.workers.crew import Crew
from tests.core.test_remembered import GOOD
from tests.scenarios.script import SECRET, Numbers, Run
from tests.test_docs import codes, rows

DOCUMENT = Path(__file__).parent.parent / "docs/reference/control.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def section(heading: str) -> list[list[str]]:
    _, _, rest = TEXT.partition(f"\n## {heading}\n")
    assert rest, heading
    return rows(rest.partition("\n## ")[0])


class Resting(RunningService):
    """A service that does nothing: what it would be asked is not what is looked at here."""

    def __init__(self) -> None:
        """It has no parts."""

    def about(self) -> dict[str, Any]:
        return {"queue": 0, "workers": 1}

    def carried(self) -> Iterator[Flow]:
        return iter(())

    def entries(self) -> Iterator[State | str]:
        return iter(())

    def max_entries(self) -> int:
        return 0

    def learned_cleared(self, forgotten: Mapping[str, int]) -> None:
        return

    async def set_log_level(self, level: str) -> None:
        return


def answers() -> Answers:
    engine = Engine("hold", Limits(), SECRET)
    return Answers(engine, Journal(EventLog(file=os.devnull)), Crew(), Resting())


def test_every_request_is_documented_with_its_parameters() -> None:
    there = answers().requests()
    documented = {codes(name)[0]: set(codes(given)) for name, given, _ in section("The protocol")}
    assert documented == {name: set(request.parameters) for name, request in there.items()}
    (answer,) = (row[2] for row in section("The protocol") if row[0] == "`clear_learned`")
    assert set(codes(answer)) == set(counts(Memory()))


def test_every_key_of_a_flow_is_documented() -> None:
    run = Run(Numbers(c=1, r=2))
    run.play(">> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n")
    assert run.engine is not None
    (flow,) = descriptions.flows(run.engine.table, run.now)
    assert [key for row in section("Flows") for key in codes(row[0])] == list(flow)


def test_every_key_of_what_was_learned_is_documented() -> None:
    memory = Memory()
    restore(memory, GOOD.values(), 0.0, 0.0)
    made = {record["about"]: set(record) - {"about"} for record in records(memory, 0.0)}
    table = section("What was learned")
    documented = {codes(about)[0]: set(codes(keys)) for about, keys in table[: len(made)]}
    assert documented == made
    (one, *_) = by_server(GOOD.values())
    objects = table[len(made) :]
    assert [key for row in objects for key in codes(row[0])] == list(one)


def test_the_bounds_are_as_documented() -> None:
    assert f"at most {control.LONGEST_REQUEST:,} bytes" in TEXT
    assert control.MOST_CLIENTS == 8
    assert "Eight clients are served" in TEXT
    assert f"asks nothing for {control.SILENT_S:.0f} s" in TEXT
    assert f"does not read for {control.SLOW_S:.0f} s" in TEXT
    assert SLICE_S == 0.0002
    assert "fifth of a millisecond" in TEXT
    assert f"its last {recent.MOST:,} [events]" in TEXT
    assert f"and {recent.MOST_CAPPED} more" in TEXT
    assert WINDOW_S == 10
    assert "the last ten seconds" in TEXT
    assert f"older than {COOKIE_KEEP_S / 86_400:.0f} days" in TEXT


def test_the_document_is_read_at_all() -> None:
    assert len(section("Flows")) > 10
    assert re.search(r"^\| `cookie` \|", TEXT, re.MULTILINE)
