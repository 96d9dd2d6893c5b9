"""zerortt.h, the compiled programs, and Python: the same numbers, byte by byte.

Three witnesses: the header's text, the layout that the compiler noted in the object (BTF), and
layout.py. bpf/record.py, on which the differential test rests, is held against them, too.
"""

from __future__ import annotations

import random
import re
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path

import pytest
from bpf import generator, mutations, record
from bpf.btf import Layout, layouts
from bpf.loaded import object_under_test
from bpf.packets import ACK, ADDRESSES, CLIENT_PORT, SERVER_PORT, key_of
from bpf.record import Entry, Numbers
from bpf.reference import Reference

from nfq_zerortt.config import STRATEGIES
from nfq_zerortt.flow_entry import entry_of, flow_from
from nfq_zerortt.kernel.bpf import layout

ROOT = Path(__file__).resolve().parents[2]
HEADER = resources.files("nfq_zerortt.kernel").joinpath("bpf", "zerortt.h").read_text()
DEFINED = {
    name: value.replace("u", "").replace("ll", "")
    for name, value in re.findall(r"^#define (\w+) ([^\t\n/]+)", HEADER, re.MULTILINE)
}
STRUCTS = layouts(object_under_test())
KEY, DIRECTION, FLOW = (STRUCTS[name] for name in ("flow_key", "direction", "flow"))


def defined(name: str) -> int:
    """The value of a #define; one may name others, with | or << between them."""
    total = 0
    for part in DEFINED[name].strip("() ").split("|"):
        number, _, places = part.partition("<<")
        word = number.strip()
        total |= (defined(word) if word in DEFINED else int(word, 0)) << int(places or 0)
    return total


@pytest.mark.parametrize(
    "name",
    [
        *("MARK_TRANSLATED", "MARK_LEFT", "HANDLED_SLOTS", "ENDED"),
        *("FIN_CLIENT", "FIN_SERVER", "RST_CLIENT", "RST_SERVER"),
        *(
            "FINS_ACKNOWLEDGED",
            "SUPERSEDED",
            "REPORTED",
            "PASSING",
            "STRIP_TIMESTAMPS",
            "STRIP_SACK",
        ),
    ],
)
def test_numbers_are_those_of_the_header(name: str) -> None:
    assert getattr(layout, name) == defined(name)
    assert getattr(record, name) == defined(name)


def test_the_wait_is_that_of_the_header() -> None:
    assert round(layout.LEAVE_FOR_S * 1e9) == defined("LEAVE_FOR_NS") == record.LEAVE_FOR_NS


def members(of: Layout) -> list[str]:
    return [name for name in of.offsets if not name.startswith("unused")]


def test_directions_have_these_fields_in_this_order() -> None:
    assert list(layout.DirectionEntry._fields) == members(DIRECTION)
    assert [each.name for each in fields(Numbers)] == members(DIRECTION)


def test_flows_have_these_fields_in_this_order() -> None:
    assert ["to_server", "to_client", *layout.FlowEntry._fields] == members(FLOW)
    read = [each.name for each in fields(Entry) if each.name != "unused"]
    assert read == members(FLOW)


def test_sizes_are_those_of_the_compiler() -> None:
    assert layout.FLOW_BYTES == record.ENTRY_SIZE == FLOW.size
    assert KEY.size == layout.KEY_BYTES
    assert layout.HANDLED_BYTES == record.HANDLED_SIZE == STRUCTS["handled"].size


def marked(of: Layout, name: str) -> int:
    """A number whose bytes are all different from 0, as wide as the member is."""
    later = [offset for offset in of.offsets.values() if offset > of.offsets[name]]
    wide = {"window_shift": 1, "data_earlier_us": 4}.get(
        name, min([*later, of.size]) - of.offsets[name]
    )
    return int.from_bytes(b"\x11" * min(wide, 8), "little")


@pytest.mark.parametrize("name", members(DIRECTION))
@pytest.mark.parametrize("side", ["to_server", "to_client"])
def test_fields_of_a_direction_stand_where_the_compiler_puts_them(side: str, name: str) -> None:
    value = marked(DIRECTION, name)
    offset = FLOW.offsets[side] + DIRECTION.offsets[name]
    one = layout.DirectionEntry(*[value if each == name else 0 for each in members(DIRECTION)])
    none = layout.DirectionEntry(*[0 for _ in members(DIRECTION)])
    both = (one, none) if side == "to_server" else (none, one)
    data = layout.pack(*both, layout.FlowEntry(*[0 for _ in layout.FlowEntry._fields]))
    assert first_byte(data) == offset
    assert layout.unpack(data)[0 if side == "to_server" else 1] == one
    entry = Entry()
    setattr(getattr(entry, side), name, value)
    assert entry.pack() == data


@pytest.mark.parametrize("name", layout.FlowEntry._fields)
def test_fields_of_a_flow_stand_where_the_compiler_puts_them(name: str) -> None:
    value = marked(FLOW, name)
    none = layout.DirectionEntry(*[0 for _ in members(DIRECTION)])
    flow = layout.FlowEntry(*[value if each == name else 0 for each in layout.FlowEntry._fields])
    data = layout.pack(none, none, flow)
    assert first_byte(data) == FLOW.offsets[name]
    assert layout.unpack(data)[2] == flow
    entry = Entry()
    setattr(entry, name, value)
    assert entry.pack() == data


