"""The judge of a capture: is every packet right, at every interface?

With Δ = real server ISN − spoofed ISN and τ = real TSval − spoofed TSval:

    client to server: SEQ unchanged, ACK += Δ, SACK edges += Δ, TSecr += τ
    server to client: SEQ −= Δ, TSval −= τ, ACK and SACK edges and TSecr unchanged

Both ends' numbers are taken from the two SYN-ACKs in the capture, not from the
service's log. What is not translated must be exactly as it was, but for the TTL
and what the server did not grant.

Transmit checksum offload must be off on the hosts (see the fixture ``network``):
otherwise a capture at the sending host shows checksums that are not filled in yet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from scapy.layers.inet import in4_chksum
from scapy.layers.inet6 import in6_chksum
from scapy.utils import checksum

from support.addresses import IPV4, Family
from support.captures import (
    CLIENT,
    CLIENT_SIDE,
    LAN,
    POINTS,
    SERVER,
    SERVER_SIDE,
    WAN,
    Captured,
    Captures,
)
from support.reading import (
    ACK,
    CWR,
    ECE,
    FIN,
    PSH,
    RST,
    SYN,
    Key,
    Option,
    Read,
    Side,
    connections,
    read_ip,
    stream,
    tcp_part,
)

MODULUS = 2**32
SYN_OPTIONS = {"MSS", "NOP", "EOL", "SAckOK", "Timestamp", "WScale"}
"""What a SYN may carry to the server: all else nobody has promised the client."""

SIMULTANEOUS_S = 0.001
"""Packets that arrive within this time may be handled by two processors of a host at once."""

_TTL, _CHECKSUM, _HOP_LIMIT = 8, slice(10, 12), 7
_MOST_SHOWN = 12


@dataclass(frozen=True)
class Translated:
    """A connection that passed the check, and how it was translated."""

    key: Key
    delta: int
    tau: int | None
    isn_client: int
    isn_spoofed: int
    isn_server: int
    client_side: Side
    server_side: Side
    sent: bytes
    """What the client sent, as reassembled on either side."""
    answered: bytes


class Violations:
    """What is wrong, to be shown all at once."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def add(self, what: str, *packets: Read) -> None:
        self._said.append("\n      ".join([what, *map(str, packets)]))

    def require(self, right: bool, what: str, *packets: Read) -> None:
        if not right:
            self.add(what, *packets)

    def fail_if_any(self) -> None:
        if self._said:
            shown = "\n  - ".join(self._said[:_MOST_SHOWN])
            raise AssertionError(f"{len(self._said)} violations:\n  - {shown}")


# Every packet at every interface.


def check_checksums(captures: Captures) -> None:
    """Every IPv4 header's and every TCP checksum, at every interface."""
    wrong = Violations()
    right: set[bytes] = set()
    for point in POINTS:
        for captured in captures.packets[point]:
            raw = captured.raw
            if raw in right:
                continue
            ip = read_ip(raw)
            start, end = tcp_part(ip)
            if ip.version == 4 and checksum(raw[:start]) != 0:
                wrong.add(f"{point}: IP checksum {ip.chksum:#06x}: {ip.summary()}")
            of_segment = in4_chksum if ip.version == 4 else in6_chksum
            if of_segment(6, ip, raw[start:end]) != 0:
                wrong.add(f"{point}: TCP checksum {ip[1].chksum:#06x}: {ip.summary()}")
            right.add(raw)
    wrong.fail_if_any()


def check_links(captures: Captures, *, lossy: bool = False) -> None:
    """What leaves one host reaches the next, and servernic takes one off the TTL, no more."""
    for near, far in ((CLIENT, CLIENT_SIDE), (SERVER_SIDE, WAN), (LAN, SERVER)):
        assert _bytes_of(captures.packets[near]) == _bytes_of(captures.packets[far]), (
            f"{near} and {far} are ends of one link and saw different packets; all namespaces "
            f"together have lost {captures.lost_by_the_machine} since, for the machine was too slow"
        )
    if not lossy:  # the WAN's losses happen between these two
        assert _but_ttl(captures.packets[WAN]) == _but_ttl(captures.packets[LAN]), (
            "servernic changed more than the TTL"
        )


