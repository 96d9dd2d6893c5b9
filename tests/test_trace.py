"""Traces of real connections (tests/captures): what was found in them, and what was written."""

from __future__ import annotations

import io
import os
import re
import resource
import struct
import tracemalloc
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from scapy.layers.inet import ICMP, IP, TCP, TCPerror
from scapy.utils import RawPcapNgReader, RawPcapReader

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.explaining.captures import read_captures
from nfq_zerortt.observe.capture import CaptureCounts
from nfq_zerortt.observe.pairing import Pairing, Shape
from nfq_zerortt.tracing import flow_table, kept_packets, link_layer, selection, tracer
from nfq_zerortt.tracing.conversations import Conversation
from nfq_zerortt.tracing.files import Files
from nfq_zerortt.tracing.flow_table import Conversations
from nfq_zerortt.tracing.numbers import Space
from nfq_zerortt.tracing.packets import Packet, Role, Seen, read
from nfq_zerortt.tracing.pcapng import Interface, Writer
from nfq_zerortt.tracing.stdout import StandardOutput
from nfq_zerortt.tracing.taking import Taking
from nfq_zerortt.tracing.ways import Way
from nfq_zerortt.wire import flags as tcp
from tests import trace_memory
from tests.trace_memory import made_up
from tests.traces import (
    CAPTURES,
    analysed,
    check_by_log,
    check_comments,
    comments_of,
    events_of,
    fields_by_scapy,
)

NAMES = sorted(file.stem for file in CAPTURES.glob("*.pcapng"))
INTERFACES = ("eth0", "eth1")
A, B = ("10.0.1.2", 40000), ("10.0.3.2", 80)


def test_there_are_captures() -> None:
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_roles_are_those_that_the_log_tells(name: str) -> None:
    _, packets = analysed(CAPTURES / f"{name}.pcapng")
    met = check_by_log(packets, events_of(CAPTURES / f"{name}.jsonl"))
    assert sum(met.values()) >= 4


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("hold", {"held", "released", "syn_ack_captured", "spurious_retransmission"}),
        ("fastopen", {"syn_kept_back", "syn", "syn_data_acknowledged"}),
        ("refused", {"refused"}),
        ("unanswered", {"no_answer", "syn_repeated", "spurious_retransmission"}),
        ("observe", {"observed"}),
    ],
)
def test_captures_have_what_they_are_for(name: str, reasons: set[str]) -> None:
    events = events_of(CAPTURES / f"{name}.jsonl")
    assert reasons <= {event.get("reason") for event in events}


@pytest.mark.parametrize("name", NAMES)
def test_delta_is_the_service_s(name: str) -> None:
    flow, _ = analysed(CAPTURES / f"{name}.pcapng")
    said = {
        event["delta"]
        for event in events_of(CAPTURES / f"{name}.jsonl")
        if event["event"] == "flow.synack_captured"
    }
    assert said == ({flow.delta} if flow.delta is not None else set())


@pytest.mark.parametrize("name", NAMES)
def test_comments_say_what_is_in_the_packets(name: str, tmp_path: Path) -> None:
    file = traced(CAPTURES / f"{name}.pcapng", tmp_path)
    found = check_comments(comments_of(file), fields_by_scapy(file))
    if name in ("observe", "refused", "unanswered", "unreachable", "another_way_back"):
        assert not found, "nothing was changed there"
    else:
        assert min(found[field] for field in ("SEQ", "ACK", "TSval", "TSecr")) >= 2


def test_a_d_sack_is_said() -> None:
    comments = comments_of(CAPTURES / "hold.pcapng")
    assert any("a D-SACK, RFC 2883" in comment for comment in comments.values())


def test_packets_of_a_flow_that_passes_untouched_have_no_comment(tmp_path: Path) -> None:
    assert comments_of(traced(CAPTURES / "observe.pcapng", tmp_path)) == {}


