"""TCP Fast Open on the wire: the judge of such a capture.

To what :mod:`support.judge` asks of every capture, it adds what data in a SYN
changes: the SYN's option and payload, the ACK that the client gets for that
payload, and segments that go on without what the SYN has carried.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from support.captures import CLIENT_SIDE, SERVER_SIDE, Captures
from support.checker import Judged, Translated
from support.judge.downward import check_duplicate_sack
from support.judge.links import check_checksums, check_links
from support.judge.two_sides import MODULUS
from support.reading import ACK, FIN, PSH, RST, SYN, Key, Read, Side, connections

OPTION = "TFO"
FILLING = ("NOP", "EOL")
SYSCTL = "net.ipv4.tcp_fastopen"
KEY_SYSCTL = "net.ipv4.tcp_fastopen_key"
"""Both are for IPv6, too."""
COOKIES_FOR_ALL = {SYSCTL: "0x402"}
"""Every listening socket does Fast Open, with cookies (ip-sysctl.rst)."""

PATIENT = """\
strategy = "fastopen"
[limits]
fast_open_wait_ms = 500
"""
"""However busy the machine is, the client speaks in time."""


@dataclass(frozen=True)
class FastOpened:
    """A connection that passed the check.

    ``cookie`` is what the first SYN to the server carried: None without the option, empty when
    it asks for one. ``data`` is its payload, of which the server took ``accepted`` bytes.
    """

    translated: Translated
    syns: list[Read]
    cookie: bytes | None
    data: bytes
    accepted: int
    given: bytes | None
    """The cookie in the server's SYN-ACK."""


def check_fast_open(
    captures: Captures, *, may_reset: bool = False, complete: bool = True, lossy: bool = False
) -> list[FastOpened]:
    """Check a capture of connections that were played with Fast Open, as check_captures does."""
    check_checksums(captures)
    check_links(captures, lossy=lossy)
    client_side = connections(captures.packets[CLIENT_SIDE])
    server_side = connections(captures.packets[SERVER_SIDE])
    assert client_side, "nothing was captured"
    assert set(client_side) == set(server_side), "one side saw a connection the other did not"
    return [
        _Opened(key, client_side[key], server_side[key], may_reset).judge(complete)
        for key in client_side
    ]


def cookie_of(packet: Read) -> bytes | None:
    """Return a packet's Fast Open cookie: empty in a request for one, None without the option."""
    value = packet.named.get(OPTION)
    if value is None:
        return None
    if isinstance(value, tuple):  # scapy reads eight bytes as two numbers
        return b"".join(int(part).to_bytes(4, "big") for part in value)
    assert isinstance(value, bytes)
    return value


