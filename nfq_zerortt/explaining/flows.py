"""The flows of a capture, and one of them explained. Read as a stream: memory is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.explaining import one_side, story
from nfq_zerortt.explaining.breaks import breaks_off
from nfq_zerortt.explaining.captures import read_captures
from nfq_zerortt.explaining.distance import hosts_between
from nfq_zerortt.explaining.explanation import (
    Explanation,
    path_of,
    streams_of,
    taps_of,
)
from nfq_zerortt.observe.records import Endpoint, PacketRecord, Tap
from nfq_zerortt.tracing import selection
from nfq_zerortt.tracing.comments import PREFIX, comment
from nfq_zerortt.tracing.conversations import Conversation
from nfq_zerortt.tracing.flow_table import Conversations
from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import add

MOST_LISTED = 2000
MOST_PACKETS = 20_000
"""Of one flow; of a longer one the beginning is explained."""
_MOST_COMMENTS = 400


@dataclass(slots=True)
class Listed:
    """A flow as the list shows it."""

    number: int
    name: str
    first_s: float
    last_s: float = 0.0
    packets: int = 0
    data_to_server: int = 0
    data_to_client: int = 0
    syn: bool = False
    fin: bool = False
    rst: bool = False

    def add(self, packet: Packet, *, both_sides: bool) -> None:
        """Count a packet; of both sides' each is counted where it came."""
        self.last_s = packet.time_s
        self.packets += 1
        segment = packet.segment
        if segment is None:
            return
        self.syn = self.syn or bool(segment.flags & tcp.SYN)
        self.fin = self.fin or bool(segment.flags & tcp.FIN)
        self.rst = self.rst or bool(segment.flags & tcp.RST)
        if both_sides and not packet.came:
            return
        if packet.to_server:
            self.data_to_server += segment.payload_length
        else:
            self.data_to_client += segment.payload_length

    @property
    def ended(self) -> str:
        """How it ended, as far as the capture shows it."""
        return "reset" if self.rst else "closed" if self.fin else "-"


@dataclass(frozen=True, slots=True)
class Listing:
    """All flows of the files, MOST_LISTED at most; ``others`` counts the rest.

    ``left_out``: what is to be said of the files.
    """

    flows: list[Listed]
    others: int
    left_out: list[str] = field(default_factory=list)


def listing(files: Sequence[Path]) -> Listing:
    """List the flows of captures; errors as of read_captures."""
    captured = read_captures(files)
    both = len(captured.names) > 1
    known = Conversations()
    found: dict[int, Listed] = {}
    for packet in captured.packets:
        flow = known.add(packet) if both else known.find(packet)
        listed = found.get(flow.number)
        if listed is None:
            if flow.number > MOST_LISTED:
                continue
            listed = found[flow.number] = Listed(flow.number, flow.name, packet.time_s)
        listed.add(packet, both_sides=both)
    return Listing(list(found.values()), max(known.count - MOST_LISTED, 0), _broken(files))


def explained(files: Sequence[Path], wanted: str) -> Explanation:
    """Explain one flow: by its number in the list, or as --flow of ``trace``.

    Raises:
        ConfigError: there is no such flow; two captures are not of one host; as read_captures.
    """
    captured = read_captures(files)
    both = len(captured.names) > 1
    known = Conversations()
    number = int(wanted) if wanted.isdecimal() else None
    chosen = None if number is not None else selection.parse(wanted, "its number in the list")
    flow: Conversation | None = None
    packets: list[Packet] = []
    more = alike = end_ns = 0
    for packet in captured.packets:
        end_ns = packet.time_ns
        if chosen is not None and not chosen.takes(packet):
            continue
        one = known.add(packet) if both else known.find(packet)
        if flow is None and number in (None, one.number):
            flow = one
        if one is not flow:
            alike = max(alike, one.number)
            continue
        if len(packets) < MOST_PACKETS:
            packets.append(packet)
        else:
            more += 1
    if flow is None:
        raise ConfigError(f"--flow {wanted!r}: there is no such flow in {files[0]}")
    apart = hosts_between(packets)
    if apart is not None and apart > 1:
        raise ConfigError(
            f"{' and '.join(captured.names)}: they were captured {apart} hosts apart, for the TTL "
            f"falls by {apart}, and not at both sides of one host: explain one at a time"
        )
    made = explanation(captured.names, flow, packets, end_ns)
    made.left_out += _broken(files)
    if captured.by_direction:
        made.left_out.append(
            "The capture does not name its interfaces (Linux cooked v1): sides were told by the "
            "directions of the packets."
        )
    if more:
        made.left_out.append(
            f"The flow has {more} packets more; what is said here is of its first {MOST_PACKETS}."
        )
    if number is None and alike > 1:
        made.left_out.append(
            f"{alike} flows of the capture fit to --flow; this is the first. Without --flow there "
            "is a list of them, with numbers."
        )
    return made


