"""The kernel as a carrier of flows: the core's flows to map entries and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain

from nfq_zerortt.config import STRATEGIES
from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.collector import Collector
from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.flow import Flow, ends_of
from nfq_zerortt.core.passing import KEEP_S, Passing
from nfq_zerortt.core.states import ENDED, Event, State
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf.layout import DirectionEntry, FlowEntry
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.wire.options import OptionSet
from nfq_zerortt.wire.seqnum import add

_FAST_OPEN = ("none", "request", "cookie", "cookieless")
_NS = 1_000_000_000
_UINT32 = 0xFFFFFFFF
_UNKNOWN = -1
_BATCH = 64  # entries for one system call: SYNs wait for it
_LOOKS = 4  # batches that are looked through at once for flows that have ended
_ROOM = 8  # so many of a batch make room
_SIDES = {Side.CLIENT: layout.CLIENT, Side.SERVER: layout.SERVER}
_NO_OPTIONS = OptionSet()
_BOTH_FINS = layout.FIN_CLIENT | layout.FIN_SERVER


class KernelCarrier:
    """Carries flows in the maps of a :class:`KernelPath`; see :class:`Carrier`."""

    def __init__(self, path: KernelPath, clock: Callable[[], float] | None = None) -> None:
        """``clock``: the kernel's CLOCK_MONOTONIC, for the very moment of a hand-over."""
        self._path = path
        self._clock = clock
        self._looking: Iterator[list[tuple[bytes, bytes]]] = iter(())

    def find(self, client_key: bytes) -> Flow | None:
        """Return the flow as it stands, or None."""
        data = self._path.find(layout.key(client_key))
        return None if data is None else flow_from(client_key, data)

    def insert(self, flow: Flow) -> bool:
        """Take on a flow; False if there is no room."""
        if self._clock is not None:
            flow.handed_over = self._clock()  # from now on packets are left to us, for so long
        return self._path.insert(layout.key(flow.client_key), entry_of(flow))

    def take(self, client_key: bytes) -> Flow | None:
        """Give the flow back as it stands, and carry it no longer."""
        data = self._path.take(layout.key(client_key))
        return None if data is None else flow_from(client_key, data)

    def mark_reported(self, flow: Flow) -> None:
        """Remember that the end of the flow was reported.

        What the kernel counts at that very moment is lost; the flow is over.
        """
        flow.ended = True
        self._path.replace(layout.key(flow.client_key), entry_of(flow))

    def remove(self, client_key: bytes) -> None:
        """Carry the flow no longer, if it is there."""
        self._path.remove(layout.key(client_key))

    def make_room(self) -> bool:
        """Carry some flows no longer that have ended and were reported; False if none is found.

        Of some entries those that ended first: to find the first of all, all would have to be read.
        """
        for _ in range(_LOOKS):
            entries = next(self._looking, None)
            if entries is None:
                self._looking = self._path.entries(_BATCH)
                continue
            seen = [(*layout.glance(data), key) for key, data in entries]
            over = sorted((since, key) for since, flags, key in seen if flags & layout.REPORTED)
            for _, key in over[:_ROOM]:
                self._path.remove(key)
            if over:
                return True
        return False

    def publish(self, flow: Flow, side: Side, amount: int) -> None:
        """Tell how much of what was left to us since the hand-over is done, of one side.

        And how far both sides have come by now, which the programs may not have seen.
        """
        words = self._path.handled
        ticket, at = flow.ticket, flow.ticket % layout.HANDLED_SLOTS * self._path.handled_stride
        if words[at] != ticket:
            words[at + layout.AMOUNT] = words[at + layout.AMOUNT + 1] = 0
            words[at] = ticket
        for index, direction in enumerate((flow.to_server, flow.to_client)):
            words[at + layout.NEXT_SEQ + index] = direction.next_seq
            words[at + layout.LAST_ACK + index] = direction.last_ack
            words[at + layout.WINDOW + index] = direction.window
        words[at + layout.AMOUNT + _SIDES[side]] = amount & _UINT32

    # --- all flows ------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        return chain.from_iterable(self._path.entries(_BATCH))

    def flows(self) -> Iterator[Flow]:
        """Give all flows, each as it stands when its turn comes."""
        for key, data in self._entries():
            if not layout.glance(data).flags & (layout.PASSING | layout.SUPERSEDED):
                yield flow_from(layout.client_key(key), data)

    def due(self, collector: Collector, passing: Passing) -> Iterator[bytes | None]:
        """Go through all flows and give the 4-tuples of those that something is to be done about.

        None stands for each of the others, so that whoever asks can pause now and then. ``passing``
        is told how many connections pass there.
        """
        count = 0
        for key, data in self._entries():
            last_seen, flags = layout.glance(data)
            silent = time.monotonic() - last_seen / _NS
            if flags & layout.PASSING:
                count += 1
                yield layout.client_key(key) if silent > KEEP_S else None
                continue
            reported = bool(flags & layout.REPORTED)
            if flags & layout.SUPERSEDED or collector.is_due(
                state_of(flags), reported=reported, silent=silent
            ):
                yield layout.client_key(key)
            else:
                yield None
        passing.carried = count

    def kinds(self) -> Iterator[State | str]:
        """Tell of each entry what it is: a flow in that state, or ``passing`` or ``superseded``."""
        for _, data in self._entries():
            flags = layout.glance(data).flags
            if flags & layout.PASSING:
                yield "passing"
            else:
                yield "superseded" if flags & layout.SUPERSEDED else state_of(flags)

    def survey(self) -> tuple[int, int]:
        """Return how many flows there are that have not ended, and the highest number of all."""
        live = highest = 0
        for _, data in self._entries():
            flags = layout.glance(data).flags
            if state_of(flags) not in ENDED and not flags & (layout.PASSING | layout.SUPERSEDED):
                live += 1
            highest = max(highest, layout.number(data))
        return live, highest


