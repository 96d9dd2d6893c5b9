"""``nfq-zerortt explain``, on traces of real connections and real failures (tests/captures)."""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.utils import PcapWriter, RawPcapNgReader, RawPcapWriter

from nfq_zerortt.explaining import flows, logs, page, terminal
from nfq_zerortt.explaining.breaks import breaks_off
from nfq_zerortt.explaining.captures import read_captures
from nfq_zerortt.explaining.explanation import Explanation
from nfq_zerortt.tracing.flow_table import Conversations
from nfq_zerortt.tracing.packets import Packet, Seen, read
from nfq_zerortt.tracing.words import milliseconds
from nfq_zerortt.wire import flags as tcp
from tests.traces import CAPTURES, events_of

FAILURES = {
    "refused": (
        "The server refused: RST for the SYN (#5).",
        "The client got a RST that was made here (#6): the server has refused the connection",
    ),
    "unanswered": (
        "No SYN-ACK of the server is in the capture",
        "No answer to the SYN had come by then: it was sent again, 2 times",
        "The client got a RST that was made here",
        "the server has answered none of 3 SYNs",
        "17 bytes of early data in 1 segment came, and never left for the server.",
    ),
    "unreachable": (
        "An ICMP error came, destination unreachable (#",
        "the SYN could not be delivered: ICMP destination unreachable (#",
    ),
    "too_big": (
        "An ICMP error came, packet too big (#",
        "and was passed on.",
        "an ICMP error had told the client, packet too big (#",
    ),
    "reset_later": ("The server reset the connection (#",),
    "released_data_lost": (
        "Repetitions of the client's that were passed on: #",
        "more than a round trip (4",
        "that, or its acknowledgement, was lost behind this host",
    ),
    "another_way_back": (
        "No SYN-ACK of the server is in the capture",
        "something has reached it on a way that does not lead through this host",
        "The client reset the connection (#",
    ),
    "fastopen_refused": (
        "The SYN left for the server with 1428 bytes of the client's first data (TCP Fast Open)",
        "The server did not take the data in the SYN.",
        "what the server had not got with the SYN was held",
    ),
}
SUCCESSES = {
    "hold": (
        "The client was answered after 0.",
        "The server's SYN-ACK came 4",
        "the client had been connected for 4",
        "2000 bytes of early data in 1 segment came before the server had answered; it was held",
        "The client sent its FIN",
        "Numbers were shifted by Δ = ",
    ),
    "fastopen": ("The server took all 1428 bytes that the SYN carried.",),
    "observe": (
        "and was passed on.",
        "The flow passed untouched: the numbers are the same on both sides.",
    ),
    "kernel": ("Numbers were shifted by Δ = ",),
    "hold_ipv6": ("[fd6e:6671:7a01:1::2]:", "it was held"),
}


SERVER_PORT = 8080
"""Of the captures."""


def explain(*arguments: str | Path, status: int = 0) -> str:
    """Run the command; return stdout, or stderr if it is to fail."""
    argv = [sys.executable, "-m", "nfq_zerortt", "explain", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def words(text: str) -> str:
    """The text on one line: where a line is broken says nothing."""
    return " ".join(text.split())


@pytest.mark.parametrize("name", [*FAILURES, *SUCCESSES])
def test_a_trace_is_enough(name: str) -> None:
    said = words(explain(CAPTURES / f"{name}.pcapng"))
    for sentence in (FAILURES | SUCCESSES)[name]:
        assert sentence in said


def test_no_gain_is_claimed_where_there_is_none() -> None:
    said = explain(CAPTURES / "observe.pcapng")
    assert "had been connected for" not in said
    assert "in the server's name" not in said


def test_the_ladder_is_drawn() -> None:
    lines = explain(CAPTURES / "hold.pcapng").splitlines()
    ladder = [line for line in lines if re.match(r" *\d+\.\d\d [│║]", line)]
    assert "SYN-ACK F ack C+1" in ladder[1]
    assert "spoofed here" in ladder[1]
    assert any("held 4" in line for line in ladder)
    assert any("released" in line for line in ladder)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["refused", "unanswered"])
def test_a_number_that_was_made_up_is_not_called_the_server_s(name: str) -> None:
    said = explain(CAPTURES / f"{name}.pcapng")
    assert re.search(r"^F = +\d+  fabricated on the way$", said, re.MULTILINE)
    assert "the server's ISN" not in said
    assert "Δ = None" not in said


