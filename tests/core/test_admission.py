"""Which connections are taken on: destinations, refusals, prefixes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Accept, Report, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.prefixes import Prefixes
from nfq_zerortt.core.refusals import Refusals
from nfq_zerortt.destinations import DIRECT, read
from nfq_zerortt.errors import ConfigError
from nfq_zerortt.ports import PortSet
from nfq_zerortt.wire.flags import SYN
from nfq_zerortt.wire.segment import Segment
from tests.icmp import error_quoting

SECRET = bytes(range(32))
SERVER = bytes((192, 0, 2, 7)) + (80).to_bytes(2, "big")
CLIENT = bytes((10, 0, 1, 2)) + (5000).to_bytes(2, "big")
STRATEGIES = ("hold", "observe")


def syn(server: str, port: int, sport: int = 5000) -> Segment:
    packed = ip_address(server).packed
    client = bytes((10, 0, 1, 2)) if len(packed) == 4 else bytes.fromhex("fd" + "00" * 14 + "02")
    return Segment(
        src=client, dst=packed, sport=sport, dport=port, seq=7, ack=0, flags=SYN, window=64240
    )


def outcome(engine: Engine, segment: Segment, now: float = 1.0) -> str:
    """Return the strategy that a SYN's flow is played by, or why it is bypassed."""
    actions = engine.packet(segment.emit(), Side.CLIENT, now)
    for action in actions:
        if isinstance(action, Report) and action.event == "flow.bypassed":
            return str(action.fields["reason"])
    flow = engine.find(segment.emit())
    assert flow is not None
    return flow.strategy


def test_a_syn_to_itself_leaves_nothing_behind() -> None:
    """LAND: as a flow it would be in the table by one key for both ways, and never leave it."""
    engine = Engine("hold", Limits(), SECRET)
    itself = replace(syn("192.0.2.7", 80, sport=80), src=bytes((192, 0, 2, 7)))
    assert engine.packet(itself.emit(), Side.CLIENT, 1.0)[0] == Accept("source_is_destination")
    other = replace(itself, sport=81)
    assert outcome(engine, other) == "hold"
    assert (len(engine.table), engine.table.half_open) == (1, 1)


# --- destinations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "port", "expected"),
    [
        ("192.0.2.7", 80, "direct"),
        ("192.0.2.7", 443, "observe"),
        ("192.0.3.7", 80, "hold"),
        ("2001:db8::1", 80, "direct"),
        ("2001:db9::1", 80, "hold"),
        ("2001:db9::1", 443, "observe"),
        ("10.9.9.9", 25, "port_not_selected"),
    ],
)
def test_the_first_destination_that_matches_counts(server: str, port: int, expected: str) -> None:
    destinations = read(
        [
            {"address": ["192.0.2.0/24", "2001:db8::/32"], "ports": 80, "strategy": DIRECT},
            {"ports": "443", "strategy": "observe"},
            {"address": "192.0.2.7", "strategy": "hold"},
        ],
        STRATEGIES,
        "",
    )
    engine = Engine("hold", Limits(), SECRET)
    engine.configure(Policy("hold", destinations, PortSet.parse("80,443")), Limits())
    assert outcome(engine, syn(server, port)) == expected


