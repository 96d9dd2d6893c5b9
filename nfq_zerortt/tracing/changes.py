"""What is different in a packet when it leaves, field by field, and which rule that follows."""

from __future__ import annotations

from typing import NamedTuple

from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.wire import flags as tcp
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.checksum import MODULUS as CHECKSUMS
from nfq_zerortt.wire.checksum import PROTOCOL_TCP
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import SegmentView

_CHECKSUM_AT = 16

DELTA = "Δ"
TAU = "τ"


class Change(NamedTuple):
    """One field; ``why`` is the rule, '' where there is none to be seen."""

    field: str
    old: str
    new: str
    why: str = ""

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.field} {self.old} → {self.new}{why}"


def found(came: Packet, left: Packet, delta: int | None, tau: int | None) -> list[Change]:
    """Compare a packet that came with the same one when it left; [] if nothing was changed.

    ``delta`` and ``tau`` as in Conversation. IP's own fields are the forwarding's business.
    """
    one, other = came.segment, left.segment
    if one is None or other is None:
        return _quotes(came, left)
    up = left.to_server
    whole = other.payload_length == one.payload_length
    syn = bool(other.flags & tcp.SYN)
    found = _numbers(one, other, up=up, delta=delta, whole=whole or syn)
    if one.flags != other.flags:
        why = "no ECN on translated flows" if (one.flags ^ other.flags) & tcp.ECN else ""
        why = "these go with the last piece" if not why and not whole else why
        found.append(Change("flags", tcp.names(one.flags), tcp.names(other.flags), why))
    if one.window != other.window:
        why = "the two sides settled different window scales"
        found.append(Change("window", str(one.window), str(other.window), why))
    if one.urgent != other.urgent:
        found.append(Change("urgent pointer", str(one.urgent), str(other.urgent)))
    if not whole:
        sizes = f"{one.payload_length} bytes", f"{other.payload_length} bytes"
        if syn:
            why = "TCP Fast Open, RFC 7413: the client's first data goes with the SYN"
        else:
            why = "cut up: it was longer than the receiver takes, or than a packet may be"
        found.append(Change("data", *sizes, why))
    if one.option_bytes != other.option_bytes:
        found += _options(one, other, up=up, delta=delta, tau=tau)
    if found:
        found += _checksum(one, other, whole=whole)
    return found


def _numbers(
    one: SegmentView, other: SegmentView, *, up: bool, delta: int | None, whole: bool
) -> list[Change]:
    found = []
    if one.seq != other.seq:
        if up:
            why = "" if whole else f"this piece begins {add(other.seq, -one.seq)} bytes later"
        else:
            why = _shifted(one.seq, other.seq, None if delta is None else -delta, f"-{DELTA}")
            if not whole:
                why = f"-{DELTA}; a piece"
        found.append(Change("SEQ", str(one.seq), str(other.seq), why))
    if one.ack != other.ack and other.flags & tcp.ACK:
        why = _shifted(one.ack, other.ack, delta, f"+{DELTA}") if up else ""
        found.append(Change("ACK", str(one.ack), str(other.ack), why))
    return found


def _shifted(old: int, new: int, shift: int | None, rule: str) -> str:
    if shift is None:
        return ""
    return rule if add(old, shift) == new else f"this is not {rule[0]}Δ"