def test_bytes_over_time_are_drawn() -> None:
    said = explain(CAPTURES / "hold.pcapng")
    up = said.partition("to the server: bytes of the stream over time")[2]
    rows = up.splitlines()[1:13]
    assert rows[0].startswith("    2000 |")
    marks = {
        mark: min(row.index(mark) for row in rows if mark in row[10:])
        for mark in "+x"
        if any(mark in row[10:] for row in rows)
    }
    assert marks["+"] < marks["x"], "early data came, and left later"


@pytest.mark.parametrize("name", [*FAILURES, *SUCCESSES])
def test_the_page_needs_nothing_else(name: str, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    explain(CAPTURES / f"{name}.pcapng", "--html", out)
    text = out.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link rel=\"style|https?://|@import|url\(", text)
    ElementTree.fromstring(re.sub(r"<meta[^>]*>|<link[^>]*>|<!DOCTYPE html>|<wbr>", "", text))
    plain = words(re.sub(r"<[^>]+>", " ", text).replace("&#x27;", "'"))
    for sentence in (FAILURES | SUCCESSES)[name]:
        assert sentence.replace(">", "&gt;") in plain
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_picture_is_an_svg_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "ladder.svg"
    explain(CAPTURES / "fastopen.pcapng", "--svg", out)
    text = out.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text, "there is no page that has the colours"
    assert any("spoofed here" in (element.text or "") for element in root.iter())


# What it is given.


@pytest.fixture
def two_flows(tmp_path: Path) -> Path:
    """Two connections, one after the other, in one file."""
    out = tmp_path / "two.pcapng"
    first, second = ((CAPTURES / f"{name}.pcapng").read_bytes() for name in ("hold", "refused"))
    out.write_bytes(first + second)  # two sections
    return out


def test_several_flows_are_listed_and_one_can_be_named(two_flows: Path) -> None:
    lines = explain(two_flows).splitlines()
    assert len(lines) == 3
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert [line.split()[-2] for line in lines[1:]] == ["closed", "reset"]
    name = lines[2].split()[-1]
    by_number, by_name = explain(two_flows, "--flow", "2"), explain(two_flows, "--flow", name)
    assert by_number == by_name
    assert "The server refused" in by_number
    client = name.partition(">")[0]
    assert explain(two_flows, "--flow", client) == by_number


def test_a_list_cannot_be_a_page(two_flows: Path, tmp_path: Path) -> None:
    said = explain(two_flows, "--html", tmp_path / "x.html", status=2)
    assert "name it with --flow" in said


def one_sided(name: str, interface: bytes, out: Path, *, hosts_away: int = 0) -> Path:
    """What tcpdump would have written on one interface: pcap, with Ethernet headers.

    ``hosts_away``: or behind so many routers, in the direction of the server.
    """
    with (
        RawPcapNgReader(str(CAPTURES / f"{name}.pcapng")) as reader,
        PcapWriter(str(out), linktype=1, nano=True) as writer,
    ):
        for raw, about in reader:
            if about.ifname == interface:
                ns = about.tshigh << 32 | about.tslow
                packet = Ether() / IP(raw)
                packet[IP].ttl += -hosts_away if packet.dport == SERVER_PORT else hosts_away
                packet.time = ns / 1e9
                packet.wirelen = about.wirelen + 14
                writer.write(packet)
    return out


def test_one_side_shows_what_it_can(tmp_path: Path) -> None:
    said = words(explain(one_sided("hold", b"eth0", tmp_path / "near.pcap")))
    assert "a capture of one side (near.pcap); what the other side saw is not known" in said
    assert "SYN-ACK S ack C+1" in said
    assert "S = 0" not in said
    assert re.search(r"The SYN was answered after 0\.\d+ ms \(#2\)\.", said)
    assert "Of the client's segments 1 brought nothing beyond what had come" in said
    assert "held" not in said.replace("Whether anything was held, changed or made", "")


@pytest.mark.parametrize("interface", [b"eth0", b"eth1"])
@pytest.mark.parametrize("name", ["fastopen", "kernel", "unanswered", "too_big", "hold_ipv6"])
def test_of_one_side_nothing_is_claimed_about_the_other(
    name: str, interface: bytes, tmp_path: Path
) -> None:
    if name == "hold_ipv6":
        said = words(explain(cooked(name, tmp_path / "one.pcap", interface)))
    else:
        said = words(explain(one_sided(name, interface, tmp_path / "one.pcap")))
    assert "a capture of one side" in said
    assert "Whether anything was held, changed or made on the way does not show here." in said
    for claim in ("spoofed", "was passed on", "passed untouched", "not seen leaving", "saved"):
        assert claim not in said


