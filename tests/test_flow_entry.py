"""Flows as the kernel's entries and back: what is put in comes out, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfq_zerortt.config import STRATEGIES
from nfq_zerortt.core.descriptions import describe_flow
from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.states import Event, State
from nfq_zerortt.flow_entry import FAST_OPEN, entry_of, flow_from, state_of
from nfq_zerortt.flow_entry import STRATEGIES as STRATEGIES_IN_ENTRIES
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf.layout import DirectionEntry, FlowEntry
from nfq_zerortt.wire.options import OptionSet
from nfq_zerortt.wire.seqnum import add
from tests.strategies import uint32

uint8, uint16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
uint64 = st.integers(0, (1 << 64) - 1)
int32 = st.integers(-(1 << 31), (1 << 31) - 1)
window_shifts = st.integers(-14, 14)
direction_entries = st.tuples(
    *[uint32] * 8, uint64, uint64, uint16, window_shifts, uint8, uint8, uint8
).map(DirectionEntry._make)
flow_entries = st.tuples(
    *[uint64] * 3, *[uint32] * 8, int32, uint16, uint16, uint8, uint8, uint8, uint32
).map(FlowEntry._make)
times = st.integers(0, 10_000_000_000).map(lambda microseconds: microseconds / 1e6)
addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@st.composite
def keys(draw: st.DrawFn) -> bytes:
    client = draw(addresses)
    server = draw(st.binary(min_size=len(client), max_size=len(client)))
    return client + server + draw(st.binary(min_size=4, max_size=4))


def numbers(draw: st.DrawFn, direction: Direction) -> None:
    for name in ("seq_shift", "ack_shift", "tsval_shift", "tsecr_shift", "next_seq", "last_ack"):
        setattr(direction, name, draw(uint32))
    direction.window_shift = draw(window_shifts)
    direction.strip_timestamps, direction.strip_sack = draw(st.booleans()), draw(st.booleans())
    direction.window, direction.scale = draw(uint16), draw(st.integers(0, 14))
    direction.octets, direction.segments = draw(uint64), draw(uint64)


STATES = (
    State.ESTABLISHED,
    State.CLIENT_CLOSED,
    State.SERVER_CLOSED,
    State.CLOSING,
    State.TIME_WAIT,
    State.RESET,
)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Flows as they may be in the kernel, without what no packet or process asks for there."""
    key = draw(keys())
    size = (len(key) - 4) // 2
    ends = (key[:size] + key[-4:-2], key[size:-4] + key[-2:])
    created = draw(times)
    flow = Flow(
        draw(uint32),
        ends,
        isn_client=draw(uint32),
        options=OptionSet(),
        strategy=draw(st.sampled_from(STRATEGIES)),
        now=created,
    )
    assert flow.client_key == key
    flow.isn_spoofed, flow.isn_server = draw(uint32), draw(uint32)
    flow.ticket, flow.handed_over = draw(uint32), created + draw(times)
    flow.last_seen = flow.handed_over + draw(times)
    flow.server_rtt = draw(st.integers(0, 4_000_000)) / 1e6
    flow.held_since = draw(st.none() | times.map(lambda later: created + min(later, 2000)))
    flow.syn_end = add(flow.syn_end, draw(st.integers(0, 1460)))
    flow.carried = draw(st.integers(0, 1460))
    flow.attempts = draw(uint8)
    flow.fast_open = draw(st.sampled_from(("none", "request", "cookie", "cookieless")))
    flow.duplicates.count = draw(uint32)
    numbers(draw, flow.to_server)
    numbers(draw, flow.to_client)
    flow.state = draw(st.sampled_from(STATES))
    may_reset = flow.state is State.RESET
    if flow.state in (State.CLIENT_CLOSED, State.CLOSING, State.TIME_WAIT) or (
        may_reset and draw(st.booleans())
    ):
        flow.client_fin_end = draw(uint32)
    if flow.state in (State.SERVER_CLOSED, State.CLOSING, State.TIME_WAIT) or (
        may_reset and draw(st.booleans())
    ):
        flow.server_fin_end = draw(uint32)
    if may_reset:
        flow.reset_by = draw(st.sampled_from((Event.CLIENT_RST, Event.SERVER_RST)))
    flow.superseded, flow.ended = draw(st.booleans()), draw(st.booleans())
    return flow


# --- bytes --------------------------------------------------------------------------------


@given(direction_entries, direction_entries, flow_entries)
def test_an_entry_comes_out_as_it_was_put_in(
    to_server: DirectionEntry, to_client: DirectionEntry, flow: FlowEntry
) -> None:
    data = layout.pack(to_server, to_client, flow)
    assert len(data) == layout.FLOW_BYTES
    assert layout.unpack(data) == (to_server, to_client, flow)
    assert layout.glance(data) == (flow.last_seen, flow.flags)
    assert layout.number(data) == flow.number


@given(keys())
def test_a_key_comes_out_as_it_was_put_in(key: bytes) -> None:
    made = layout.key(key)
    assert len(made) == layout.KEY_BYTES
    # An IPv6 pair of mapped addresses is never on a wire, and would be taken for IPv4.
    assert layout.client_key(made) == key


