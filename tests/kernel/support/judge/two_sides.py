"""One connection, seen on both sides of clientnic: its numbers, and what becomes of a packet."""

from __future__ import annotations

from support.judge.violations import Violations
from support.reading import ACK, SYN, Key, Option, Read, Side

MODULUS = 2**32


class TwoSides:
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

    def answers_syn_ack(self, packet: Read) -> bool:
        """Whether a packet acknowledges the server's SYN-ACK and nothing more."""
        return packet.ack == (self.real.seq + 1) % MODULUS and packet.seq == self.real.ack

    def tsvals_of_syns(self) -> set[int]:
        return {syn.timestamps[0] for syn in self.near.syns if syn.timestamps}

    def upward(self, packet: Read) -> tuple[object, ...]:
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
        return self.fields(packet, packet.seq, ack, options)

    def downward(self, packet: Read) -> tuple[object, ...]:
        options: list[Option] = []
        for kind, value in packet.options:
            if kind == "Timestamp" and self.tau is not None:
                assert isinstance(value, tuple)
                options.append((kind, ((value[0] - self.tau) % MODULUS, value[1])))
            else:
                options.append((kind, value))
        return self.fields(packet, (packet.seq - self.delta) % MODULUS, packet.ack, options)

    def as_is(self, packet: Read) -> tuple[object, ...]:
        return self.fields(packet, packet.seq, packet.ack, packet.options)

    @staticmethod
    def fields(packet: Read, seq: int, ack: int, options: list[Option]) -> tuple[object, ...]:
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

    def check_window(self, after: Read, before: Read, *, upward: bool) -> None:
        """What was promised in bytes may shrink by rounding, and only by that."""
        near, far = self.shifts(upward)
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

    def shifts(self, upward: bool) -> tuple[int, int]:
        """The scales by which the client and the server read this window field."""
        client, spoofed = self.syn.number("WScale"), self.spoofed.number("WScale")
        near_on = client is not None and spoofed is not None
        asked = self.far.syns[0].number("WScale")
        real = self.real.number("WScale")
        far_on = asked is not None and real is not None
        if upward:
            return (client or 0 if near_on else 0), (asked or 0 if far_on else 0)
        return (spoofed or 0 if near_on else 0), (real or 0 if far_on else 0)
