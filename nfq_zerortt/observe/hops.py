"""Finding the same packet again: at both ends of a link, and on both sides of a host.

On a link nothing changes a packet, so both ends must have seen the same numbers. A host in
between may forward it, keep it for a while, drop it, make one of its own, or translate the
server's numbers (a router with a spoofed SYN-ACK does). Numbers are therefore counted from the
ISNs that were seen on that very link: relative numbers are equal on both sides of a
translation, and the letter of the ISN says which one they are counted from.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nfq_zerortt.observe.pairing import Pairing, Shape, marks_of
from nfq_zerortt.observe.records import Endpoint, PacketRecord, Tap, of_connection
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire import seqnum


@dataclass(frozen=True, slots=True)
class Link:
    """Two neighbouring hosts and where packets between them were captured, client's side left.

    ``only``: the one of both where they were, if there is no capture at the other. What was seen
    there has crossed the link, for all that is known; when it was at its other end is not known.
    """

    left: Tap
    right: Tap
    only: Tap | None = None


UNKNOWN = "0"
"""The letter of an ISN that nobody has seen: numbers are as they are on the wire."""

Path = Sequence[Link]
"""The links from the client to the server."""


@dataclass(frozen=True, slots=True)
class Base:
    """An ISN that numbers are counted from, and the letter that stands for it."""

    letter: str
    isn: int

    def show(self, relative: int) -> str:
        """Return a number as it is written: ``S``, ``S+1``; of an unknown ISN as on the wire."""
        if self.letter == UNKNOWN:
            return self.bound(relative)
        if not relative:
            return self.letter
        return f"{self.letter}{relative:+d}"

    def bound(self, relative: int) -> str:
        """Return a number without the letter, as the end of a range."""
        return str(seqnum.add(self.isn, relative) if self.letter == UNKNOWN else relative)


@dataclass(frozen=True, slots=True)
class Hop:
    """One packet's way over one link.

    ``link`` counts from 0 at the client. ``sent_s`` or ``received_s`` is None when only the
    other end of the link saw it. ``seq`` and ``ack`` are relative to ``seq_base`` and
    ``ack_base``; ``ack_base`` is None for a packet without ACK.
    """

    link: int
    to_server: bool
    sent_s: float | None
    received_s: float | None
    flags: int
    seq: int
    ack: int
    payload_bytes: int
    seq_base: Base
    ack_base: Base | None
    fast_open: int | None = None
    """As in PacketRecord."""

    @property
    def start_s(self) -> float:
        """When it was first seen, in seconds."""
        time_s = self.sent_s if self.sent_s is not None else self.received_s
        assert time_s is not None
        return time_s

    @property
    def end_s(self) -> float:
        """When it was last seen, in seconds."""
        time_s = self.received_s if self.received_s is not None else self.sent_s
        assert time_s is not None
        return time_s

    @property
    def from_host(self) -> int:
        """The number of the host that it leaves, from 0 at the client."""
        return self.link if self.to_server else self.link + 1

    @property
    def to_host(self) -> int:
        """The number of the host that it goes to."""
        return self.link + 1 if self.to_server else self.link


@dataclass(frozen=True, slots=True)
class Passage:
    """All that was seen of a connection.

    ``hops`` are in order of time. ``onward`` maps a hop to the one that carried the same
    packet on from the next host (to several, where it was cut into smaller segments), as
    indices into ``hops``. ``bases``: the client's ISN first, then the server's, one per letter.
    ``into_syn`` maps a hop that brought data to a host to the one that carried this data on in
    the connection's SYN, which had come without.
    """

    hops: tuple[Hop, ...]
    onward: dict[int, tuple[int, ...]]
    bases: tuple[Base, ...]
    into_syn: dict[int, int]


def trace(
    records: Iterable[PacketRecord], path: Path, client: Endpoint, server: Endpoint
) -> Passage:
    """Follow every packet of one connection along the path."""
    seen = of_connection(records, client, server)
    client_isn = _isn(r for r in seen if r.is_syn)
    client_base = Base(UNKNOWN, 0) if client_isn is None else Base("C", client_isn)
    server_bases = _server_bases(seen, path)
    hops: list[Hop] = []
    for number, (link, server_base) in enumerate(zip(path, server_bases, strict=True)):
        if link.only is not None:
            up, down = (_crossed(seen, source, link.only) for source in (client, server))
        else:
            up = _crossings(seen, client, (link.left, link.right))
            down = _crossings(seen, server, (link.right, link.left))
        hops += [_hop(crossing, number, True, client_base, server_base) for crossing in up]
        hops += [_hop(crossing, number, False, server_base, client_base) for crossing in down]
    # Of two that left at the same time, the one further along its way comes last.
    hops.sort(key=lambda hop: (hop.start_s, hop.link if hop.to_server else -hop.link))
    bases = {base.letter: base for base in (client_base, *reversed(server_bases))}
    onward = _onward(hops, len(path))
    return Passage(tuple(hops), onward, tuple(bases.values()), _into_syn(hops, onward))


def _isn(records: Iterable[PacketRecord]) -> int | None:
    """Return the number with which the first of these begins; None when there is none."""
    return next((record.seq for record in records), None)


def _server_bases(seen: Sequence[PacketRecord], path: Path) -> list[Base]:
    """Return what the server's numbers are counted from on each link.

    ``S`` is the ISN on the link nearest to the server; another one on the client's side was
    fabricated on the way: ``F``, and ``F2`` and so on, if that happened more than once. Where
    only the client has got a SYN-ACK, that was fabricated, too; the server's numbers are then
    counted from ``0``, as they are where there is no SYN-ACK at all.
    """
    isns = [
        _isn(r for r in seen if r.is_syn_ack and r.tap in (link.left, link.right, link.only))
        for link in path
    ]
    real = next((isn for isn in reversed(isns) if isn is not None), None)
    letters = {0: UNKNOWN} if real is None else {real: "S"}
    real = real or 0
    if len(isns) > 1 and isns[0] is not None and not any(isn is not None for isn in isns[1:]):
        letters = {isns[0]: "F", 0: UNKNOWN}
        real = 0
    bases: list[Base] = []
    for seen_isn in isns:
        isn = real if seen_isn is None else seen_isn
        if isn not in letters:
            letters[isn] = "F" if len(letters) == 1 else f"F{len(letters)}"
        bases.append(Base(letters[isn], isn))
    return bases


@dataclass(slots=True)
class _Crossing:
    """A packet and when it was seen at the end where it leaves and where it comes to."""

    packet: PacketRecord
    sent_s: float | None = None
    received_s: float | None = None


def _crossed(seen: Iterable[PacketRecord], source: Endpoint, tap: Tap) -> list[_Crossing]:
    """Return what was seen of a link that was captured at one end."""
    return [
        _Crossing(record, record.time_s, record.time_s)
        for record in seen
        if record.source == source and record.tap == tap
    ]


def _crossings(
    seen: Iterable[PacketRecord], source: Endpoint, ends: tuple[Tap, Tap]
) -> list[_Crossing]:
    """Match what left one end of a link with what came to the other, in order."""
    found: list[_Crossing] = []
    on_the_way: dict[tuple[int, ...], deque[_Crossing]] = defaultdict(deque)
    for record in seen:
        if record.source != source or record.tap not in ends:
            continue
        key = (record.flags, record.seq, record.ack, record.payload_bytes)
        if record.tap == ends[0]:
            crossing = _Crossing(record, sent_s=record.time_s)
            on_the_way[key].append(crossing)
            found.append(crossing)
        elif on_the_way[key]:
            on_the_way[key].popleft().received_s = record.time_s
        else:
            found.append(_Crossing(record, received_s=record.time_s))
    return found


def _hop(crossing: _Crossing, link: int, to_server: bool, seq_base: Base, ack_base: Base) -> Hop:
    packet = crossing.packet
    with_ack = bool(packet.flags & tcp.ACK)
    return Hop(
        link=link,
        to_server=to_server,
        sent_s=crossing.sent_s,
        received_s=crossing.received_s,
        flags=packet.flags,
        seq=seqnum.distance(seq_base.isn, packet.seq),
        ack=seqnum.distance(ack_base.isn, packet.ack) if with_ack else 0,
        payload_bytes=packet.payload_bytes,
        seq_base=seq_base,
        ack_base=ack_base if with_ack else None,
        fast_open=packet.fast_open,
    )


def _onward(hops: Sequence[Hop], links: int) -> dict[int, tuple[int, ...]]:
    """Match, at every host in between, what left it with what had come to it."""
    onward: dict[int, list[int]] = defaultdict(list)
    for to_server in (True, False):
        for inner in range(1, links):
            before, after = (inner - 1, inner) if to_server else (inner, inner - 1)
            moments = [
                (hop.end_s, False, index) if hop.link == before else (hop.start_s, True, index)
                for index, hop in enumerate(hops)
                if hop.to_server == to_server and hop.link in (before, after)
            ]
            pairing: Pairing[int] = Pairing()
            for time_s, leaves, index in sorted(moments):
                if not leaves:
                    pairing.came(index, _shape(hops[index]), time_s)
                    continue
                arrival = pairing.left(_shape(hops[index]), time_s)
                if arrival is not None:
                    onward[arrival].append(index)
    return {arrival: tuple(departures) for arrival, departures in onward.items()}


def _shape(hop: Hop) -> Shape:
    return Shape(marks_of(hop.flags), hop.seq, hop.ack, hop.payload_bytes)


def _is_syn(hop: Hop) -> bool:
    return hop.flags & (tcp.SYN | tcp.ACK) == tcp.SYN


def gained_data(came: Hop, left: Hop) -> bool:
    """Tell whether a SYN came without data and left with some."""
    return _is_syn(left) and left.payload_bytes > came.payload_bytes


def _into_syn(hops: Sequence[Hop], onward: dict[int, tuple[int, ...]]) -> dict[int, int]:
    """Find the segment whose data a host has put into the SYN."""
    found: dict[int, int] = {}
    for came, (left, *_) in onward.items():
        if not gained_data(hops[came], hops[left]):
            continue
        for index, hop in enumerate(hops):
            if (
                (hop.link, hop.to_server) == (hops[came].link, hops[came].to_server)
                and hop.seq == hops[left].seq + 1
                and hop.payload_bytes > 0
                and hop.end_s <= hops[left].start_s
            ):
                found[index] = left
                break
    return found
