"""A flow as the bytes of its entry in the kernel's map, and back.

Where each field lies is said by :mod:`nfq_zerortt.kernel.bpf.layout` (numbers as the host has them,
times in nanoseconds of CLOCK_MONOTONIC); here it is said what of a :class:`Flow` it holds. What a
handshake alone needs is in no entry: a flow that is made from one has only translation before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.flow import Flow, ends_of
from nfq_zerortt.core.states import Event, State
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf.layout import DirectionEntry, FlowEntry
from nfq_zerortt.wire.options import OptionSet
from nfq_zerortt.wire.seqnum import add

NS = 1_000_000_000
"""The entries' units of time in a second."""

STRATEGIES = ("auto", "hold", "fastopen", "observe")
FAST_OPEN = ("none", "request", "cookie", "cookieless")
"""Entries hold a place in these, and outlive the process and its version: only add at the end."""

_UINT32 = 0xFFFFFFFF
_UNKNOWN = -1
_NO_OPTIONS = OptionSet()
_BOTH_FINS = layout.FIN_CLIENT | layout.FIN_SERVER


def state_of(flags: int) -> State:
    """Return the state of a flow by the flags of its entry."""
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
    """Return the map entry of a flow. A count that is too large for its field is cut to fit."""
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
        created=int(flow.created * NS),
        handed_over=int((flow.handed_over or 0.0) * NS),
        last_seen=int(flow.last_seen * NS),
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
        fast_open=FAST_OPEN.index(flow.fast_open),
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
    """Make a flow from its map entry; ``client_key`` is its 4-tuple (:attr:`Flow.client_key`).

    Raises:
        struct.error: the entry is longer or shorter than ``struct flow``.
    """
    to_server, to_client, entry = layout.unpack(data)
    created = entry.created / NS
    flow = Flow(
        entry.number,
        ends_of(client_key),
        isn_client=entry.isn_client,
        options=_NO_OPTIONS,
        strategy=_name(STRATEGIES, entry.strategy),
        now=created,
    )
    flow.isn_spoofed = entry.isn_spoofed
    flow.isn_server = entry.isn_server
    flow.ticket = entry.ticket
    flow.handed_over = entry.handed_over / NS
    flow.last_seen = entry.last_seen / NS
    flow.server_rtt = entry.server_rtt_us / 1e6
    if entry.data_earlier_us != _UNKNOWN:
        flow.held_since = created + entry.data_earlier_us / 1e6
    flow.syn_end = add(flow.syn_end, entry.syn_data)
    flow.carried = entry.carried
    flow.attempts = entry.attempts
    flow.fast_open = _name(FAST_OPEN, entry.fast_open)
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


def _name(names: Sequence[str], place: int) -> str:
    """Return the name at a place; the first for one that only a later version knows."""
    return names[place] if place < len(names) else names[0]


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
