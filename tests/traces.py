"""Judging a trace: by the service's own account of each packet, and by what is in the packets.

The service's log at level debug names every packet and the reason for what was done with it. The
trace finds the same out by comparing two interfaces, and knows nothing of the log. What the
comments say of the fields is held against another program's reading of the file.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader

from nfq_zerortt.explaining.captures import read_captures
from nfq_zerortt.tracing.conversations import Conversation
from nfq_zerortt.tracing.flow_table import Conversations
from nfq_zerortt.tracing.packets import Packet, Role
from nfq_zerortt.wire import flags as tcp

CAPTURES = Path(__file__).parent / "captures"

Event = Mapping[str, Any]
Fields = Mapping[str, str]
"""What is in a packet's TCP header, each field as text."""

_MADE = frozenset(
    {
        "ack_repeated",
        "challenge_ack",
        "client_aborted",
        "client_silent",
        "no_answer",
        "refused",
        "spoofed_syn_ack",
        "syn_data_acknowledged",
        "syn_repeated",
        "unacceptable_ack",
        "unreachable",
    }
)
_NEVER_PASSED = frozenset(
    {"syn_ack_captured", "syn_ack_repeated", "ack_repeated", "refused", "spurious_retransmission"}
)
_CARRIED = re.compile(r"; it came as #(\d+) on")
_CHANGE = re.compile(r"(SEQ|ACK|flags|window|TSval|TSecr|SACK|checksum) (\S+) → (\S+?)(?: \(.*)?")


def analysed(file: Path) -> tuple[Conversation, list[Packet]]:
    """Return the only flow of a capture, and its packets with what became of them."""
    known = Conversations()
    packets = list(read_captures([file]).packets)
    flows = {known.add(packet) for packet in packets}
    assert len(flows) == 1, [flow.name for flow in flows]
    return flows.pop(), packets


