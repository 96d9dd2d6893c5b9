"""The handshakes: what each side was told, and in which sequence space it went on."""

from __future__ import annotations

from support.judge.two_sides import MODULUS, TwoSides
from support.reading import ACK, RST, SYN

SYN_OPTIONS = {"MSS", "NOP", "EOL", "SAckOK", "Timestamp", "WScale"}
"""What a SYN may carry to the server: all else nobody has promised the client."""


def check_syns(both: TwoSides) -> None:
    offered = {kind for kind, _ in both.syn.options}
    for syn in both.far.syns:
        kinds = {kind for kind, _ in syn.options}
        both.wrong.require(kinds <= SYN_OPTIONS, "unknown option in the server's SYN", syn)
        both.wrong.require(
            kinds - {"NOP", "EOL"} <= offered, "option that the client did not offer", syn
        )
        both.wrong.require(syn.flags == SYN, "flags of the server's SYN", syn)
        both.wrong.require(
            (syn.seq, syn.ack, syn.window, syn.payload)
            == (both.syn.seq, both.syn.ack, both.syn.window, b""),
            "the SYN was changed",
            both.syn,
            syn,
        )
        for name in kinds & {"SAckOK", "Timestamp", "WScale"}:
            both.wrong.require(
                syn.named[name] == both.syn.named[name], f"{name} was changed", both.syn, syn
            )
        ours, theirs = syn.number("MSS"), both.syn.number("MSS")
        both.wrong.require(
            ours is None or (theirs is not None and ours <= theirs), "MSS", both.syn, syn
        )


def check_syn_acks(both: TwoSides) -> None:
    both.wrong.require(both.delta != 0, "the server's ISN on the client's side", both.spoofed)
    both.wrong.require(
        both.spoofed.time < both.real.time, "the spoofed SYN-ACK came late", both.spoofed
    )
    offered = {kind for kind, _ in both.syn.options}
    for answer in both.near.syn_acks:
        both.wrong.require(
            answer.seq == both.spoofed.seq, "SYN-ACK with another ISN at the client", answer
        )
        both.wrong.require(
            answer.seq not in {real.seq for real in both.far.syn_acks},
            "SYN-ACK with the server's ISN at the client",
            answer,
        )
        both.wrong.require(
            answer.ack == (both.syn.seq + 1) % MODULUS, "SYN-ACK acknowledges", answer
        )
        kinds = {kind for kind, _ in answer.options}
        both.wrong.require(
            kinds - {"NOP", "EOL"} <= offered | {"MSS"}, "promised what was not asked", answer
        )
        both.wrong.require(answer.flags == SYN | ACK, "flags of the SYN-ACK", answer)
        if answer.timestamps:
            both.wrong.require(
                both.syn.timestamps is not None and answer.timestamps[1] in both.tsvals_of_syns(),
                "TSecr of the SYN-ACK",
                answer,
            )


def check_spaces(both: TwoSides) -> None:
    """Each side sees one sequence space of the server's, and it begins where it should."""
    for side, isn, name in (
        (both.near, both.spoofed.seq, "client"),
        (both.far, both.real.seq, "server"),
    ):
        reach = 2 + sum(len(packet.payload) for packet in side.down)
        for packet in side.down:
            if not packet.flags & RST or packet.seq:
                both.wrong.require(
                    (packet.seq - isn) % MODULUS <= reach,
                    f"SEQ from another space on the {name}'s side",
                    packet,
                )
        for packet in side.up:
            if packet.flags & ACK:
                both.wrong.require(
                    (packet.ack - isn) % MODULUS <= reach,
                    f"ACK from another space on the {name}'s side",
                    packet,
                )
