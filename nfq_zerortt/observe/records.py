"""A captured TCP packet as plain data: what the ladder and the plots are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire import seqnum

Endpoint = tuple[str, int]
"""Address and port."""


@dataclass(frozen=True, slots=True)
class Tap:
    """Where packets were captured."""

    host: str
    interface: str

    def __str__(self) -> str:
        return f"{self.host} {self.interface}"


@dataclass(frozen=True, slots=True)
class PacketRecord:
    """One TCP packet at one place.

    ``time_s`` is the kernel's timestamp in seconds; ladder and plots need the clocks of all
    taps to agree. ``seq`` and ``ack`` are the numbers on the wire (absolute).
    """

    time_s: float
    tap: Tap
    source: Endpoint
    destination: Endpoint
    flags: int
    seq: int
    ack: int
    payload_bytes: int

    @property
    def is_syn(self) -> bool:
        """Whether it opens a connection: SYN without ACK."""
        return self.flags & (tcp.SYN | tcp.ACK) == tcp.SYN

    @property
    def is_syn_ack(self) -> bool:
        """Whether it is the answer to a SYN."""
        return self.flags & (tcp.SYN | tcp.ACK) == tcp.SYN | tcp.ACK


def of_connection(
    records: Iterable[PacketRecord], client: Endpoint, server: Endpoint
) -> list[PacketRecord]:
    """Return the records between the two, in both directions, in order of time."""
    ends = {(client, server), (server, client)}
    found = [record for record in records if (record.source, record.destination) in ends]
    return sorted(found, key=lambda record: record.time_s)


@dataclass(frozen=True, slots=True)
class SentData:
    """A segment with data. ``start`` and ``end`` count the bytes of the stream from 0."""

    time_s: float
    start: int
    end: int


def data_of(
    records: Iterable[PacketRecord], tap: Tap, source: Endpoint, destination: Endpoint
) -> list[SentData]:
    """Return one direction's segments with data as seen at ``tap``; [] without its SYN there.

    Positions are relative to the ISN that this tap saw, so they are the same on both sides of
    a translation.
    """
    isn: int | None = None
    found: list[SentData] = []
    for record in records:
        if record.tap != tap or (record.source, record.destination) != (source, destination):
            continue
        if record.flags & tcp.SYN:
            isn = record.seq
        if isn is None or not record.payload_bytes:
            continue
        # The SYN takes one number; data in a SYN (Fast Open) begins right after it.
        begin = record.seq if not record.flags & tcp.SYN else seqnum.add(record.seq, 1)
        start = seqnum.distance(seqnum.add(isn, 1), begin)
        found.append(SentData(record.time_s, start, start + record.payload_bytes))
    return found