def traced(file: Path, directory: Path, patience_s: float = 3.0) -> Path:
    """Trace once more what a capture has."""
    out = directory / "again.pcapng"
    files = Files(str(out), tracer.head(INTERFACES, 128, "A test."))
    made = tracer.Tracer(files, INTERFACES, selection.Selection(), patience_s, with_data=True)
    for packet in read_captures([file]).packets:
        made.add(seen(packet))
    made.finish()
    made.count(CaptureCounts(0, 7))
    files.close()
    return out


def seen(packet: Packet) -> Seen:
    return Seen(packet.time_ns, packet.tap, packet.outgoing, packet.data, packet.length)


def test_what_is_written_is_what_was_taken(tmp_path: Path) -> None:
    file = traced(CAPTURES / "hold.pcapng", tmp_path)
    with RawPcapNgReader(str(file)) as now, RawPcapNgReader(str(CAPTURES / "hold.pcapng")) as then:
        for (raw, about), (raw_then, about_then) in zip(now, then, strict=True):
            assert raw == raw_then
            assert about._replace(comments=None) == about_then._replace(comments=None)
            assert about.linktype == link_layer.RAW
            assert about.tsresol == 1_000_000_000
            assert about.ifname in (b"eth0", b"eth1")
            assert about.direction in (1, 2)


def test_what_is_held_longer_than_one_waits_is_said_so(tmp_path: Path) -> None:
    """A comment never claims what came later than it was written."""
    comments = comments_of(traced(CAPTURES / "hold.pcapng", tmp_path, patience_s=0.01))
    held = next(c for c in comments.values() if "\nearly data: it cannot" in c)
    assert re.match(r"nfq-zerortt: not seen on the servers' side within [34]\d\.\d ms", held)
    assert any("held for 4" in comment for comment in comments.values())


def test_a_capture_that_begins_in_the_middle_finds_the_shift_by_itself() -> None:
    _, packets = analysed(CAPTURES / "kernel.pcapng")
    (said,) = (
        event
        for event in events_of(CAPTURES / "kernel.jsonl")
        if event["event"] == "flow.synack_captured"
    )
    known = Conversations()
    later = [read(number, seen(packet)) for number, packet in enumerate(packets[60:])]
    flows = {known.add(packet) for packet in later if packet is not None}
    (flow,) = flows
    assert flow.delta == said["delta"]
    assert not flow.whole
    roles = [packet.role for packet in later if packet is not None]
    assert Role.MADE not in roles
    assert roles.count(Role.PASSED) > 80
    left = [p for p in later if p is not None and p.role is Role.LEFT]
    for packet in left:
        assert packet.origin is not None
        assert packet.origin.segment is not None
        assert packet.segment is not None
        shift = (packet.segment.ack - packet.origin.segment.ack) % (1 << 32)
        assert shift == (said["delta"] if packet.to_server else 0)


def test_another_connection_on_the_same_ports_is_another_flow() -> None:
    _, packets = analysed(CAPTURES / "hold.pcapng")
    known = Conversations()
    first = {known.add(packet).number for packet in again(packets, 0)}
    second = {known.add(packet).number for packet in again(packets, 1 << 20)}
    assert (first, second) == ({1}, {2})


def again(packets: list[Packet], more: int) -> list[Packet]:
    """The same connection once more, its client's numbers another."""
    made = []
    for packet in packets:
        assert packet.segment is not None
        data = bytearray(packet.data)
        field = packet.segment.tcp + (4 if packet.to_server else 8)
        (number,) = struct.unpack_from(">I", data, field)
        if packet.to_server or packet.segment.flags & tcp.ACK:
            struct.pack_into(">I", data, field, (number + more) % (1 << 32))
        read_again = read(packet.number, seen(packet)._replace(data=bytes(data)))
        assert read_again is not None
        made.append(read_again)
    return made


# Pairing.


def test_what_came_last_is_what_leaves_again() -> None:
    """A needless repetition was swallowed; a later one passes, and is not taken for the former."""
    pairing: Pairing[str] = Pairing()
    data = Shape(0, 1, 1, 100)
    pairing.came("first", data, 0.0)
    pairing.came("needless", data, 0.05)
    assert pairing.left(data, 0.1) == "first"
    pairing.came("again", data, 0.5)
    assert pairing.left(data, 0.501) == "again"


