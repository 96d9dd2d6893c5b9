"""How much memory a long trace takes: ``python -m tests.trace_memory [PACKETS]``.

The packets are made up, and made to be kept: of 4,000 connections at a time, all of them without
an end; data that comes and never leaves, repetitions, and acknowledgements that all differ. They
take the way of real ones, through the tracer into a file that is thrown away.
"""

from __future__ import annotations

import os
import random
import resource
import struct
import sys
import time
from collections.abc import Iterator

from nfq_zerortt.observe.capture import CaptureCounts
from nfq_zerortt.tracing import tracer
from nfq_zerortt.tracing.files import Files
from nfq_zerortt.tracing.packets import Seen
from nfq_zerortt.tracing.selection import Selection
from nfq_zerortt.wire import flags as tcp

FLOWS = 4000
_BEGAN_NS = 1_700_000_000 * 1_000_000_000
_STEP_NS = 100_000
_SERVER = bytes((10, 0, 3, 2))


def made_up(count: int, flows: int = FLOWS, data: int = 0) -> Iterator[Seen]:
    """Give so many packets of so many flows; ``data``: how much of each is captured, bytes."""
    chance = random.Random(1)
    for number in range(count):
        flow = chance.randrange(flows)
        turn = number // 8
        client = bytes((10, 0, 1 + flow // 60_000, 2)), 1024 + flow % 60_000
        kind = number % 8
        spoofed, real = 7 * flow, 11 * flow + 5
        if kind == 0 or turn < 4:
            packet = 0, False, True, tcp.SYN, flow, 0, 0
        elif kind == 1:
            packet = 0, True, False, tcp.SYN | tcp.ACK, spoofed, flow + 1, 0
        elif kind == 2:
            packet = 1, False, False, tcp.SYN | tcp.ACK, real, flow + 1, 0
        elif kind == 3:  # a repetition, perhaps
            packet = 0, False, True, tcp.ACK, flow + 1, spoofed + 1, 1000
        elif kind == 4:
            packet = 0, False, True, tcp.ACK, flow + 1 + turn * 1000, spoofed + 1 + turn, 1000
        elif kind == 5:
            packet = 1, False, False, tcp.ACK, real + 1 + turn * 1000, flow + 1 + turn, 1000
        elif kind == 6:
            packet = 1, True, True, tcp.ACK, flow + 1 + turn, real + 1 + turn * 7, 0
        else:
            packet = 0, True, False, tcp.ACK, spoofed + 1 + turn, flow + 1 + turn * 7, 0
        tap, outgoing, up, flags, seq, ack, length = packet
        server = _SERVER, 80
        ends = (client, server) if up else (server, client)
        raw = _segment(*ends, flags, seq % (1 << 32), ack % (1 << 32), length)
        yield Seen(_BEGAN_NS + number * _STEP_NS, tap, outgoing, raw + bytes(data), 40 + length)


def _segment(
    source: tuple[bytes, int],
    destination: tuple[bytes, int],
    flags: int,
    seq: int,
    ack: int,
    length: int,
) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40 + length, 0, 0x4000, 64, 6, 0)
    ports = struct.pack(">HHIIBBHHH", source[1], destination[1], seq, ack, 5 << 4, flags, 500, 0, 0)
    return head + source[0] + destination[0] + ports


def traced(packets: Iterator[Seen], *, with_data: bool = False) -> tracer.Tracer:
    """Let a tracer write the packets to nowhere."""
    interfaces = ("eth0", "eth1")
    files = Files(os.devnull, tracer.head(interfaces, 192, "Made up."))
    made = tracer.Tracer(files, interfaces, Selection(), with_data=with_data)
    for one in packets:
        made.add(one)
    made.count(CaptureCounts(0, 0))
    files.close()
    return made


def main() -> None:
    """Trace so many packets as the command's argument says, and print what that took."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    made = traced(made_up(count))
    took = time.process_time() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{made.summary.packets:,} packets of {made.summary.flows:,} flows: {took:.0f} s of "
        f"processor time, {after / 1024:.0f} MiB at most, {before / 1024:.0f} of them before"
    )


if __name__ == "__main__":
    main()