def test_flows_of_two_runs_in_one_log_are_two(tmp_path: Path) -> None:
    """After a restart the service counts from 1 again."""
    first = (CAPTURES / "hold.jsonl").read_text(encoding="utf-8")
    (number,) = {e["flow_id"] for e in map(json.loads, first.splitlines()) if e.get("flow_id")}
    name = next(e["flow"] for e in map(json.loads, first.splitlines()) if e.get("flow"))
    client = name.partition(">")[0]
    log = tmp_path / "log"
    log.write_text(first + first.replace(client, "10.0.1.2:1"), encoding="utf-8")
    listed = explain(log)
    assert "10.0.1.2:1>" in listed
    assert name in listed
    of_first = words(explain(log, "--flow", str(number)))
    assert of_first == words(explain(CAPTURES / "hold.jsonl")), "nothing of the other is in it"
    of_second = words(explain(log, "--flow", name.replace(client, "10.0.1.2:1")))
    assert of_second.replace("10.0.1.2:1>", f"{client}>") == of_first


@pytest.mark.parametrize(("back", "asymmetric"), [(1, False), (0, True)])
def test_a_keepalive_probe_is_no_sign_of_another_way_back(back: int, *, asymmetric: bool) -> None:
    """It has the number before the next one; an ACK that answers something has the next one."""
    packets = list(read_captures([CAPTURES / "unanswered.pcapng"]).packets)
    place, last = next(
        (n, p)
        for n, p in reversed(list(enumerate(packets)))
        if p.tap == 0
        and p.segment is not None
        and p.to_server
        and p.came
        and p.segment.payload_length
    )
    assert last.segment is not None
    probe = bytearray(last.data[: last.segment.payload_at])
    at = last.segment.tcp
    struct.pack_into(">I", probe, at + 4, (last.segment.end_seq - back) % (1 << 32))
    probe[at + 13] = tcp.ACK
    struct.pack_into(">H", probe, 2, len(probe))
    known = Conversations()
    made = []
    seen = [Seen(p.time_ns, p.tap, p.outgoing, p.data, p.length) for p in packets]
    probes = [
        Seen(last.time_ns + turn * 1_000_000, 0, False, bytes(probe), len(probe)) for turn in (1, 2)
    ]
    for number, one in enumerate([*seen[: place + 1], *probes, *seen[place + 1 :]], 1):
        packet = read(number, one)
        assert packet is not None
        flow = known.add(packet)
        made.append(packet)
    said = " ".join(line.text for line in flows.explanation(("eth0", "eth1"), flow, made).lines)
    assert ("on a way that does not lead through this host" in said) == asymmetric


_SLL = struct.Struct(">HHH8sH")
_HOST, _OUTGOING = 0, 4  # packet types of linux/if_packet.h


def cooked(name: str, out: Path, *interfaces: bytes) -> Path:
    """Return the capture as tcpdump before 4.99.0 writes it for ``-i any``: Linux cooked v1."""
    with (
        RawPcapNgReader(str(CAPTURES / f"{name}.pcapng")) as reader,
        RawPcapWriter(str(out), linktype=113, nano=True) as writer,
    ):
        writer.write_header(None)
        for raw, about in reader:
            if about.ifname in interfaces:
                ns = about.tshigh << 32 | about.tslow
                kind = _OUTGOING if about.direction == 2 else _HOST
                protocol = 0x0800 if raw[0] >> 4 == 4 else 0x86DD
                writer.write_packet(
                    _SLL.pack(kind, 1, 6, bytes(8), protocol) + raw,
                    sec=ns // 10**9,
                    usec=ns % 10**9,
                    wirelen=about.wirelen + _SLL.size,
                )
    return out


@pytest.mark.parametrize("name", [*FAILURES, "hold", "hold_ipv6", "kernel"])
def test_a_cooked_capture_that_names_no_interface_is_one_of_both_sides(
    name: str, tmp_path: Path
) -> None:
    """Each packet is there twice; by its direction it is known where."""
    said = words(explain(cooked(name, tmp_path / "any.pcap", b"eth0", b"eth1")))
    assert "both sides (clients' side towards the client, servers' side towards the" in said
    assert "sides were told by the directions of the packets" in said
    for sentence in FAILURES.get(name, ("spoofed here", "it was held" if name != "kernel" else "")):
        assert sentence in said


