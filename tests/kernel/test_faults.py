"""Connections of all sizes in both directions meet faults: what TCP can mend is mended.

A smaller version of ``python -m bench.faults`` (docs/FAULTS.md), with the same programs and
faults, through the service alone. Nothing here depends on how long something takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.faults.laboratory import FAMILIES, THROUGH, Comparison, FaultLab, Tally
from bench.faults.rows import ROWS, Row
from bench.faults.work import OK, SHORT

pytestmark = pytest.mark.waits

CONNECTIONS = 60
"""Every kind and size; with fewer some would be missing."""
BY_TITLE = {row.title: row for row in ROWS}
SHORT_OUTAGE = replace(BY_TITLE["link down 3 s"], outage_s=1.0, outage_begins_s=0.2)

both_families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"IPv{family}")


@pytest.fixture(scope="module")
def lab() -> Iterator[FaultLab]:
    with FaultLab(connections=CONNECTIONS, at_a_time=20, timeout_s=10, ways=[THROUGH]) as lab:
        lab.begin()
        yield lab


def run(lab: FaultLab, row: Row, family: int) -> tuple[Comparison, Tally]:
    comparison = lab.run(row, family)
    assert comparison.wrong == []
    return comparison, comparison.ways[THROUGH]


def assert_all_complete(comparison: Comparison, tally: Tally) -> None:
    """Both ends found all the data, and every connection was ours."""
    number = CONNECTIONS * comparison.row.times
    assert tally.outcomes == {OK: number}
    assert tally.served == number
    assert comparison.events["flow.established"] == number
    assert comparison.bypassed == set()


@both_families
def test_loss_reordering_and_duplication_at_once(lab: FaultLab, family: int) -> None:
    comparison, tally = run(lab, BY_TITLE["all at once"], family)
    assert_all_complete(comparison, tally)
    for fault in ("lost", "reordered", "duplicated"):
        assert comparison.faults[fault] > 0, "the faults were meant to happen"


@both_families
@pytest.mark.parametrize(
    ("title", "share"),
    # Of the connections a third are greetings, in which the client sends no data; a third are
    # uploads, of which one in ten has none either.
    [
        ("SYN lost", 1.0),
        ("SYN-ACK lost", 1.0),
        ("third ACK lost", 1.0),
        ("first data lost", 0.6333),
    ],
)
def test_one_segment_of_each_handshake_lost(
    lab: FaultLab, family: int, title: str, share: float
) -> None:
    comparison, tally = run(lab, BY_TITLE[title], family)
    assert_all_complete(comparison, tally)
    assert comparison.faults["lost"] == round(share * CONNECTIONS)


@pytest.mark.alone  # for that second, while they run: another testbed would keep it waiting
@both_families
def test_link_down_for_a_second(lab: FaultLab, family: int) -> None:
    for _ in range(4):
        comparison, tally = run(lab, SHORT_OUTAGE, family)
        assert_all_complete(comparison, tally)
        if max(seconds for _, seconds in tally.results) >= SHORT_OUTAGE.outage_s:
            return
    pytest.fail("the outage was meant to meet some of them, and came too late four times")


@both_families
@pytest.mark.parametrize(
    ("title", "error", "reason"),
    [
        ("closed port", "ECONNREFUSED", "refused_lately"),
        ("unreachable host", "EHOSTUNREACH", "unreachable_lately"),
    ],
)
def test_refusal_is_an_error_for_the_first_and_genuine_afterwards(
    lab: FaultLab, family: int, title: str, error: str, reason: str
) -> None:
    comparison, tally = run(lab, BY_TITLE[title], family)
    assert set(tally.outcomes) == {"ECONNRESET", error}
    assert comparison.bypassed == {reason}
    assert tally.outcomes["ECONNRESET"] < CONNECTIONS / 2


@both_families
@pytest.mark.parametrize("title", ["server dies", "client dies"])
def test_end_that_dies_in_mid_transfer_is_an_error_at_the_other(
    lab: FaultLab, family: int, title: str
) -> None:
    """A kernel that closes a socket with unread data resets, else it sends what it has and FIN.

    Which it is depends on the moment of death where the dying end receives. ENOTCONN is what
    shutdown() says of a connection that has been reset.
    """
    _, tally = run(lab, BY_TITLE[title], family)
    assert tally.outcomes.total() == CONNECTIONS
    assert set(tally.outcomes) <= {"ECONNRESET", "EPIPE", "ENOTCONN", SHORT}
    assert tally.outcomes["ECONNRESET"] > 0
    assert tally.outcomes[SHORT] > 0
