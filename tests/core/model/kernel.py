"""The kernel data path as a model: the maps as memory, and what zerortt.bpf.c does with them.

An entry is bytes here as it is there, so what does not stand in it is lost. The numbers are changed
by the core's own classes: that the program in C counts as they do is shown by the tests in
tests/kernel. What is modelled here is the rest: which packets the program takes, leaves and counts,
and what it notes of a flow's end.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.flow import Flow, reverse_key
from nfq_zerortt.flow_entry import flow_from
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf.layout import DirectionEntry, FlowEntry
from nfq_zerortt.wire.flags import ACK, FIN, RST, SYN
from nfq_zerortt.wire.view import SegmentView, look

_NS = 1_000_000_000
_IPV4_FRAGMENT = 0x3FFF
_TCP = 6
_UINT32 = 0xFFFFFFFF
_STRIDE = layout.HANDLED_BYTES // 4
_HALF = 1 << 31
_FINS = {Side.CLIENT: layout.FIN_CLIENT, Side.SERVER: layout.FIN_SERVER}
_RSTS = {Side.CLIENT: layout.RST_CLIENT, Side.SERVER: layout.RST_SERVER}
_PLACES = {Side.CLIENT: layout.CLIENT, Side.SERVER: layout.SERVER}


class Maps:
    """The three maps. To the process they are what a KernelPath is.

    Attributes:
        room: how many flows there may be.
        ring_room: how many records of ends wait at most; what is more is lost.
        ring: those that wait.
    """

    def __init__(self, room: int = 1 << 16, ring_room: int = 1 << 12) -> None:
        self.room, self.ring_room = room, ring_room
        self.ring: deque[bytes] = deque()
        self.handled_stride = _STRIDE
        self.handled = array("I", bytes(4 * _STRIDE * layout.HANDLED_SLOTS))
        self._flows: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def find(self, key: bytes) -> bytes | None:
        """Return an entry, or None."""
        return self._flows.get(key)

    def insert(self, key: bytes, value: bytes) -> bool:
        """Put an entry in, in place of another one; False if there is no room."""
        assert (len(key), len(value)) == (layout.KEY_BYTES, layout.FLOW_BYTES)
        if key not in self._flows and len(self._flows) >= self.room:
            return False
        self._flows[key] = value
        return True

    def replace(self, key: bytes, value: bytes) -> bool:
        """Give an entry another value; False if it is gone."""
        return key in self._flows and self.insert(key, value)

    def take(self, key: bytes) -> bytes | None:
        """Remove an entry and return it."""
        return self._flows.pop(key, None)

    def remove(self, key: bytes) -> bool:
        """Remove an entry; False if there is none."""
        return self._flows.pop(key, None) is not None

    def entries(self, batch: int = 256) -> Iterator[list[tuple[bytes, bytes]]]:
        """Walk through all entries."""
        listed = list(self._flows.items())
        for first in range(0, len(listed), batch):
            yield listed[first : first + batch]

    def endings(self, most: int) -> list[bytes]:
        """Return what waits in the ring, a bounded number of records."""
        return [self.ring.popleft() for _ in range(min(most, len(self.ring)))]


@dataclass(slots=True)
class Headers:
    """What the programs see of a packet: the sender's 4-tuple, where TCP begins, where it ends."""

    flow_key: bytes
    tcp: int
    end: int

    @classmethod
    def of(cls, raw: bytes) -> Headers | None:
        """Read them; None if the packet is left alone for what it is."""
        if len(raw) >= 20 and raw[0] == 0x45:
            end, fragment = int.from_bytes(raw[2:4], "big"), int.from_bytes(raw[6:8], "big")
            addresses, tcp = raw[12:20], 20
            plain = raw[9] == _TCP and not fragment & _IPV4_FRAGMENT
        elif len(raw) >= 40 and raw[0] >> 4 == 6:
            end = 40 + int.from_bytes(raw[4:6], "big")
            addresses, tcp, plain = raw[8:40], 40, raw[6] == _TCP
        else:
            return None
        if not plain or end > len(raw) or end < tcp + 20:
            return None
        if not 20 <= (raw[tcp + 12] >> 4) * 4 <= end - tcp:
            return None
        return cls(addresses + raw[tcp : tcp + 4], tcp, end)

    def client_key(self, side: Side) -> bytes:
        """Return the 4-tuple of the flow, if ``side`` sent the packet."""
        return self.flow_key if side is Side.CLIENT else reverse_key(self.flow_key)


@dataclass
class _Entry:
    """A flow's entry while a program is at it."""

    key: bytes
    data: bytes
    directions: dict[Side, dict[str, int]] = field(init=False)
    rest: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        to_server, to_client, rest = layout.unpack(self.data)
        self.directions = {Side.CLIENT: to_server._asdict(), Side.SERVER: to_client._asdict()}
        self.rest = rest._asdict()

    def pack(self) -> bytes:
        to_server, to_client = (DirectionEntry(**way) for way in self.directions.values())
        return layout.pack(to_server, to_client, FlowEntry(**self.rest))

    def flow(self) -> Flow:
        """The same numbers as the core has them."""
        return flow_from(layout.client_key(self.key), self.pack())


