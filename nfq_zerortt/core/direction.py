"""The numbers of one direction of a flow: how they are shifted, and how far they have come.

With Δ = real server ISN − spoofed ISN and τ = real server's timestamp − the
spoofed SYN-ACK's (both modulo 2**32):

- client to server: ACK and the edges of SACK blocks += Δ, TSecr += τ;
- server to client: SEQ −= Δ, TSval −= τ;
- the window field is rescaled where the two sides settled different shifts.

The client's sequence space is never touched. This is the packet path: one
parse, one arithmetic expression for the checksum, one copy.
"""

from __future__ import annotations

import struct

from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK
from nfq_zerortt.wire.view import TCP_HEADER

_MASK = 0xFFFFFFFF
_HALF = 0x80000000
_SLACK = 1 << 16  # bytes behind the window: the sender may have been promised a larger one by us
_FIXED = struct.Struct(">IIHHHH")  # seq, ack, offset and flags, window, checksum, urgent
_STAMPED = struct.Struct(">IIHHHHIII")  # the same, then NOP NOP TIMESTAMPS, TSval, TSecr
_UINT32 = struct.Struct(">I")
_NOP_NOP_TIMESTAMPS = 0x0101080A
_STAMPED_OFFSET = 0x8000  # data offset of 32 bytes
_MAX_WINDOW = 0xFFFF