def events_of(log: Path) -> list[Event]:
    """Return the log's events."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


# By the service's own account.


def check_by_log(packets: Sequence[Packet], events: Iterable[Event]) -> Counter[str]:
    """Check each packet's role by the log; return how often each reason was met.

    What the kernel carries is not in the log; it must have come and left, then.
    """
    events = list(events)
    answered = any(event["event"] == "flow.synack_captured" for event in events)
    account = _Account(packets, answered=answered)
    met: Counter[str] = Counter()
    for event in events:
        if event["event"].startswith("packet.") and "seq" in event:
            account.take(event)
            met[event["reason"]] += 1
    for packet in account.left():
        assert packet.role is Role.LEFT, f"{_said(packet)}: the log does not have it"
    return met


class _Account:
    def __init__(self, packets: Sequence[Packet], *, answered: bool) -> None:
        self._answered = answered
        self._out: dict[tuple[Any, ...], list[Packet]] = defaultdict(list)
        self._came: list[Packet] = []
        for packet in packets:
            segment = packet.segment
            if segment is None:
                continue
            if packet.came:
                self._came.append(packet)
            else:
                numbers = (segment.seq, segment.ack, segment.payload_length)
                key = (packet.to_server, tcp.names(segment.flags), *numbers)
                self._out[key].append(packet)

    def left(self) -> list[Packet]:
        """What no event was about."""
        return [packet for packets in self._out.values() for packet in packets]

    def take(self, event: Event) -> None:
        up = event["direction"] == "client_to_server"
        kind, reason = event["event"], event["reason"]
        if kind == "packet.dropped":
            self._dropped(event, up, reason)
            return
        key = (up, event["flags"], event["new_seq"], event["new_ack"], event["length"])
        assert self._out[key], f"the trace lacks {event}"
        packet = self._out[key].pop(0)
        if kind == "packet.injected":
            if reason in _MADE:
                assert packet.role is Role.MADE, f"{reason}: {_said(packet)}"
            elif reason in ("released", "split", "syn") and (event["length"] or reason == "syn"):
                assert packet.role is Role.LEFT, f"{reason}: {_said(packet)}"
            return
        assert packet.role is Role.LEFT, f"{event}: {_said(packet)}"
        assert packet.origin is not None
        assert _contains(packet.origin, event), f"{event}: {_said(packet.origin)}"

    def _dropped(self, event: Event, up: bool, reason: str) -> None:
        among = [p for p in self._came if p.to_server == up and _contains(p, event)]
        assert among, f"the trace lacks {event}"
        if reason in _NEVER_PASSED:
            assert any(p.role is Role.UNKNOWN for p in among), f"{event}: {_said(among[0])}"
        if reason == "spurious_retransmission":
            assert any(p.repeats is not None for p in among)
        if reason == "syn_kept_back" or (reason == "held" and self._answered):
            assert any(p.role is Role.PASSED for p in among), f"{event}: {_said(among[0])}"


def _contains(packet: Packet, event: Event) -> bool:
    """Whether a packet that came is that of an event: the kernel may have cut it up before."""
    segment = packet.segment
    assert segment is not None
    before: int = (event["seq"] - segment.seq) % (1 << 32)
    fits: bool = before + event["length"] <= segment.payload_length
    return fits and bool(segment.ack == event["ack"])


def _said(packet: Packet) -> str:
    return f"{packet.tag} {packet.role.name} {packet.because}"


# By what is in the packets.


def fields_by_scapy(file: Path) -> dict[int, Fields]:
    """Read the packets with scapy; by their numbers in the file, from 1."""
    with RawPcapNgReader(str(file)) as reader:
        raws = [raw for raw, _ in reader]
    found: dict[int, Fields] = {}
    for number, raw in enumerate(raws, 1):
        packet = IP(raw) if raw[0] >> 4 == 4 else IPv6(raw)
        if TCP not in packet:
            continue  # an ICMP error
        segment = packet[TCP]
        options = dict(segment.options)
        stamps = options.get("Timestamp")
        edges = options.get("SAck", ())
        found[number] = {
            "SEQ": str(segment.seq),
            "ACK": str(segment.ack),
            "flags": tcp.names(int(segment.flags)),
            "window": str(segment.window),
            "checksum": f"0x{segment.chksum:04x}",
            "TSval": str(stamps[0]) if stamps else "",
            "TSecr": str(stamps[1]) if stamps else "",
            "SACK": ",".join(f"{a}:{b}" for a, b in zip(edges[::2], edges[1::2], strict=True)),
        }
    return found


def fields_by_tshark(file: Path) -> dict[int, Fields]:
    """Read the packets with tshark, likewise; every one must be sound."""
    names = {
        "SEQ": "tcp.seq_raw",
        "ACK": "tcp.ack_raw",
        "window": "tcp.window_size_value",
        "checksum": "tcp.checksum",
        "TSval": "tcp.options.timestamp.tsval",
        "TSecr": "tcp.options.timestamp.tsecr",
    }
    lines = tshark(file, "frame.number", "_ws.malformed", *names.values(), "tcp.flags")
    edges = tshark(file, "tcp.options.sack_le", "tcp.options.sack_re", options=_ABSOLUTE)
    found: dict[int, Fields] = {}
    for (number, malformed, *values, flags), (left, right) in zip(lines, edges, strict=True):
        assert not malformed, f"frame {number} of {file} is malformed"
        blocks = [f"{a}:{b}" for a, b in zip(left.split(","), right.split(","), strict=True) if a]
        found[int(number)] = dict(zip(names, values, strict=True)) | {
            "flags": tcp.names(int(flags, 16)),
            "SACK": ",".join(blocks),
        }
    return found


_ABSOLUTE = ("-o", "tcp.relative_sequence_numbers:FALSE")


def tshark(file: Path, *fields: str, options: Sequence[str] = ()) -> list[list[str]]:
    """Return fields of every packet."""
    program = shutil.which("tshark")
    if program is None:
        pytest.fail("tshark is missing: apt-get install tshark", pytrace=False)
    argv = [program, "-r", str(file), "-T", "fields", "-E", "separator=\t", *options]
    for field in fields:
        argv += ["-e", field]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def comments_of(file: Path) -> dict[int, str]:
    """Return the comments by the packets' numbers."""
    with RawPcapNgReader(str(file)) as reader:
        return {
            number: about.comments[0].decode()
            for number, (_, about) in enumerate(reader, 1)
            if about.comments
        }


def check_comments(comments: Mapping[int, str], fields: Mapping[int, Fields]) -> Counter[str]:
    """Check that comments say of each change what is in the packets, and name all of them.

    Return how many changes of each field there were.
    """
    found: Counter[str] = Counter()
    for number, comment in comments.items():
        carried = _CARRIED.search(comment)
        if carried is None or number not in fields:
            continue
        came, left = fields[int(carried[1])], fields[number]
        said: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for line in comment.splitlines():
            match = _CHANGE.fullmatch(line)
            if match:
                said[match[1]].append((match[2], match[3]))
        for name in came.keys() | said.keys():
            olds = [old for old, _ in said[name] if old != "none"]
            news = [new for _, new in said[name]]
            if not said[name]:
                same = came[name] == left[name]
                # Without ACK the field means nothing; options taken out are said by their names.
                assert same or not left[name] or "ACK" not in left["flags"], (
                    f"#{number}: {name} {came[name]} → {left[name]} is not said: {comment}"
                )
                continue
            assert (",".join(olds), ",".join(news)) == (came[name], left[name]), (
                f"#{number}: {name}: {comment}"
            )
            found[name] += 1
    return found