def _bytes_of(packets: Iterable[Captured]) -> Counter[bytes]:
    return Counter(captured.raw for captured in packets)


def without_ttl(raw: bytes) -> bytes:
    """Return a packet's bytes but for what every router changes."""
    blank = bytearray(raw)
    if raw[0] >> 4 == 6:
        blank[_HOP_LIMIT] = 0
        return bytes(blank)
    blank[_TTL] = 0
    blank[_CHECKSUM] = b"\0\0"
    return bytes(blank)


def _but_ttl(packets: Iterable[Captured]) -> Counter[bytes]:
    return Counter(without_ttl(captured.raw) for captured in packets)


def check_untouched(captures: Captures, family: Family = IPV4) -> None:
    """Nothing was changed, added or taken away on any of the four hosts, but the TTL."""
    check_checksums(captures)
    check_links(captures)
    client_side, server_side = captures.packets[CLIENT_SIDE], captures.packets[SERVER_SIDE]
    assert client_side, "nothing was captured"
    assert _but_ttl(client_side) == _but_ttl(server_side)
    for near, far, source in (
        (client_side, server_side, family.client),
        (server_side, client_side, family.server),
    ):
        arrived: dict[bytes, list[float]] = defaultdict(list)
        for captured in near:
            arrived[without_ttl(captured.raw)].append(captured.time)
        onward = [
            without_ttl(captured.raw) for captured in far if read_ip(captured.raw).src == source
        ]
        latest = 0.0
        for raw in onward:
            time = arrived[raw].pop(0)
            assert time > latest - SIMULTANEOUS_S, (
                f"a packet from {source} was overtaken by one that came {latest - time:.6f} s later"
            )
            latest = max(latest, time)


# The two sides of clientnic.


def check_captures(
    captures: Captures, *, may_reset: bool = False, complete: bool = True, lossy: bool = False
) -> list[Translated]:
    """Check a capture of connections that were translated, and return these.

    ``may_reset``: RSTs of the service's own are allowed. ``complete``: all that either side
    sent came to the other. ``lossy``: the WAN loses packets.
    """
    check_checksums(captures)
    check_links(captures, lossy=lossy)
    client_side = connections(captures.packets[CLIENT_SIDE])
    server_side = connections(captures.packets[SERVER_SIDE])
    assert client_side, "nothing was captured"
    assert set(client_side) == set(server_side), "one side saw a connection the other did not"
    return [
        _Pair(key, client_side[key], server_side[key], may_reset).check(complete)
        for key in client_side
    ]


