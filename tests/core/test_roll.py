"""The table's roll: flows are gone through while they come and go, and nothing is copied."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

import pytest

from nfq_zerortt.core import descriptions
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.wire.options import OptionSet

MANY = 5000


def flow(number: int) -> Flow:
    client = b"\x0a\x00\x01\x02" + number.to_bytes(2, "big")
    server = b"\x0a\x00\x03\x02\x00\x50"
    return Flow(
        number, (client, server), isn_client=0, options=OptionSet(), strategy="hold", now=0.0
    )


def table_of(numbers: range) -> FlowTable:
    table = FlowTable()
    for number in numbers:
        table.add(flow(number))
    return table


def test_the_oldest_comes_first() -> None:
    assert [one.number for one in table_of(range(5))] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("gone", [[0], [1], [2], [3], [1, 2], [0, 1, 2, 3], [3, 2, 1], [2, 1, 0]])
def test_flows_that_go_while_one_of_them_is_looked_at(gone: list[int]) -> None:
    table = table_of(range(4))
    flows = {one.number: one for one in table}
    walk = iter(table)
    met = [next(walk).number, next(walk).number]
    for number in gone:
        table.remove(flows[number])
    met += [one.number for one in walk]
    assert met == [0, 1, *(number for number in (2, 3) if number not in gone)]
    assert [one.number for one in table] == [n for n in range(4) if n not in gone]


@pytest.mark.parametrize("seed", range(5))
def test_what_lives_throughout_is_met_exactly_once(seed: int) -> None:
    """By several walks at a time, one begun later than the other, one given up."""
    chance = random.Random(seed)
    table = table_of(range(300))
    there = {one.number: one for one in table}
    throughout = set(there)
    met: list[Counter[int]] = [Counter(), Counter()]
    next(iter(table))  # given up
    walks = [iter(table)]
    later: set[int] = set()
    coming = iter(range(300, 450))
    for step in range(150):
        for walk, seen in zip(walks, met, strict=False):
            seen.update(one.number for one in [next(walk, None)] if one is not None)
        number = next(coming)
        there[number] = flow(number)
        table.add(there[number])
        number = chance.choice(sorted(there))
        table.remove(there.pop(number))
        throughout.discard(number)
        later.discard(number)
        if step == 50:
            walks.append(iter(table))
            later = set(there)
    for walk, seen in zip(walks, met, strict=True):
        seen.update(one.number for one in walk)
        assert set(seen.values()) == {1}, "nothing is met twice"
    assert throughout <= set(met[0])
    assert later <= set(met[1])
    assert [one.number for one in table] == sorted(there)


def test_telling_of_the_first_flow_copies_no_list_of_all() -> None:
    """Packets wait for such a copy: of a full table it takes more than a millisecond."""
    table = table_of(range(MANY))
    tracemalloc.start()
    try:
        told = descriptions.flows(table, 1.0)
        assert next(told)["flow_id"] == 0
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < MANY, "bytes"
