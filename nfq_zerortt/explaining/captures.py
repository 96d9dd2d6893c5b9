"""Capture files as packets of two sides, in order of time.

Which interface is towards the clients shows itself: there a SYN arrives before it leaves at the
other. So the first packets are looked at before the first one is given on.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.explaining import directions
from nfq_zerortt.tracing import link_layer
from nfq_zerortt.tracing.packets import Packet, Seen, read
from nfq_zerortt.wire import flags as tcp

_LOOKED_AT = 20_000


@dataclass(frozen=True, slots=True)
class Captured:
    """What the files have: packets, and the names of the interfaces, towards the clients first.

    One name: there is a capture of one side only. ``by_direction``: which side a packet was on was
    told by its direction, for the capture does not say.
    """

    names: tuple[str, ...]
    packets: Iterator[Packet]
    by_direction: bool = False


@dataclass(frozen=True, slots=True)
class _Raw:
    number: int
    place: Hashable
    name: str
    seen: Seen


def read_captures(files: Sequence[Path]) -> Captured:
    """Read pcap and pcapng files: one, or one for each side.

    Raises:
        ConfigError: there is no such file, or it is no capture.
        ZeroRttError: nothing of TCP is in it.
    """
    streams = [_raws(number, file) for number, file in enumerate(files)]
    merged: Iterator[_Raw] = heapq.merge(*streams, key=lambda raw: raw.seen.time_ns)
    first: list[_Raw] = []
    for raw in merged:
        first.append(raw)
        if len(first) >= _LOOKED_AT:
            break
    mixed = _mixed(first)
    if mixed:
        first, merged = list(_by_direction(first, mixed)), _by_direction(merged, mixed)
    places = _sides(first)
    if not places:
        raise ZeroRttError(f"{files[0]}: there is no TCP packet in it")
    names = {raw.place: raw.name for raw in reversed(first)}
    sides = {place: side for side, place in enumerate(places)}
    packets = _packets(chain(first, merged), sides, numbered=len(files) == 1)
    return Captured(tuple(names[place] for place in places), packets, bool(mixed))


def _packets(
    raws: Iterator[_Raw], sides: dict[Hashable, int], *, numbered: bool
) -> Iterator[Packet]:
    """``numbered``: by their places in the file, for there is only one."""
    for count, raw in enumerate(raws, 1):
        number = raw.number if numbered else count
        side = sides.get(raw.place)
        if side is None:
            continue
        seen = raw.seen._replace(tap=side)
        # Of one side nobody knows which it is, so whether a packet came or left tells nothing.
        packet = read(number, seen if len(sides) > 1 else seen._replace(outgoing=None))
        if packet is not None:
            yield packet


def _raws(number: int, file: Path) -> Iterator[_Raw]:
    for place_in_file, (data, about, ng) in enumerate(_records(file), 1):
        link_type = getattr(about, "linktype", None)
        if link_type not in link_layer.KNOWN:
            raise ConfigError(
                f"{file}: its link type {link_type} is not one of those known: Ethernet, raw IP, "
                "loopback, Linux cooked"
            )
        frame = link_layer.look(link_type, data)
        if frame is None:
            continue
        name, outgoing = file.name, frame.outgoing
        if ng:
            ticks = (about.tshigh or 0) << 32 | (about.tslow or 0)
            time_ns = ticks * 1_000_000_000 // about.tsresol
            if about.ifname is not None:
                name = about.ifname.decode(errors="replace")
            if about.direction in (1, 2):  # inbound, outbound
                outgoing = about.direction == 2
        else:
            time_ns = about.sec * 1_000_000_000 + about.usec
        place: Hashable = (number, name, frame.interface)
        if frame.interface is not None:
            name = f"interface {frame.interface}"
        length = about.wirelen - frame.ip
        yield _Raw(place_in_file, place, name, Seen(time_ns, 0, outgoing, data[frame.ip :], length))


def _mixed(raws: Sequence[_Raw]) -> dict[Hashable, directions.Directions]:
    """Return the places where packets of several interfaces are, and nothing says of which."""
    return {
        place: directions.Directions()
        for place in {raw.place for raw in raws}
        if directions.is_mixed(raw.seen for raw in raws if raw.place == place)
    }


def _by_direction(
    raws: Iterable[_Raw], mixed: dict[Hashable, directions.Directions]
) -> Iterator[_Raw]:
    """Tell by their directions at which side of the host packets of such places were."""
    for raw in raws:
        there = mixed.get(raw.place)
        side = there.side(raw.seen) if there is not None else None
        if side is None:
            yield raw
        else:
            yield replace(raw, place=(raw.place, side), name=directions.NAMES[side])


def _records(file: Path) -> Iterator[tuple[bytes, Any, bool]]:
    """Give the frames with what scapy says of each, and whether that is pcapng's way to say it."""
    from scapy.error import Scapy_Exception  # noqa: PLC0415 - scapy takes long to load
    from scapy.utils import RawPcapNgReader, RawPcapReader  # noqa: PLC0415

    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    try:
        reader = RawPcapReader(str(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except (Scapy_Exception, EOFError):
        raise ConfigError(
            f"{file}: it is no capture (pcap, pcapng), and no log of the service (JSON lines)"
        ) from None
    ng = isinstance(reader, RawPcapNgReader)
    nanoseconds = bool(getattr(reader, "nano", False))
    with reader:
        for data, about in reader:
            if not ng and not nanoseconds:
                about = about._replace(usec=about.usec * 1000)  # noqa: PLW2901
            if not ng:
                about = _WithLinkType(about, reader.linktype)  # noqa: PLW2901
            yield data, about, ng


class _WithLinkType:
    """pcap says the link type once for all packets."""

    __slots__ = ("linktype", "sec", "usec", "wirelen")

    def __init__(self, about: Any, link_type: int) -> None:
        self.linktype = link_type
        self.sec: int = about.sec
        self.usec: int = about.usec
        self.wirelen: int = about.wirelen


def _sides(raws: Sequence[_Raw]) -> list[Hashable]:
    """Return the place towards the clients, and that towards the servers if there is one."""
    counts: Counter[Hashable] = Counter()
    firsts: Counter[Hashable] = Counter()
    flows: dict[Hashable, set[frozenset[Any]]] = defaultdict(set)
    known: set[tuple[Any, Any, int]] = set()
    for number, raw in enumerate(raws):
        packet = read(number, raw.seen)
        if packet is None:
            continue
        counts[raw.place] += 1
        flows[raw.place].add(frozenset((packet.source, packet.destination)))
        segment = packet.segment
        if segment is None or segment.flags & (tcp.SYN | tcp.ACK) != tcp.SYN:
            continue
        syn = (packet.source, packet.destination, segment.seq)
        if syn not in known:
            known.add(syn)
            firsts[raw.place] += -1 if raw.seen.outgoing else 1
    if not counts:
        return []
    near = max(counts, key=lambda place: (firsts[place], counts[place]))
    others = [place for place in counts if place != near and flows[place] & flows[near]]
    if not others:
        return [near]
    far = max(others, key=lambda place: (len(flows[place] & flows[near]), counts[place]))
    if not firsts and _arrives_later(raws, near, far):
        near, far = far, near
    return [near, far]


def _arrives_later(raws: Sequence[_Raw], near: Hashable, far: Hashable) -> bool:
    """Without any SYN: whether the side of the lower ports is where the packets leave from."""
    towards_low = Counter(
        raw.place
        for raw in raws
        if raw.place in (near, far)
        and raw.seen.outgoing is False
        and (packet := read(0, raw.seen)) is not None
        and packet.destination[1] < packet.source[1]
    )
    return towards_low[far] > towards_low[near]
