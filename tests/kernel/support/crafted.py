"""Packets that no kernel sends, made by hand with scapy and put on the client's wire."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable

from scapy.layers.inet import IP, TCP, IPOption_RR, in4_chksum
from scapy.packet import Raw
from scapy.utils import checksum

from nfq_zerortt.testbed.network import Testbed
from support.namespaces import inside
from support.reading import CLIENT_ADDRESS, SERVER_ADDRESS

FIRST_ID = 1000
"""The IP identification tells the packets apart where they arrive."""

_ETHERNET = bytes.fromhex("02000a0001fe02000a000102")
"""From the client to clientnic; the packet's type follows."""
_IPV4, _IPV6 = 0x0800, 0x86DD
_NOP_OPTIONS = bytes([1, 1, 1, 0])
_PLAIN_ROUTER_ALERT = bytes([148, 4, 0, 0])

Crafted = dict[str, bytes]


def _ip(number: int, **fields: object) -> IP:
    return IP(src=CLIENT_ADDRESS, dst=SERVER_ADDRESS, id=FIRST_ID + number, **fields)


def _tcp(number: int, **fields: object) -> TCP:
    return TCP(sport=30_000 + number, dport=9, seq=1000 * number, window=5000, **fields)


def _with_options(number: int, options: bytes, flags: str = "S") -> bytes:
    """A segment whose option bytes are as given; both checksums are right."""
    options += bytes(-len(options) % 4)
    tcp = _tcp(number, flags=flags, dataofs=5 + len(options) // 4)
    # scapy counts what follows its 20 bytes as data, which is all the same to a checksum.
    return bytes(_ip(number) / tcp / Raw(options))


def _fragments(number: int, first_size: int) -> tuple[bytes, bytes]:
    segment = bytes(_ip(number) / _tcp(number, flags="S") / Raw(b"x" * 60))[20:]
    first = _ip(number, proto=6, flags="MF") / Raw(segment[:first_size])
    later = _ip(number + 1, proto=6, frag=first_size // 8) / Raw(segment[first_size:])
    return bytes(first), bytes(later)


def malformed() -> Crafted:
    """Return packets that a TCP cannot read, or should not."""
    packets: Crafted = {}

    def add(name: str, packet: bytes) -> None:
        assert packet[4:6] == (FIRST_ID + len(packets)).to_bytes(2, "big"), name
        packets[name] = packet

    def number() -> int:
        return len(packets)

    for size in (0, 1, 4, 12, 19):
        segment = bytes(_tcp(number(), flags="S"))[:size]
        add(f"{size} bytes of TCP header", bytes(_ip(number(), proto=6) / Raw(segment)))
    for words in (0, 1, 4):
        add(f"data offset {words}", bytes(_ip(number()) / _tcp(number(), flags="S", dataofs=words)))
    for flags in ("S", "A"):
        packet = _ip(number()) / _tcp(number(), flags=flags, dataofs=15) / Raw(b"short")
        add(f"data offset beyond the packet, {flags}", bytes(packet))
    for name, options in {
        "option of length 0": bytes([2, 0, 5, 180]),
        "option of length 1": bytes([8, 1, 1, 1]),
        "option without a length": bytes([1, 1, 1, 2]),
        "option longer than the header": bytes([2, 40, 5, 180]),
        "option of length 255": bytes([3, 255, 7, 0]),
        "MSS of 3 bytes": bytes([2, 3, 5, 1]),
        "MSS of 10 bytes": bytes([2, 10, *range(8), 0, 0]),
        "timestamps of 4 bytes": bytes([8, 4, 0, 0]),
        "window scale of 2 bytes": bytes([3, 2, 0, 0]),
        "SACK permitted of 6 bytes": bytes([4, 6, 0, 0, 0, 0, 0, 0]),
    }.items():
        add(name, _with_options(number(), options))
    for flags in ("SF", "SR", "SRF", "", "FPU", "FSRPAUEC", "SA"):
        add(f"flags {flags or 'none'}", bytes(_ip(number()) / _tcp(number(), flags=flags)))
    add("SYN with data", bytes(_ip(number()) / _tcp(number(), flags="S") / Raw(b"data")))
    for name, flags, data in (
        ("ACK", "A", b""),
        ("data", "PA", b"in the middle of something"),
        ("FIN", "FA", b""),
        ("RST", "R", b""),
        ("RST and ACK", "RA", b""),
    ):
        packet = _ip(number()) / _tcp(number(), flags=flags, ack=7) / Raw(data)
        add(f"{name} of an unknown connection", bytes(packet))
    sack = bytes([1, 1, 5, 10, *range(8)])
    add("SACK of an unknown connection", _with_options(number(), sack, "A"))
    add("SACK of 1 byte of an unknown connection", _with_options(number(), bytes([5, 3, 1]), "A"))
    for first_size in (8, 24, 40):
        first, later = _fragments(number(), first_size)
        add(f"first fragment with {first_size} bytes", first)
        add(f"later fragment from {first_size}", later)
    for name, value in {
        "no-operations": _NOP_OPTIONS,
        "router alert": _PLAIN_ROUTER_ALERT,
        "record route": bytes(IPOption_RR(length=11, pointer=4, routers=["0.0.0.0"] * 2)),
        "timestamp that is full": bytes([68, 12, 13, 0]) + bytes(8),
    }.items():
        padded = value + bytes(-len(value) % 4)
        for flags in ("S", "A"):
            segment = bytes(IP(bytes(_ip(number()) / _tcp(number(), flags=flags))))[20:]
            header = bytes(
                _ip(
                    number(), proto=6, ihl=5 + len(padded) // 4, len=20 + len(padded) + len(segment)
                )
            )
            packet = bytearray(header + padded + segment)
            packet[10:12] = b"\0\0"
            packet[10:12] = _header_checksum(bytes(packet[: 20 + len(padded)]))
            add(f"IP option {name}, {flags}", bytes(packet))
    add("wrong TCP checksum", bytes(_ip(number()) / _tcp(number(), flags="A", chksum=0x1234)))
    wrong = {"IP version 5": {"version": 5}, "IP header of 16 bytes": {"ihl": 4}}
    wrong |= {"IP length beyond the frame": {"len": 400}, "IP length of 30": {"len": 30}}
    wrong |= {"wrong IP checksum": {"chksum": 0x1234}}
    for name, fields in wrong.items():
        add(name, bytes(_ip(number(), **fields) / _tcp(number(), flags="S")))
    return packets


def _header_checksum(header: bytes) -> bytes:
    return int(checksum(header)).to_bytes(2, "big")


def fuzzed(count: int, seed: int = 1) -> list[bytes]:
    """Return segments with random bytes changed, most with a right checksum."""
    chance = random.Random(seed)
    packets = []
    for number in range(count):
        options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (number, 0)), ("WScale", 7)]
        tcp = TCP(
            sport=31_000 + number % 50, dport=9, flags=chance.choice("SSSAFR"), options=options
        )
        segment = bytearray(bytes(tcp / Raw(chance.randbytes(chance.choice([0, 0, 4, 200])))))
        for _ in range(chance.randint(1, 6)):
            segment[chance.randrange(4, len(segment))] = chance.randrange(256)
        del segment[chance.randint(20, len(segment)) if chance.random() < 0.1 else len(segment) :]
        segment[16:18] = b"\0\0"
        packet = IP(src=CLIENT_ADDRESS, dst=SERVER_ADDRESS, proto=6, id=number) / Raw(
            bytes(segment)
        )
        if chance.random() < 0.9:
            segment[16:18] = _segment_checksum(packet, bytes(segment))
        packet[Raw].load = bytes(segment)
        packets.append(bytes(packet))
    return packets


def _segment_checksum(packet: IP, segment: bytes) -> bytes:
    return int(in4_chksum(6, packet, segment)).to_bytes(2, "big")


def send(testbed: Testbed, packets: Iterable[bytes], pause_s: float = 0.0) -> None:
    """Put packets on the client's wire as they are."""
    with inside(testbed.netns("client")):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with wire:
        wire.bind(("eth0", 0))
        for packet in packets:
            kind = _IPV6 if packet[0] >> 4 == 6 else _IPV4
            wire.send(_ETHERNET + kind.to_bytes(2, "big") + packet)
            time.sleep(pause_s)
