"""What the kernel says of a network interface."""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFMTU = 0x8921  # netdevice(7)
_REQUEST = struct.Struct("16si20x")


def mtu(interface: str) -> int:
    """Return the longest packet that an interface sends, bytes.

    Raises:
        OSError: there is no such interface.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFMTU, _REQUEST.pack(interface.encode(), 0))
    _, found = _REQUEST.unpack(answer)
    return int(found)
