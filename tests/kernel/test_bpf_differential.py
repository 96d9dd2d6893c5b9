"""The kernel data path against the core: the same bytes and numbers, or left alone.

Tens of thousands of generated packets go through the compiled programs (BPF_PROG_TEST_RUN) and
through the core. Nothing here is random from run to run: a failure names the seed of its sequence,
and shows the simplest packet found that still makes the two differ.

    ZERORTT_BPF_OBJECT=FILE                 tests another object than the package's
    ZERORTT_DIFFERENTIAL_SEQUENCES=NUMBER   so many sequences of 40 packets, instead of 750
    ZERORTT_DIFFERENTIAL_SEED=TEXT          other sequences

bpf/mutants.py breaks the programs and the core in many small ways, and sees that this test fails.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from bpf import differential, generator
from bpf.differential import DifferenceError, Pair, play
from bpf.loaded import Programs, loaded, object_under_test
from bpf.packets import ACK, ETHERNET, FLAG_NAMES, IP_HEADER, KINDS, RST, Fate, Packet, key_of
from bpf.record import ENDING, FLAGS, MARK_TRANSLATED, RST_CLIENT, SERVER, Entry, read_ending
from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.utils import checksum

SEQUENCES = int(os.environ.get("ZERORTT_DIFFERENTIAL_SEQUENCES", "750"))
SEED = os.environ.get("ZERORTT_DIFFERENTIAL_SEED", "zerortt")
ENOUGH = SEQUENCES // 100
"""What is counted must have been there so often; rarer than that, and it is as good as untested."""
SCAPY_PACKETS = 600
RECORDS = (1 << 18) // (ENDING.size + 8)
"""What fits into the ring buffer: each record has a header of 8 bytes."""


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """The object under test."""
    with loaded(object_under_test()) as made:
        yield made


@pytest.fixture(scope="module")
def seen(programs: Programs) -> Counter[str]:
    """What all sequences were about, once both sides have agreed on every packet."""
    total: Counter[str] = Counter()
    for number in range(SEQUENCES):
        total += play(programs, f"{SEED}:{number}")
    return total


def test_every_packet_is_translated_as_by_the_core_or_left_alone(seen: Counter[str]) -> None:
    print(f"{seen[Fate.TRANSLATED.value]} translated, {seen[Fate.LEFT.value]} left alone")
    assert seen[Fate.TRANSLATED.value] > SEQUENCES * differential.STEPS // 2


@pytest.mark.parametrize("what", [*KINDS, *FLAG_NAMES, *sorted({*FLAGS} - {"REPORTED", "PASSING"})])
def test_every_kind_flag_and_end_was_there(seen: Counter[str], what: str) -> None:
    assert seen[what] >= ENOUGH


@pytest.mark.parametrize(
    "what",
    [
        *("malformed options", "order T", "order S", "order TS", "order ST", "order TT"),
        *(f"timestamps at {offset}" for offset in range(4)),
        *(f"SACK at {offset}" for offset in range(4)),
        *(f"SACK of {blocks}" for blocks in range(1, 5)),
        *("options", "padding", "GSO", "wrong checksum", "IPv6", "after the end"),
        *("ack believed", "data believed", "data not believed", "FIN not believed"),
        *("window made larger", "window made smaller", "wrap", "after superseded", "passed"),
    ],
)
def test_every_situation_was_there(seen: Counter[str], what: str) -> None:
    assert seen[what] >= ENOUGH


# --- the checksum, as scapy sees it -------------------------------------------------------


def translations(
    programs: Programs, seed: str, *, damaged: bool
) -> Iterator[tuple[Packet, bytes, bytes]]:
    """Packets that are translated, with the frame before and after."""
    rng = random.Random(seed)
    count = 0
    while count < SCAPY_PACKETS:
        ipv6 = rng.random() < 0.5
        entry = generator.entry(rng)
        packet = replace(generator.packet(rng, entry, ipv6, calm=True), gso_size=0)
        error = packet.checksum_error or rng.randrange(1, 0xFFFF)
        packet = replace(packet, checksum_error=error if damaged else 0)
        if packet.fate is Fate.LEFT:
            continue
        pair = Pair(programs, entry, ipv6=ipv6)
        assert pair.compare(packet) == []
        programs.write(pair.key, entry.pack())
        _, out, mark = programs.run(packet)
        assert mark & MARK_TRANSLATED
        yield packet, packet.frame(), out
        count += 1


def checksums(frame: bytes, *, ipv6: bool) -> tuple[int, int]:
    """The TCP checksum in a frame, and the one that scapy computes for it."""
    raw = frame[ETHERNET:]
    start = IP_HEADER[ipv6]
    end = 40 + int.from_bytes(raw[4:6]) if ipv6 else int.from_bytes(raw[2:4])
    segment = raw[start:end]
    cleared = segment[:16] + bytes(2) + segment[18:]
    there = int.from_bytes(segment[16:18])
    if ipv6:
        return there, in6_chksum(6, IPv6(raw[:40]), cleared)
    assert checksum(raw[:20]) == 0, "of the IPv4 header"
    return there, in4_chksum(6, IP(raw[:20]), cleared)


def test_a_right_checksum_is_right_afterwards(programs: Programs) -> None:
    for packet, before, after in translations(programs, f"{SEED}:right", damaged=False):
        there, right = checksums(before, ipv6=packet.ipv6)
        assert there == right, packet
        there, right = checksums(after, ipv6=packet.ipv6)
        assert there == right, packet


def test_a_wrong_checksum_stays_wrong_by_as_much(programs: Programs) -> None:
    for packet, before, after in translations(programs, f"{SEED}:wrong", damaged=True):
        there, right = checksums(before, ipv6=packet.ipv6)
        error = (there - right) % 0xFFFF
        assert error == packet.checksum_error
        there, right = checksums(after, ipv6=packet.ipv6)
        assert (there - right) % 0xFFFF == error, packet


# --- endings ------------------------------------------------------------------------------


def ends(programs: Programs, entry: Entry) -> int:
    """Let a flow end by a RST of the client's; return its flags."""
    programs.write(key_of(ipv6=False), entry.pack())
    programs.run(Packet(seq=entry.to_server.next_seq, flags=RST))
    return Entry.unpack(programs.read(key_of(ipv6=False))).flags