def _broken(files: Sequence[Path]) -> list[str]:
    return [
        f"{file} breaks off in the middle of a packet: what came after that is not known."
        for file in files
        if breaks_off(file)
    ]


def explanation(
    names: tuple[str, ...], flow: Conversation, packets: list[Packet], end_ns: int | None = None
) -> Explanation:
    """Explain a flow by its packets.

    ``names`` are those of the interfaces, one or two; ``end_ns`` is when the capture's last packet
    was seen, if that is not one of the flow's.
    """
    end_ns = packets[-1].time_ns if end_ns is None else end_ns
    midway = flow.syn is None and flow.answered is None and flow.spoofed is None
    shift = (flow.delta or 0) if midway else 0
    made = Explanation(
        name=flow.name,
        origin=(
            f"a capture of both sides ({names[0]} towards the client, {names[1]} towards the "
            "server)"
            if len(names) > 1
            else f"a capture of one side ({names[0]}); what the other side saw is not known"
        ),
        client=flow.client,
        server=flow.server,
        records=[_record(p, taps_of(names), shift) for p in packets if p.segment is not None],
        path=path_of(names),
        streams=streams_of(names, flow.client, flow.server),
    )
    if len(names) == 1:
        made.lines = one_side.tell(flow, packets, end_ns)
        return made
    if shift:
        made.left_out.append(
            "The diagrams have the numbers of the wire, for no ISN is in the capture; the server's "
            "are those of its side, also where they are shifted."
        )
    made.lines = story.tell(flow, packets, end_ns)
    start_ns, last_ns = packets[0].time_ns, packets[-1].time_ns
    for packet in packets:
        said = comment(packet, flow, names, (last_ns - packet.time_ns) / 1e6)
        if said:
            if len(made.comments) >= _MOST_COMMENTS:
                made.left_out.append(f"Comments on packets after {packet.tag} are left out.")
                break
            about = f"{packet.tag} {names[packet.tap]} {_label(packet)}"
            text = said.removeprefix(PREFIX)
            made.comments.append(((packet.time_ns - start_ns) / 1e6, about, text))
    return made


def _label(packet: Packet) -> str:
    arrow = "→" if packet.to_server else "←"
    segment = packet.segment
    if segment is None:
        return f"{arrow} ICMP {packet.quote.error if packet.quote else ''}"
    size = f" {segment.payload_length} B" if segment.payload_length else ""
    return f"{arrow} {tcp.names(segment.flags)}{size}"


def _record(packet: Packet, taps: tuple[Tap, ...], shift: int) -> PacketRecord:
    """``shift``: what to add to the server's numbers on the clients' side."""
    segment = packet.segment
    assert segment is not None
    shift = 0 if packet.tap else shift
    cookie = segment.readable_options.fast_open
    ends: tuple[Endpoint, Endpoint] = (packet.source, packet.destination)
    return PacketRecord(
        time_s=packet.time_s,
        tap=taps[packet.tap],
        source=ends[0],
        destination=ends[1],
        flags=segment.flags,
        seq=segment.seq if packet.to_server else add(segment.seq, shift),
        ack=add(segment.ack, shift)
        if packet.to_server and segment.flags & tcp.ACK
        else segment.ack,
        payload_bytes=segment.payload_length,
        fast_open=None if cookie is None else len(cookie),
    )
