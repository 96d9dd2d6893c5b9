"""One end of one TCP connection, small and honest (RFC 9293, with RFC 5961, 7323, 2018, 2883).

Sequence numbers are kept as distances from the ISN, plain integers that never wrap: the SYN is
at 0, byte k of the data at 1 + k, the FIN behind the last byte. What is missing is congestion
control: ten segments may be under way.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK, FIN, PSH, RST, SYN
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import MASK, add, distance
from tests.core.model.content import content

Endpoint = tuple[bytes, int]
Emit = Callable[["Tcp", bytes], None]

_FIRST_RTO = 0.2
_LAST_RTO = 5.0
_SYN_RTO = 1.0
_SYN_ACKS = 6
_TIME_WAIT_S = 60.0
_CHALLENGE_S = 0.5  # as Linux limits it (tcp_invalid_ratelimit)
_UNDER_WAY = 10
_MAX_FIELD = 0xFFFF


@dataclass(frozen=True, slots=True)
class Profile:
    """What a host offers. ``window`` is its receive buffer, bytes; ``scale`` None: no option."""

    mss: int = 1460
    window: int = 64_240
    scale: int | None = 7
    sack: bool = True
    stamps: bool = True


class State(enum.Enum):
    """Where an end stands; OPEN covers everything from ESTABLISHED to LAST-ACK."""

    SYN_SENT = 1
    SYN_RECEIVED = 2
    OPEN = 3
    TIME_WAIT = 4
    CLOSED = 5


class Tcp:
    """One end of a connection.

    Attributes:
        name: the client's ISN, by which both ends of a connection are known to the judge.
        irs: the peer's ISN as this end knows it.
        snd_max, snd_una, rcv_nxt: as in RFC 9293, relative to the ISN.
        written: data bytes that the application has handed over.
        first_at: when the first data of the peer's was delivered.
        stamps_used: every TSval that this end has sent.
        least_window: the smallest window that it has advertised, bytes.
        right_edge: the furthest end of window that it has advertised, in the peer's distances.
        error: how it ended, if not well.
        fast: data of the SYN was taken, so it may send before the third ACK (RFC 7413, 4.2.2).
    """

    def __init__(
        self, local: Endpoint, peer: Endpoint, profile: Profile, iss: int, clock: int, emit: Emit
    ) -> None:
        self.local, self.peer, self.profile, self.iss = local, peer, profile, iss
        self._clock, self._emit = clock, emit
        self.state = State.CLOSED
        self.is_client = False
        self.opened_at = 0.0
        self.name = iss
        self.irs: int | None = None
        self.error = ""
        self.aborted = False
        self.written = 0
        self.closing = False
        self.stalled = False
        self.unread = 0
        self.snd_una = self.snd_max = 0
        self.snd_wnd = 0
        self._window_from = (-1, -1)
        self.rcv_nxt = 0
        self.received: list[tuple[int, int]] = []
        self.highest = 0
        self.fin_at: int | None = None
        self.peer_closed_first = False
        self.peer_mss = 536
        self.snd_scale = self.rcv_scale = 0
        self.scale_on = profile.scale is not None
        self.stamps_on, self.sack_on = profile.stamps, profile.sack
        self.ts_recent = 0
        self.stamps_used: set[int] = set()
        self.syn_window = 0
        self.right_edge = 0
        self.zero_advertised = False
        self.least_window = 1 << 30
        self.deadline: float | None = None
        self._rto = _FIRST_RTO
        self.fast = False
        self.first_at: float | None = None
        self._cookie: bytes | None = None
        self._syns = 0
        self._recover = 0
        self._challenge_after = 0.0

    # --- what an application does ---------------------------------------------------------

    def connect(self, now: float) -> None:
        """Send a SYN."""
        self.is_client, self.opened_at = True, now
        self.state, self.snd_max = State.SYN_SENT, 1
        self._send_syn(now)

    def accept(
        self,
        syn: Segment,
        options: opt.OptionSet,
        now: float,
        *,
        taken: int = 0,
        cookie: bytes | None = None,
    ) -> None:
        """Answer a SYN, of whose data ``taken`` bytes are delivered at once, and give a cookie."""
        self.name = self.irs = syn.seq
        self.rcv_nxt = self.highest = 1 + taken
        self.fast, self._cookie = taken > 0, cookie
        self.first_at = now if taken else None
        self.state, self.snd_max = State.SYN_RECEIVED, 1
        self._take_options(options)
        self.snd_wnd = syn.window
        self._send_syn(now)

    def write(self, size: int, now: float) -> None:
        """Hand over ``size`` bytes."""
        if not self.closing and self.state not in (State.CLOSED, State.TIME_WAIT):
            self.written += size
            self._output(now)

    def close(self, now: float) -> None:
        """No more data will come."""
        if not self.closing and self.state not in (State.CLOSED, State.TIME_WAIT):
            self.closing = True
            self._output(now)

    def abort(self, now: float) -> None:
        """End with a RST, as a process that dies with unread data does."""
        if self.state in (State.OPEN, State.SYN_RECEIVED):
            self.aborted = True
            self._send(RST | ACK, self.snd_max, now)
        self.aborted = self.aborted or self.state is State.SYN_SENT
        self._die("aborted")

    def stall(self, now: float, *, stalled: bool) -> None:
        """Stop reading, or read what has waited."""
        self.stalled = stalled
        if not stalled and self.unread:
            self.unread = 0
            if self.state is State.OPEN:
                self._send(ACK, self.snd_max, now)

    def keepalive(self, now: float) -> None:
        """Probe the peer (RFC 9293, section 3.8.4)."""
        if self.state is State.OPEN:
            self._send(ACK, self.snd_max - 1, now)

    # --- what is true of it ---------------------------------------------------------------

    @property
    def delivered(self) -> int:
        """Data bytes received in order."""
        return max(self.rcv_nxt - 1 - (self.fin_at is not None and self.rcv_nxt > self.fin_at), 0)

    @property
    def fin_received(self) -> bool:
        """Whether all of the peer's data and its FIN are here."""
        return self.fin_at is not None and self.rcv_nxt > self.fin_at

    @property
    def all_acknowledged(self) -> bool:
        """Whether the peer has everything, the FIN too."""
        return self.closing and self.snd_una == self.written + 2

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected."""
        return self.state in (State.CLOSED, State.TIME_WAIT)

    # --- receiving ------------------------------------------------------------------------

    def receive(self, segment: Segment, now: float) -> None:
        """Deal with a segment (RFC 9293, section 3.10.7)."""
        options = opt.OptionSet.read(segment.options, strict=False)
        if self.state is State.SYN_SENT:
            self._in_syn_sent(segment, options, now)
            return
        assert self.irs is not None
        flags = segment.flags
        start = self.rcv_nxt + distance(add(self.irs, self.rcv_nxt), segment.seq)
        length = len(segment.payload) + bool(flags & SYN) + bool(flags & FIN)
        stamps = options.timestamps if self.stamps_on else None
        if (
            stamps
            and not flags & (RST | SYN)
            and distance(self.ts_recent, stamps[0]) < 0
            and self.state is not State.SYN_RECEIVED
        ):
            self._acknowledge(now)  # PAWS (RFC 7323, section 5.3)
            return
        if self.state is State.SYN_RECEIVED and flags & SYN and not flags & (ACK | RST):
            if segment.seq == self.irs:  # again: none of its data is looked at
                self._send(SYN | ACK, 0, now)
            else:
                self._acknowledge(now)
            return
        if not self._acceptable(start, length):
            if flags & RST:
                return
            if segment.payload:
                self._acknowledge(now, duplicate=(start, start + len(segment.payload)))
            else:
                self._challenge(now)
            if self.state is State.TIME_WAIT and flags & FIN:
                self.deadline = now + _TIME_WAIT_S
            return
        if flags & RST:
            if start == self.rcv_nxt:
                self._die("reset")
            else:
                self._acknowledge(now)
            return
        if flags & SYN:
            self._acknowledge(now)
            return
        if not flags & ACK:
            return
        if stamps and start <= self.rcv_nxt:
            self.ts_recent = stamps[0]
        if self._take_ack(segment, start, now):
            self._take_data(segment, start, now)
            self._output(now)
            self._consider_the_end(now)

    def _in_syn_sent(self, segment: Segment, options: opt.OptionSet, now: float) -> None:
        flags = segment.flags
        if flags & ACK and segment.ack != add(self.iss, 1):
            if not flags & RST:
                self._reset_by_number(segment.ack, now)
            return
        if flags & RST:
            if flags & ACK:
                self._die("refused")
            return
        if not (flags & SYN and flags & ACK):
            return
        self.irs, self.rcv_nxt, self.snd_una, self.highest = segment.seq, 1, 1, 1
        self._take_options(options)
        self.snd_wnd = self.syn_window = segment.window
        self._window_from = (0, 1)
        self.state, self.deadline = State.OPEN, None
        self._send(ACK, 1, now)
        self._output(now)

    def _take_options(self, options: opt.OptionSet) -> None:
        self.peer_mss = options.mss or 536
        self.stamps_on = self.stamps_on and options.timestamps is not None
        self.sack_on = self.sack_on and options.sack_permitted
        if options.timestamps:
            self.ts_recent = options.timestamps[0]
        self.scale_on = self.scale_on and options.window_scale is not None
        if self.scale_on:
            self.snd_scale, self.rcv_scale = options.window_scale or 0, self.profile.scale or 0

    def _room(self) -> int:
        """The receive buffer that is free, bytes."""
        return max(self.profile.window - self.unread, 0)

    def _acceptable(self, start: int, length: int) -> bool:
        """The table of RFC 9293, section 3.10.7.4; a closed window still takes the next byte's."""
        window, end = self._room(), start + length
        if not length or not window:
            return self.rcv_nxt <= start <= self.rcv_nxt + window
        return start < self.rcv_nxt + window and end > self.rcv_nxt

    def _take_ack(self, segment: Segment, start: int, now: float) -> bool:
        """Take in what is acknowledged, and the window; tell whether to go on."""
        ack = self.snd_una + distance(add(self.iss, self.snd_una), segment.ack)
        if self.state is State.SYN_RECEIVED:
            if not 1 <= ack <= self.snd_max:
                self._reset_by_number(segment.ack, now)
                return False
            self.state, self.snd_una, self.deadline = State.OPEN, 1, None
        if ack > self.snd_max:
            self._challenge(now)  # RFC 5961, section 5
            return False
        if ack > self.snd_una:
            self.snd_una = ack
            self._rto = _FIRST_RTO
            self.deadline = None
            if self.snd_una < self._recover:
                self._retransmit(now)
        if ack >= self.snd_una and (start, ack) >= self._window_from:
            self._window_from = (start, ack)
            self.snd_wnd = segment.window << self.snd_scale
        return True

    def _take_data(self, segment: Segment, start: int, now: float) -> None:
        length = len(segment.payload)
        fin = bool(segment.flags & FIN)
        if not length and not fin:
            if start < self.rcv_nxt:
                self._acknowledge(now)  # a keepalive's answer
            return
        limit = self.rcv_nxt + self._room()
        end = min(start + length, limit)
        if start < 1 or segment.payload != self.expected(start - 1, length):
            raise AssertionError(f"{self}: took data that was never written, at {start - 1}")
        before = self.rcv_nxt
        duplicate = (start, start + length) if start + length <= self.rcv_nxt else None
        if end > start:
            self.received.append((start, end))
            self.highest = max(self.highest, end)
        if fin and start + length < limit + 1:
            self.fin_at = start + length
            self.highest = max(self.highest, self.fin_at + 1)
        self._advance()
        if self.delivered and self.first_at is None:
            self.first_at = now
        if self.stalled:
            self.unread += max(self.rcv_nxt - before - self.fin_received, 0)
        self._acknowledge(now, duplicate=duplicate)

    def expected(self, position: int, length: int) -> bytes:
        """The data that the peer writes at a place of its stream."""
        return content(self.name, position, length, from_client=not self.is_client)

    def _advance(self) -> None:
        self.received.sort()
        kept: list[tuple[int, int]] = []
        for start, end in self.received:
            if start <= self.rcv_nxt:
                self.rcv_nxt = max(self.rcv_nxt, end)
            elif kept and start <= kept[-1][1]:
                kept[-1] = (kept[-1][0], max(kept[-1][1], end))
            else:
                kept.append((start, end))
        self.received = kept
        if self.fin_at is not None and self.rcv_nxt == self.fin_at:
            self.rcv_nxt += 1
            self.peer_closed_first = not self.closing

    def _consider_the_end(self, now: float) -> None:
        if self.state is State.OPEN and self.fin_received and self.all_acknowledged:
            if self.peer_closed_first:
                self._die("")
            else:
                self.state = State.TIME_WAIT
                self.deadline = now + _TIME_WAIT_S

    def _die(self, error: str) -> None:
        self.state, self.deadline, self.error = State.CLOSED, None, error

    # --- sending --------------------------------------------------------------------------

    def timer(self, now: float) -> None:
        """The deadline has come."""
        self.deadline = None
        if self.state in (State.SYN_SENT, State.SYN_RECEIVED):
            if self.state is State.SYN_RECEIVED and self._syns > _SYN_ACKS:
                self._die("no third ACK")
                return
            self._send_syn(now)
        elif self.state is State.TIME_WAIT:
            self._die("")
        elif self.snd_una < self.snd_max:
            self._rto = min(self._rto * 2, _LAST_RTO)
            self._recover = self.snd_max
            self._retransmit(now)
        elif self.snd_max < self.written + 1:
            self._rto = min(self._rto * 2, _LAST_RTO)
            self._send(ACK, self.snd_una - 1, now)  # a zero-window probe, as Linux has it
            self.deadline = now + self._rto

    def _send_syn(self, now: float) -> None:
        self._send(SYN if self.is_client else SYN | ACK, 0, now)
        self.deadline = now + min(_SYN_RTO * 2**self._syns, 60.0)
        self._syns += 1

    def _largest(self) -> int:
        """Data bytes that fit into one segment (the MSS counts options, RFC 6691)."""
        return max(min(self.peer_mss, self.profile.mss) - (12 if self.stamps_on else 0), 1)

    def _output(self, now: float) -> None:
        """Send what may be sent, and keep the timer running while something is outstanding."""
        early = self.state is State.SYN_RECEIVED and self.fast
        if self.state is not State.OPEN and not early:
            return
        last = self.written + 1
        allowed = self.snd_una + min(self.snd_wnd, _UNDER_WAY * self._largest())
        while self.snd_max < min(last, allowed):
            size = min(self._largest(), last - self.snd_max, allowed - self.snd_max)
            final = self.snd_max + size == last
            position = self.snd_max
            self.snd_max += size
            with_fin = final and self.closing
            self.snd_max += with_fin
            self._send(
                ACK | (PSH if final else 0) | (FIN if with_fin else 0), position, now, length=size
            )
        if self.closing and self.snd_max == last:
            self.snd_max += 1
            self._send(FIN | ACK, last, now)
        if self.deadline is None and (self.snd_una < self.snd_max or self.snd_max < last):
            self.deadline = now + self._rto

    def _retransmit(self, now: float) -> None:
        last = self.written + 1
        size = min(self._largest(), last - self.snd_una, self.snd_max - self.snd_una)
        with_fin = self.snd_una + size == last and self.snd_max > last
        self._send(ACK | (FIN if with_fin else 0), self.snd_una, now, length=max(size, 0))
        if self.deadline is None:
            self.deadline = now + self._rto

    def _challenge(self, now: float) -> None:
        """Acknowledge what cannot be, but not without end: two ends may do it to each other."""
        if now >= self._challenge_after:
            self._challenge_after = now + _CHALLENGE_S
            self._acknowledge(now)

    def _acknowledge(self, now: float, duplicate: tuple[int, int] | None = None) -> None:
        if self.state is State.SYN_RECEIVED:
            self._send(ACK, self.snd_max, now)
            return
        blocks = list(self.received[-3:])
        if duplicate and 1 <= duplicate[0] < duplicate[1] <= self.rcv_nxt:
            blocks.insert(0, duplicate)
        self._send(ACK, self.snd_max, now, blocks=blocks[: 3 if self.stamps_on else 4])

    def _send(
        self,
        flags: int,
        position: int,
        now: float,
        *,
        length: int = 0,
        blocks: list[tuple[int, int]] | None = None,
    ) -> None:
        window = self._room()
        syn = bool(flags & SYN)
        field = min(window if syn else window >> self.rcv_scale, _MAX_FIELD)
        if flags & ACK:
            edge = self.rcv_nxt + (field if syn else field << self.rcv_scale)
            self.right_edge = max(self.right_edge, edge)
        self.zero_advertised = self.zero_advertised or not field
        self.least_window = min(self.least_window, field if syn else field << self.rcv_scale)
        data = content(self.name, position - 1, length, from_client=self.is_client)
        self._emit_segment(
            Segment(
                src=self.local[0],
                sport=self.local[1],
                dst=self.peer[0],
                dport=self.peer[1],
                seq=add(self.iss, position),
                ack=add(self.irs, self.rcv_nxt) if flags & ACK and self.irs is not None else 0,
                flags=flags,
                window=0 if flags & RST else field,
                options=self._options(flags, now, blocks or []),
                payload=data,
            )
        )

    def _options(self, flags: int, now: float, blocks: list[tuple[int, int]]) -> opt.Options:
        if flags & RST:
            return ()
        options: list[opt.Option] = []
        if flags & SYN:
            options.append(opt.mss(self.profile.mss))
            if self.sack_on:
                options += [opt.NOP_OPTION, opt.NOP_OPTION, opt.SACK_PERMITTED_OPTION]
            if self.scale_on:
                options += [opt.NOP_OPTION, opt.window_scale(self.profile.scale or 0)]
            if self._cookie is not None:
                options.append((opt.FAST_OPEN, self._cookie))
                self._cookie = None  # Linux repeats the SYN-ACK without it
        if self.stamps_on:
            stamp = (self._clock + int(now * 1000)) & MASK
            self.stamps_used.add(stamp)
            echo = self.ts_recent if flags & ACK else 0
            options += [opt.NOP_OPTION, opt.NOP_OPTION, opt.timestamps(stamp, echo)]
        if self.sack_on and blocks and self.irs is not None:
            irs = self.irs
            edges = [(add(irs, first), add(irs, last)) for first, last in blocks]
            options += [opt.NOP_OPTION, opt.NOP_OPTION, opt.sack(*edges)]
        return tuple(options)

    def _reset_by_number(self, number: int, now: float) -> None:
        """Answer an acknowledgement that cannot be (RFC 9293, sections 3.10.7.3 and 3.10.7.4)."""
        self._emit_segment(
            Segment(
                src=self.local[0],
                sport=self.local[1],
                dst=self.peer[0],
                dport=self.peer[1],
                seq=number,
                ack=0,
                flags=RST,
                window=0,
            )
        )

    def _emit_segment(self, segment: Segment) -> None:
        self._emit(self, segment.emit())

    def __repr__(self) -> str:
        side = "client" if self.is_client else "server"
        return f"<{side} {self.local[1]}-{self.peer[1]} {self.state.name} {self.error}>"
