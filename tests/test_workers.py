"""What several workers share out, put together, and say to each other; without packets or root."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any, cast

import pytest

from nfq_zerortt.carrier import KernelCarrier
from nfq_zerortt.config import Config, Limits
from nfq_zerortt.core import learned
from nfq_zerortt.core.actions import Report, Side
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.remembered import records, restore
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf.layout import DirectionEntry, FlowEntry
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.kernel.rules import RuleSet
from nfq_zerortt.ports import ALL_PORTS
from nfq_zerortt.reloading import changes, check
from nfq_zerortt.workers import orders
from nfq_zerortt.workers import records as answers
from nfq_zerortt.workers.merging import merged
from nfq_zerortt.workers.orders import Message
from tests.core.model.kernel import Maps
from tests.core.test_remembered import GOOD
from tests.scenarios.script import SECRET

BOTH = Config(client_iface="eth0", server_iface="eth1")
Record = dict[str, Any]


# --- shared out ---------------------------------------------------------------------------


@pytest.mark.parametrize("of", [1, 2, 3, 16])
def test_the_shares_are_what_was_set(of: int) -> None:
    limits = Limits(
        max_flows=10, max_half_open=7, held_bytes_total=1_000_001, unanswered_per_prefix=1
    )
    shares = [limits.share(number, of) for number in range(of)]
    for name in ("max_flows", "max_half_open", "held_bytes_total", "unanswered_per_prefix"):
        parts = [getattr(share, name) for share in shares]
        assert sum(parts) == getattr(limits, name)
        assert max(parts) - min(parts) <= 1
    assert {share.held_bytes_per_flow for share in shares} == {limits.held_bytes_per_flow}
    assert {share.syn_retries for share in shares} == {limits.syn_retries}


SYN = bytes.fromhex(
    "45000028 00010000 40060000 0a000102 0a000302 c3500050 00000001 00000000 50020400 00000000"
)


def numbers(engine: Engine, count: int) -> list[int]:
    """Let connections pass, and return the numbers that they get."""
    found = []
    for port in range(count):
        syn = SYN[:20] + port.to_bytes(2, "big") + SYN[22:]
        actions = engine.packet(syn, Side.CLIENT, 1.0)
        found += [action.flow_id for action in actions if isinstance(action, Report)]
    return found


def test_workers_never_give_the_same_number() -> None:
    engines = [Engine("hold", Limits(), SECRET) for _ in range(3)]
    for number, engine in enumerate(engines, start=1):
        engine.number_by(number, 3)
    assert [numbers(engine, 3) for engine in engines] == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]


def test_numbers_go_on_after_those_of_adopted_flows() -> None:
    found = []
    for number in (1, 2, 3):
        engine = Engine("hold", Limits(), SECRET)
        engine.hand_over_to(KernelCarrier(cast(KernelPath, Maps())), 1, 100)
        engine.number_by(number, 3)
        engine.hand_over_to(KernelCarrier(cast(KernelPath, Maps())), 2, 0)
        found += numbers(engine, 2)
    assert sorted(found) == [101, 102, 103, 104, 105, 106]


# --- the kernel's table -------------------------------------------------------------------


def entry(last_seen: int, flags: int) -> bytes:
    nothing = DirectionEntry(*[0] * len(DirectionEntry._fields))
    flow = FlowEntry(*[0] * len(FlowEntry._fields))
    return layout.pack(nothing, nothing, flow._replace(last_seen=last_seen, flags=flags))


def test_room_is_made_by_flows_whose_end_was_reported_the_oldest_first() -> None:
    maps = Maps()
    over = layout.FINS_ACKNOWLEDGED | layout.REPORTED
    for number in range(40):
        key = bytes(32) + number.to_bytes(4, "big")
        flags = (0, layout.FINS_ACKNOWLEDGED, over, over)[number % 4]
        maps.insert(key, entry(1000 - number, flags))
    carrier = KernelCarrier(cast(KernelPath, maps))
    before = {key for batch in maps.entries() for key, _ in batch}
    assert carrier.make_room()
    after = {key for batch in maps.entries() for key, _ in batch}
    gone = sorted(int.from_bytes(key[-4:], "big") for key in before - after)
    assert gone == [26, 27, 30, 31, 34, 35, 38, 39]
    while carrier.make_room():
        pass
    assert len(maps) == 20, "live flows, and those that nobody has told of, stay"


# --- put together -------------------------------------------------------------------------


async def given(kept: Iterable[Record]) -> AsyncIterator[Record]:
    for record in kept:
        yield record


def put_together(kept: Iterable[Record]) -> list[Record]:
    return asyncio.run(merged(given(kept)))


def test_of_two_records_the_newer_counts() -> None:
    for record in GOOD.values():
        if record["about"] == "refusal":
            newer = record | {"for_s": record["for_s"] + 1, "reason": "newer"}
        else:
            record = record | {"age_s": record["age_s"] + 2}  # noqa: PLW2901
            newer = record | {"age_s": record["age_s"] - 1}
        assert put_together([record, newer]) == [newer]
        assert put_together([newer, record]) == [newer]
        assert put_together([newer, newer]) == [newer]


def test_others_records_stay_apart_and_can_be_restored() -> None:
    memory = Memory()
    restore(memory, GOOD.values(), 0.0, 100.0)
    ours = list(records(memory, 100.0))
    cookie = GOOD["cookie"] | {"client": "10.9.9.9"}
    together = put_together([*ours, cookie, *ours])
    assert len(together) == len(ours) + 1
    again = Memory()
    restore(again, together, 0.0, 100.0)
    restored = list(records(again, 100.0))
    assert len(restored) == len(together)
    assert all(record in restored for record in [*ours, cookie])


def test_no_more_is_kept_than_one_memory_keeps() -> None:
    servers = [
        GOOD["server"] | {"server": f"10.0.{n >> 8}.{n & 255}:80", "age_s": float(n)}
        for n in range(learned.MOST + 2)
    ]
    together = put_together(servers)
    assert len(together) == learned.MOST
    assert together[-1]["age_s"] == 0.0
    restore(Memory(), together, 0.0, 0.0)


# --- said ---------------------------------------------------------------------------------


def test_orders_arrive_whole_and_with_their_files() -> None:
    ours, theirs = orders.pair()
    with ours, theirs:
        config = replace(BOTH, strategy="hold")
        reading, writing = os.pipe()
        orders.send(ours, Message(1, "configure", config), (writing,))
        orders.send(ours, Message(2, "drain", 2.0))
        os.close(writing)
        first = orders.receive(theirs)
        assert first is not None
        message, (file,) = first
        assert message == Message(1, "configure", config)
        os.write(file, b"x")
        assert os.read(reading, 1) == b"x"
        orders.close([file, reading])
        assert orders.receive(theirs) == (Message(2, "drain", 2.0), [])
        with pytest.raises(BlockingIOError):
            orders.receive(theirs)
        ours.close()
        assert orders.receive(theirs) is None


def test_an_order_that_is_too_long_is_an_error() -> None:
    ours, theirs = orders.pair()
    with ours, theirs, pytest.raises(ZeroRttError, match="too long"):
        orders.send(ours, Message(1, "configure", "x" * orders.LONGEST))


def test_answers_end_with_their_end() -> None:
    async def ask(end: bool) -> list[Any]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        writing = asyncio.create_task(answers.write(theirs, iter([{"a": 1}, {"b": 2}]), 0.0))
        if not end:
            await writing
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.sendall(b'{"a":1}\n{"b":')
            theirs.close()
        try:
            return [record async for record in answers.read(ours)]
        finally:
            theirs.close()

    assert asyncio.run(ask(end=True)) == [{"a": 1}, {"b": 2}]
    with pytest.raises(ConnectionError):
        asyncio.run(ask(end=False))


# --- settings -----------------------------------------------------------------------------


def test_the_rules_of_several_queues() -> None:
    text = RuleSet.for_clientnic("eth0", "eth1", ALL_PORTS, 3, workers=4).text()
    tcp = [line for line in text.splitlines() if "NFQUEUE" in line and "-p tcp" in line]
    assert len(tcp) == 2
    assert all(line.endswith("-j NFQUEUE --queue-balance 3:6 --queue-bypass") for line in tcp)
    errors = [line for line in text.splitlines() if "NFQUEUE" in line and "-p icmp" in line]
    assert errors
    assert all(line.endswith("-j NFQUEUE --queue-num 3 --queue-bypass") for line in errors)


def test_as_many_queues_as_there_are() -> None:
    check(replace(BOTH, queue=65_520, workers=16))
    with pytest.raises(ConfigError, match="65536"):
        check(replace(BOTH, queue=65_521, workers=16))


def test_their_number_cannot_change() -> None:
    assert changes(BOTH, replace(BOTH, strategy="hold")) == ["strategy"]
    with pytest.raises(ZeroRttError, match="workers: restart"):
        changes(BOTH, replace(BOTH, workers=2, strategy="hold"))
