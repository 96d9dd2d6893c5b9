"""One flow as both sides of the service's host show it: which packet became which, and why.

The two sides differ in the server's numbers alone: by Δ (and its timestamps by τ), which the two
SYN-ACKs tell, or, where the capture begins later, the packets themselves. Whatever is said here
follows from what was captured. What cannot be seen there is not guessed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from itertools import combinations

from nfq_zerortt.observe.pairing import Shape, marks_of
from nfq_zerortt.observe.records import Endpoint
from nfq_zerortt.tracing import own_packets
from nfq_zerortt.tracing.icmp_errors import Errors
from nfq_zerortt.tracing.known import CLIENT_SIDE, RECENT, SERVER_SIDE, Known
from nfq_zerortt.tracing.numbers import Space, is_same, shift_between
from nfq_zerortt.tracing.packets import SOON_S, Packet, Role, follows_soon, segment_of
from nfq_zerortt.tracing.shift_votes import Votes
from nfq_zerortt.tracing.ways import Way
from nfq_zerortt.tracing.words import later_by
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire.seqnum import add, distance

HELD_S = 0.002
"""What waits longer than that did not simply pass."""
_MOST_WAITING = 2 * RECENT


class Conversation(Known):
    """One flow. Packets are to be added in order of time; each then knows what became of it."""

    def __init__(self, client: Endpoint, server: Endpoint) -> None:
        super().__init__(client, server)
        self.last_s = 0.0
        self._ends: set[bool | None] = set()
        self._up, self._down = Way(self.recent), Way(deque(maxlen=RECENT))
        self._theirs: list[Space | None] = [None, None]
        self._waiting: deque[Packet] = deque()
        self._errors = Errors()
        self._votes = Votes()

    @property
    def held(self) -> int:
        """How much is kept of its packets, beside the few that have names."""
        kept: tuple[Sized, ...] = (
            *(self._up, self._down, self._waiting),
            *(self._errors, self._votes, self.syns_left),
        )
        return sum(map(len, kept))

    def shed(self) -> None:
        """Keep no packets but those that have names: later ones are still told apart by number."""
        self._up.shed()
        self._down.shed()
        self._waiting.clear()
        self._errors.clear()
        self._votes.clear()
        del self.syns_left[1:-1]

    @property
    def knows_both_sides(self) -> bool:
        """Whether it can be told that a packet is missing on the other side."""
        return self.whole or None not in self._theirs

    @property
    def over(self) -> bool:
        """Whether both sides have sent FIN, or one RST."""
        return None in self._ends or len(self._ends) == 2

    def add(self, packet: Packet) -> None:
        """Take in the flow's next packet."""
        if packet.quote is not None:
            self._errors.add(self, packet)
            return
        flags = segment_of(packet).flags
        if flags & tcp.SYN and not flags & tcp.ACK:
            self._add_syn(packet)
        elif flags & tcp.SYN and not packet.to_server:
            self._add_syn_ack(packet)
        elif packet.came:
            self._add_arrival(packet)
        else:
            self._add_departure(packet)
        if flags & (tcp.RST | tcp.FIN):
            self._ends.add(None if flags & tcp.RST else packet.to_server)

    # Handshakes.

    def _add_syn(self, packet: Packet) -> None:
        segment = segment_of(packet)
        if not packet.to_server:
            self._plain(packet)  # simultaneous open, or a connection from the servers' side
            return
        if packet.came:
            if self.ours is None:
                self.ours = Space(segment.seq)
                self._up.came_to = self._up.left_to = 1
            self.syn = self.syn or packet
            self.last_syn = packet
            return
        again = bool(self.syns_left)
        self.syns_left.append(packet)
        if len(self.syns_left) > RECENT:
            del self.syns_left[1]  # the first and the last ones are spoken of
        if self.last_syn is None:
            self.ours = self.ours or Space(segment.seq)
            packet.role = Role.BEFORE
            return
        if again and (self.spoofed is not None or self.last_syn.onward):
            self._repeated_syn(packet)
            return
        self._pass(self.last_syn, packet)
        if segment.payload_length:
            self._into_syn(packet, self.last_syn)

    def _repeated_syn(self, packet: Packet) -> None:
        last = self.syns_left[-2]
        packet.role = Role.MADE
        said = f"the SYN again, {later_by(last, packet)} after {last.tag}: "
        trouble = self.refusal or self.unreachable
        if trouble is not None and packet.time_s - trouble.time_s < SOON_S:
            said += f"that was refused ({trouble.tag})"
        else:
            said += "the server has not answered it"
        if segment_of(last).readable_options.fast_open is not None:
            said += "; this time without Fast Open and data"
        packet.because.append(said)
        self.refusal = self.unreachable = None

    def _into_syn(self, syn: Packet, came: Packet) -> None:
        size = segment_of(syn).payload_length
        self._up.left_to = 1 + size
        kept = f"kept back for {later_by(came, syn)}, until there was data to go with it"
        for start, end, packet in self.recent:
            if start <= size and end > 1:
                took = min(end - 1, size) - (start - 1)
                packet.role = Role.PASSED
                packet.onward.append(syn)
                packet.because.append(
                    f"{took} of its {segment_of(packet).payload_length} bytes left in the SYN "
                    f"{syn.tag} (TCP Fast Open, RFC 7413); the copy here is sent if the server "
                    "does not take them"
                )
                kept = (
                    f"kept back for {later_by(came, syn)}, until {packet.tag} brought data for it"
                )
        syn.because.append(f"{size} bytes of data with it (TCP Fast Open, RFC 7413): {kept}")

    def _add_syn_ack(self, packet: Packet) -> None:
        segment = segment_of(packet)
        self.ours = self.ours or Space(add(segment.ack, -1))
        if packet.came:
            self.last_answer = packet
            if self.answered is None:
                self.answered = packet
                self._theirs[SERVER_SIDE] = Space(segment.seq)
                self._know_shift()
                if self.spoofed is not None:
                    packet.because.append(
                        f"captured: the client has had its SYN-ACK since {self.spoofed.tag}. Now "
                        f"it is known what the numbers are to be shifted by: {self.shifts()}"
                    )
            elif self.first_onward is not None and self.translated:
                packet.because.append(self._why_answered_again(packet))
            if self.spoofed is None:
                self._down.pairing.came(packet, self._shape(packet), packet.time_s)
            return
        first = self._theirs[CLIENT_SIDE] is None
        if first:
            self._theirs[CLIENT_SIDE] = Space(segment.seq)
        if self.spoofed is None and self.answered is not None:
            origin = self._down.pairing.left(self._shape(packet), packet.time_s)
            if origin is not None:
                self._pass(origin, packet)
                self._know_shift()
                return
        self._spoofed_syn_ack(packet)

    def _why_answered_again(self, packet: Packet) -> str:
        answer, onward = self.answered, self.first_onward
        assert answer is not None
        assert onward is not None
        for asked, again in combinations(self.syns_left, 2):
            apart_s = (again.time_s - asked.time_s) - (packet.time_s - answer.time_s)
            too_soon = packet.time_ns - onward.time_ns < answer.time_ns - asked.time_ns
            if too_soon and abs(apart_s) <= SOON_S:
                return (
                    f"the answer to the SYN sent again ({again.tag}): no ACK can have reached the "
                    "server by then"
                )
        return "again: the server has not got the ACK for it"

    def _spoofed_syn_ack(self, packet: Packet) -> None:
        segment = segment_of(packet)
        packet.role = Role.MADE
        if self.spoofed is None:
            self.spoofed = packet
            if self.syn is None:
                packet.because.append("spoofed: the server has not answered")
            else:
                packet.because.append(
                    f"spoofed: the answer to the SYN {self.syn.tag}, "
                    f"{later_by(self.syn, packet)} after it, in the server's name; its ISN "
                    f"{segment.seq} is made up here"
                )
            self._know_shift()
            return
        asked = self.last_syn
        if asked is not None and asked is not self.syn and follows_soon(asked, packet):
            why = f"the client's SYN came again ({asked.tag})"
        elif self.recent or self.first_onward is not None:
            why = "why is not to be seen here"
        else:
            why = "the client has not acknowledged it yet"
        packet.because.append(f"the spoofed SYN-ACK {self.spoofed.tag} again: {why}")

    def _know_shift(self) -> None:
        near, far = self._theirs
        if near is None or far is None or self.answered is None:
            return
        self.delta = (far.isn - near.isn) % (1 << 32)
        ours = self.spoofed
        if self.delta == 0 and ours is None:
            self.tau = 0
        elif ours is not None:
            promised = segment_of(ours).readable_options.timestamps
            granted = segment_of(self.answered).readable_options.timestamps
            if promised is not None and granted is not None:
                self.tau = (granted[0] - promised[0]) % (1 << 32)
        self._catch_up()

    def _wait(self, packet: Packet) -> None:
        """Keep what came or left before its numbers can be told.

        The oldest goes first: so what came goes before that which it was when it left.
        """
        self._waiting.append(packet)
        if len(self._waiting) > _MOST_WAITING:
            oldest = self._waiting.popleft()
            if oldest.role is Role.UNKNOWN and not self.whole:
                oldest.role = Role.BEFORE

    def _catch_up(self) -> None:
        """Look again at what came and left before its numbers could be told."""
        waiting, self._waiting = self._waiting, deque()
        there = {packet.ident for packet in waiting if packet.came}
        for packet in waiting:
            if packet.role is Role.UNKNOWN:
                self._arrived(packet)
            elif packet.role is Role.BEFORE and not packet.came:
                # What had come before the capture began is not to be taken for a later one.
                may_be_cut_up = segment_of(packet).payload_length > 0
                if may_be_cut_up or packet.ident is None or packet.ident in there:
                    self._departed(packet)

    # Everything else.

    def _plain(self, packet: Packet) -> None:
        if packet.came:
            self._add_arrival(packet)
        else:
            self._add_departure(packet)

    def _add_arrival(self, packet: Packet) -> None:
        flags = segment_of(packet).flags
        if flags & tcp.RST:
            if packet.to_server:
                self.given_up = packet
            elif self.answered is None and self._acknowledges_syn(packet):
                self.refusal = packet
        if not self._is_known(packet):
            self._wait(packet)
            return
        self._arrived(packet)

    def _acknowledges_syn(self, packet: Packet) -> bool:
        """Whether a RST is for a SYN of ours; any other may be a stranger's (RFC 9293, 3.10.7)."""
        taken = distance(self.ours.isn, segment_of(packet).ack) if self.ours is not None else 0
        return any(1 <= taken <= 1 + segment_of(syn).payload_length for syn in self.syns_left)

    def _is_known(self, packet: Packet) -> bool:
        """Whether its numbers can be counted from an ISN."""
        return self.ours is not None and self._theirs[packet.tap] is not None

    def _arrived(self, packet: Packet) -> None:
        shape = self._shape(packet)
        if not shape.length and self._is_third_ack(packet):
            packet.because.append(
                "acknowledges the spoofed SYN-ACK: the server must not see that before it has "
                "answered"
            )
        (self._up if packet.to_server else self._down).came(packet, shape)

    def _is_third_ack(self, packet: Packet) -> bool:
        """Whether it is a bare ACK of the client's while the server has not answered."""
        bare = not segment_of(packet).flags & (tcp.RST | tcp.FIN)
        early = self.spoofed is not None and self.answered is None
        return packet.to_server and bare and early

    def _add_departure(self, packet: Packet) -> None:
        if not self._is_known(packet):
            self._leave_unnumbered(packet)
            return
        if self._departed(packet):
            pass
        elif not self.whole or not self.translated:
            packet.role = Role.BEFORE  # nothing is made for a flow that passes untouched
        else:
            self._made(packet)
        if packet.to_server and self.first_onward is None and self.answered is not None:
            self.first_onward = packet
            self._up.early_data_is_over()
            self._down.early_data_is_over()

    def _departed(self, packet: Packet) -> bool:
        """Find what it was when it came; return whether it had come."""
        way = self._up if packet.to_server else self._down
        origin = way.left(packet, self._shape(packet))
        if origin is not None:
            self._pass(origin, packet)
        return origin is not None

    def _leave_unnumbered(self, packet: Packet) -> None:
        """Deal with what left while one side's numbers are not known."""
        same = next((one for one in self._waiting if is_same(one, packet)), None)
        if same is not None and packet.time_s - same.time_s <= SOON_S:
            self._pass(same, packet)
            if not self.whole:
                self._learn_from(same, packet)
        elif self.whole:
            self._made(packet)
        else:
            packet.role = Role.BEFORE
            self._wait(packet)
            came = self._votes.find(packet, self._waiting)
            if came is not None:
                self._learn_from(came, packet)

    def _learn_from(self, came: Packet, left: Packet) -> None:
        """Count the numbers from these two on, which are the same packet."""
        if not segment_of(left).flags & tcp.ACK:
            return
        self.delta, self.tau = shift_between(came, left)
        there = segment_of(came if came.tap == SERVER_SIDE else left)
        ours, far = (there.seq, there.ack) if left.to_server else (there.ack, there.seq)
        self.ours = Space(ours)
        self._theirs = [Space(add(far, -self.delta)), Space(far)]
        for way in (self._up, self._down):
            way.begin_in_the_middle()
            way.early_data_is_over()
        self._catch_up()

    def _shape(self, packet: Packet) -> Shape:
        segment = segment_of(packet)
        ours, theirs = self.ours, self._theirs[packet.tap]
        assert ours is not None
        assert theirs is not None
        seqs, acks = (ours, theirs) if packet.to_server else (theirs, ours)
        stamps = segment.readable_options.timestamps
        stamp = None
        if stamps is not None and self.tau is not None:
            stamp = stamps[0]
            if not packet.to_server and packet.tap == SERVER_SIDE:
                stamp = add(stamp, -self.tau)
        return Shape(
            marks_of(segment.flags),
            seqs.relative(segment.seq),
            acks.relative(segment.ack) if segment.flags & tcp.ACK else 0,
            segment.payload_length,
            stamp,
            packet.ident,
        )

    def _pass(self, came: Packet, left: Packet) -> None:
        left.role, came.role = Role.LEFT, Role.PASSED
        left.origin = came
        came.onward.append(left)
        whole = sum(segment_of(one).payload_length for one in came.onward)
        came.settled = whole >= segment_of(came).payload_length
        if left.time_s - came.time_s <= HELD_S or segment_of(left).flags & tcp.SYN:
            return
        answer = self.answered
        if answer is not None and came.time_ns < answer.time_ns <= left.time_ns and self.spoofed:
            waited = later_by(came, left)
            what = "its ACK" if left.to_server else "its number"
            left.because.append(
                f"held for {waited}, until the server's SYN-ACK {answer.tag} was here: without the "
                f"server's ISN {what} could not be translated"
            )
            if len(came.onward) == 1:
                came.because.append(f"held until the server's SYN-ACK {answer.tag} was here")
        else:
            left.because.append(f"passed on {later_by(came, left)} after it came")

    def _made(self, packet: Packet) -> None:
        packet.role = Role.MADE
        packet.because.append(own_packets.reason(self, packet))
