"""The comparison itself: one packet through both sides, and what to say if they differ."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from bpf import generator
from bpf.loaded import Programs
from bpf.packets import ACK, ETHERNET, FLAG_NAMES, SYN, Fate, Packet, key_of
from bpf.record import (
    ENDED,
    FLAGS,
    LEAVE_FOR_NS,
    MARK_LEFT,
    MARK_TRANSLATED,
    PASSING,
    SUPERSEDED,
    Entry,
    Handled,
    named,
    read_ending,
)
from bpf.reference import Reference

UNSPEC = -1  # TC_ACT_UNSPEC
CLOCK_MONOTONIC_COARSE = 6  # what the programs read; Python has no name for it
STEPS = 40
SHRINK_TRIES = 2000


class DifferenceError(AssertionError):
    """The two sides do not agree, or a packet had another fate than its kind says."""


class Pair:
    """One flow on both sides."""

    def __init__(self, programs: Programs, entry: Entry, *, ipv6: bool) -> None:
        """Write the entry into the map, and make the flow in the core."""
        self._programs = programs
        self.key = key_of(ipv6)
        # What has been silent for long is another matter: tests of its own have that.
        entry.last_seen = entry.last_seen or time.monotonic_ns()
        self._value = entry.pack()
        programs.write(self.key, self._value)
        programs.endings()
        self._reference = Reference(entry, ipv6=ipv6)

    @property
    def entry(self) -> Entry:
        """What the map has of the flow."""
        return Entry.unpack(self._value)

    def settle(self, side: int, handled: Handled | None = None) -> None:
        """From the next packet on nothing of a side must be left to the process any more."""
        self._reference.settle(side, handled)

    def _run(self, packet: Packet, age_ns: int | None) -> tuple[tuple[int, bytes, int], int, int]:
        """Let a packet through its program; return what came out, and when that was."""
        while True:
            now = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
            if age_ns is not None:
                entry = self.entry
                entry.handed_over = now - age_ns
                self._value = entry.pack()
                self._programs.write(self.key, self._value)
            done = self._programs.run(packet)
            then = time.monotonic_ns()
            if age_ns is None or then - now < LEAVE_FOR_NS // 4:
                return done, now, then
            self._programs.endings()  # this process had to wait, and too much time passed: again

    def compare(
        self, packet: Packet, *, left: bool = False, age_ns: int | None = None
    ) -> list[str]:
        """Let one packet through both; return what is not as it must be.

        ``left``: it must be left to the process, and counted. ``age_ns``: how long ago the flow was
        handed over.
        """
        frame = packet.frame()
        try:
            (verdict, out, mark), earliest, latest = self._run(packet, age_ns)
        except OSError as error:  # EBADMSG: the sum of a packet that came with one is wrong
            return [str(error)]
        before = self._value
        self._value = after = self._programs.read(self.key)
        records = self._programs.endings()
        faults = [] if verdict == UNSPEC else [f"verdict {verdict}"]
        flags = Entry.unpack(before).flags
        if flags & SUPERSEDED or packet.fate is Fate.LEFT:
            faults += byte_differences(frame, frame, out)
            if mark != packet.mark:
                faults.append(f"must be left alone, has the mark {mark:#x}")
            return faults + self._after_left_alone(packet, before, after, records)
        if flags & PASSING:
            self._reference.pass_by(packet, left=left)
            expected = frame
            expected_mark = packet.mark | (MARK_LEFT if left else MARK_TRANSLATED)
        elif left:
            self._reference.leave(packet)
            expected, expected_mark = frame, packet.mark | MARK_LEFT
        else:
            translated = self._reference.carry(packet)
            expected = frame[:ETHERNET] + translated + frame[ETHERNET + len(translated) :]
            expected_mark = packet.mark | MARK_TRANSLATED
        faults += byte_differences(frame, expected, out)
        if mark != expected_mark:
            faults.append(f"mark {mark:#x}, expected {expected_mark:#x}")
        wanted, got = self._reference.entry(), self.entry
        wanted.handed_over = Entry.unpack(before).handed_over
        faults += [f"{text} (core / program)" for text in wanted.differences(got)]
        if not earliest <= got.last_seen <= latest:
            faults.append(f"last_seen {got.last_seen} not in {earliest}..{latest}")
        how = 0 if flags & ENDED else wanted.flags & ENDED
        if [read_ending(record) for record in records] != ([(self.key, how)] if how else []):
            faults.append(f"records {records}, expected {named('flags', how)}")
        return faults

    def _after_left_alone(
        self, packet: Packet, before: bytes, after: bytes, records: list[bytes]
    ) -> list[str]:
        wanted = Entry.unpack(before)
        is_syn = packet.flags & SYN and packet.kind == "plain"
        if is_syn and wanted.flags & PASSING:
            wanted.flags |= 0 if packet.flags & ACK else SUPERSEDED
        elif is_syn and not wanted.flags & SUPERSEDED:
            self._reference.see_syn(packet)
            if self._reference.superseded:
                wanted.flags |= SUPERSEDED
        faults = [f"record {record.hex()}" for record in records]
        got = Entry.unpack(after)
        faults += [f"{text} (core / program)" for text in wanted.differences(got)]
        if wanted.last_seen != got.last_seen:
            faults.append("last_seen changed")
        return faults


def byte_differences(before: bytes, wanted: bytes, got: bytes) -> list[str]:
    """Return, for people, where a frame is not as wanted."""
    if wanted == got:
        return []
    if len(wanted) != len(got):
        return [f"{len(got)} bytes, expected {len(wanted)}"]
    at = [at for at in range(len(got)) if got[at] != wanted[at]]
    return [
        f"byte {where}: was {before[where]:02x}, program {got[where]:02x}, core {wanted[where]:02x}"
        for where in at[:12]
    ]


def play(programs: Programs, seed: str, steps: int = STEPS) -> Counter[str]:
    """Compare one sequence of packets through one flow; return what it was about.

    Raises:
        DifferenceError: with the seed, and the simplest packet found that shows it.
    """
    rng = random.Random(seed)
    ipv6, calm = rng.random() < 0.4, rng.random() < 0.5
    entry = generator.entry(rng)
    if rng.random() < 0.03:
        entry.flags |= PASSING
    pair = Pair(programs, entry, ipv6=ipv6)
    seen: Counter[str] = Counter()
    for step in range(steps):
        before = pair.entry
        packet = generator.packet(rng, before, ipv6, calm=calm)
        faults = pair.compare(packet)
        if faults:
            raise DifferenceError(
                _explain(programs, f"seed {seed!r}, packet {step}", before, packet)
            )
        note(seen, before, pair.entry, packet)
    return seen


def note(seen: Counter[str], before: Entry, after: Entry, packet: Packet) -> None:
    """Count what a packet was about, so that a test can see that all was there."""
    if before.flags & SUPERSEDED:
        seen["after superseded"] += 1
        return
    if before.flags & PASSING and packet.fate is Fate.TRANSLATED:
        seen["passed"] += 1
        return
    seen[packet.fate.value] += 1
    seen[packet.kind] += 1
    for bit, name in enumerate(FLAG_NAMES):
        seen[name] += packet.flags >> bit & 1
    for name, bit in FLAGS.items():
        seen[name] += bool(after.flags & ~before.flags & bit)
    seen["options"] += bool(packet.options)
    seen["padding"] += bool(packet.padding)
    seen["GSO"] += bool(packet.gso_size)
    seen["wrong checksum"] += bool(packet.checksum_error)
    seen["IPv6"] += packet.ipv6
    if packet.fate is Fate.TRANSLATED:
        own, old = after.of(packet.side), before.of(packet.side)
        seen["ack believed"] += own.last_ack != old.last_ack
        seen["data believed"] += own.next_seq != old.next_seq
        seen["data not believed"] += bool(packet.payload) and own.next_seq == old.next_seq
        seen["FIN not believed"] += bool(packet.flags & 1) and own.fin_end == old.fin_end
        seen["after the end"] += bool(before.flags & ENDED)
        seen["window made larger"] += own.window_shift > 0
        seen["window made smaller"] += own.window_shift < 0
        seen.update(option_marks(packet.options))
        seen["wrap"] += own.next_seq < old.next_seq


def option_marks(options: bytes) -> list[str]:
    """Say which options are renumbered, how they are aligned, and in which order they stand."""
    marks: list[str] = []
    order, at = "", 0
    while at + 1 < len(options) and options[at]:
        kind, length = options[at], options[at + 1]
        if kind == 1:
            at += 1
            continue
        if length < 2 or at + length > len(options):
            return [*marks, "malformed options"]
        if kind == 8 and length == 10:
            marks.append(f"timestamps at {at % 4}")
            order += "T"
        elif kind == 5 and length % 8 == 2:
            marks += [f"SACK at {at % 4}", f"SACK of {length // 8}"]
            order += "S"
        at += length
    return [*marks, f"order {order}"]


def judge(programs: Programs, entry: Entry, packet: Packet) -> list[str]:
    """Compare one packet on a flow that begins with ``entry``."""
    return Pair(programs, entry, ipv6=packet.ipv6).compare(packet)


def _explain(programs: Programs, where: str, entry: Entry, packet: Packet) -> str:
    """Describe a difference by the simplest packet and entry that still show one."""
    packet, entry = shrink(programs, entry, packet)
    faults = judge(programs, entry, packet) or ["not seen again with this packet alone"]
    blank = Entry()
    numbers = [text.replace("0 / ", "") for text in blank.differences(entry)]
    return "\n".join([where, str(packet), "on the entry (what is not 0):", *numbers, *faults])


def shrink(programs: Programs, entry: Entry, packet: Packet) -> tuple[Packet, Entry]:
    """Return the simplest packet and entry found on which both sides still differ."""
    tries, smaller = 0, True
    while smaller and tries < SHRINK_TRIES:
        smaller = False
        for simpler in packet.simpler():
            tries += 1
            if judge(programs, entry, simpler):
                packet, smaller = simpler, True
                break
        else:
            for plainer in _plainer(entry):
                tries += 1
                if judge(programs, plainer, packet):
                    entry, smaller = plainer, True
                    break
    return packet, entry


def _plainer(entry: Entry) -> list[Entry]:
    """The entry with one number of it 0, each in turn."""
    found = []
    for side in ("to_server", "to_client"):
        numbers = getattr(entry, side)
        for name, value in vars(numbers).items():
            if value and name != "settled":
                change: dict[str, Any] = {side: replace(numbers, **{name: 0})}
                found.append(replace(entry, **change))
    for name, value in vars(entry).items():
        if isinstance(value, int) and value:
            change = {name: 0}
            found.append(replace(entry, **change))
    return found