class Direction:
    """One direction of a flow. All numbers are unsigned 32-bit, in the sender's own space.

    Attributes:
        seq_shift, ack_shift, tsval_shift, tsecr_shift: added to the field, modulo 2**32;
            SACK edges belong to the space that ``ack`` belongs to.
        window_shift: bits that the window field is shifted left, negative for right.
        strip_timestamps, strip_sack: the option was promised to the sender but not granted
            by the receiver: it is replaced with no-operations.
        next_seq: the highest sequence number that the sender has used, plus one.
        last_ack: the highest number of the other side's that the sender has acknowledged, in
            the space of the other side.
        window: the window field that the sender sent with it, and ``scale`` the shift that it
            means by it.
        other: the other direction of the flow. What a segment says is believed only if it fits
            to that: it acknowledges nothing that was not sent, and lies within the window (or
            not far behind: it may have been promised more by us). Data counts only with an
            acknowledgement that is about right. So a stranger's guess does not count.
        octets: data bytes sent, repetitions not counted.
        segments: how many segments were translated.
    """

    __slots__ = (
        "ack_shift",
        "last_ack",
        "next_seq",
        "octets",
        "other",
        "scale",
        "segments",
        "seq_shift",
        "strip_sack",
        "strip_timestamps",
        "tsecr_shift",
        "tsval_shift",
        "window",
        "window_shift",
    )

    other: Direction

    def __init__(self, next_seq: int = 0) -> None:
        self.seq_shift = 0
        self.ack_shift = 0
        self.tsval_shift = 0
        self.tsecr_shift = 0
        self.window_shift = 0
        self.strip_timestamps = False
        self.strip_sack = False
        self.next_seq = next_seq
        self.last_ack = 0
        self.window = 0
        self.scale = 0
        self.octets = 0
        self.segments = 0

    @classmethod
    def pair(cls, next_seq: int) -> tuple[Direction, Direction]:
        """Return both directions of a flow; ``next_seq`` is the first one's."""
        one, other = cls(next_seq), cls()
        one.other, other.other = other, one
        return one, other

    def fits(self, ack: int) -> bool:
        """Tell whether the sender may acknowledge that, or not far from it."""
        newest = (self.other.next_seq - self.last_ack) & _MASK
        return (ack - self.last_ack + _SLACK) & _MASK <= newest + 2 * _SLACK

    @property
    def progress(self) -> tuple[int, int, int]:
        """How far the sender has come: it changes with each segment that says anything new."""
        return self.next_seq, self.last_ack, self.window

    def _note(self, seq: int, length: int, ack: int | None, window: int) -> None:
        """Take in how far the sender has come: ``length`` data bytes at ``seq``.

        ``ack`` is in the space of the other side. Numbers only go forward: a segment may be
        overtaken by a later one.
        """
        other = self.other
        if ack is None:
            return  # nothing is sent without, once there is a connection
        newer, newest = (ack - self.last_ack) & _MASK, (other.next_seq - self.last_ack) & _MASK
        fits = (newer + _SLACK) & _MASK <= newest + 2 * _SLACK
        if newer <= newest:
            self.last_ack = ack
            self.window = window
        if length and fits:
            ahead = (seq + length - self.next_seq) & _MASK
            room = other.last_ack + (other.window << other.scale) + _SLACK - self.next_seq
            if ahead <= room & _MASK < _HALF:
                self.next_seq = (seq + length) & _MASK
                self.octets += ahead

    def note_fin(self, end_seq: int) -> None:
        """Take in a FIN: it uses one sequence number, and is no data.

        Data that it has overtaken is counted with it.
        """
        ahead = (end_seq - self.next_seq) & _MASK
        if ahead and ahead < _HALF:
            self.next_seq = end_seq
            self.octets += ahead - 1

    def translate(self, raw: bytes, tcp: int) -> bytes:
        """Return the packet as the other end must see it.

        ``raw`` is a checked packet (see :mod:`nfq_zerortt.wire.view`), ``tcp`` the offset of
        its TCP header. The IP header stays as it is. The TCP checksum is updated
        incrementally (RFC 1624), so a wrong one stays wrong.
        """
        self.segments += 1
        (offset_flags,) = _OFFSET_FLAGS.unpack_from(raw, tcp + 12)
        if (
            offset_flags & 0xF000 == _STAMPED_OFFSET
            and raw[tcp + 20 : tcp + 24] == _STAMP_PREFIX
            and offset_flags & ACK
            and not self.strip_timestamps
        ):
            return self._translate_stamped(raw, tcp)
        return self._translate_any(raw, tcp)

    def observe(self, raw: bytes, tcp: int) -> None:
        """Take in how far a segment brings the sender, and change nothing."""
        seq, ack, offset_flags, window, _, _ = _FIXED.unpack_from(raw, tcp + 4)
        header = (offset_flags >> 12) * 4
        self._note(seq, len(raw) - tcp - header, ack if offset_flags & ACK else None, window)

    def _translate_stamped(self, raw: bytes, tcp: int) -> bytes:
        """Translate the everyday segment: its only option is a timestamp."""
        seq, ack, offset_flags, window, checksum, urgent, prefix, tsval, tsecr = (
            _STAMPED.unpack_from(raw, tcp + 4)
        )
        new_seq = (seq + self.seq_shift) & _MASK
        new_ack = (ack + self.ack_shift) & _MASK
        # As in _note(), without the call.
        other = self.other
        newer, newest = (new_ack - self.last_ack) & _MASK, (other.next_seq - self.last_ack) & _MASK
        fits = (newer + _SLACK) & _MASK <= newest + 2 * _SLACK
        if newer <= newest:
            self.last_ack = new_ack
            self.window = window
        length = len(raw) - tcp - 32
        if length and fits:
            ahead = (seq + length - self.next_seq) & _MASK
            room = other.last_ack + (other.window << other.scale) + _SLACK - self.next_seq
            if ahead <= room & _MASK < _HALF:
                self.next_seq = (seq + length) & _MASK
                self.octets += ahead
        new_tsval = (tsval + self.tsval_shift) & _MASK
        new_tsecr = (tsecr + self.tsecr_shift) & _MASK
        new_window = self.rescaled(window) if self.window_shift else window
        checksum = (
            checksum
            + (seq - new_seq)
            + (ack - new_ack)
            + (tsval - new_tsval)
            + (tsecr - new_tsecr)
            + (window - new_window)
        ) % 0xFFFF
        return (
            raw[: tcp + 4]
            + _STAMPED.pack(
                new_seq,
                new_ack,
                offset_flags,
                new_window,
                checksum,
                urgent,
                prefix,
                new_tsval,
                new_tsecr,
            )
            + raw[tcp + 32 :]
        )

    def _translate_any(self, raw: bytes, tcp: int) -> bytes:
        seq, ack, offset_flags, window, checksum, urgent = _FIXED.unpack_from(raw, tcp + 4)
        header = (offset_flags >> 12) * 4
        has_ack = bool(offset_flags & ACK)
        new_seq = (seq + self.seq_shift) & _MASK
        new_ack = (ack + self.ack_shift) & _MASK if has_ack else ack
        self._note(seq, len(raw) - tcp - header, new_ack if has_ack else None, window)
        new_window = self.rescaled(window) if self.window_shift else window
        change = (seq - new_seq) + (ack - new_ack) + (window - new_window)
        if header == TCP_HEADER:
            options = b""
        else:
            options, more = self._options(raw[tcp + TCP_HEADER : tcp + header], has_ack)
            change += more
        return (
            raw[: tcp + 4]
            + _FIXED.pack(
                new_seq, new_ack, offset_flags, new_window, (checksum + change) % 0xFFFF, urgent
            )
            + options
            + raw[tcp + header :]
        )

    def _options(self, data: bytes, has_ack: bool) -> tuple[bytes, int]:
        """Translate the options; return them and the difference old − new for the checksum.

        Options that are malformed are left alone from there on.
        """
        new = bytearray(data)
        position, end = 0, len(data)
        while position < end:
            kind = data[position]
            if kind == opt.NOP:
                position += 1
                continue
            if kind == opt.END or position + 1 >= end:
                break
            length = data[position + 1]
            if length < 2 or position + length > end:
                break
            if kind == opt.TIMESTAMPS and length == 10:
                if self.strip_timestamps:
                    new[position : position + length] = bytes((opt.NOP,)) * length
                else:
                    _shift(new, position + 2, self.tsval_shift)
                    if has_ack:  # without ACK the field means nothing (RFC 7323, section 3.2)
                        _shift(new, position + 6, self.tsecr_shift)
            elif kind == opt.SACK:
                if self.strip_sack:
                    new[position : position + length] = bytes((opt.NOP,)) * length
                elif self.ack_shift:
                    for edge in range(position + 2, position + length - 3, 4):
                        _shift(new, edge, self.ack_shift)
            position += length
        return bytes(new), int.from_bytes(data, "big") - int.from_bytes(new, "big")

    def rescaled(self, window: int) -> int:
        """Return the window field in the units of the other side.

        Rounded down, so as not to promise more than the receiver did, but never to 0 unless
        it was 0: a window that closes by rounding would stop the sender for good.
        """
        shift = self.window_shift
        if shift > 0:
            return min(window << shift, _MAX_WINDOW)
        return (window >> -shift) or (1 if window else 0)


def _shift(data: bytearray, position: int, shift: int) -> None:
    (value,) = _UINT32.unpack_from(data, position)
    _UINT32.pack_into(data, position, (value + shift) & _MASK)


_OFFSET_FLAGS = struct.Struct(">H")
_STAMP_PREFIX = _UINT32.pack(_NOP_NOP_TIMESTAMPS)