def test_flows_go_on_when_their_destination_is_left_alone_from_now_on() -> None:
    engine = Engine("hold", Limits(), SECRET)
    first = syn("192.0.2.7", 80)
    assert outcome(engine, first) == "hold"
    engine.configure(Policy("hold", read([{"strategy": DIRECT}], STRATEGIES, "")), Limits())
    assert engine.find(first.emit()) is not None
    assert outcome(engine, syn("192.0.2.7", 80, sport=5001)) == "direct"


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"strategy": "hold"}, "list of tables"),
        ([7], r"destination\[1\] must be a table"),
        ([{"strategy": "hold"}, {"adress": "::1"}], r"destination\[2\]\.adress is unknown"),
        ([{}], "strategy is missing: allowed are hold, observe, direct"),
        ([{"strategy": "fast"}], "'fast'"),
        ([{"strategy": "hold", "address": "192.0.2.7/24"}], "192.0.2.7/24"),
        ([{"strategy": "hold", "address": "here"}], "'here'"),
        ([{"strategy": "hold", "address": 7}], "address = 7"),
        ([{"strategy": "hold", "address": []}], "empty"),
        ([{"strategy": "hold", "address": "::ffff:192.0.2.7"}], "write 192.0.2.7"),
        ([{"strategy": "hold", "address": "fe80::1%eth0"}], "zone"),
        ([{"strategy": "hold", "address": [7]}], "address"),
        ([{"strategy": "hold", "ports": "0"}], r"destination\[1\]\.ports"),
        ([{"strategy": "hold", "ports": True}], "ports = True"),
    ],
)
def test_a_wrong_table_is_named(tables: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(tables, STRATEGIES, "")


# --- servers that refused -----------------------------------------------------------------


def test_a_refusal_holds_for_a_while_after_the_last_who_asked() -> None:
    refusals = Refusals()
    assert refusals.reason(SERVER, 0.0) is None
    refusals.note(SERVER, "refused_lately", 60.0, 0.0)
    assert refusals.reason(SERVER, 59.9) == "refused_lately"
    assert refusals.reason(SERVER, 119.8) == "refused_lately"
    assert refusals.reason(SERVER, 179.9) is None


def test_a_server_that_accepts_is_forgiven() -> None:
    refusals = Refusals()
    refusals.note(SERVER, "refused_lately", 60.0, 0.0)
    refusals.forget(SERVER)
    assert refusals.reason(SERVER, 1.0) is None


def test_refusals_are_bounded_and_may_be_switched_off() -> None:
    refusals = Refusals()
    for number in range(20_000):
        refusals.note(number.to_bytes(6, "big"), "refused_lately", 60.0, 0.0)
    assert len(refusals) == 16_384
    assert refusals.reason((19_999).to_bytes(6, "big"), 1.0)
    assert not refusals.reason((0).to_bytes(6, "big"), 1.0)
    refusals.note(SERVER, "refused_lately", 0.0, 0.0)
    assert refusals.reason(SERVER, 0.0) is None


def test_observe_looks_at_servers_that_refused_too() -> None:
    engine = Engine("observe", Limits(), SECRET)
    engine.memory.refusals.note(SERVER, "refused_lately", 60.0, 0.0)
    assert outcome(engine, syn("192.0.2.7", 80)) == "observe"


# --- prefixes of clients ------------------------------------------------------------------


def test_a_prefix_has_its_own_bucket_and_gets_a_tenth_back_each_second() -> None:
    prefixes = Prefixes(10)
    neighbour = CLIENT[:3] + bytes((200,)) + CLIENT[4:]
    assert [prefixes.take(CLIENT, 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert not prefixes.take(neighbour, 0.5)
    assert prefixes.take(bytes((10, 0, 2, 2, 0, 80)), 0.5)
    assert prefixes.take(neighbour, 1.0)
    assert not prefixes.take(CLIENT, 1.5)


def test_who_answers_costs_nothing() -> None:
    prefixes = Prefixes(2)
    for _ in range(100):
        assert prefixes.take(CLIENT, 0.0)
        prefixes.give_back(CLIENT, 1, 0.0)
    assert len(prefixes) == 0


def test_nobody_gets_back_more_than_a_bucket_holds() -> None:
    prefixes = Prefixes(2)
    prefixes.take(CLIENT, 0.0)
    prefixes.give_back(CLIENT, 50, 0.0)
    assert [prefixes.take(CLIENT, 0.0) for _ in range(3)] == [True, True, False]


def test_prefixes_are_bounded() -> None:
    prefixes = Prefixes(5)
    for number in range(70_000):
        prefixes.take(number.to_bytes(3, "big") + bytes(3), 0.0)
    assert len(prefixes) == 65_536


def test_a_site_of_ipv6_is_one_prefix() -> None:
    prefixes = Prefixes(1)
    one, other = bytes.fromhex("20010db800000100"), bytes.fromhex("20010db8000001ff")
    assert prefixes.take(one + bytes(10), 0.0)
    assert not prefixes.take(other + bytes(10), 0.0)
    assert prefixes.take(bytes.fromhex("20010db800000200") + bytes(10), 0.0)


# --- ICMP errors about no flow ------------------------------------------------------------


def test_an_icmp_error_about_no_flow_passes() -> None:
    engine = Engine("hold", Limits(), SECRET)
    error = error_quoting(syn("192.0.2.7", 80).emit(), "unreachable")
    assert engine.packet(error, Side.SERVER, 1.0) == [Accept("icmp")]


def test_an_icmp_error_from_its_own_side_passes_untouched() -> None:
    engine = Engine("hold", Limits(), SECRET)
    packet = syn("192.0.2.7", 80).emit()
    engine.packet(packet, Side.CLIENT, 1.0)
    error = error_quoting(packet, "unreachable")
    assert engine.packet(error, Side.CLIENT, 1.0) == [Accept("icmp_from_its_own_side")]
    assert engine.find(packet) is not None


def test_a_server_that_is_unreachable_over_ipv6_is_left_alone_too() -> None:
    engine = Engine("hold", Limits(), SECRET)
    first = syn("2001:db8::1", 80)
    engine.packet(first.emit(), Side.CLIENT, 1.0)
    engine.packet(error_quoting(first.emit(), "unreachable"), Side.SERVER, 1.1)
    assert outcome(engine, replace(first, sport=5001), 1.2) == "unreachable_lately"
