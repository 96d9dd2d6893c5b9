"""Options: what the client is promised, what the server is asked, and how the two are settled.

A spoofed SYN-ACK promises options before the server has said anything. Three
rules keep that harmless: the client is promised only what it offered itself;
the server is asked only for what the client was promised (a whitelist, so
whatever is unknown here never comes up); and what the server does not grant
in the end is translated away.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.learned import Server
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.options import OptionSet
from nfq_zerortt.wire.view import SegmentView

DEFAULT_MSS = 1440
"""Leaves room for timestamps and a Fast Open option in 1500 bytes, and suits most paths."""
IPV6_MSS = 1420
ETHERNET_MTU = 1500
DEFAULT_IPV4_MSS = 536
DEFAULT_IPV6_MSS = 1220
_LEAST_MSS = 48
MAX_MSS = 3840
"""A packet must fit into the 4 kB that the queue's library reads at once."""
_WINDOW_SCALES = (7, 10)
"""Smaller, and a window could not grow; larger, and small windows are rounded away."""
_DENIED_S = 60.0
DEFAULT_WINDOW = 64_240
"""What Linux servers offer at first; the client may not be promised more."""

_MSS = struct.Struct(">BBH")
_TIMESTAMPS = struct.Struct(">BBII")
_SACK_PERMITTED = bytes((opt.SACK_PERMITTED, 2))
_NOP_NOP = bytes((opt.NOP, opt.NOP))

_LEFT_ALONE = {
    opt.MD5: "tcp_md5",
    opt.AUTHENTICATION: "tcp_ao",
    opt.FAST_OPEN: "client_fast_open",
}


def reason_to_bypass(client: OptionSet) -> str | None:
    """Name the option for which a SYN is left alone, or None.

    MD5 (RFC 2385) and TCP-AO (RFC 5925) sign the very numbers that would be changed; a
    client that does Fast Open (RFC 7413) itself already has what we would give it.
    """
    for kind in client.kinds:
        if kind in _LEFT_ALONE:
            return _LEFT_ALONE[kind]
    return None


class Offer(NamedTuple):
    """What the spoofed SYN-ACK promises; ``window_scale`` is None where it is not offered."""

    mss: int
    window: int
    window_scale: int | None
    sack_permitted: bool
    timestamps: bool

    def options(self, tsval: int, tsecr: int) -> bytes:
        """Return the options of the SYN-ACK, in the order and padding that Linux uses."""
        chosen = _MSS.pack(opt.MSS, 4, self.mss)
        if self.timestamps:
            chosen += _SACK_PERMITTED if self.sack_permitted else _NOP_NOP
            chosen += _TIMESTAMPS.pack(opt.TIMESTAMPS, 10, tsval, tsecr)
        elif self.sack_permitted:
            chosen += _NOP_NOP + _SACK_PERMITTED
        if self.window_scale is not None:
            chosen += bytes((opt.NOP, opt.WINDOW_SCALE, 3, self.window_scale))
        return chosen


def make_offer(
    client: OptionSet,
    known: Server | None,
    now: float,
    *,
    ipv6: bool,
    link_mtu: int = ETHERNET_MTU,
    reserve: int = 0,
) -> Offer:
    """Decide what the client is promised, from its own SYN and the server's last SYN-ACK.

    ``link_mtu``: the longest packet that the link towards the server takes, bytes.
    ``reserve``: bytes by which the client's segments shall be shorter than the server allows,
    so that the first one fits into a SYN beside further options.
    """
    denied = (
        {kind for kind, since in known.denied.items() if now - since < _DENIED_S}
        if known and known.denied
        else ()
    )
    scale = known.window_scale if known else None
    low, high = _WINDOW_SCALES
    return Offer(
        mss=min(
            _promised_mss(known, reserve, ipv6=ipv6),
            max(mss_for(link_mtu, ipv6=ipv6) - reserve, _LEAST_MSS),
        ),
        window=(known.window if known else 0) or DEFAULT_WINDOW,
        window_scale=(
            None
            if client.window_scale is None or opt.WINDOW_SCALE in denied
            else low
            if scale is None
            else max(low, min(scale, high))
        ),
        sack_permitted=client.sack_permitted and opt.SACK_PERMITTED not in denied,
        timestamps=client.timestamps is not None and opt.TIMESTAMPS not in denied,
    )


