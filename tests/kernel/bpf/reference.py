"""The reference: a flow in the core that has the numbers of an entry of the map."""

from __future__ import annotations

import struct
from dataclasses import replace

from bpf.packets import ACK, ETHERNET, IP_HEADER, SYN, Packet
from bpf.record import (
    CLIENT,
    ENDED,
    FIN_CLIENT,
    FIN_SERVER,
    FINS_ACKNOWLEDGED,
    RST_CLIENT,
    RST_SERVER,
    STRIP_SACK,
    STRIP_TIMESTAMPS,
    Entry,
    Handled,
    Numbers,
)
from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Actions, Replace, Report, Side
from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.states import State
from nfq_zerortt.wire.seqnum import distance
from nfq_zerortt.wire.view import look

_NOW = 1.0
_CHECKSUM_AT = 16


class Reference:
    """One flow, dealt with by the core."""

    def __init__(self, entry: Entry, *, ipv6: bool) -> None:
        """Begin with the numbers of ``entry``."""
        self._entry = _copy(entry)
        self.superseded = False
        syn = look(Packet(ipv6=ipv6, seq=entry.isn_client, flags=SYN).ip())
        self._flow = flow = Flow.begun(1, syn, "hold", _NOW)
        flow.isn_server = entry.isn_server
        _set(flow.to_server, entry.to_server)
        _set(flow.to_client, entry.to_client)
        if entry.flags & FIN_CLIENT:
            flow.client_fin_end = entry.to_server.fin_end
        if entry.flags & FIN_SERVER:
            flow.server_fin_end = entry.to_client.fin_end
        flow.state = _state(entry.flags)
        flow.choose_path()
        self._engine = Engine("hold", Limits(), bytes(32))
        self._engine.table.add(flow)
        self._engine.table.changed(flow)

    def carry(self, packet: Packet) -> bytes:
        """Translate a packet that has no SYN; return the IP packet as it leaves.

        The engine drops a damaged packet wherever it looks at it. The program does not look, and
        damaged it must stay: by just as much.
        """
        actions = self._deal(replace(packet, checksum_error=0))
        replaced = [action for action in actions if isinstance(action, Replace)]
        assert len(replaced) == 1, actions
        for action in actions:
            if isinstance(action, Report) and action.event == "flow.reset":
                by_client = action.fields["by"] == "client"
                self._entry.flags |= RST_CLIENT if by_client else RST_SERVER
        if self._flow.state is State.TIME_WAIT:
            self._entry.flags |= FINS_ACKNOWLEDGED
        # Through the queue it would have come in its segments.
        path = self._flow.from_client if packet.side == CLIENT else self._flow.from_server
        path.direction.segments += packet.gso_segments - 1 if packet.gso_size else 0
        return _damaged(replaced[0].data, packet)

    def leave(self, packet: Packet) -> None:
        """Take in a packet that is left to the process: the kernel counts it, and sees it, too."""
        self.carry(packet)
        self._entry.of(packet.side).left += packet.payload or 1

    def pass_by(self, packet: Packet, *, left: bool) -> None:
        """Take in a packet of a connection that passes untouched: it is counted, and no more."""
        path = self._flow.from_client if packet.side == CLIENT else self._flow.from_server
        path.direction.segments += packet.gso_segments or 1
        if left:
            self._entry.of(packet.side).left += packet.payload or 1

    def settle(self, side: int, handled: Handled | None) -> None:
        """From now on nothing of a side is left; what the process has done, the kernel takes in."""
        self._entry.of(side).settled = 1
        if handled is None:
            return
        for index, direction in enumerate((self._flow.to_server, self._flow.to_client)):
            further = distance(direction.next_seq, handled.next_seq[index])
            if further > 0:
                direction.next_seq = handled.next_seq[index]
                direction.octets += further
            if distance(direction.last_ack, handled.last_ack[index]) > 0:
                direction.last_ack = handled.last_ack[index]
                direction.window = handled.window[index]

    def see_syn(self, packet: Packet) -> None:
        """Decide about a SYN: only one for an ended flow says anything about that flow."""
        if packet.flags & ACK or not self._entry.flags & ENDED:
            return
        self._deal(replace(packet, checksum_error=0))
        paths = self._engine.table.paths
        self.superseded = paths.get(self._flow.client_key) is not self._flow.from_client

    def _deal(self, packet: Packet) -> Actions:
        side = Side.CLIENT if packet.side == CLIENT else Side.SERVER
        return self._engine.packet(packet.frame()[ETHERNET:], side, _NOW)

    def entry(self) -> Entry:
        """Return what the entry of the map must be now, except for last_seen."""
        flow, entry = self._flow, self._entry
        _get(flow.to_server, entry.to_server, flow.client_fin_end)
        _get(flow.to_client, entry.to_client, flow.server_fin_end)
        if flow.client_fin_end is not None:
            entry.flags |= FIN_CLIENT
        if flow.server_fin_end is not None:
            entry.flags |= FIN_SERVER
        return _copy(entry)


def _copy(entry: Entry) -> Entry:
    return replace(entry, to_server=replace(entry.to_server), to_client=replace(entry.to_client))


def _damaged(data: bytes, packet: Packet) -> bytes:
    if not packet.checksum_error:
        return data
    at = IP_HEADER[packet.ipv6] + _CHECKSUM_AT
    (checksum,) = struct.unpack_from("!H", data, at)
    checksum = (checksum + packet.checksum_error) % 0xFFFF
    return data[:at] + struct.pack("!H", checksum) + data[at + 2 :]


def _set(direction: Direction, numbers: Numbers) -> None:
    for name in (
        *("seq_shift", "ack_shift", "tsval_shift", "tsecr_shift", "next_seq", "last_ack"),
        *("octets", "segments", "window", "window_shift", "scale"),
    ):
        setattr(direction, name, getattr(numbers, name))
    direction.strip_timestamps = bool(numbers.strip & STRIP_TIMESTAMPS)
    direction.strip_sack = bool(numbers.strip & STRIP_SACK)


def _get(direction: Direction, numbers: Numbers, fin_end: int | None) -> None:
    for name in ("next_seq", "last_ack", "octets", "segments", "window"):
        setattr(numbers, name, getattr(direction, name))
    if fin_end is not None:
        numbers.fin_end = fin_end


def _state(flags: int) -> State:
    if flags & (RST_CLIENT | RST_SERVER):
        return State.RESET
    if flags & FINS_ACKNOWLEDGED:
        return State.TIME_WAIT
    return {
        0: State.ESTABLISHED,
        FIN_CLIENT: State.CLIENT_CLOSED,
        FIN_SERVER: State.SERVER_CLOSED,
        FIN_CLIENT | FIN_SERVER: State.CLOSING,
    }[flags & (FIN_CLIENT | FIN_SERVER)]