class _Pair:
    """One connection, seen on both sides of clientnic."""

    def __init__(self, key: Key, client_side: Side, server_side: Side, may_reset: bool) -> None:
        self.key = key
        self.near, self.far = client_side, server_side
        self.may_reset = may_reset
        self.wrong = Violations()
        assert client_side.syns, f"{key}: no SYN on the client's side"
        assert server_side.syns, f"{key}: no SYN on the server's side"
        assert client_side.syn_acks, f"{key}: the client was not answered"
        assert server_side.syn_acks, f"{key}: the server did not answer"
        self.syn = client_side.syns[0]
        self.spoofed = client_side.syn_acks[0]
        self.real = server_side.syn_acks[0]
        # What the server still says of an earlier connection on the same ports.
        self.remnants = [
            packet
            for packet in server_side.down
            if packet.time < self.real.time and not packet.flags & SYN
        ]
        self.far.down = [packet for packet in server_side.down if packet not in self.remnants]
        self.delta = (self.real.seq - self.spoofed.seq) % MODULUS
        self.tau: int | None = None
        if self.real.timestamps and self.spoofed.timestamps:
            self.tau = (self.real.timestamps[0] - self.spoofed.timestamps[0]) % MODULUS

    def check(self, complete: bool) -> Translated:
        self._check_syns()
        self._check_syn_acks()
        self._check_spaces()
        self._check_upward()
        self._check_downward()
        self.wrong.fail_if_any()
        return self._check_streams(complete)

    # The handshakes.

    def _check_syns(self) -> None:
        offered = {kind for kind, _ in self.syn.options}
        for syn in self.far.syns:
            kinds = {kind for kind, _ in syn.options}
            self.wrong.require(kinds <= SYN_OPTIONS, "unknown option in the server's SYN", syn)
            self.wrong.require(
                kinds - {"NOP", "EOL"} <= offered, "option that the client did not offer", syn
            )
            self.wrong.require(syn.flags == SYN, "flags of the server's SYN", syn)
            self.wrong.require(
                (syn.seq, syn.ack, syn.window, syn.payload)
                == (self.syn.seq, self.syn.ack, self.syn.window, b""),
                "the SYN was changed",
                self.syn,
                syn,
            )
            for name in kinds & {"SAckOK", "Timestamp", "WScale"}:
                self.wrong.require(
                    syn.named[name] == self.syn.named[name], f"{name} was changed", self.syn, syn
                )
            ours, theirs = syn.number("MSS"), self.syn.number("MSS")
            self.wrong.require(
                ours is None or (theirs is not None and ours <= theirs), "MSS", self.syn, syn
            )

    def _check_syn_acks(self) -> None:
        self.wrong.require(self.delta != 0, "the server's ISN on the client's side", self.spoofed)
        self.wrong.require(
            self.spoofed.time < self.real.time, "the spoofed SYN-ACK came late", self.spoofed
        )
        offered = {kind for kind, _ in self.syn.options}
        for answer in self.near.syn_acks:
            self.wrong.require(
                answer.seq == self.spoofed.seq, "SYN-ACK with another ISN at the client", answer
            )
            self.wrong.require(
                answer.seq not in {real.seq for real in self.far.syn_acks},
                "SYN-ACK with the server's ISN at the client",
                answer,
            )
            self.wrong.require(
                answer.ack == (self.syn.seq + 1) % MODULUS, "SYN-ACK acknowledges", answer
            )
            kinds = {kind for kind, _ in answer.options}
            self.wrong.require(
                kinds - {"NOP", "EOL"} <= offered | {"MSS"}, "promised what was not asked", answer
            )
            self.wrong.require(answer.flags == SYN | ACK, "flags of the SYN-ACK", answer)
            if answer.timestamps:
                self.wrong.require(
                    self.syn.timestamps is not None
                    and answer.timestamps[1] in self._tsvals_of_syns(),
                    "TSecr of the SYN-ACK",
                    answer,
                )

    def _answers_syn_ack(self, packet: Read) -> bool:
        """Whether a packet acknowledges the server's SYN-ACK and nothing more."""
        return packet.ack == (self.real.seq + 1) % MODULUS and packet.seq == self.real.ack

    def _tsvals_of_syns(self) -> set[int]:
        return {syn.timestamps[0] for syn in self.near.syns if syn.timestamps}

    def _check_spaces(self) -> None:
        """Each side sees one sequence space of the server's, and it begins where it should."""
        for side, isn, name in (
            (self.near, self.spoofed.seq, "client"),
            (self.far, self.real.seq, "server"),
        ):
            reach = 2 + sum(len(packet.payload) for packet in side.down)
            for packet in side.down:
                if not packet.flags & RST or packet.seq:
                    self.wrong.require(
                        (packet.seq - isn) % MODULUS <= reach,
                        f"SEQ from another space on the {name}'s side",
                        packet,
                    )
            for packet in side.up:
                if packet.flags & ACK:
                    self.wrong.require(
                        (packet.ack - isn) % MODULUS <= reach,
                        f"ACK from another space on the {name}'s side",
                        packet,
                    )

    # Client to server.

    def _check_upward(self) -> None:
        expected: dict[tuple[object, ...], list[Read]] = defaultdict(list)
        for packet in self.near.up:
            if packet.flags & (SYN | ACK) != SYN:
                expected[self._upward(packet)].append(packet)
        sent_before: set[tuple[object, ...]] = set()
        carried: set[int] = set()
        for packet in self.far.up:
            if packet.flags & (SYN | ACK) == SYN:
                continue
            key = self._as_is(packet)
            if expected[key]:
                origin = expected[key].pop(0)
                carried.add(id(origin))
                sent_before.add(key)
                self.wrong.require(
                    packet.ttl == origin.ttl - 1, "TTL towards the server", origin, packet
                )
                self.wrong.require(
                    packet.time >= origin.time, "before the client sent it", origin, packet
                )
                self._check_window(packet, origin, upward=True)
            elif key in sent_before and not packet.payload:
                continue  # the third ACK again, for a SYN-ACK that came again
            elif (whole := self._whole_of(packet)) is not None:
                carried.add(id(whole))
            elif packet.flags == ACK and not packet.payload and self._answers_syn_ack(packet):
                continue  # ours, for a flow in the kernel whose SYN-ACK came again
            elif packet.flags == RST and packet.seq in {old.ack for old in self.remnants}:
                continue  # the answer to a remnant (RFC 9293, section 3.10.7.3)
            elif self.may_reset and packet.flags & RST:
                self._check_reset_to_server(packet)
            else:
                self.wrong.add("nothing that the client sent becomes this", packet)
        self._check_not_carried(carried)

    def _upward(self, packet: Read) -> tuple[object, ...]:
        """What a packet of the client's must look like on the server's side, windows aside."""
        has_ack = bool(packet.flags & ACK)
        options: list[Option] = []
        for kind, value in packet.options:
            if kind == "Timestamp":
                assert isinstance(value, tuple)
                if self.tau is None:
                    options += [("NOP", None)] * 10
                else:
                    echo = (value[1] + self.tau) % MODULUS if has_ack else value[1]
                    options.append((kind, (value[0], echo)))
            elif kind == "SAck":
                assert isinstance(value, tuple)
                if "SAckOK" not in self.real.named:
                    options += [("NOP", None)] * (2 + 4 * len(value))
                else:
                    options.append((kind, tuple((edge + self.delta) % MODULUS for edge in value)))
            else:
                options.append((kind, value))
        ack = (packet.ack + self.delta) % MODULUS if has_ack else packet.ack
        return self._fields(packet, packet.seq, ack, options)

    def _as_is(self, packet: Read) -> tuple[object, ...]:
        return self._fields(packet, packet.seq, packet.ack, packet.options)

    @staticmethod
    def _fields(packet: Read, seq: int, ack: int, options: list[Option]) -> tuple[object, ...]:
        tcp = packet.tcp
        return (
            seq,
            ack,
            packet.flags,
            tcp.reserved,
            tcp.urgptr,
            tuple(options),
            packet.payload,
            packet.ip_fields,
        )

    def _whole_of(self, piece: Read) -> Read | None:
        """Find the segment of the client's that was too long for the server, and was cut."""
        size = self.real.number("MSS") or 536
        if not piece.payload or len(piece.payload) > size:
            return None
        for whole in self.near.up:
            at = (piece.seq - whole.seq) % MODULUS
            if len(whole.payload) <= size - 12 or at >= len(whole.payload):
                continue
            last = at + len(piece.payload) == len(whole.payload)
            flags = whole.flags if last else whole.flags & ~(FIN | PSH)
            if (
                whole.payload[at : at + len(piece.payload)] == piece.payload
                and piece.ack == (whole.ack + self.delta) % MODULUS
                and piece.flags == flags
                and self._upward(whole)[5] == tuple(piece.options)
            ):
                return whole
        return None

    def _check_not_carried(self, carried: set[int]) -> None:
        """What did not reach the server must have brought nothing new."""
        reached: set[tuple[int, int]] = set()
        given_up = self.may_reset and any(packet.flags & RST for packet in self.near.up)
        first, end = (self.syn.seq + 1) % MODULUS, 0
        for packet in self.near.up:
            if packet.flags & SYN:
                continue
            start = (packet.seq - first) % MODULUS
            if id(packet) not in carried:
                repeated = packet.payload and start + len(packet.payload) <= end
                idle = not packet.payload and not packet.flags & (FIN | RST)
                early = packet.time <= self.real.time
                fin_again = packet.flags & FIN and (start, 1) in reached
                self.wrong.require(
                    bool(repeated or (idle and early) or given_up or fin_again),
                    "the client's packet did not reach the server",
                    packet,
                )
            if packet.payload:
                end = max(end, start + len(packet.payload))
            if packet.flags & FIN:
                reached.add((start + len(packet.payload), 1))

    def _check_reset_to_server(self, packet: Read) -> None:
        acknowledged = {down.ack for down in self.far.down if down.flags & ACK}
        self.wrong.require(
            packet.seq in acknowledged, "RST to the server with a SEQ it does not expect", packet
        )

    # Server to client.

    def _check_downward(self) -> None:
        expected: dict[tuple[object, ...], list[Read]] = defaultdict(list)
        for packet in self.far.down:
            if packet.flags & (SYN | ACK) != SYN | ACK:
                expected[self._downward(packet)].append(packet)
        latest = 0.0
        seen: list[Read] = []
        for packet in self.near.down:
            if packet.flags & (SYN | ACK) == SYN | ACK:
                continue
            matching = expected[self._as_is(packet)] or expected[self._reporting_nothing(packet)]
            if matching:
                origin = matching.pop(0)
                self.wrong.require(
                    packet.ttl == origin.ttl - 1, "TTL towards the client", origin, packet
                )
                self.wrong.require(
                    origin.time > latest - SIMULTANEOUS_S, "packets overtook each other", packet
                )
                latest = max(latest, origin.time)
                self._check_window(packet, origin, upward=False)
                seen.append(packet)
            elif packet.sack and not packet.payload:
                carrier = expected[self._without_duplicate_sack(packet)]
                if carrier:  # in the server's own ACK
                    seen.append(packet)
                    latest = max(latest, carrier.pop(0).time)
                self._check_duplicate_sack(packet, seen)
            elif self.may_reset and packet.flags & RST:
                self._check_reset_to_client(packet, seen)
            else:
                self.wrong.add("nothing that the server sent becomes this", packet)
        for left in expected.values():
            for packet in left:
                if not (self.may_reset and self._ended_before(packet)):
                    self.wrong.add("the server's packet did not reach the client", packet)

    def _ended_before(self, packet: Read) -> bool:
        """The client was reset by the service before this arrived."""
        return any(p.flags & RST and p.time <= packet.time for p in self.near.all())

    def _downward(self, packet: Read) -> tuple[object, ...]:
        options: list[Option] = []
        for kind, value in packet.options:
            if kind == "Timestamp" and self.tau is not None:
                assert isinstance(value, tuple)
                options.append((kind, ((value[0] - self.tau) % MODULUS, value[1])))
            else:
                options.append((kind, value))
        return self._fields(packet, (packet.seq - self.delta) % MODULUS, packet.ack, options)

    def _without_duplicate_sack(self, packet: Read) -> tuple[object, ...]:
        padded_sack = 3  # NOP NOP SACK, the last ones
        return self._fields(packet, packet.seq, packet.ack, packet.options[:-padded_sack])

    def _reporting_nothing(self, packet: Read) -> tuple[object, ...]:
        """What the server's bare ACK was before the service put a D-SACK (RFC 2883) into it."""
        *others, first, second, last = [("", None)] * 3 + packet.options
        padding = ("NOP", None)
        covered = self._covers_its_block(packet) and packet.flags == ACK and not packet.payload
        if not covered or (first, second, last[0]) != (padding, padding, "SAck"):
            return ("no D-SACK",)
        return self._fields(packet, packet.seq, packet.ack, others[3:])

    @staticmethod
    def _covers_its_block(packet: Read) -> bool:
        block = packet.sack
        if len(block) != 2:
            return False
        start, end = ((packet.ack - edge) % MODULUS for edge in block)
        return 0 < start < MODULUS // 2 and end < MODULUS // 2

    def _check_duplicate_sack(self, packet: Read, seen: list[Read]) -> None:
        """A D-SACK (RFC 2883) of the service's: it repeats an ACK and names what that covers."""
        self.wrong.require(
            self._covers_its_block(packet)
            and packet.flags == ACK
            and any(p.ack == packet.ack and p.timestamps == packet.timestamps for p in seen),
            "a D-SACK that does not belong to an ACK of the server's",
            packet,
        )

    def _check_reset_to_client(self, packet: Read, seen: list[Read]) -> None:
        ends = {(p.seq + len(p.payload) + bool(p.flags & FIN)) % MODULUS for p in seen}
        ends.add((self.spoofed.seq + 1) % MODULUS)
        self.wrong.require(
            packet.seq in ends, "RST to the client with a SEQ it does not expect", packet
        )

    # Both ways.

    def _check_window(self, after: Read, before: Read, *, upward: bool) -> None:
        """What was promised in bytes may shrink by rounding, and only by that."""
        near, far = self._shifts(upward)
        old_shift, new_shift = (near, far) if upward else (far, near)
        old, new = before.window << old_shift, after.window << new_shift
        rounded = after.window == old >> new_shift
        full = after.window == 0xFFFF and old >= new
        never_zero = after.window == 1 and 0 < old < new
        self.wrong.require(
            bool(rounded or full or never_zero) and (new == 0) == (old == 0),
            f"window {old} became {new}",
            before,
            after,
        )

    def _shifts(self, upward: bool) -> tuple[int, int]:
        """The scales by which the client and the server read this window field."""
        client, spoofed = self.syn.number("WScale"), self.spoofed.number("WScale")
        near_on = client is not None and spoofed is not None
        asked = self.far.syns[0].number("WScale")
        real = self.real.number("WScale")
        far_on = asked is not None and real is not None
        if upward:
            return (client or 0 if near_on else 0), (asked or 0 if far_on else 0)
        return (spoofed or 0 if near_on else 0), (real or 0 if far_on else 0)

    def _check_streams(self, complete: bool) -> Translated:
        sent, received = stream(self.near.up, self.syn.seq), stream(self.far.up, self.syn.seq)
        answered = stream(self.far.down, self.real.seq)
        returned = stream(self.near.down, self.spoofed.seq)
        assert sent.startswith(received), f"{self.key}: what the client sent was changed"
        assert answered.startswith(returned), f"{self.key}: what the server sent was changed"
        if complete:
            assert len(sent) == len(received), f"{self.key}: {len(received)} of {len(sent)} bytes"
            assert len(answered) == len(returned), (
                f"{self.key}: {len(returned)} of {len(answered)} bytes"
            )
        return Translated(
            self.key,
            self.delta,
            self.tau,
            self.syn.seq,
            self.spoofed.seq,
            self.real.seq,
            self.near,
            self.far,
            sent,
            answered,
        )


def ecn_flags(packet: Read) -> int:
    """Return the packet's ECN flags."""
    return packet.flags & (ECE | CWR)
