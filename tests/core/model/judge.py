"""What an end may receive, whatever was lost, repeated or reordered on the way.

The numbers that reach an end must be its own, or its peer's as it knows them: it acknowledges,
selects and echoes only what this end has sent, brings only bytes that the peer's application
wrote, each in its place, and promises no more than the peer did. Checksums are right.
"""

from __future__ import annotations

from nfq_zerortt.core.negotiation import MAX_MSS
from nfq_zerortt.core.packets import is_intact
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.checksum import internet_checksum
from nfq_zerortt.wire.flags import ACK, FIN, RST, SYN, names
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import MASK, distance
from nfq_zerortt.wire.view import SegmentView, look
from tests.core.model.content import content
from tests.core.model.host import Host
from tests.core.model.tcp import Profile, Tcp

_MAX_FIELD = 0xFFFF


class ViolationError(AssertionError):
    """An end was given something that no honest peer can have meant."""


class Judge:
    """Judges what arrives at either host.

    Attributes:
        judged: how many packets.
        damaged: copies of packets were about, also with damaged IP headers, which the kernel would
            have dropped.
    """

    def __init__(self) -> None:
        self.judged = 0
        self.damaged = False
        self._bases: dict[int, set[int]] = {}

    def arrives(self, raw: bytes, receiver: Host, sender: Host) -> None:
        """Judge a packet that ``receiver`` is about to read.

        Raises:
            ViolationError: it fits none of the connections that there ever were on its 4-tuple.
        """
        self.judged += 1
        view = look(raw)
        if (
            len(view.src) == 4
            and not self.damaged
            and internet_checksum(raw[:20]) not in (0, 0xFFFF)
        ):
            raise ViolationError(f"IP checksum of {view}")
        if not is_intact(view):
            raise ViolationError(f"TCP checksum of {view}")
        segment = Segment.from_view(view)
        local, peer = (view.dst, view.dport), (view.src, view.sport)
        ends = receiver.connections.get((local, peer), [])
        others = sender.connections.get((peer, local), [])
        if segment.flags & SYN and not segment.flags & ACK:
            self._syn(view, segment, others, receiver)
            return
        faults = []
        for end in reversed(ends):
            fault = self._fault(end, [tcp for tcp in others if tcp.name == end.name], view, segment)
            if fault is None:
                return
            faults.append(fault)
        if faults:
            raise ViolationError(
                f"{names(segment.flags)} {view} to {ends[-1]}: {'; '.join(faults)}"
            )
        if not segment.flags & (SYN | RST):
            raise ViolationError(f"{names(segment.flags)} {view}: no connection was ever there")

    def _syn(self, view: SegmentView, segment: Segment, others: list[Tcp], receiver: Host) -> None:
        owner = next((tcp for tcp in others if tcp.is_client and tcp.iss == segment.seq), None)
        if owner is None:
            raise ViolationError(f"{view}: a SYN that nobody sent")
        length = len(segment.payload)
        if length > owner.written:
            raise ViolationError(f"{view}: a SYN with {length} bytes, written are {owner.written}")
        if segment.payload != content(owner.name, 0, length, from_client=True):
            raise ViolationError(f"{view}: a SYN with wrong data")
        options = opt.OptionSet.read(segment.options)
        more = set(options.kinds) - _offered(owner.profile) - {opt.FAST_OPEN}
        if more:
            raise ViolationError(f"{view}: a SYN with options that the client has not: {more}")
        if options.mss not in (owner.profile.mss, min(owner.profile.mss, MAX_MSS)):
            raise ViolationError(f"{view}: MSS {options.mss}, the client's is {owner.profile.mss}")
        given = receiver.fast_open.given.get(view.src, set())
        if options.fast_open and options.fast_open not in given:
            raise ViolationError(f"{view}: a cookie that this client was never given")

    def _fault(
        self, end: Tcp, others: list[Tcp], view: SegmentView, segment: Segment
    ) -> str | None:
        """Say what is wrong with a segment for one connection, or None."""
        flags = segment.flags
        options = opt.OptionSet.read(segment.options)
        ack = (segment.ack - end.iss) & MASK
        if flags & ACK:
            fault = self._ack_fault(end, others, ack, segment, options)
            if fault:
                return fault
        if flags & SYN:
            return self._syn_ack_fault(end, others, segment, options)
        if flags & RST and flags & ACK and not segment.seq and ack == 1:
            return None  # a refusal that was under way while the SYN came again
        if end.irs is None:
            return None  # ahead of its SYN-ACK, or of one that was given up
        if not flags & RST:
            fault = self._window_fault(end, others, ack, segment) or self._option_fault(
                end, others, view, options
            )
            if fault:
                return fault
        start = (segment.seq - end.irs) & MASK
        length = len(segment.payload)
        sent = max((tcp.snd_max for tcp in others), default=1)
        if len(others) > 1 and not length:
            return None  # of another one of the connections that the server had for this SYN
        if start + length + bool(flags & FIN) > sent:
            return f"sequence number {start}+{length} of {sent} sent"
        if length:
            meant = content(end.name, start - 1, length, from_client=not end.is_client)
            if start < 1 or segment.payload != meant:
                return f"wrong data at {start}"
        if flags & FIN and not any(
            tcp.closing and start + length == tcp.written + 1 for tcp in others
        ):
            return f"FIN at {start + length}"
        return None

    def _syn_ack_fault(
        self, end: Tcp, others: list[Tcp], segment: Segment, options: opt.OptionSet
    ) -> str | None:
        if not end.is_client:
            return "a SYN-ACK to the server"
        # A server that forgot the connection and got its SYN again answers with another number.
        # A copy of the SYN that comes after we have given up begins the flow anew, likewise.
        again = end.ended or len(others) > 1 or self.damaged
        if end.irs not in (None, segment.seq) and not again:
            return f"another ISN: {segment.seq}, was {end.irs}"
        more = set(options.kinds) - _offered(end.profile)
        if again:  # it means nothing to a client that did not ask
            more -= {opt.FAST_OPEN}
        return f"options that were not offered: {more}" if more else None

    def _ack_fault(
        self, end: Tcp, others: list[Tcp], ack: int, segment: Segment, options: opt.OptionSet
    ) -> str | None:
        if not 1 <= ack <= end.snd_max:
            return f"acknowledgement {ack} of {end.snd_max} sent"
        got = max((tcp.rcv_nxt for tcp in others), default=1)
        if ack > max(got, 1) and not segment.flags & RST:
            return f"acknowledgement {ack}, the peer has {got}"
        highest = max((tcp.highest for tcp in others), default=1)
        for left, right in options.sack_blocks:
            first, last = (left - end.iss) & MASK, (right - end.iss) & MASK
            if not 1 <= first < last <= highest:
                return f"SACK {first}:{last}, the peer has {highest} at most"
        if options.timestamps and options.timestamps[1] not in end.stamps_used:
            return f"TSecr {options.timestamps[1]} was never sent"
        return None

    def _window_fault(self, end: Tcp, others: list[Tcp], ack: int, segment: Segment) -> str | None:
        """The window: never further than the peer's, or than the spoofed SYN-ACK's was."""
        if not segment.flags & ACK:
            return None
        if not segment.window:
            closed = any(tcp.zero_advertised for tcp in others)
            return None if closed else "a window that was not closed"
        # Rounded down, but never to 0: in our units, and in the peer's before that.
        slack = 1 << max([end.snd_scale, *(tcp.rcv_scale for tcp in others)])
        window = segment.window << end.snd_scale
        least = min([tcp.least_window for tcp in others] + [end.syn_window or 1 << 30, _MAX_FIELD])
        if window + slack < least and others:
            return f"window of {window}, the peer's was never under {least}"
        edge = ack + window
        meant = max((tcp.right_edge for tcp in others), default=0)
        if edge <= max(meant, end.syn_window + 1) + slack:
            return None
        return f"window up to {edge}, the peer's ends at {meant}"

    def _option_fault(
        self, end: Tcp, others: list[Tcp], view: SegmentView, options: opt.OptionSet
    ) -> str | None:
        if options.sack_blocks and not end.sack_on:
            return "SACK to an end that does not know it"
        size = view.end - view.tcp - 20
        if size > end.profile.mss and view.payload_length:
            return f"{size} bytes of options and data, its MSS is {end.profile.mss}"
        stamps = options.timestamps
        if stamps is None:
            return None
        if not end.stamps_on:
            return "a timestamp to an end that does not know it"
        if not end.is_client:
            known = any(stamps[0] in tcp.stamps_used for tcp in others)
            return None if known or not others else f"TSval {stamps[0]} was never sent"
        # The server's clock may be shifted, but always by the same.
        shifts = self._bases.setdefault(id(end), set())
        possible = {distance(used, stamps[0]) for tcp in others for used in tcp.stamps_used}
        self._bases[id(end)] = (shifts & possible) if shifts else possible
        if others and not self._bases[id(end)]:
            return f"TSval {stamps[0]} fits no shift of the server's clock"
        return None


def _offered(profile: Profile) -> set[int]:
    """The kinds of options in the SYNs of a host."""
    offered = {opt.MSS}
    offered |= {opt.SACK_PERMITTED} if profile.sack else set()
    offered |= {opt.TIMESTAMPS} if profile.stamps else set()
    return offered | ({opt.WINDOW_SCALE} if profile.scale is not None else set())
