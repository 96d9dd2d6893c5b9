"""The ladder and the time-sequence plot, from made-up packets at made-up times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import PcapWriter

from nfq_zerortt.observe import ladder, ladder_svg, timeseq
from nfq_zerortt.observe.capture import read
from nfq_zerortt.observe.hops import Link, trace
from nfq_zerortt.observe.ladder import Note
from nfq_zerortt.observe.records import PacketRecord, Tap, data_of, of_connection
from nfq_zerortt.wire import flags as tcp

CLIENT, SERVER = ("10.0.1.2", 40000), ("10.0.3.2", 80)
TAPS = (
    Tap("client", "eth0"),
    Tap("clientnic", "eth0"),
    Tap("clientnic", "eth1"),
    Tap("servernic", "eth1"),
    Tap("servernic", "eth2"),
    Tap("server", "eth2"),
)
PATH = tuple(Link(TAPS[number], TAPS[number + 1]) for number in (0, 2, 4))
C, S, F = 4_294_967_290, 1000, 4_000_000_000  # the client's numbers wrap around on the way
SYN, SYN_ACK = tcp.SYN, tcp.SYN | tcp.ACK
ACK, PSH, FIN = tcp.ACK, tcp.PSH | tcp.ACK, tcp.FIN | tcp.ACK


class Wire:
    """Collects records: what was seen where, in milliseconds."""

    def __init__(self) -> None:
        self.records: list[PacketRecord] = []

    def seen(
        self,
        taps: str,
        ms: float,
        flags: int,
        seq: int,
        ack: int = 0,
        length: int = 0,
        fast_open: int | None = None,
    ) -> None:
        """At the taps with these numbers, one 0.05 ms after the other; to the server if rising."""
        places = [int(tap) for tap in taps]
        up = places[-1] > places[0]
        source, destination = (CLIENT, SERVER) if up else (SERVER, CLIENT)
        for step, place in enumerate(places):
            self.records.append(
                PacketRecord(
                    (ms + step * 0.05) / 1000,
                    TAPS[place],
                    source,
                    destination,
                    flags,
                    seq % (1 << 32),
                    ack % (1 << 32),
                    length,
                    fast_open,
                )
            )

    def layout(self) -> ladder.Layout:
        return ladder.layout(self.records, PATH, CLIENT, SERVER, wan_host="servernic")

    def draw(self, **options: int | bool) -> list[str]:
        return ladder.draw(self.records, PATH, CLIENT, SERVER, wan_host="servernic", **options)  # type: ignore[arg-type]


@pytest.fixture
def held() -> Wire:
    """A connection through a spoofing clientnic; the WAN takes 50 ms each way."""
    wire = Wire()
    wire.seen("0123", 0, SYN, C)
    wire.seen("10", 0.4, SYN_ACK, F, C + 1)
    wire.seen("01", 0.6, PSH, C + 1, F + 1, 200)
    wire.seen("45", 50, SYN, C)
    wire.seen("54", 50.2, SYN_ACK, S, C + 1)
    wire.seen("32", 100.2, SYN_ACK, S, C + 1)
    wire.seen("23", 100.6, PSH, C + 1, S + 1, 200)
    wire.seen("45", 150.6, PSH, C + 1, S + 1, 200)
    wire.seen("54", 151, PSH, S + 1, C + 201, 1000)
    wire.seen("32", 201, PSH, S + 1, C + 201, 1000)
    wire.seen("10", 201.3, PSH, F + 1, C + 201, 1000)
    wire.seen("01", 201.5, ACK, C + 201, F + 1001)
    wire.seen("23", 201.8, ACK, C + 201, S + 1001)
    wire.seen("45", 251.8, ACK, C + 201, S + 1001)
    return wire


@pytest.fixture
def fast_open() -> Wire:
    """A connection whose data clientnic puts into the SYN, with a cookie that it knows."""
    wire = Wire()
    wire.seen("01", 0, SYN, C)
    wire.seen("10", 0.4, SYN_ACK, F, C + 1)
    wire.seen("01", 0.5, ACK, C + 1, F + 1)
    wire.seen("01", 0.6, PSH, C + 1, F + 1, 200)
    wire.seen("23", 0.9, SYN, C, 0, 200, fast_open=8)
    wire.seen("45", 50.9, SYN, C, 0, 200, fast_open=8)
    wire.seen("54", 51, SYN_ACK, S, C + 201)
    wire.seen("54", 51.5, PSH, S + 1, C + 201, 1000)
    wire.seen("32", 101, SYN_ACK, S, C + 201)
    wire.seen("10", 101.3, ACK, F + 1, C + 201)
    wire.seen("23", 101.3, ACK, C + 201, S + 1)
    wire.seen("32", 101.5, PSH, S + 1, C + 201, 1000)
    wire.seen("10", 101.8, PSH, F + 1, C + 201, 1000)
    wire.seen("45", 151.3, ACK, C + 201, S + 1)
    return wire


def test_data_put_into_the_syn_is_followed(fast_open: Wire) -> None:
    """However soon the SYN leaves, it is a row of its own: it left as another than it came."""
    diagram = fast_open.layout()
    notes = [(round(r.time_ms, 1), r.begin, r.end) for r in diagram.rows if r.begin or r.end]
    assert notes == [
        (0.0, None, Note.HELD),
        (0.4, Note.SPOOFED, None),
        (0.5, None, Note.STOPPED),
        (0.6, None, Note.INTO_SYN),
        (0.9, Note.WITH_DATA, None),
        (101.0, None, Note.STOPPED),
        (101.3, Note.MADE, None),
        (101.3, Note.MADE, None),
    ]
    legend = " ".join(diagram.legend())
    assert "in the SYN a cookie of 8 bytes" in legend
    assert "in the SYN-ACK a cookie" not in legend


def test_the_syn_is_drawn_with_data_and_option(fast_open: Wire) -> None:
    narrow = fast_open.draw(width=80, ascii_only=True)
    assert all(len(line) <= 80 for line in narrow)
    assert "SYN C 200 B TFO --" in "\n".join(narrow)
    assert "SYN-ACK S ack C+201" in "\n".join(narrow)
    assert "SYN C 200 B TFO cookie" in "\n".join(fast_open.draw(width=110))
    root = ElementTree.fromstring(ladder_svg.draw(fast_open.layout(), "title"))
    texts = [element.text for element in root.iter("text")]
    for expected in ("SYN 200 B TFO", "C cookie", "goes into the SYN", "sent with the data"):
        assert expected in texts


def test_data_that_the_server_ignored_in_the_syn_is_held_and_released() -> None:
    wire = Wire()
    wire.seen("01", 0, SYN, C)
    wire.seen("10", 0.4, SYN_ACK, F, C + 1)
    wire.seen("01", 0.6, PSH, C + 1, F + 1, 200)
    wire.seen("23", 0.9, SYN, C, 0, 200, fast_open=0)
    wire.seen("45", 50.9, SYN, C, 0, 200, fast_open=0)
    wire.seen("54", 51, SYN_ACK, S, C + 1, fast_open=8)
    wire.seen("32", 101, SYN_ACK, S, C + 1, fast_open=8)
    wire.seen("23", 101.3, PSH, C + 1, S + 1, 200)
    wire.seen("45", 151.3, PSH, C + 1, S + 1, 200)
    diagram = wire.layout()
    notes = [(round(r.time_ms, 1), r.begin, r.end) for r in diagram.rows if r.begin or r.end]
    assert notes == [
        (0.0, None, Note.HELD),
        (0.4, Note.SPOOFED, None),
        (0.6, None, Note.HELD),
        (0.9, Note.WITH_DATA, None),
        (101.0, None, Note.STOPPED),
        (101.3, Note.RELEASED, None),
    ]
    legend = " ".join(diagram.legend())
    assert "in the SYN a request for a cookie, in the SYN-ACK a cookie of 8 bytes" in legend
    # At the server it counts when it was taken, not when it was ignored.
    (arrived,) = data_of(wire.records, TAPS[5], CLIENT, SERVER)
    assert (arrived.start, arrived.end) == (0, 200)
    assert arrived.time_s == pytest.approx(0.15135)


def test_data_taken_in_the_syn_counts_from_there(fast_open: Wire) -> None:
    (arrived,) = data_of(fast_open.records, TAPS[5], CLIENT, SERVER)
    assert (arrived.start, arrived.end) == (0, 200)
    assert arrived.time_s == pytest.approx(0.05095)


def test_a_plain_syn_sent_again_has_no_origin(fast_open: Wire) -> None:
    """Repeated by clientnic itself, without the data."""
    fast_open.seen("23", 250, SYN, C)
    row = next(row for row in fast_open.layout().rows if row.time_ms == pytest.approx(250))
    assert row.begin is Note.MADE


def test_until_the_answer(held: Wire, fast_open: Wire) -> None:
    for wire, last_ms in ((held, 201), (fast_open, 101.5)):
        whole = wire.layout()
        part = whole.until_answer()
        assert part.rows == whole.rows[: len(part.rows)]
        assert part.rows[-1].time_ms == pytest.approx(last_ms)
        assert part.legend() == whole.legend()
        assert ladder.render(part) == ladder.render(whole)[: len(ladder.render(part))]
    assert ladder.render(Wire().layout().until_answer())


def test_a_packet_passed_on_at_once_is_one_row_and_one_that_waits_is_two() -> None:
    wire = Wire()
    wire.seen("0123", 0, SYN, C)
    wire.seen("45", 50, SYN, C)
    rows = wire.layout().rows
    assert [(row.time_ms, row.from_host, row.to_host) for row in rows] == [
        (0, 0, 2),
        (pytest.approx(50), 2, 3),
    ]
    # The wait is the WAN's own: nothing to be said about it.
    assert [row.notes() for row in rows] == [[], []]


def test_the_spoofed_part_is_told_apart(held: Wire) -> None:
    diagram = held.layout()
    notes = [(round(r.time_ms, 1), r.begin, r.end) for r in diagram.rows if r.begin or r.end]
    assert notes == [
        (0.4, Note.SPOOFED, None),
        (0.6, None, Note.HELD),
        (100.2, None, Note.STOPPED),
        (100.6, Note.RELEASED, None),
    ]
    assert diagram.rows[2].waited_ms == pytest.approx(99.95)
    assert [(base.letter, base.isn) for base in diagram.bases] == [("C", C), ("S", S), ("F", F)]
    assert f"S - F = {(S - F) % 2**32} " in " ".join(diagram.legend())


def test_the_same_packet_is_found_on_both_sides_of_the_translation(held: Wire) -> None:
    answer = next(r for r in held.layout().rows if r.time_ms > 200)
    assert [(hop.link, hop.seq_base.letter, hop.seq, hop.ack) for hop in answer.hops] == [
        (1, "S", 1, 201),
        (0, "F", 1, 201),
    ]


def test_drawing_at_80_columns(held: Wire) -> None:
    lines = held.draw(width=80, ascii_only=True)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["ms", "client", "clientnic", "servernic", "server"]
    by_time = {line.split()[0]: line for line in lines[1:] if line[0:7].strip()}
    spoofed, kept = by_time["0.40"], by_time["0.60"]
    assert "<= SYN-ACK F ack C+1 ==" in spoofed
    assert "spoofed here" in spoofed
    assert "PSH C+1:201 ack F+1" in kept
    assert kept.rstrip("| ").endswith("# held 100.0 ms")
    assert "ends here" in by_time["100.20"]
    assert "released" in by_time["100.60"]
    assert "PSH C+1:201 ack S+1" in by_time["100.60"]
    # While it is held, clientnic's line says so, in the rows of others too.
    column = spoofed.index("|", 9)
    assert by_time["50.00"][column] == "#"
    assert by_time["150.60"][column] == "|"


def test_a_wider_drawing_says_more(held: Wire) -> None:
    narrow, wide = "\n".join(held.draw(width=80)), "\n".join(held.draw(width=100))
    assert "PSH F+1 ack C+201" in narrow
    assert "PSH F+1:1001 ack C+201" in wide


@pytest.mark.parametrize("room", range(40))
def test_a_label_never_takes_more_room_than_there_is(
    held: Wire, fast_open: Wire, room: int
) -> None:
    for wire in (held, fast_open):
        for hop in trace(wire.records, PATH, CLIENT, SERVER).hops:
            assert len(ladder.label(hop, room)) <= room


def test_a_direct_connection_has_one_server_isn_and_no_notes() -> None:
    wire = Wire()
    wire.seen("012345", 0, SYN, C)
    wire.seen("543210", 1, SYN_ACK, S, C + 1)
    wire.seen("012345", 2, ACK, C + 1, S + 1)
    diagram = wire.layout()
    assert [base.letter for base in diagram.bases] == ["C", "S"]
    assert [(r.from_host, r.to_host, r.notes()) for r in diagram.rows] == [
        (0, 3, []),
        (3, 0, []),
        (0, 3, []),
    ]


def test_a_lost_packet_is_marked_and_its_repetition_is_a_row_of_its_own() -> None:
    wire = Wire()
    wire.records.append(PacketRecord(0, TAPS[0], CLIENT, SERVER, SYN, C, 0, 0))
    wire.seen("45", 1000, SYN, C)
    rows = wire.layout().rows
    assert rows[0].end is Note.LOST
    assert rows[1].begin is Note.MADE


def test_what_the_wan_does_not_pass_on_is_lost() -> None:
    wire = Wire()
    wire.seen("0123", 0, SYN, C)
    row = wire.layout().rows[0]
    assert row.notes() == [(2, "lost")]


def test_a_segment_cut_up_on_the_way_is_passed_on_not_made() -> None:
    wire = Wire()
    wire.seen("0123", 0, SYN, C)
    wire.seen("01", 1, PSH, C + 1, S + 1, 2000)
    wire.seen("23", 1.2, ACK, C + 1, S + 1, 1400)
    wire.seen("23", 1.3, PSH, C + 1401, S + 1, 600)
    assert [row.begin for row in wire.layout().rows] == [None] * 4


def test_a_dropped_repetition_ends_and_does_not_take_the_first_ones_place() -> None:
    wire = Wire()
    wire.seen("0123", 0, SYN, C)
    wire.seen("01", 1, PSH, C + 1, F + 1, 200)
    wire.seen("01", 30, PSH, C + 1, F + 1, 200)
    wire.seen("23", 100, PSH, C + 1, F + 1, 200)
    ends = [(round(r.time_ms), r.end) for r in wire.layout().rows[1:]]
    assert ends == [(1, Note.HELD), (30, Note.STOPPED), (100, Note.LOST)]


def test_nothing_to_draw() -> None:
    lines = ladder.draw([], PATH, CLIENT, SERVER)
    assert len(lines) == 1


def test_rows_are_in_order_of_time(held: Wire) -> None:
    rows = held.layout().rows
    assert all(one.time_ms <= other.time_ms for one, other in pairwise(rows))


def test_records_of_other_connections_are_left_out(held: Wire) -> None:
    other = ("10.0.1.2", 40001)
    held.records.append(PacketRecord(0.05, TAPS[0], other, SERVER, SYN, 1, 0, 0))
    assert all(
        other not in (record.source, record.destination)
        for record in of_connection(held.records, CLIENT, SERVER)
    )


def test_the_picture_is_well_formed_and_carries_the_same_numbers(held: Wire) -> None:
    root = ElementTree.fromstring(ladder_svg.draw(held.layout(), "a <title> & more"))
    texts = [element.text for element in root.iter("text")]
    assert root.findtext("title") == "a <title> & more"
    for expected in ("spoofed here", "held 100.0 ms", "ends here", "F+1 ack C+201", "PSH 200 B"):
        assert expected in texts


def test_positions_in_the_stream_are_the_same_on_both_sides(held: Wire) -> None:
    for tap in (TAPS[0], TAPS[5]):
        up = data_of(held.records, tap, CLIENT, SERVER)
        down = data_of(held.records, tap, SERVER, CLIENT)
        assert [(s.start, s.end) for s in up] == [(0, 200)]
        assert [(s.start, s.end) for s in down] == [(0, 1000)]


def test_time_sequence_tells_new_from_repeated() -> None:
    wire = Wire()
    wire.records.append(PacketRecord(0, TAPS[0], CLIENT, SERVER, SYN, C, 0, 0))
    for ms, start in ((1, 0), (2, 100), (3, 0), (4, 200)):
        record = PacketRecord(
            ms / 1000, TAPS[0], CLIENT, SERVER, PSH, (C + 1 + start) % 2**32, S, 100
        )
        wire.records.append(record)
    found = timeseq.series(wire.records, TAPS[0], CLIENT, SERVER, 0.0)
    assert [(p.time_ms, p.end) for p in found.points] == [(1, 100), (2, 200), (4, 300)]
    assert [(p.time_ms, p.end) for p in found.repeats] == [(3, 100)]
    curve = timeseq.Curve("request", "direct", "a", found)
    root = ElementTree.fromstring(timeseq.draw([curve], "at the client", 5.0))
    assert len(list(root.iter("circle"))) == 1
    assert "request" in [element.text for element in root.iter("text")]


def test_a_plot_without_data_is_a_plot_still() -> None:
    curve = timeseq.Curve("request", "direct", "a", timeseq.Series((), ()))
    ElementTree.fromstring(timeseq.draw([curve], "at the client", 5.0))


# --- captures read by scapy ---------------------------------------------------------------

CLIENT6, SERVER6 = "fd6e:6671:7a01:1::2", "fd6e:6671:7a01:3::2"
BEHIND_ETHERNET = 14
MAC = "02:00:0a:00:01:02"


def captured(file: Path, packets: Sequence[Packet], snaplen: int = 192) -> list[PacketRecord]:
    """Write the packets to a file as tcpdump would, cut off, and read it."""
    frames = [
        # All fields given, or scapy would ask the network for them.
        bytes(Ether(src=MAC, dst=MAC, type=0x86DD if packet.name == "IPv6" else 0x0800) / packet)
        for packet in packets
    ]
    with PcapWriter(str(file), linktype=1, nano=True) as writer:
        writer.write_header(None)
        for number, frame in enumerate(frames):
            cut = frame[:snaplen]
            writer.write_packet(cut, sec=number, usec=0, caplen=len(cut), wirelen=len(frame))
    return list(read(file, TAPS[0]))


def segment(flags: str = "PA") -> Packet:
    return TCP(sport=40000, dport=80, seq=7, ack=9, flags=flags, options=[("NOP", None)] * 12)


@pytest.mark.parametrize("size", [0, 4, 6, 8, 16])
def test_the_fast_open_cookie_is_measured(tmp_path: Path, size: int) -> None:
    tcp_header = TCP(sport=40000, dport=80, flags="S", options=[(34, b"c" * size)])
    syn = IP(src="10.0.1.2", dst="10.0.3.2") / tcp_header / (b"x" * 200)
    (record,) = captured(tmp_path / "x.pcap", [syn])
    assert (record.fast_open, record.payload_bytes, record.is_syn) == (size, 200, True)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [IPv6ExtHdrHopByHop()],
        [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=[])],
        [IPv6ExtHdrFragment(id=5, m=1)],
        [IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 60)])],
    ],
    ids=["none", "hop-by-hop", "three", "first fragment", "long"],
)
def test_extension_headers_of_ipv6_are_passed_over(tmp_path: Path, headers: list[Packet]) -> None:
    packet = IPv6(src=CLIENT6, dst=SERVER6)
    for header in headers:
        packet /= header
    (record,) = captured(tmp_path / "x.pcap", [packet / segment() / (b"x" * 1000)])
    assert record == PacketRecord(
        0.0, TAPS[0], (CLIENT6, 40000), (SERVER6, 80), PSH, 7, 9, payload_bytes=1000
    )


def test_of_a_tunnel_the_addresses_next_to_tcp_count(tmp_path: Path) -> None:
    outer, inner = IPv6(src="fd00::1", dst="fd00::2"), IP(src="10.0.1.2", dst="10.0.3.2")
    (record,) = captured(tmp_path / "x.pcap", [outer / inner / segment() / b"four"])
    assert (record.source, record.destination) == (CLIENT, SERVER)
    assert record.payload_bytes == 4
    inner = IPv6(src=CLIENT6, dst=SERVER6)
    outer = IP(src="10.0.0.1", dst="10.0.0.2")
    (record,) = captured(tmp_path / "x.pcap", [outer / inner / segment() / b"four"])
    assert (record.source[0], record.payload_bytes) == (CLIENT6, 4)


@pytest.mark.parametrize(
    "packet",
    [
        IPv6(src=CLIENT6, dst=SERVER6) / IPv6ExtHdrFragment(offset=100, nh=6) / (b"x" * 400),
        IPv6(src=SERVER6, dst=CLIENT6)
        / ICMPv6PacketTooBig(mtu=1280)
        / IPv6(src=CLIENT6, dst=SERVER6)
        / segment(),
        IP(src="10.0.3.2", dst="10.0.1.2")
        / ICMP(type=3, code=4)
        / IP(src="10.0.1.2", dst="10.0.3.2")
        / segment(),
        IP(src="10.0.1.2", dst="10.0.3.2", frag=100, proto=6) / (b"x" * 400),
        IPv6(src=CLIENT6, dst=SERVER6) / UDP() / b"TCP",
        IPv6(src=CLIENT6, dst=SERVER6, nh=59),
        IPv6(src=CLIENT6, dst=SERVER6) / TCP(dataofs=3),
        IPv6(src=CLIENT6, dst=SERVER6) / TCP(dataofs=15),
        IPv6(src=CLIENT6, dst=SERVER6, nh=0) / b"\x06\xff\0\0",
    ],
    ids=lambda packet: packet.summary(),
)
def test_what_has_no_tcp_header_of_its_own_is_left_out(tmp_path: Path, packet: Packet) -> None:
    good = IPv6(src=CLIENT6, dst=SERVER6) / segment()
    assert len(captured(tmp_path / "x.pcap", [packet, good])) == 1


def test_a_capture_that_is_cut_off_anywhere_is_read(tmp_path: Path) -> None:
    whole = IPv6(src=CLIENT6, dst=SERVER6) / IPv6ExtHdrHopByHop() / segment() / (b"x" * 1000)
    found = [
        record
        for size in range(BEHIND_ETHERNET, 192)
        for record in captured(tmp_path / "x.pcap", [whole], size)
    ]
    assert {(r.source, r.destination) for r in found} == {((CLIENT6, 40000), (SERVER6, 80))}


def test_a_connection_over_ipv6_is_drawn(tmp_path: Path, held: Wire) -> None:
    """The same as over IPv4, whatever extension headers its packets have."""
    over_ipv4 = held.draw()
    records = []
    for number, tap in enumerate(TAPS):
        own = [record for record in held.records if record.tap == tap]
        frames = []
        for record in own:
            up = record.source == CLIENT
            source, destination = (CLIENT6, SERVER6) if up else (SERVER6, CLIENT6)
            header = IPv6ExtHdrDestOpt() if record.payload_bytes else IPv6ExtHdrHopByHop()
            tcp_header = TCP(
                sport=record.source[1],
                dport=record.destination[1],
                flags=record.flags,
                seq=record.seq,
                ack=record.ack,
            )
            ip = IPv6(src=source, dst=destination)
            frames.append(ip / header / tcp_header / (b"x" * record.payload_bytes))
        seen = captured(tmp_path / f"{number}.pcap", frames)
        records += [
            replace(new, time_s=old.time_s, tap=tap) for new, old in zip(seen, own, strict=True)
        ]
    drawn = ladder.draw(records, PATH, (CLIENT6, 40000), (SERVER6, 80), wan_host="servernic")
    assert drawn == over_ipv4