def test_the_timestamp_tells_repetitions_apart() -> None:
    pairing: Pairing[str] = Pairing()
    for token, stamp, time_s in (("first", 10, 0.0), ("needless", 95, 0.09)):
        pairing.came(token, Shape(0, 1, 1, 100, stamp), time_s)
    assert pairing.left(Shape(0, 1, 1, 100, 95), 0.1) == "needless"
    assert pairing.left(Shape(0, 1, 1, 100, 10), 0.1) == "first"


def test_pieces_belong_to_what_was_cut_up() -> None:
    pairing: Pairing[str] = Pairing()
    pairing.came("long", Shape(0, 1, 1, 3000), 0.0)
    pairing.came("next", Shape(0, 3001, 1, 100), 0.0)
    pieces = [Shape(0, 1, 1, 1448), Shape(0, 1449, 1, 1448), Shape(0, 2897, 1, 104)]
    assert [pairing.left(piece, 0.001) for piece in pieces] == ["long"] * 3
    assert pairing.left(Shape(0, 3001, 1, 100), 0.001) == "next"
    assert pairing.left(Shape(0, 1, 1, 1448), 0.002) is None


def test_what_stays_is_bounded_in_number_and_time() -> None:
    pairing: Pairing[int] = Pairing(keep_s=10, most=3)
    for number in range(10):
        pairing.came(number, Shape(0, number, 0, 1), 0.0)
    assert pairing.left(Shape(0, 0, 0, 1), 1.0) is None
    assert pairing.left(Shape(0, 9, 0, 1), 1.0) == 9
    pairing.came(11, Shape(0, 11, 0, 0), 2.0)
    assert pairing.left(Shape(0, 11, 0, 0), 20.0) is None


def test_numbers_go_on_behind_four_gigabytes() -> None:
    space = Space((1 << 32) - 10)
    reached = 0
    for _ in range(100):
        reached += 100_000_000
        assert space.relative(((1 << 32) - 10 + reached) % (1 << 32)) == reached
    assert space.relative(((1 << 32) - 10 + reached - 500) % (1 << 32)) == reached - 500


# Bounds, files and selections.


def test_so_many_packets_are_kept_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One side alone: nothing is ever clear, and the oldest is written all the same."""
    monkeypatch.setattr(tracer, "MOST", 5)
    out = tmp_path / "one.pcapng"
    files = Files(str(out), tracer.head(INTERFACES, 128, "A test."))
    made = tracer.Tracer(files, INTERFACES, selection.Selection())
    near = [p for p in read_captures([CAPTURES / "hold.pcapng"]).packets if p.tap == 0]
    for packet in near:
        made.add(seen(packet))
    files.flush()
    with RawPcapReader(str(out)) as reader:
        assert len(near) - 5 <= len(list(reader)) < len(near)
    made.finish()
    made.count(CaptureCounts(0, 0))
    files.close()
    with RawPcapReader(str(out)) as reader:
        assert len(list(reader)) == len(near)


def test_what_is_kept_of_a_long_trace_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets, and their bytes; ``python -m tests.trace_memory`` tells the memory of a long one."""
    monkeypatch.setattr(flow_table, "MOST_HELD", 2000)
    known = flow_table.Conversations()
    flows: set[Conversation] = set()
    most = 0
    for number, one in enumerate(made_up(20_000, flows=300)):
        packet = read(number + 1, one)
        assert packet is not None
        flows.add(known.add(packet))
        most = max(most, known.held)
    assert most <= 2000
    assert most > 1900, "the bound was meant to be reached"
    held = sum(one.held for one in flows)
    assert known.held <= held <= known.held + 4 * len(flows), "it is counted right"


