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
    taps to agree. ``seq`` and ``ack`` are the numbers on the wire (absolute). ``fast_open`` is
    the length in bytes of the cookie in its Fast Open option (RFC 7413, section 2), 0 in one
    that asks for a cookie; None without the option.
    """

    time_s: float
    tap: Tap
    source: Endpoint
    destination: Endpoint
    flags: int
    seq: int
    ack: int
    payload_bytes: int
    fast_open: int | None = None

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
    a translation. Data in a SYN that the SYN-ACK does not cover is left out: the receiver has
    ignored it, as if it had not been sent (RFC 7413, section 4.2).
    """
    isn: int | None = None
    found: list[SentData] = []
    records = list(records)
    for record in records:
        if record.tap != tap or (record.source, record.destination) != (source, destination):
            continue
        if record.flags & tcp.SYN:
            isn = record.seq
        if isn is None or not record.payload_bytes:
            continue
        if record.is_syn and not syn_data_taken(records, record):
            continue
        # The SYN takes one number; data in a SYN (Fast Open) begins right after it.
        begin = record.seq if not record.flags & tcp.SYN else seqnum.add(record.seq, 1)
        start = seqnum.distance(seqnum.add(isn, 1), begin)
        found.append(SentData(record.time_s, start, start + record.payload_bytes))
    return found


def syn_data_taken(records: Iterable[PacketRecord], syn: PacketRecord) -> bool:
    """Tell whether a SYN-ACK that was seen at the same tap covers the data in this SYN."""
    ends = (syn.destination, syn.source)
    end = seqnum.add(syn.seq, 1 + syn.payload_bytes)
    return any(
        record.is_syn_ack
        and record.tap == syn.tap
        and (record.source, record.destination) == ends
        and record.ack == end
        for record in records
    )