def test_a_cooked_capture_of_one_interface_is_one_side(tmp_path: Path) -> None:
    said = words(explain(cooked("hold", tmp_path / "any.pcap", b"eth0")))
    assert "a capture of one side" in said
    assert "directions" not in said


def test_a_file_for_each_side(tmp_path: Path) -> None:
    near = one_sided("hold", b"eth0", tmp_path / "near.pcap")
    far = one_sided("hold", b"eth1", tmp_path / "far.pcap")
    both = [words(explain(*order)) for order in ((near, far), (far, near))]
    for said in both:
        assert "near.pcap towards the client, far.pcap towards the server" in said
        assert "it was held" in said
        assert "spoofed here" in said


def test_captures_of_two_other_hosts_are_not_taken_for_both_sides_of_this_one(
    tmp_path: Path,
) -> None:
    near = one_sided("hold", b"eth0", tmp_path / "client.pcap")
    far = one_sided("hold", b"eth1", tmp_path / "server.pcap", hosts_away=1)
    said = explain(near, far, status=2)
    assert "client.pcap and server.pcap: they were captured 2 hosts apart" in said
    assert "explain one at a time" in said


@pytest.mark.parametrize("name", ["hold", "fastopen", "refused", "unanswered"])
def test_the_log_tells_the_same(name: str) -> None:
    said = explain(CAPTURES / f"{name}.jsonl")
    assert "From the service's log (every packet)." in said
    assert "spoofed here" in said
    expected = {
        "hold": "bytes of early data left for the server, held for ",
        "fastopen": "It took the data in the SYN.",
        "refused": "The connection was reset by the server: refused.",
        "unanswered": "The client got a RST of the service's: no_answer.",
    }[name]
    assert expected in words(said)