def test_the_bounds_are_as_documented() -> None:
    page = Path(__file__).parents[1] / "docs/reference/trace.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert f"{tracer.PATIENCE_S:g} s at most, and {tracer.MOST:,} of them or 32 MiB" in text
    assert tracer.MOST_BYTES == 32 << 20
    assert f"the headers of {flow_table.MOST_HELD:,} are kept" in text
    assert f"{flow_table.MOST_FLOWS:,} flows at a time are known" in text


def test_a_flow_that_kept_nothing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what came before is not found again; the shifts are known still."""
    flow, packets = analysed(CAPTURES / "hold.pcapng")
    known = flow_table.Conversations()
    again = [replace(p, role=Role.UNKNOWN, origin=None, onward=[], because=[]) for p in packets]
    left = next(n for n, p in enumerate(packets) if p.role is Role.LEFT and p.time_ns > begun(flow))
    for number, packet in enumerate(again):
        one = known.add(packet)
        if number == left:
            one.shed()
            assert one.held < 4
    assert (one.delta, one.tau) == (flow.delta, flow.tau)
    later = [p.role for p in again[left + 1 :]]
    assert later.count(Role.LEFT) > 2


def begun(flow: Conversation) -> int:
    assert flow.answered is not None
    return flow.answered.time_ns


def test_repetitions_do_not_keep_one_another() -> None:
    """Each would keep the one before it, and that one its own: for as long as the flow lasts."""
    way = Way(deque(maxlen=2))
    packets = [packet for packet in map(read, range(1, 9), made_up(8)) if packet is not None]
    for packet in packets:
        way.came(packet, Shape(0, 1, 1, 10))
    assert {packet.repeats for packet in packets} == {None, packets[0]}


def test_long_packets_are_written_before_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracer, "MOST_BYTES", 100_000)
    peak: list[int] = []
    for data in (0, 20_000):
        tracemalloc.start()
        trace_memory.traced(made_up(300, flows=10, data=data), with_data=True)
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peak[1] < peak[0] + 300_000


def test_a_ring_keeps_the_newest_files(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "t.pcapng"), tracer.head(INTERFACES, 128, "A test."), 3000, keep=2)
    made = tracer.Tracer(files, INTERFACES, selection.Selection())
    for packet in read_captures([CAPTURES / "kernel.pcapng"]).packets:
        made.add(seen(packet))
    made.finish()
    made.count(CaptureCounts(0, 0))
    files.close()
    there = sorted(tmp_path.iterdir())
    assert [str(path) for path in there] == files.names
    assert len(there) == 2
    assert there[-1].name > "t_00010.pcapng"
    for path in there:
        assert path.stat().st_size < 6000
        with RawPcapReader(str(path)) as reader:
            assert list(reader)


def test_the_statistics_have_what_the_kernel_dropped(tmp_path: Path) -> None:
    data = traced(CAPTURES / "hold.pcapng", tmp_path).read_bytes()
    # An Interface Statistics Block (5) with isb_ifdrop (5, 8 bytes).
    assert struct.pack("<HHQ", 5, 8, 7) in data


def test_a_comment_that_is_too_long_for_its_option_is_cut(tmp_path: Path) -> None:
    out = io.BytesIO()
    writer = Writer(out, [Interface("a", "b", link_layer.RAW, 0)], "test")
    writer.packet(0, 1, b"abc", 3, outgoing=True, comment="x" * 100_000)
    assert writer.size == len(out.getvalue())
    file = tmp_path / "long.pcapng"
    file.write_bytes(out.getvalue())
    with RawPcapNgReader(str(file)) as reader:
        ((data, about),) = list(reader)
    assert data == b"abc"
    assert len(about.comments[0]) == 65_535


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("10.0.1.2:40000>10.0.3.2:80", (A, B)),
        ("10.0.3.2:80", (B,)),
        ("[fd00::1]:443", (("fd00::1", 443),)),
        ("[fd00:0::1]:1>[fd00::2]:2", (("fd00::1", 1), ("fd00::2", 2))),
    ],
)
def test_selections(text: str, endpoints: tuple[tuple[str, int], ...]) -> None:
    assert selection.parse(text).endpoints == endpoints


@pytest.mark.parametrize("text", ["", "80", "10.0.3.2", "10.0.3:80", "a>b>c", "10.0.3.2:99999"])
def test_wrong_selections_name_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--flow .* allowed is .*10\.0\.1\.2:43210>"):
        selection.parse(text)


# What comments say beyond the fields.


@pytest.mark.parametrize("name", NAMES)
def test_all_shifts_are_the_flow_s(name: str, tmp_path: Path) -> None:
    """A shift that was not Δ or τ would be named as such, and the rule would be missing."""
    for comment in comments_of(traced(CAPTURES / f"{name}.pcapng", tmp_path)).values():
        assert "this is not" not in comment
        for line in comment.splitlines():
            field = line.partition(" ")[0]
            if field in ("ACK", "TSecr", "TSval"):
                assert line.endswith(("(+Δ)", "(+τ)", "(-τ)")), line


def test_data_that_left_in_the_syn_says_so(tmp_path: Path) -> None:
    comments = comments_of(traced(CAPTURES / "fastopen.pcapng", tmp_path))
    assert any("1428 of its 2000 bytes left in the SYN #" in said for said in comments.values())
    assert any("until #" in said and "brought data for it" in said for said in comments.values())


def test_what_passes_is_written_at_once(tmp_path: Path) -> None:
    out = tmp_path / "t.pcapng"
    files = Files(str(out), tracer.head(INTERFACES, 128, "A test."))
    made = tracer.Tracer(files, INTERFACES, selection.Selection())
    packets = list(read_captures([CAPTURES / "observe.pcapng"]).packets)
    for packet in packets:
        made.add(seen(packet))
    files.close()
    with RawPcapReader(str(out)) as reader:
        assert len(list(reader)) == len(packets)


class Late:
    """Gives packets some at a time that were seen long ago: as tcpdump does when a trace lags."""

    def __init__(self, packets: list[Packet], at_once: int) -> None:
        self.ended = False
        self._pieces = [packets[at : at + at_once] for at in range(0, len(packets), at_once)]

    def take(self, timeout_s: float) -> Iterator[Seen]:
        self.ended = len(self._pieces) <= 1
        yield from map(seen, self._pieces.pop(0))

    def stop(self) -> None:
        raise AssertionError("nobody has asked for that")

    def counts(self) -> CaptureCounts:
        return CaptureCounts(0, 0)


def test_a_trace_that_lags_behind_goes_by_the_time_of_the_packets(tmp_path: Path) -> None:
    """By the clock, all that is held would have been waited for long enough at once."""
    out = tmp_path / "late.pcapng"
    files = Files(str(out), tracer.head(INTERFACES, 128, "A test."))
    made = tracer.Tracer(files, INTERFACES, selection.Selection())
    packets = list(read_captures([CAPTURES / "hold.pcapng"]).packets)
    late = cast("Taking", Late(packets, 2))
    summary = tracer.follow(late, made, files, lambda: False)
    files.close()
    assert summary.packets == len(packets)
    assert comments_of(out) == comments_of(traced(CAPTURES / "hold.pcapng", tmp_path))


def test_one_packet_of_the_client_s_is_enough_to_find_the_shift() -> None:
    """Its numbers are its own on both sides; of the server's packets several must agree."""
    flow, packets = analysed(CAPTURES / "kernel.pcapng")
    known = Conversations()
    data = next(
        p
        for p in packets
        if p.to_server and length(p) and [length(onward) for onward in p.onward] == [length(p)]
    )
    for packet in (data, *data.onward):
        found = known.add(copy(packet))
    assert found.delta == flow.delta