def state_of(flags: int) -> State:
    """Return the state of a flow in the kernel."""
    if flags & (layout.RST_CLIENT | layout.RST_SERVER):
        return State.RESET
    if flags & layout.FINS_ACKNOWLEDGED:
        return State.TIME_WAIT
    return {
        0: State.ESTABLISHED,
        layout.FIN_CLIENT: State.CLIENT_CLOSED,
        layout.FIN_SERVER: State.SERVER_CLOSED,
        _BOTH_FINS: State.CLOSING,
    }[flags & _BOTH_FINS]


def entry_of(flow: Flow) -> bytes:
    """Return the map entry of a flow."""
    flags = 0
    if flow.client_fin_end is not None:
        flags |= layout.FIN_CLIENT
    if flow.server_fin_end is not None:
        flags |= layout.FIN_SERVER
    if flow.state is State.TIME_WAIT:
        flags |= layout.FINS_ACKNOWLEDGED
    if flow.state is State.RESET:
        by_client = flow.reset_by is Event.CLIENT_RST
        flags |= layout.RST_CLIENT if by_client else layout.RST_SERVER
    if flow.superseded:
        flags |= layout.SUPERSEDED
    if flow.passing:
        flags |= layout.PASSING
    if flow.ended:
        flags |= layout.REPORTED
    earlier = flow.data_earlier
    entry = FlowEntry(
        created=int(flow.created * _NS),
        handed_over=int((flow.handed_over or 0.0) * _NS),
        last_seen=int(flow.last_seen * _NS),
        ticket=flow.ticket,
        flags=flags,
        isn_client=flow.isn_client,
        isn_spoofed=flow.isn_spoofed,
        isn_server=flow.isn_server or 0,
        number=flow.number & _UINT32,
        suppressed=min(flow.duplicates.count, _UINT32),
        server_rtt_us=min(int(flow.server_rtt * 1e6), _UINT32),
        data_earlier_us=_UNKNOWN if earlier is None else min(int(earlier * 1e6), _UINT32 >> 1),
        syn_data=min(flow.syn_data, 0xFFFF),
        carried=min(flow.carried, 0xFFFF),
        attempts=min(flow.attempts, 0xFF),
        fast_open=_FAST_OPEN.index(flow.fast_open),
        strategy=STRATEGIES.index(flow.strategy) if flow.strategy else 0,
        syn_end=0,
    )
    return layout.pack(
        _direction_entry(flow.to_server, flow.client_fin_end),
        _direction_entry(flow.to_client, flow.server_fin_end),
        entry,
    )