class Programs:
    """zerortt_client and zerortt_server."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    def run(self, raw: bytes, side: Side, now: float) -> tuple[bytes, int]:
        """Return a packet as it goes on, and its mark."""
        headers = Headers.of(raw)
        if headers is None:
            return raw, 0
        key = layout.key(headers.client_key(side))
        data = self._maps.find(key)
        if data is None:
            return raw, 0
        entry = _Entry(key, data)
        if entry.rest["flags"] & layout.SUPERSEDED:
            return raw, 0
        raw, mark = self._carry(entry, raw, headers, side, int(now * _NS))
        self._maps.replace(key, entry.pack())
        return raw, mark

    def _carry(
        self, entry: _Entry, raw: bytes, headers: Headers, side: Side, now: int
    ) -> tuple[bytes, int]:
        flags, own = raw[headers.tcp + 13], entry.directions[side]
        if flags & SYN:
            seq = int.from_bytes(raw[headers.tcp + 4 : headers.tcp + 8], "big")
            late = side is Side.CLIENT and seq == entry.rest["isn_client"]
            if not flags & ACK and entry.rest["flags"] & layout.ENDED and not late:
                entry.rest["flags"] |= layout.SUPERSEDED
            return raw, 0
        entry.rest["last_seen"] = now
        own["segments"] += 1
        length = headers.end - headers.tcp - (raw[headers.tcp + 12] >> 4) * 4
        must_wait = self._must_wait(entry, side, now)
        changed = raw
        if not entry.rest["flags"] & layout.PASSING:
            changed = self._renumber(entry, raw, headers, side, length)
        if must_wait:
            own["left"] = (own["left"] + (length or 1)) & _UINT32
            return raw, layout.MARK_LEFT
        return changed, layout.MARK_TRANSLATED

    def _must_wait(self, entry: _Entry, side: Side, now: int) -> bool:
        own, ticket = entry.directions[side], entry.rest["ticket"]
        if own["settled"]:
            return False
        slot = ticket % layout.HANDLED_SLOTS * _STRIDE
        done = self._maps.handled[slot : slot + _STRIDE]
        published = done[0] == ticket
        amount = done[layout.AMOUNT + _PLACES[side]]
        if now - entry.rest["handed_over"] <= layout.LEAVE_FOR_S * _NS and not (
            published and own["left"] and amount == own["left"]
        ):
            return True
        if published:
            for sender, numbers in entry.directions.items():
                _catch_up(numbers, done, _PLACES[sender])
        own["settled"] = 1
        return False

    def _renumber(
        self, entry: _Entry, raw: bytes, headers: Headers, side: Side, length: int
    ) -> bytes:
        flow = entry.flow()
        path = flow.from_client if side is Side.CLIENT else flow.from_server
        changed = path.direction.translate(raw[: headers.end], headers.tcp)
        flags = raw[headers.tcp + 13]
        if flags & (FIN | RST) or entry.rest["flags"] & (layout.FIN_CLIENT | layout.FIN_SERVER):
            self._note_flags(entry, flow, side, look(raw))
        for sender, direction in ((Side.CLIENT, flow.to_server), (Side.SERVER, flow.to_client)):
            _write(entry.directions[sender], direction)
        return changed + raw[headers.end :]

    def _note_flags(self, entry: _Entry, flow: Flow, side: Side, view: SegmentView) -> None:
        rest = entry.rest
        flags, seq, end_seq = view.flags, view.seq, view.end_seq
        if flags & FIN and flow.believes_fin(side, view):
            entry.directions[side]["fin_end"] = end_seq
            rest["flags"] |= _FINS[side]
            if side is Side.CLIENT:
                flow.client_fin_end = end_seq
                flow.to_server.note_fin(end_seq)
            else:
                flow.server_fin_end = end_seq
                flow.to_client.note_fin(end_seq)
        if rest["flags"] & layout.ENDED:
            return
        if flags & RST:
            if flow.is_exact(side, seq):
                self._end(entry, _RSTS[side])
        elif flow.fins_acknowledged():
            self._end(entry, layout.FINS_ACKNOWLEDGED)

    def _end(self, entry: _Entry, how: int) -> None:
        entry.rest["flags"] |= how
        if len(self._maps.ring) < self._maps.ring_room:
            self._maps.ring.append(entry.key + how.to_bytes(4, "little"))


def _write(numbers: dict[str, int], direction: Direction) -> None:
    for name in ("next_seq", "last_ack", "window", "octets"):
        numbers[name] = getattr(direction, name)


def _catch_up(numbers: dict[str, int], done: array[int], place: int) -> None:
    ahead = (done[layout.NEXT_SEQ + place] - numbers["next_seq"]) & _UINT32
    if 0 < ahead < _HALF:
        numbers["next_seq"] = done[layout.NEXT_SEQ + place]
        numbers["octets"] += ahead
    newer = (done[layout.LAST_ACK + place] - numbers["last_ack"]) & _UINT32
    if 0 < newer < _HALF:
        numbers["last_ack"] = done[layout.LAST_ACK + place]
        numbers["window"] = done[layout.WINDOW + place]