def test_keys_of_ipv4_and_ipv6_do_not_meet() -> None:
    ipv4 = layout.key(bytes((10, 0, 1, 2, 10, 0, 3, 2)) + bytes((1, 2, 3, 4)))
    assert ipv4 == (
        bytes(10) + b"\xff\xff" + bytes((10, 0, 1, 2))
        + bytes(10) + b"\xff\xff" + bytes((10, 0, 3, 2))
        + bytes((1, 2, 3, 4))
    )  # fmt: skip


# --- flows --------------------------------------------------------------------------------

OF_A_FLOW = (
    "number", "client", "server", "client_key", "server_key", "name", "strategy", "state",
    "observed", "isn_client", "isn_spoofed", "isn_server", "syn_end", "syn_data", "carried",
    "attempts", "fast_open", "client_fin_end", "server_fin_end", "reset_by", "ended", "ticket",
    "superseded", "passing", "shift", "ipv6",
)  # fmt: skip
OF_A_DIRECTION = tuple(name for name in Direction.__slots__ if name != "other")
TIMES = ("created", "handed_over", "last_seen", "server_rtt", "data_earlier")
ROUNDED = ("created", "handed_over", "last_seen", "server_rtt_us", "data_earlier_us")


@given(flows())
def test_a_flow_comes_out_as_it_was_put_in(flow: Flow) -> None:
    there = flow_from(flow.client_key, entry_of(flow))
    for name in OF_A_FLOW:
        assert getattr(there, name) == getattr(flow, name), name
    for name in TIMES:
        assert getattr(there, name) == pytest.approx(getattr(flow, name), abs=2e-6), name
    for ours, its in ((flow.to_server, there.to_server), (flow.to_client, there.to_client)):
        for name in OF_A_DIRECTION:
            assert getattr(its, name) == getattr(ours, name), name
        assert its.other.other is its


def fields_of(data: bytes) -> list[dict[str, int]]:
    to_server, to_client, flow = layout.unpack(data)
    return [to_server._asdict(), to_client._asdict(), flow._asdict()]


@given(flows(), direction_entries, direction_entries)
def test_what_only_the_programs_count_begins_anew(
    flow: Flow, to_server: DirectionEntry, to_client: DirectionEntry
) -> None:
    """The bytes of an entry that is read and written again are the same but for that."""
    data = entry_of(flow)
    again = entry_of(flow_from(flow.client_key, data))
    for was, now in zip(fields_of(data), fields_of(again), strict=True):
        for name, value in was.items():
            found = now[name]
            if name in ROUNDED:
                assert found == pytest.approx(value, abs=2000), name
            else:
                assert found == value, name
    counted = layout.pack(
        layout.unpack(data)[0]._replace(left=to_server.left, settled=1),
        layout.unpack(data)[1]._replace(left=to_client.left, settled=1),
        layout.unpack(data)[2],
    )
    for way in layout.unpack(entry_of(flow_from(flow.client_key, counted)))[:2]:
        assert (way.left, way.settled) == (0, 0)


def test_the_places_of_names_in_entries_stay() -> None:
    """Entries outlive the version that wrote them: a name may be added, at the end alone."""
    assert STRATEGIES_IN_ENTRIES[:4] == ("auto", "hold", "fastopen", "observe")
    assert FAST_OPEN[:4] == ("none", "request", "cookie", "cookieless")
    assert set(STRATEGIES_IN_ENTRIES) >= set(STRATEGIES)


@given(flows())
def test_a_name_of_a_later_version_is_no_obstacle(flow: Flow) -> None:
    to_server, to_client, entry = layout.unpack(entry_of(flow))
    later = layout.pack(to_server, to_client, entry._replace(strategy=0xFF, fast_open=0xFF))
    there = flow_from(flow.client_key, later)
    assert (there.strategy, there.fast_open) == ("auto", "none")
    assert there.name == flow.name


@given(flows(), times)
def test_a_flow_is_described_alike_in_the_kernel(flow: Flow, now: float) -> None:
    here = describe_flow(flow, now)
    there = describe_flow(flow_from(flow.client_key, entry_of(flow)), now)
    assert here.keys() == there.keys()
    for name, value in here.items():
        if isinstance(value, float):
            assert there[name] == pytest.approx(value, abs=0.0021), name
        else:
            assert there[name] == value, name
    assert here["data_path"] == "kernel"


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        (0, State.ESTABLISHED),
        (layout.FIN_CLIENT, State.CLIENT_CLOSED),
        (layout.FIN_SERVER, State.SERVER_CLOSED),
        (layout.FIN_CLIENT | layout.FIN_SERVER, State.CLOSING),
        (layout.FIN_CLIENT | layout.FIN_SERVER | layout.FINS_ACKNOWLEDGED, State.TIME_WAIT),
        (layout.RST_CLIENT, State.RESET),
        (layout.RST_SERVER | layout.FIN_CLIENT | layout.FIN_SERVER, State.RESET),
    ],
)
@pytest.mark.parametrize("more", [0, layout.SUPERSEDED, layout.REPORTED])
def test_the_state_stands_in_the_flags(flags: int, state: State, more: int) -> None:
    assert state_of(flags | more) is state