def first_byte(data: bytes) -> int:
    return next(at for at, byte in enumerate(data) if byte)


def test_a_glance_sees_what_the_whole_says() -> None:
    data = Entry(last_seen=7 << 40, flags=layout.FIN_CLIENT, ticket=3, number=9, created=5).pack()
    assert layout.glance(data) == (7 << 40, layout.FIN_CLIENT)
    assert layout.number(data) == 9


def test_keys_are_those_of_the_compiler() -> None:
    key = layout.key(bytes(range(1, 13)))
    assert key[KEY.offsets["client"] :][:16] == bytes(10) + b"\xff\xff\x01\x02\x03\x04"
    assert key[KEY.offsets["server"] :][:16] == bytes(10) + b"\xff\xff\x05\x06\x07\x08"
    assert key[KEY.offsets["client_port"] :][:2] == b"\x09\x0a"
    assert key[KEY.offsets["server_port"] :][:2] == b"\x0b\x0c"
    assert key == record.map_key(b"\1\2\3\4", b"\5\6\7\x08", 0x090A, 0x0B0C)
    assert layout.client_key(key) == bytes(range(1, 13))
    ipv6 = bytes(range(1, 37))
    assert layout.key(ipv6) == ipv6 == layout.client_key(ipv6)


def test_records_of_the_ring_are_as_long_as_those_that_are_read() -> None:
    """The object says nothing of their layout; the differential test reads real ones."""
    assert record.ENDING.size == layout.ENDING_BYTES


def test_slots_of_what_is_handled_are_those_of_the_compiler() -> None:
    words = {name: offset // 4 for name, offset in STRUCTS["handled"].offsets.items()}
    del words["unused"]
    named = ("AMOUNT", "NEXT_SEQ", "LAST_ACK", "WINDOW")
    assert words == {"ticket": 0, **{name.lower(): getattr(layout, name) for name in named}}
    slot = record.Handled(1, (2, 3), (4, 5), (6, 7), (8, 9)).words()
    pairs = [slot[words[name] : words[name] + 2] for name in words if name != "ticket"]
    assert (slot[0], *pairs) == (1, (2, 3), (4, 5), (6, 7), (8, 9))


# --- the core's flows as entries ----------------------------------------------------------


def sensible(seed: int) -> Entry:
    """An entry that a flow of the core's may have; its times are exact as floats."""
    rng = random.Random(seed)
    entry = generator.entry(rng)
    entry.strategy %= len(STRATEGIES)
    entry.fast_open %= 4
    entry.carried = rng.choice((0, entry.carried))
    entry.server_rtt_us = 15625 * rng.randrange(200)
    entry.data_earlier_us = entry.server_rtt_us if entry.carried else rng.choice((-1, 15625))
    entry.created, entry.handed_over, entry.last_seen = (
        rng.randrange(1, 10**6) * 10**9 for _ in range(3)
    )
    entry.unused = 0
    entry.flags |= rng.choice((0, 0, record.SUPERSEDED))
    for numbers, fin in ((entry.to_server, 1), (entry.to_client, 2)):
        numbers.settled = 0
        numbers.fin_end = numbers.fin_end if entry.flags & fin else 0
    return entry


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_an_entry_goes_into_a_flow_and_back(seed: int, ipv6: bool) -> None:
    entry = sensible(seed)
    addresses = b"".join(ADDRESSES[ipv6])
    client_key = addresses + CLIENT_PORT.to_bytes(2) + SERVER_PORT.to_bytes(2)
    assert layout.key(client_key) == key_of(ipv6)
    flow = flow_from(client_key, entry.pack())
    assert flow.client_key == client_key
    again = Entry.unpack(entry_of(flow))
    assert entry.differences(again) == []


@pytest.mark.parametrize("seed", range(40))
def test_a_flow_made_from_an_entry_translates_as_the_entry_says(seed: int) -> None:
    """The same packets bring a flow made by flow_entry.py as far as one made by hand."""
    rng = random.Random(seed)
    entry = sensible(seed)
    client_key = b"".join(ADDRESSES[False]) + CLIENT_PORT.to_bytes(2) + SERVER_PORT.to_bytes(2)
    flow = flow_from(client_key, entry.pack())
    reference = Reference(entry, ipv6=False)
    for _ in range(20):
        packet = generator.packet(rng, reference.entry(), ipv6=False, calm=True)
        packet = replace(packet, kind="plain", flags=ACK, gso_size=0, padding=0, checksum_error=0)
        path = flow.from_client if packet.side == record.CLIENT else flow.from_server
        assert path.direction.translate(packet.ip(), 20) == reference.carry(packet)


def test_every_mutant_has_its_place_in_the_sources() -> None:
    """mutants.py takes long and is run by hand: a place that is gone must be noticed before."""
    for mutant in mutations.MUTANTS:
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant.name
