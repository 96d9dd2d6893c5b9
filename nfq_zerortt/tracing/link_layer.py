"""The IP packet inside a captured frame, by the capture's link type (tcpdump.org/linktypes)."""

from __future__ import annotations

import struct
from typing import NamedTuple

NULL = 0
ETHERNET = 1
RAW = 101
LINUX_SLL = 113
LOOP = 108
LINUX_SLL2 = 276
_RAW_TYPES = frozenset({12, 14, RAW, 228, 229})  # raw IP, and raw IPv4 and IPv6

KNOWN = frozenset({NULL, ETHERNET, LINUX_SLL, LOOP, LINUX_SLL2}) | _RAW_TYPES

SLL2_HEADER = 20
_OUTGOING = 4  # PACKET_OUTGOING of linux/if_packet.h
_VLAN = frozenset({0x8100, 0x88A8})
_IP = frozenset({0x0800, 0x86DD})


class Frame(NamedTuple):
    """What a captured frame says.

    Attributes:
        ip: where its IP packet begins.
        outgoing: whether this host has sent it; None where the frame does not say.
        interface: the number of the interface, where the frame says it.
    """

    ip: int
    outgoing: bool | None = None
    interface: int | None = None


def look(link_type: int, data: bytes) -> Frame | None:
    """Find the IP packet in a frame; None if there is none, or the frame is too short."""
    try:
        if link_type in _RAW_TYPES:
            return Frame(0)
        if link_type == ETHERNET:
            return _ethernet(data)
        if link_type == LINUX_SLL2:
            protocol, _, interface, _, kind = struct.unpack_from(">HHIHB", data)
            if protocol not in _IP:
                return None
            return Frame(SLL2_HEADER, kind == _OUTGOING, interface)
        if link_type == LINUX_SLL:
            kind, _, _, _, protocol = struct.unpack_from(">HHH8sH", data)
            return Frame(16, kind == _OUTGOING) if protocol in _IP else None
        if link_type in (NULL, LOOP):
            return Frame(4)
    except struct.error:
        return None
    return None


def _ethernet(data: bytes) -> Frame | None:
    position = 12
    (protocol,) = struct.unpack_from(">H", data, position)
    while protocol in _VLAN:
        position += 4
        (protocol,) = struct.unpack_from(">H", data, position)
    return Frame(position + 2) if protocol in _IP else None