def _promised_mss(known: Server | None, reserve: int, *, ipv6: bool) -> int:
    if known is None:
        return IPV6_MSS if ipv6 else DEFAULT_MSS
    return max(min(known.mss, MAX_MSS) - reserve, min(known.mss, _LEAST_MSS))


def learned_from(
    offer: Offer, syn_ack: SegmentView, rtt: float, now: float, known: Server | None
) -> Server:
    """Return what a SYN-ACK shows of the server that was asked for what ``offer`` promises.

    What was not asked for this time, because it had been denied before, keeps its date: a
    denial is believed for a while only. A server under load that sends SYN cookies denies
    what it grants otherwise.
    """
    server = syn_ack.readable_options
    denied = dict(known.denied) if known else {}
    for kind, was_asked, granted in (
        (opt.WINDOW_SCALE, offer.window_scale is not None, server.window_scale is not None),
        (opt.SACK_PERMITTED, offer.sack_permitted, server.sack_permitted),
        (opt.TIMESTAMPS, offer.timestamps, server.timestamps is not None),
    ):
        if was_asked and not granted:
            denied[kind] = now
        elif was_asked:
            denied.pop(kind, None)
    scale = server.window_scale
    if scale is None and known is not None:
        scale = known.window_scale
    return Server(
        mss=mss_of(server, ipv6=len(syn_ack.src) == 16),
        window=syn_ack.window,
        window_scale=scale,
        denied=denied,
        rtt=rtt,
        learned_at=now,
    )


def mss_for(mtu: int, *, ipv6: bool) -> int:
    """Return the MSS that fills packets of ``mtu`` bytes (RFC 9293, section 3.7.1)."""
    return mtu - (60 if ipv6 else 40)


def mss_of(options: OptionSet, *, ipv6: bool) -> int:
    """Return the segment size that a host asks for; the protocol's default if it names none.

    RFC 9293, section 3.7.1. Like Linux, nothing under 48 bytes is believed.
    """
    default = DEFAULT_IPV6_MSS if ipv6 else DEFAULT_IPV4_MSS
    return max(options.mss or default, _LEAST_MSS)


def whitelisted(data: bytes, client: OptionSet, offer: Offer) -> bytes:
    """Return the option bytes ``data`` of the client's SYN as the server may see them.

    What is not promised to the client becomes no-operations, so the length stays. The MSS is
    bounded by what the queue can carry.
    """
    allowed = _allowed(offer.sack_permitted, offer.timestamps, offer.window_scale is not None)
    if allowed.issuperset(client.kinds) and (client.mss or 0) <= MAX_MSS:
        return data
    kept: list[opt.Option] = []
    for kind, value in opt.parse(data):
        if kind in (opt.NOP, opt.END):
            kept += [opt.NOP_OPTION] * (1 + len(value))
        elif kind not in allowed:
            kept += [opt.NOP_OPTION] * (len(value) + 2)
        elif kind == opt.MSS:
            kept.append(opt.mss(min(int.from_bytes(value, "big"), MAX_MSS)))
        else:
            kept.append((kind, value))
    return opt.emit(tuple(kept))


@lru_cache
def _allowed(sack_permitted: bool, timestamps: bool, window_scale: bool) -> frozenset[int]:
    promised = {
        opt.MSS: True,
        opt.SACK_PERMITTED: sack_permitted,
        opt.TIMESTAMPS: timestamps,
        opt.WINDOW_SCALE: window_scale,
    }
    return frozenset(kind for kind, is_promised in promised.items() if is_promised)


def settle(
    offer: Offer, client: OptionSet, server: OptionSet, to_server: Direction, to_client: Direction
) -> None:
    """Set window scales and strippings from what was promised and what the server granted."""
    if offer.window_scale is not None:
        if server.window_scale is None:
            # The server takes the client's field as it stands, and means its own that way
            # (RFC 7323, section 2.2: scaling is on only if both SYNs had the option).
            to_server.window_shift = client.window_scale or 0
            to_client.window_shift = -offer.window_scale
        else:
            to_client.window_shift = server.window_scale - offer.window_scale
    to_server.strip_timestamps = offer.timestamps and server.timestamps is None
    to_server.strip_sack = offer.sack_permitted and not server.sack_permitted