def copy(packet: Packet) -> Packet:
    made = read(packet.number, seen(packet))
    assert made is not None
    return made


def length(packet: Packet) -> int:
    assert packet.segment is not None
    return packet.segment.payload_length


def test_what_an_icmp_error_quotes_is_compared(tmp_path: Path) -> None:
    """The client's segment, as the server's side knows it, and as the client does."""
    file = traced(CAPTURES / "too_big.pcapng", tmp_path)
    with RawPcapNgReader(str(file)) as reader:
        packets = [IP(raw) for raw, _ in reader]
    renumbered = 0
    for number, comment in comments_of(file).items():
        if ICMP not in packets[number - 1] or "it came as" not in comment:
            continue
        (came,) = re.findall(r"it came as #(\d+)", comment)
        quoted = [packets[n - 1][TCPerror] for n in (int(came), number)]
        assert f"quoted ACK {quoted[0].ack} → {quoted[1].ack} (" in comment
        assert quoted[0].seq == quoted[1].seq
        renumbered += 1
    assert renumbered >= 1


def test_a_spoofed_syn_ack_again_is_not_taken_for_the_captured_one() -> None:
    _, packets = analysed(CAPTURES / "hold.pcapng")
    spoofed = next(p for p in packets if p.role is Role.MADE)
    captured = next(p for p in packets if p.because and p.because[0].startswith("captured"))
    place = packets.index(captured) + 1
    known = Conversations()
    later = [copy(p) for p in (*packets[:place], spoofed)]
    for packet in later:
        known.add(packet)
    assert later[-1].role is Role.MADE
    assert later[place - 1].role is Role.UNKNOWN