class _Opened(Judged):
    """One connection; what the SYN carried is taken as a segment of its own."""

    def __init__(self, key: Key, client_side: Side, server_side: Side, may_reset: bool) -> None:
        from_server = list(server_side.down)
        self.syns = server_side.syns
        server_side.up = [_plain(p) if p.flags & SYN else p for p in server_side.up]
        super().__init__(key, client_side, server_side, may_reset)
        first = (self.syn.seq + 1) % MODULUS
        self.first = first
        self.accepted = (self.real.ack - first) % MODULUS
        # The server's data may overtake its SYN-ACK, or outlive a lost one.
        ahead = [p for p in self.remnants if (p.ack - first) % MODULUS <= len(self.syns[0].payload)]
        self.remnants = [p for p in self.remnants if p not in ahead]
        self.far.down = [p for p in from_server if p not in self.remnants]
        if self.tau is not None and self.spoofed.timestamps:
            # The client's clock of the server must not begin behind what it will be shown.
            stamps = [p.timestamps[0] for p in (*ahead, self.real) if p.timestamps]
            earliest = min(stamps, key=lambda stamp: (stamp - stamps[-1] + 2**31) % MODULUS)
            self.tau = (earliest - self.spoofed.timestamps[0]) % MODULUS

    def judge(self, complete: bool) -> FastOpened:
        self._check_fast_open()
        self._check_honesty()
        self._check_what_follows()
        ours = self._take_out_our_acknowledgements()
        self._take_out_shortened()
        translated = self.check(complete)
        self.near.down = sorted([*self.near.down, *ours], key=lambda packet: packet.time)
        return FastOpened(
            translated,
            self.syns,
            cookie_of(self.syns[0]),
            self.syns[0].payload,
            self.accepted,
            cookie_of(self.real),
        )

    def _check_fast_open(self) -> None:
        carrying, *others = self.syns
        for syn in others:
            self.wrong.require(
                not syn.payload and OPTION not in syn.named, "Fast Open a second time", syn
            )
        data = carrying.payload
        self.wrong.require(
            not data or OPTION in carrying.named, "data in a SYN without the option", carrying
        )
        said = [p for p in self.near.up if p.payload and p.seq == self.first]
        self.wrong.require(
            not data or any(p.payload.startswith(data) for p in said),
            "the SYN carries what the client did not say first",
            carrying,
        )
        size = int(carrying.tcp.dataofs) * 4 - 20 + len(data)
        usual = 1460 if carrying.ip.version == 4 else 1440
        self.wrong.require(size <= usual, "the SYN does not fit into an Ethernet frame", carrying)
        self.wrong.require(
            self.accepted <= len(data), "the server acknowledges more than it was sent", self.real
        )

    def _check_honesty(self) -> None:
        """Nobody is told that something has arrived which has not, as far as ClientNIC knows."""
        server_has = 0
        both = [(p.time, 0, p) for p in self.far.down] + [(p.time, 1, p) for p in self.near.down]
        for _, to_client, packet in sorted(both, key=lambda entry: entry[:2]):
            if not packet.flags & ACK or packet.flags & RST:
                continue
            ack = (packet.ack - self.first) % MODULUS
            if not to_client:
                server_has = max(server_has, ack)
            else:
                self.wrong.require(ack <= server_has, "acknowledged before the server did", packet)

    def _check_what_follows(self) -> None:
        """Behind the SYN-ACK comes its acknowledgement, and nothing that the server has."""
        following = [p for p in self.far.up if not p.flags & (SYN | RST)]
        if following:
            third = following[0]
            self.wrong.require(
                third.ack == (self.real.seq + 1) % MODULUS, "no acknowledgement for it", self.real
            )
        for packet in following:
            behind = (packet.seq - self.first) % MODULUS >= self.accepted
            self.wrong.require(
                behind or not packet.payload, "what the SYN has carried again", packet
            )

    def _take_out_our_acknowledgements(self) -> list[Read]:
        """The ACK for what the SYN carried, and D-SACKs behind it: check them."""
        if not self.accepted:
            return []
        spoken = [p for p in self.near.up if p.payload and p.seq == self.first]
        stamps = None
        if self.real.timestamps and self.spoofed.timestamps and spoken[0].timestamps:
            stamps = (self.spoofed.timestamps[0], spoken[0].timestamps[0])
        ours = [
            p
            for p in self.near.down
            if p.flags == ACK
            and not p.payload
            and p.seq == (self.spoofed.seq + 1) % MODULUS
            and p.ack == self.real.ack
            and p.timestamps == stamps
        ]
        if self.may_reset and any(p.flags & RST for p in self.near.up):
            return []
        if not ours or ours[0].sack:
            self.wrong.add("the client is not told that the SYN's data arrived", self.real)
            return []
        acknowledgement, *behind = ours
        # A pure ACK of the server's own may look the same.
        duplicates = [p for p in behind if p.sack]
        near, far = self.shifts(upward=False)
        promised = acknowledgement.window << near
        granted = self.real.window  # never scaled
        self.wrong.require(
            granted - (1 << near) - (1 << far) < promised <= granted,
            f"window {granted} became {promised}",
            self.real,
            acknowledgement,
        )
        for packet in duplicates:
            check_duplicate_sack(self, packet, [acknowledgement])
        ours = [acknowledgement, *duplicates]
        self.near.down = [p for p in self.near.down if p not in ours]
        return ours

    def _take_out_shortened(self) -> None:
        """What follows behind the SYN's data: a bare ACK, or a segment without what is there."""
        start = self.real.ack
        self.by_syn: set[int] = set()
        self._rests: list[Read] = []
        if not self.accepted:
            return
        kept: list[Read] = []
        for packet in self.far.up:
            origin = self._origin_of_shortened(packet, start)
            if origin is None:
                kept.append(packet)
                continue
            self.by_syn.add(id(origin))
            self._rests.append(packet)
            self.wrong.require(packet.ttl == origin.ttl - 1, "TTL", origin, packet)
            self.check_window(packet, origin, upward=True)
        for segment in self.near.up:
            end = (segment.seq + len(segment.payload) - self.first) % MODULUS
            if segment.payload and not segment.flags & FIN and end <= self.accepted:
                self.by_syn.add(id(segment))
        carried = copy.copy(self.syns[0])
        carried.seq, carried.payload = self.first, self.syns[0].payload[: self.accepted]
        self._carried = carried
        self.far.up = kept

    def _origin_of_shortened(self, packet: Read, start: int) -> Read | None:
        """The segment of the client's whose rest, or whose ACK, this is."""
        if packet.flags & (SYN | RST) or packet.seq != start:
            return None
        for origin in self.near.up:
            if origin.flags & SYN or not origin.flags & ACK or origin.time > packet.time:
                continue
            cut = (start - origin.seq) % MODULUS
            like = (packet.ack, packet.options) == (
                (origin.ack + self.delta) % MODULUS,
                list(self.upward(origin)[5]),  # type: ignore[call-overload]
            )
            if not like or cut > MODULUS // 2 or cut == 0:
                continue
            rest = cut <= len(origin.payload) + bool(origin.flags & FIN)
            is_rest = (
                rest
                and packet.payload == origin.payload[cut:]
                and packet.flags | PSH == (origin.flags | PSH)
            )
            is_ack = not packet.payload and packet.flags == ACK
            if is_rest or is_ack:
                return origin
        return None

    def check_not_carried(self, carried: set[int]) -> None:
        super().check_not_carried(carried | self.by_syn)

    def check_streams(self, complete: bool) -> Translated:
        seen = self.far.up
        if self.accepted:
            self.far.up = [*seen, self._carried, *self._rests]
        translated = super().check_streams(complete)
        self.far.up = sorted([*seen, *self._rests], key=lambda packet: packet.time)
        return translated


def _plain(syn: Read) -> Read:
    """Return the SYN as it would be without Fast Open."""
    plain = copy.copy(syn)
    plain.__dict__.pop("named", None)
    plain.options = [option for option in syn.options if option[0] not in (OPTION, *FILLING)]
    plain.payload = b""
    return plain
