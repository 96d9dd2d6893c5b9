"""What the first events say about the service's place. tests/kernel/test_first_use.py: for real."""

from __future__ import annotations

import os
from typing import Any

import pytest

from nfq_zerortt.observe import hints
from nfq_zerortt.observe.hints import FROM_SERVER_SIDE, UNANSWERED_SYNS, Hint, Hints

FLOW = "10.0.1.2:40000>10.0.3.2:80"


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(hints, "time", made)
    return made


def from_server_side(looking: Hints, number: int) -> Hint | None:
    flow = f"10.0.3.2:{number}>10.0.1.2:80"
    return looking.note("flow.bypassed", {"flow": flow, "reason": "from_server_side"})


def unanswered(looking: Hints, clock: Clock, between_s: float = 0.5) -> list[Hint]:
    """A connection whose SYNs are repeated at that pace."""
    said = []
    for attempt in range(1, UNANSWERED_SYNS + 1):
        said.append(looking.note("flow.syn_forwarded", {"flow": FLOW, "attempt": attempt}))
        clock.now += between_s * attempt
    return [hint for hint in said if hint]


ADOPTED: tuple[str, dict[str, Any]] = ("service.flows_adopted", {"flows": 3})


def test_exchanged_is_said_after_several_connections_and_once() -> None:
    looking = Hints()
    said = [from_server_side(looking, number) for number in range(FROM_SERVER_SIDE + 3)]
    told = [number for number, hint in enumerate(said) if hint]
    assert told == [FROM_SERVER_SIDE - 1]


def test_one_that_is_repeated_is_not_several() -> None:
    looking = Hints()
    assert not any(from_server_side(looking, 7) for _ in range(3 * FROM_SERVER_SIDE))


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("flow.syn_received", {"flow": FLOW}),
        # Servers that are left alone: their clients are on the right side all the same.
        ("flow.bypassed", {"flow": FLOW, "reason": "direct"}),
        ADOPTED,
    ],
)
def test_exchanged_is_not_said_once_something_came_the_right_way(
    event: str, fields: dict[str, Any]
) -> None:
    looking = Hints()
    assert looking.note(event, fields) is None
    assert not any(from_server_side(looking, number) for number in range(2 * FROM_SERVER_SIDE))


def test_no_answers_is_said_once(clock: Clock) -> None:
    looking = Hints()
    ((about, text, _),) = unanswered(looking, clock)
    assert about == "no answers"
    assert "10.0.3.2:80 has not answered 4 SYNs" in text
    assert unanswered(looking, clock) == []


@pytest.mark.parametrize("end", ["flow.closed", "flow.reset"])
def test_clients_that_gave_up_do_not_keep_it_from_being_said(clock: Clock, end: str) -> None:
    looking = Hints()
    for number in range(200):
        flow = f"10.0.1.2:{number}>10.0.3.2:80"
        for attempt in (1, 2):
            looking.note("flow.syn_forwarded", {"flow": flow, "attempt": attempt})
        looking.note(end, {"flow": flow, "by": "client"})
    assert unanswered(looking, clock)


def test_syns_that_are_repeated_quickly_say_nothing_of_a_long_way(clock: Clock) -> None:
    """With syn_retry_ms = 10 four are sent within a tenth of a second."""
    assert unanswered(Hints(), clock, between_s=0.01) == []


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("flow.synack_captured", {"flow": FLOW}),
        ("flow.reset", {"flow": FLOW, "by": "server"}),
        ADOPTED,
    ],
)
def test_no_answers_is_not_said_once_a_server_has_answered(
    clock: Clock, event: str, fields: dict[str, Any]
) -> None:
    looking = Hints()
    assert looking.note(event, fields) is None
    assert unanswered(looking, clock) == []


def test_what_one_worker_has_seen_all_know(clock: Clock) -> None:
    """A worker whose only connection is to a dead server, while others have answers."""
    looking = Hints()
    worker = os.fork()
    if not worker:
        looking.note("flow.synack_captured", {"flow": FLOW})
        os._exit(0)
    os.waitpid(worker, 0)
    assert unanswered(looking, clock) == []