def test_a_repetition_of_what_the_syn_carried_had_left() -> None:
    """Of the first segment, which is longer than a SYN has room for, that part is said again."""
    _, packets = analysed(CAPTURES / "fastopen.pcapng")
    syn = next(p for p in packets if not p.came and p.to_server and length(p))
    first = next(p for p in packets if p.came and syn in p.onward and length(p))
    data = bytearray(first.data)
    total = int.from_bytes(data[2:4], "big") - (length(first) - length(syn))
    struct.pack_into(">H", data, 2, total)
    place = packets.index(syn) + 1
    known = Conversations()
    for packet in packets[:place]:
        known.add(copy(packet))
    again_seen = seen(first)._replace(data=bytes(data), time_ns=syn.time_ns + 1_000_000)
    repeated = read(99, again_seen)
    assert repeated is not None
    known.add(repeated)
    assert f"which had left as {syn.tag} 1.00 ms before" in repeated.because[0]


def test_sides_are_found_without_a_syn(tmp_path: Path) -> None:
    """Whatever the order in which the interfaces are described."""
    file = tmp_path / "middle.pcapng"
    with file.open("wb") as out:
        described = [Interface(name, "", link_layer.RAW, 0) for name in reversed(INTERFACES)]
        writer = Writer(out, described, "test")
        for packet in list(read_captures([CAPTURES / "kernel.pcapng"]).packets)[60:]:
            one = seen(packet)
            writer.packet(1 - one.tap, one.time_ns, one.data, one.length, outgoing=one.outgoing)
    assert read_captures([file]).names == INTERFACES


# Packets made up, for what seldom happens. "up" is from A to B, and each packet has an IP ID.

NEAR, FAR = 0, 1
ISN, FAKE, REAL = 1000, 50_000, 90_000


