"""A host: its connections, its port that listens, and what it says where there is no connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nfq_zerortt.core.packets import is_intact
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import ACK, FIN, RST, SYN
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import MASK, add, distance
from nfq_zerortt.wire.view import look
from tests.core.model.fast_open import FastOpen
from tests.core.model.tcp import Endpoint, Profile, State, Tcp

_ISN_TICKS_PER_SECOND = 250_000  # RFC 6528, section 3
_FAR_ENOUGH = 64_000

Key = tuple[Endpoint, Endpoint]
Sender = Callable[[bytes, int], None]
"""Takes a packet and the client's ISN of the connection that it belongs to."""


@dataclass
class Host:
    """One host with any number of addresses.

    Attributes:
        isn, clock: where its initial numbers and its timestamps begin.
        connections: every connection that there ever was, by (own, other) end, the latest last.
        listening: ports that accept; all others refuse.
        answer: bytes that the application sends on each connection that it accepts.
        fast_open: what it does about data in a SYN.
    """

    isn: int
    clock: int
    send: Sender
    profile: Profile = field(default_factory=Profile)
    listening: set[int] = field(default_factory=set)
    answer: int = 0
    fast_open: FastOpen = field(default_factory=FastOpen)
    connections: dict[Key, list[Tcp]] = field(default_factory=dict)

    def all(self) -> list[Tcp]:
        """Every connection, those that have ended too."""
        return [tcp for line in self.connections.values() for tcp in line]

    def latest(self, key: Key) -> Tcp | None:
        """The connection that was last on a 4-tuple."""
        line = self.connections.get(key)
        return line[-1] if line else None

    def connect(self, local: Endpoint, peer: Endpoint, profile: Profile, now: float) -> Tcp | None:
        """Begin a connection; None if one is alive on the 4-tuple."""
        before = self.latest((local, peer))
        if before is not None and not before.ended:
            return None
        tcp = self._new(local, peer, profile, now)
        tcp.connect(now)
        return tcp

    def receive(self, raw: bytes, now: float, name: int) -> None:
        """Take a packet; ``name`` goes along with what is said where there is no connection."""
        try:
            view = look(raw)
            segment = Segment.from_view(view)
        except WireError:
            return
        if view.fragment or not is_intact(view):
            return
        local, peer = (segment.dst, segment.dport), (segment.src, segment.sport)
        length = view.payload_length
        tcp = self.latest((local, peer))
        fresh = bool(segment.flags & SYN) and not segment.flags & (ACK | RST | FIN)
        if tcp is not None and tcp.state is State.TIME_WAIT and fresh and tcp.irs is not None:
            # A new connection with a later number may follow at once (RFC 9293, 3.6.1).
            if distance(add(tcp.irs, tcp.rcv_nxt), segment.seq) > 0:
                tcp = None
        elif tcp is not None and tcp.state is State.CLOSED:
            tcp = None
        if fresh and self.fast_open.eats(opt.OptionSet.read(segment.options, strict=False), length):
            return
        if tcp is not None:
            tcp.receive(segment, now)
        elif fresh and segment.dport in self.listening:
            options = opt.OptionSet.read(segment.options, strict=False)
            taken, cookie = self.fast_open.answer(segment.src, options, length)
            accepted = self._new(local, peer, self.profile, now)
            taken = min(taken, self.profile.window)
            accepted.accept(segment, options, now, taken=taken, cookie=cookie)
            accepted.write(self.answer, now)
        elif not segment.flags & RST:
            self._refuse(segment, view.sequence_length, name)

    def _new(self, local: Endpoint, peer: Endpoint, profile: Profile, now: float) -> Tcp:
        line = self.connections.setdefault((local, peer), [])
        first = self.isn + local[1] * 7_919 + peer[1] * 104_729 + len(local[0]) * 15_485_863
        iss = add(first, int(now * _ISN_TICKS_PER_SECOND))
        if line:
            least = add(line[-1].iss, line[-1].snd_max + _FAR_ENOUGH)
            iss = least if distance(least, iss) < 0 else iss
        tcp = Tcp(local, peer, profile, iss, (self.clock + peer[1] * 1_299_709) & MASK, self._emit)
        line.append(tcp)
        return tcp

    def _emit(self, tcp: Tcp, raw: bytes) -> None:
        self.send(raw, tcp.name)

    def _refuse(self, segment: Segment, length: int, name: int) -> None:
        """A RST for a segment of no connection (RFC 9293, section 3.10.7.1)."""
        with_ack = bool(segment.flags & ACK)
        self.send(
            Segment(
                src=segment.dst,
                sport=segment.dport,
                dst=segment.src,
                dport=segment.sport,
                seq=segment.ack if with_ack else 0,
                ack=0 if with_ack else add(segment.seq, length),
                flags=RST if with_ack else RST | ACK,
                window=0,
            ).emit(),
            name,
        )