def _direction_entry(direction: Direction, fin_end: int | None) -> DirectionEntry:
    strip = 0
    if direction.strip_timestamps:
        strip |= layout.STRIP_TIMESTAMPS
    if direction.strip_sack:
        strip |= layout.STRIP_SACK
    return DirectionEntry(
        seq_shift=direction.seq_shift & _UINT32,
        ack_shift=direction.ack_shift & _UINT32,
        tsval_shift=direction.tsval_shift & _UINT32,
        tsecr_shift=direction.tsecr_shift & _UINT32,
        next_seq=direction.next_seq,
        last_ack=direction.last_ack,
        fin_end=fin_end or 0,
        left=0,
        octets=direction.octets,
        segments=direction.segments,
        window=direction.window,
        window_shift=direction.window_shift,
        scale=direction.scale,
        strip=strip,
        settled=0,
    )


def flow_from(client_key: bytes, data: bytes) -> Flow:
    """Make a flow from its map entry."""
    to_server, to_client, entry = layout.unpack(data)
    created = entry.created / _NS
    flow = Flow(
        entry.number,
        ends_of(client_key),
        isn_client=entry.isn_client,
        options=_NO_OPTIONS,
        strategy=STRATEGIES[entry.strategy],
        now=created,
    )
    flow.isn_spoofed = entry.isn_spoofed
    flow.isn_server = entry.isn_server
    flow.ticket = entry.ticket
    flow.handed_over = entry.handed_over / _NS
    flow.last_seen = entry.last_seen / _NS
    flow.server_rtt = entry.server_rtt_us / 1e6
    if entry.data_earlier_us != _UNKNOWN:
        flow.held_since = created + entry.data_earlier_us / 1e6
    flow.syn_end = add(flow.syn_end, entry.syn_data)
    flow.carried = entry.carried
    flow.attempts = entry.attempts
    flow.fast_open = _FAST_OPEN[entry.fast_open]
    flow.duplicates.count = entry.suppressed
    flags = entry.flags
    _restore(flow.to_server, to_server)
    _restore(flow.to_client, to_client)
    if flags & layout.FIN_CLIENT:
        flow.client_fin_end = to_server.fin_end
    if flags & layout.FIN_SERVER:
        flow.server_fin_end = to_client.fin_end
    if flags & (layout.RST_CLIENT | layout.RST_SERVER):
        by_client = flags & layout.RST_CLIENT
        flow.reset_by = Event.CLIENT_RST if by_client else Event.SERVER_RST
    flow.superseded = bool(flags & layout.SUPERSEDED)
    flow.passing = bool(flags & layout.PASSING)
    flow.ended = bool(flags & layout.REPORTED)
    flow.state = state_of(flags)
    return flow


def _restore(direction: Direction, entry: DirectionEntry) -> None:
    direction.seq_shift = entry.seq_shift
    direction.ack_shift = entry.ack_shift
    direction.tsval_shift = entry.tsval_shift
    direction.tsecr_shift = entry.tsecr_shift
    direction.window_shift = entry.window_shift
    direction.strip_timestamps = bool(entry.strip & layout.STRIP_TIMESTAMPS)
    direction.strip_sack = bool(entry.strip & layout.STRIP_SACK)
    direction.next_seq = entry.next_seq
    direction.last_ack = entry.last_ack
    direction.window = entry.window
    direction.scale = entry.scale
    direction.octets = entry.octets
    direction.segments = entry.segments