class MadeUp:
    """One flow, told packet by packet."""

    def __init__(self) -> None:
        self.known = Conversations()
        self.packets: list[Packet] = []
        self.flow: Conversation

    def one(
        self,
        time_ms: float,
        tap: int,
        flags: str,
        seq: int,
        ack: int = 0,
        *,
        data: int = 0,
        ident: int = 0,
        up: bool = True,
        sack: tuple[int, int] | None = None,
    ) -> Packet:
        """Add a segment."""
        (src, sport), (dst, dport) = (A, B) if up else (B, A)
        options = [("SAck", sack)] if sack else []
        segment = TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack, options=options)
        return self._add(time_ms, tap, IP(src=src, dst=dst, id=ident) / segment / bytes(data))

    def error(self, time_ms: float, tap: int, ident: int) -> Packet:
        """Add an ICMP error about the SYN, for the client."""
        syn = IP(src=A[0], dst=B[0], id=77) / TCP(sport=A[1], dport=B[1], flags="S", seq=ISN)
        head = IP(src="10.0.2.3", dst=A[0], id=ident) / ICMP(type=3, code=1)
        return self._add(time_ms, tap, head / syn)

    def _add(self, time_ms: float, tap: int, packet: IP) -> Packet:
        raw = bytes(packet)
        outgoing = (tap == NEAR) == (packet.dst == A[0])
        one = Seen(int(1e18 + time_ms * 1e6), tap, outgoing, raw, len(raw))
        made = read(len(self.packets) + 1, one)
        assert made is not None
        self.packets.append(made)
        self.flow = self.known.add(made)
        return made

    def opened(self) -> None:
        """The client is answered here; its SYN leaves."""
        self.one(0, NEAR, "S", ISN)
        self.one(1, NEAR, "SA", FAKE, ISN + 1, up=False)
        self.one(1, NEAR, "A", ISN + 1, FAKE + 1, ident=2)
        self.one(1, FAR, "S", ISN)

    def said_of_kept(self, packet: Packet) -> str:
        """Why it is said that a packet did not leave."""
        assert packet.role is Role.UNKNOWN
        return " ".join(packet.because or kept_packets.reason(self.flow, packet))


def test_what_came_and_left_before_the_shift_was_known_is_paired_as_well() -> None:
    """Repeated ACKs without timestamps all look the same: those that left must not be free."""
    made = MadeUp()

    def acks(*idents: int) -> None:
        for ident in idents:
            at = len(made.packets) / 100
            made.one(at, FAR, "A", REAL, ISN, ident=ident, up=False)
            made.one(at, NEAR, "A", FAKE, ISN, ident=ident, up=False)

    made.one(0, FAR, "A", REAL - 10, ISN, data=10, ident=40, up=False)
    made.one(0, NEAR, "A", FAKE - 10, ISN, data=10, ident=40, up=False)
    made.one(0, NEAR, "A", FAKE, ISN, ident=9, up=False)  # had come before the capture began
    made.one(0, FAR, "A", REAL, ISN, ident=11, up=False)
    made.one(0, NEAR, "A", FAKE, ISN, ident=10, up=False)  # likewise
    made.one(0, NEAR, "A", FAKE, ISN, ident=11, up=False)
    acks(12)
    lost = made.one(0.1, FAR, "A", REAL, ISN, ident=13, up=False)
    made.one(0.1, NEAR, "A", ISN, FAKE, data=5, ident=30)
    made.one(0.1, FAR, "A", ISN, REAL, data=5, ident=30)
    acks(14, 15)
    assert made.flow.delta == REAL - FAKE
    pairs = {p.ident: p.origin.ident for p in made.packets if p.origin is not None}
    assert pairs == {ident: ident for ident in (40, 11, 12, 14, 15, 30)}
    assert [p for p in made.packets if p.came and p.role is not Role.PASSED] == [lost]
    assert [p.ident for p in made.packets if p.role is Role.BEFORE] == [9, 10]
    assert not any(p.because for p in made.packets), "nothing was repeated"


def test_what_waits_for_the_shift_is_bounded_and_not_said_to_be_missing() -> None:
    made = MadeUp()
    for number in range(300):
        made.one(number / 100, FAR, "A", REAL, ISN + number, ident=1 + number, up=False)
    assert made.flow.held <= 2 * 64
    roles = [packet.role for packet in made.packets]
    assert roles[:172] == [Role.BEFORE] * 172