def test_a_full_ring_takes_no_more_and_the_flows_end_all_the_same(programs: Programs) -> None:
    entry = replace(generator.entry(random.Random(1)), flags=0)
    while programs.endings():
        pass
    assert {ends(programs, entry) for _ in range(RECORDS + 100)} == {RST_CLIENT}
    count = 0
    while records := programs.endings():
        count += len(records)
        assert {read_ending(each) for each in records} == {(key_of(ipv6=False), RST_CLIENT)}
    assert count == RECORDS
    ends(programs, entry)
    assert len(programs.endings()) == 1


# --- the test itself can fail -------------------------------------------------------------


class Broken(Programs):
    """Does one thing wrong with a translated packet."""

    def __init__(self, programs: Programs, breakage: str) -> None:
        super().__init__(programs.path)
        self.breakage = breakage

    def run(self, packet: Packet) -> tuple[int, bytes, int]:
        verdict, out, mark = super().run(packet)
        changed = out != packet.frame()
        if self.breakage == "verdict":
            return 0, out, mark
        if self.breakage == "left alone" and changed:
            return verdict, packet.frame(), packet.mark
        if self.breakage == "byte" and changed:
            return verdict, out[:-1] + bytes((out[-1] ^ 1,)), mark
        if self.breakage == "mark" and changed:
            return verdict, out, packet.mark
        if self.breakage == "marked when left alone" and not changed:
            return verdict, out, mark | MARK_TRANSLATED
        return verdict, out, mark

    def read(self, key: bytes) -> bytes:
        value = super().read(key)
        return value[:-40] + bytes(40) if self.breakage == "entry" else value

    def endings(self) -> list[bytes]:
        records = super().endings()
        return [] if self.breakage == "no record" else records


def play_until_different(programs: Programs) -> None:
    for number in range(100):
        play(programs, f"{SEED}:{number}")


@pytest.mark.parametrize(
    "breakage",
    ["verdict", "left alone", "byte", "mark", "marked when left alone", "entry", "no record"],
)
def test_a_broken_program_is_noticed(programs: Programs, breakage: str) -> None:
    broken = Broken(programs, breakage)
    with pytest.raises(DifferenceError, match=r"seed '.*', packet \d+\n[\s\S]*frame="):
        play_until_different(broken)


def test_the_simplest_packet_is_shown(programs: Programs) -> None:
    """Of a packet with much in it, all goes that the difference does not need."""
    rng = random.Random(SEED)
    full = generator.packet(rng, Entry(), ipv6=False, calm=True)
    full = replace(full, kind="plain", side=SERVER, flags=ACK, options=bytes(8), payload=100)
    entry = generator.entry(rng)
    packet, entry = differential.shrink(Broken(programs, "verdict"), entry, full)
    assert packet == Packet(side=SERVER, flags=0)
    assert entry.to_server.next_seq == entry.to_client.seq_shift == 0