def test_the_log_at_level_info_has_the_handshake(tmp_path: Path) -> None:
    log = tmp_path / "info.jsonl"
    lines = (CAPTURES / "hold.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"debug"' not in line), encoding="utf-8")
    said = explain(log)
    assert "the events of the flow, not each packet" in said
    ladder = [line for line in said.splitlines() if re.match(r" *\d+\.\d\d [│║]", line)]
    assert len(ladder) == 5
    assert "spoofed here" in ladder[1]
    assert re.search(r"held [34]\d\.\d ms", ladder[2])
    assert "released" in ladder[4]
    assert "With --log-level debug" in words(said)


@pytest.mark.parametrize("name", ["refused", "reset_later", "unanswered", "another_way_back"])
def test_a_rst_whose_numbers_are_not_known_is_not_drawn(name: str, tmp_path: Path) -> None:
    log = tmp_path / "info.jsonl"
    lines = (CAPTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"debug"' not in line), encoding="utf-8")
    (flow,) = {e["flow"] for e in events_of(log) if e["event"] == "flow.reset"}
    said = explain(log, "--flow", flow)
    drawn = [line for line in said.splitlines() if re.match(r" *\d+\.\d\d [│║]", line)]
    assert drawn
    assert not any("RST" in line for line in drawn)
    assert "reset" in said or "got a RST" in said


def test_times_in_a_log_count_from_when_the_syn_was_read(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    events = [dict(event) for event in events_of(CAPTURES / "hold.jsonl")]
    for event in events:
        if event["event"] == "flow.data_held":
            event["bytes"] = 1
    log.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    (latency,) = (event["latency_us"] for event in events if "latency_us" in event)
    first, second, *others = logs.explained(log, "1").lines
    assert (first.time_ms, first.text[:20]) == (0, "The client's SYN cam")
    assert second.time_ms == pytest.approx(latency / 1000, abs=0.002)
    assert f"{latency} µs after its SYN was read" in second.text
    assert any("Early data came (1 byte)" in line.text for line in others)


def test_the_log_s_flow_can_be_named_by_its_id() -> None:
    number = next(e["flow_id"] for e in events_of(CAPTURES / "hold.jsonl") if "flow_id" in e)
    assert "spoofed here" in explain(CAPTURES / "hold.jsonl", "--flow", str(number))


def test_a_capture_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcapng"
    data = (CAPTURES / "hold.pcapng").read_bytes()
    cut.write_bytes(data[: len(data) // 2 + 3])
    said = words(explain(cut))
    assert "The client was answered after" in said
    assert "Its end is not in the capture." in said
    assert "cut.pcapng breaks off in the middle of a packet" in said


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_whether_a_file_breaks_off(kind: str, *, zipped: bool, tmp_path: Path) -> None:
    file = CAPTURES / "hold.pcapng"
    if kind == "pcap":
        file = one_sided("hold", b"eth0", tmp_path / "near.pcap")
    data = file.read_bytes()
    out = tmp_path / "file"
    out.write_bytes(gzip.compress(data) if zipped else data)
    assert not breaks_off(out)
    for less in (1, 5, 70):
        out.write_bytes(gzip.compress(data[:-less]) if zipped else data[:-less])
        assert breaks_off(out)
    out.write_bytes(gzip.compress(data)[:-9])
    assert breaks_off(out)


def story_of(packets: list[Packet], end_ns: int | None = None) -> Explanation:
    """Explain these packets of one flow as if there were no more."""
    known = Conversations()
    made = []
    for number, one in enumerate(packets, 1):
        packet = read(number, Seen(one.time_ns, one.tap, one.outgoing, one.data, one.length))
        assert packet is not None
        flow = known.add(packet)
        made.append(packet)
    return flows.explanation(("eth0", "eth1"), flow, made, end_ns)


def packets_of(name: str) -> list[Packet]:
    return list(read_captures([CAPTURES / f"{name}.pcapng"]).packets)


def told(made: Explanation) -> str:
    return " ".join(line.text for line in made.lines)


def test_a_capture_that_ends_soon_is_no_evidence_of_silence() -> None:
    packets = packets_of("unanswered")[:5]
    soon = told(story_of(packets))
    assert re.search(r"is in the capture, but that ends [\d.]+ ms after the SYN had left", soon)
    assert re.search(r"in 1 segment came; the capture ends [\d.]+ ms later, and it has not", soon)
    assert "does not answer" not in soon
    assert "never left" not in soon
    later = told(story_of(packets, packets[0].time_ns + 2 * 10**9))
    assert "the server does not answer, its answer gets lost" in later
    assert "came, and never left for the server" in later


def test_numbers_of_a_flow_that_had_begun_are_those_of_the_wire() -> None:
    made = story_of(packets_of("kernel")[60:])
    lines = "\n".join(terminal.show(made, 120)).splitlines()
    assert not any(re.match("[CSF] = ", line) for line in lines)
    drawn = [line for line in lines if re.match(r" *\d+\.\d\d [│║]", line)]
    assert len(drawn) > 20
    assert not any("sent by this host" in line or "ends here" in line for line in drawn)
    assert any(re.search(r"\b\d{5,10}:\d{5,10} ack \d{5,10}\b", line) for line in drawn)
    assert "those of its side" in "".join(made.left_out)


@pytest.mark.parametrize("stamped", [True, False])
def test_the_round_trip_is_known_though_the_syn_was_sent_again(*, stamped: bool) -> None:
    packets = packets_of("released_data_lost")
    place, syn = next(
        (n, p)
        for n, p in enumerate(packets)
        if p.tap == 1 and p.segment is not None and p.segment.flags == tcp.SYN
    )
    packets.insert(place + 1, syn)
    if not stamped:
        for packet in packets:
            packet.data = packet.data.replace(b"\x08\x0a", b"\x1e\x0a", 1)  # another option
    said = told(story_of(packets))
    assert ("more than a round trip (4" in said) == stamped
    assert stamped or "was lost or overtaken behind this host" in said


def test_icmp_errors_of_a_kind_are_told_of_once() -> None:
    packets = packets_of("unreachable")
    place, error = next((n, p) for n, p in enumerate(packets) if p.quote is not None)
    packets[place + 1 : place + 1] = [error, error]
    said = told(story_of(packets))
    assert said.count("An ICMP error came, destination unreachable") <= 2, "passed on, or not"
    assert re.search(r"Likewise: #\d+", said)


def test_data_that_was_missing_for_a_while_is_told_of() -> None:
    packets = packets_of("kernel")
    sent = [
        n
        for n, p in enumerate(packets)
        if p.tap == 1
        and p.segment is not None
        and p.segment.payload_length
        and p.segment.sport == SERVER_PORT
    ]
    assert "came after data behind it" not in told(story_of(packets))
    lost, behind, after = (packets[n] for n in sent[3:6])
    packets.remove(lost)
    packets.insert(packets.index(after) + 1, lost)
    lost.time_ns = after.time_ns
    waited = (after.time_ns - behind.time_ns) / 1e6
    said = told(story_of(packets))
    assert "1 segment of the server's came after data behind it: #" in said
    assert f"what came behind it waited {milliseconds(waited)} at most" in said


def test_a_log_whose_last_line_is_being_written_is_read(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes((CAPTURES / "hold.jsonl").read_bytes()[:-20])
    assert "spoofed here" in explain(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no capture (pcap, pcapng), and no log of the service"),
        (b"hello\n", "it is no capture (pcap, pcapng), and no log of the service"),
        (b'{"event": "service.ready"}\n', "there is no flow in this log"),
        (b'{"event": 1}\nnonsense\n', "line 2: it is no event"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    argv = [sys.executable, "-m", "nfq_zerortt", "explain", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_wrong_arguments_are_said_in_a_line(tmp_path: Path) -> None:
    assert "No such file" in explain(tmp_path / "none", status=2)
    hold = CAPTURES / "hold.pcapng"
    assert "there is no such flow" in explain(hold, "--flow", "10.9.9.9:1", status=2)
    assert "there is no such flow" in explain(hold, "--flow", "7", status=2)
    said = explain(hold, "--flow", "x", status=2)
    assert "allowed is" in said
    assert "or its number in the list" in said
    assert "or its flow_id" in explain(CAPTURES / "hold.jsonl", "--flow", "x", status=2)
    assert "two at most" in explain(hold, hold, hold, status=2)
    assert "No such file" in explain(hold, "--html", tmp_path / "a" / "b.html", status=2)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_a_capture_has_is_explained(seed: int) -> None:
    """Packets that are damaged, missing, doubled, out of order or of the wrong side."""
    chance = random.Random(seed)
    name = chance.choice([*FAILURES, *SUCCESSES])
    packets = list(read_captures([CAPTURES / f"{name}.pcapng"]).packets)[:60]
    seen = [Seen(p.time_ns, p.tap, p.outgoing, p.data, p.length) for p in packets]
    for _ in range(chance.randrange(8)):
        place, how = chance.randrange(len(seen)), chance.randrange(5)
        one = seen[place]
        if how == 0:
            del seen[place]
        elif how == 1:
            seen.insert(chance.randrange(len(seen)), one)
        elif how == 2:
            data = bytearray(one.data)
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
            seen[place] = one._replace(data=bytes(data))
        elif how == 3:
            seen[place] = one._replace(data=one.data[: chance.randrange(60)])
        else:
            seen[place] = one._replace(tap=chance.randrange(2), outgoing=None)
    known = Conversations()
    of_flow: dict[int, list[Packet]] = defaultdict(list)
    by_number = {}
    for number, one in enumerate(seen[chance.choice([0, 0, 5]) :], 1):
        packet = read(number, one)
        if packet is not None:
            flow = known.add(packet)
            by_number[flow.number] = flow
            of_flow[flow.number].append(packet)
    for number, mine in of_flow.items():
        made = flows.explanation(("eth0", "eth1"), by_number[number], mine)
        assert made.name in "\n".join(terminal.show(made, 100))
        assert page.page(made).endswith("</html>\n")


def test_a_long_flow_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "MOST_PACKETS", 200)
    made = flows.explained([CAPTURES / "kernel.pcapng"], "1")
    assert len(made.records) == 200
    more = len(list(read_captures([CAPTURES / "kernel.pcapng"]).packets)) - 200
    assert made.left_out == [
        f"The flow has {more} packets more; what is said here is of its first 200."
    ]
    text = page.page(made)
    assert f"{more} packets more" in text
    assert "more packets …" in text, "the ladder has its begin and its end"


def test_a_long_list_is_bounded(
    two_flows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "MOST_LISTED", 1)
    found = flows.listing([two_flows])
    assert (len(found.flows), found.others) == (1, 1)
    log = tmp_path / "two.jsonl"
    lines = (CAPTURES / "hold.jsonl").read_text(encoding="utf-8")
    other = lines.replace('"flow_id": 1', '"flow_id": 2')
    assert other != lines
    log.write_text(lines + other, encoding="utf-8")
    monkeypatch.setattr(logs, "MOST_LISTED", 1)
    assert logs.listing(log).others == 1