def test_each_kept_packet_is_called_what_it_is() -> None:
    """Data, a FIN that came again, and a RST: long before the comment is written, and after."""
    made = MadeUp()
    made.opened()
    data = made.one(2, NEAR, "PA", ISN + 1, FAKE + 1, data=6, ident=3)
    fin = made.one(2, NEAR, "FA", ISN + 7, FAKE + 1, ident=4)
    again = made.one(9, NEAR, "FA", ISN + 7, FAKE + 1, ident=5)
    both = made.one(10, NEAR, "FPA", ISN + 1, FAKE + 1, data=6, ident=6)
    reset = made.one(50, NEAR, "R", ISN + 8, ident=7)
    assert made.said_of_kept(reset) == "the client's RST; the other end knows other numbers"
    answer = made.one(300, FAR, "SA", REAL, ISN + 1, up=False)
    assert answer is made.flow.answered
    held = "it cannot be passed on before the server has answered"
    assert made.said_of_kept(data) == f"early data: {held}"
    assert made.said_of_kept(fin) == f"early: {held}"
    assert (
        made.said_of_kept(again) == "a repetition of #6, 7.00 ms after it, which had not left yet"
    )
    assert again.repeats is fin
    assert both.repeats is data
    assert made.said_of_kept(reset) == "the client's RST; the other end knows other numbers"
    block = (ISN + 7, ISN + 8)
    d_sack = made.one(301, NEAR, "A", FAKE + 1, ISN + 8, up=False, sack=block)
    assert "again (#6, #7) and was not" in d_sack.because[0]


def test_of_several_icmp_errors_the_first_one_ends_the_flow() -> None:
    """The others pass: each is found by its IP header."""
    made = MadeUp()
    made.opened()
    first, second, third = (made.error(100, FAR, ident) for ident in (20, 21, 22))
    reset = made.one(100.5, NEAR, "RA", FAKE + 1, ISN + 1, up=False)
    left = [made.error(101, NEAR, ident) for ident in (21, 22)]
    assert reset.because == [
        f"the SYN could not be delivered: ICMP destination unreachable ({first.tag})"
    ]
    assert [packet.origin for packet in left] == [second, third]
    made.error(500, FAR, 23)
    assert "the client, connected already, would ignore it" in made.said_of_kept(first)


def test_why_the_server_answers_again() -> None:
    """The SYN was sent again, before any answer could be there; or the ACK for it got lost."""
    made = MadeUp()
    made.opened()
    again = made.one(291, FAR, "S", ISN)
    made.one(301, FAR, "SA", REAL, ISN + 1, up=False)
    made.one(301, FAR, "A", ISN + 1, REAL + 1, ident=2)
    before, then, after, later = (
        made.one(time_ms, FAR, "SA", REAL, ISN + 1, up=False).because
        for time_ms in (400, 591, 615, 1301)
    )
    assert then == [
        f"the answer to the SYN sent again ({again.tag}): no ACK can have reached the server by "
        "then"
    ]
    assert before == after == later == ["again: the server has not got the ACK for it"]


def test_a_file_that_cannot_grow_is_said_with_what_is_to_be_done(tmp_path: Path) -> None:
    """Here the limit for a process's files; a full disk is said likewise."""
    out = tmp_path / "t.pcapng"
    files = Files(str(out), tracer.head(INTERFACES, 128, "A test."))
    made = tracer.Tracer(files, INTERFACES, selection.Selection())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for packet in read_captures([CAPTURES / "kernel.pcapng"]).packets:
        made.add(seen(packet))
    files.flush()
    length = out.stat().st_size + 10_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, limits[1]))
    try:
        with pytest.raises(ZeroRttError, match=r"t\.pcapng: File too large: .* --ring and --keep"):
            made.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    files.close()
    assert out.stat().st_size == length
    with RawPcapReader(str(out)) as reader:
        assert len(list(reader)) > 10


def test_no_space_left_is_said_in_a_line() -> None:
    with pytest.raises(ZeroRttError, match=r"^/dev/full: No space left on device: the trace ends"):
        Files("/dev/full", tracer.head(INTERFACES, 128, "A test."))
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        out = StandardOutput(lambda: False, full)
        out.write(b"abc")
        with pytest.raises(ZeroRttError, match=r"^stdout: No space left on device: the trace ends"):
            out.flush()
    finally:
        os.close(full)