def _options(
    one: SegmentView, other: SegmentView, *, up: bool, delta: int | None, tau: int | None
) -> list[Change]:
    there, here = one.readable_options, other.readable_options
    found = []
    if there.timestamps is not None and here.timestamps is not None:
        rules = (
            ("TSval", 0, None if up or tau is None else -tau, f"-{TAU}"),
            ("TSecr", 1, tau if up else None, f"+{TAU}"),
        )
        for name, place, shift, rule in rules:
            stamp, new_stamp = there.timestamps[place], here.timestamps[place]
            if stamp != new_stamp:
                why = "" if shift is None else rule
                if shift is not None and add(stamp, shift) != new_stamp:
                    why = f"this is not {rule[0]}τ"
                found.append(Change(name, str(stamp), str(new_stamp), why))
    if there.sack_blocks and here.sack_blocks and there.sack_blocks != here.sack_blocks:
        for old_block, new_block in zip(there.sack_blocks, here.sack_blocks, strict=False):
            shift = delta if up else None
            fits = shift is not None and tuple(add(e, shift) for e in old_block) == new_block
            why = f"+{DELTA}" if fits else "" if shift is None else "this is not +Δ"
            found.append(Change("SACK", _block(old_block), _block(new_block), why))
    if here.sack_blocks and not there.sack_blocks:
        blocks = ", ".join(map(_block, here.sack_blocks))
        why = "a D-SACK, RFC 2883: that the client has sent again, and nothing was lost"
        found.append(Change("SACK", "none", blocks, why))
    for name, kind in (("MSS", opt.MSS), ("window scale", opt.WINDOW_SCALE)):
        field = "mss" if kind == opt.MSS else "window_scale"
        old_value, new_value = getattr(there, field), getattr(here, field)
        if None not in (old_value, new_value) and old_value != new_value:
            found.append(Change(name, str(old_value), str(new_value)))
    for kind in dict.fromkeys(there.kinds):
        if kind not in here.kinds:
            what = "it was not granted" if kind in _GRANTED else "it was not promised"
            found.append(Change(_name(kind), "there", "no-operations", what))
    if here.fast_open is not None and there.fast_open is None:
        cookie = here.fast_open.hex()
        new = f"cookie {cookie}" if cookie else "a request for a cookie"
        found.append(Change("Fast Open", "none", new, "RFC 7413"))
    if not found:
        found.append(Change("options", one.option_bytes.hex(), other.option_bytes.hex()))
    return found


_GRANTED = frozenset({opt.TIMESTAMPS, opt.SACK})
"""Of a segment; what else is taken out stood in a SYN."""


def _name(kind: int) -> str:
    names = opt.OptionSet(kinds=(kind,)).describe()
    return next(iter(names)).replace("_", " ")


def _block(edges: tuple[int, int]) -> str:
    return f"{edges[0]}:{edges[1]}"


def _checksum(one: SegmentView, other: SegmentView, *, whole: bool) -> list[Change]:
    if one.checksum == other.checksum:
        return []
    why = ""
    if whole and one.checksum == _of_pseudo_header(one):
        why = "complete now; its sender had left that to the network card"
    elif whole:
        follows = (one.checksum + _sum(one) - _sum(other)) % CHECKSUMS == other.checksum % CHECKSUMS
        why = "as these changes ask for, RFC 1624" if follows else ""
    return [Change("checksum", f"0x{one.checksum:04x}", f"0x{other.checksum:04x}", why)]


def _sum(segment: SegmentView) -> int:
    """Return what the header adds to the checksum, without that field; its options are whole."""
    header = bytearray(segment.raw[segment.tcp : segment.payload_at])
    header[_CHECKSUM_AT : _CHECKSUM_AT + 2] = b"\0\0"
    return int.from_bytes(header, "big")


def _of_pseudo_header(segment: SegmentView) -> int:
    """Return what stands in the checksum field while a network card is to complete it."""
    length = segment.end - segment.tcp
    total = int.from_bytes(segment.src + segment.dst, "big") + PROTOCOL_TCP + length
    return total % CHECKSUMS or CHECKSUMS


def _quotes(came: Packet, left: Packet) -> list[Change]:
    there, here = came.quote, left.quote
    if there is None or here is None:
        return []
    why = "what the segment's sender knows it by; it would not believe the error otherwise"
    found = []
    if there.seq != here.seq:
        found.append(Change("quoted SEQ", str(there.seq), str(here.seq), why))
    if there.ack != here.ack:
        found.append(Change("quoted ACK", str(there.ack), str(here.ack), why))
    return found
