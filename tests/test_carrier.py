"""The kernel as a carrier of flows: taken on, found, taken back, reported and counted."""

from __future__ import annotations

import time
from array import array
from typing import cast

import pytest

from nfq_zerortt.carrier import KernelCarrier
from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.collector import Collector
from nfq_zerortt.core.endings import Endings
from nfq_zerortt.core.entries import Entries
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.passing import Passing
from nfq_zerortt.core.states import Event, State
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.wire.options import OptionSet
from tests.core.model.kernel import Maps


def a_flow(number: int, **more: object) -> Flow:
    client, server = bytes((10, 0, 1, 2)) + number.to_bytes(2, "big"), bytes((10, 0, 3, 2, 0, 80))
    flow = Flow(
        number, (client, server), isn_client=5, options=OptionSet(), strategy="hold", now=1.0
    )
    flow.state, flow.isn_server, flow.handed_over = State.ESTABLISHED, 9, 2.0
    flow.ticket = number
    flow.last_seen = time.monotonic()
    for name, value in more.items():
        setattr(flow, name, value)
    return flow


def a_carrier(*flows: Flow) -> tuple[KernelCarrier, Maps]:
    maps = Maps()
    carrier = KernelCarrier(cast(KernelPath, maps))
    for flow in flows:
        assert carrier.insert(flow)
    return carrier, maps


def test_what_was_taken_is_gone() -> None:
    flow = a_flow(1)
    carrier, _ = a_carrier(flow)
    found, taken = carrier.find(flow.client_key), carrier.take(flow.client_key)
    assert found is not None
    assert taken is not None
    assert (found.number, taken.number) == (1, 1)
    assert carrier.find(flow.client_key) is None
    assert carrier.take(flow.client_key) is None
    carrier.remove(flow.client_key)


def test_there_is_no_room_for_more() -> None:
    maps = Maps(room=1)
    carrier = KernelCarrier(cast(KernelPath, maps))
    assert carrier.insert(a_flow(1))
    assert not carrier.insert(a_flow(2))
    assert carrier.insert(a_flow(1)), "in place of the other"


def test_a_reported_end_stays_reported() -> None:
    flow = a_flow(1, state=State.RESET, reset_by=Event.SERVER_RST)
    carrier, maps = a_carrier(flow)
    there = carrier.find(flow.client_key)
    assert there is not None
    carrier.mark_reported(there)
    again = carrier.find(flow.client_key)
    assert again is not None
    assert (again.ended, again.reset_by) == (True, Event.SERVER_RST)
    carrier.remove(flow.client_key)
    carrier.mark_reported(again)
    assert not len(maps), "what is gone does not come back"


@pytest.mark.parametrize("ticket", [0, 1, layout.HANDLED_SLOTS - 1, 0xFFFFFFFF])
def test_what_is_done_is_told_in_the_slot_of_the_ticket(ticket: int) -> None:
    flow = a_flow(1, ticket=ticket)
    flow.to_server.next_seq, flow.to_client.next_seq = 11, 12
    flow.to_server.last_ack, flow.to_client.last_ack = 21, 22
    flow.to_server.window, flow.to_client.window = 31, 32
    carrier, maps = a_carrier()
    stride = maps.handled_stride
    at = ticket % layout.HANDLED_SLOTS * stride
    maps.handled[at : at + 3] = array("I", (77, 5, 6))
    carrier.publish(flow, Side.SERVER, 0x1_0000_0003)
    slot = list(maps.handled[at : at + stride])
    assert slot[: layout.WINDOW + 2] == [ticket, 0, 3, 11, 12, 21, 22, 31, 32]
    carrier.publish(flow, Side.CLIENT, 4)
    assert list(maps.handled[at + 1 : at + 3]) == [4, 3]
    assert sum(map(bool, maps.handled)) == sum(map(bool, maps.handled[at : at + stride]))


def test_a_survey_counts_what_lives() -> None:
    carrier, _ = a_carrier(
        a_flow(1),
        a_flow(2, state=State.CLOSING, client_fin_end=1, server_fin_end=2),
        a_flow(9, state=State.RESET, reset_by=Event.CLIENT_RST),
        a_flow(4, state=State.TIME_WAIT, client_fin_end=1, server_fin_end=2),
        a_flow(5, superseded=True, state=State.RESET, reset_by=Event.CLIENT_RST),
        a_flow(6, passing=True),
    )
    assert carrier.survey() == (2, 9)
    assert [flow.number for flow in carrier.flows()] == [1, 2, 9, 4]


def test_what_is_due_is_found() -> None:
    now = time.monotonic()
    flows = {
        "quiet": a_flow(1, last_seen=now - 500),
        "idle": a_flow(2, last_seen=now - 601),
        "ended": a_flow(3, state=State.RESET, reset_by=Event.CLIENT_RST),
        "reported": a_flow(4, state=State.RESET, reset_by=Event.CLIENT_RST, ended=True),
        "over": a_flow(
            5, state=State.RESET, reset_by=Event.CLIENT_RST, ended=True, last_seen=now - 11
        ),
        "superseded": a_flow(
            6, state=State.RESET, reset_by=Event.CLIENT_RST, ended=True, superseded=True
        ),
        "passing": a_flow(7, passing=True, last_seen=now - 100),
        "passed": a_flow(8, passing=True, last_seen=now - 121),
        "closing": a_flow(
            9, state=State.CLOSING, client_fin_end=1, server_fin_end=2, last_seen=now - 121
        ),
    }
    carrier, _ = a_carrier(*flows.values())
    table = FlowTable()
    limits = Limits(idle_timeout_s=600)
    collector = Collector(Entries(carrier, 1), Endings(limits, table))
    passing = Passing()
    names = {flow.client_key: name for name, flow in flows.items()}
    due = [key and names[key] for key in carrier.due(collector, passing)]
    assert len(due) == len(flows)
    assert {name for name in due if name} == {
        "idle",
        "ended",
        "over",
        "superseded",
        "passed",
        "closing",
    }
    assert passing.carried == 2
