"""Packets of our own leave by raw sockets, one for each side and family.

Such a packet goes through OUTPUT, not FORWARD, so it never meets our queue.
Each socket is bound to its side's interface. The kernel fills in the IPv4
header checksum (raw(7)); everything else is as it was built.
"""

from __future__ import annotations

import errno
import os
import socket

from nfq_zerortt.core.actions import Side
from nfq_zerortt.errors import MissingFeatureError

_SEND_BUFFER = 4 << 20


class RawSender:
    """Sends whole IP packets towards either side."""

    def __init__(self, client_iface: str, server_iface: str) -> None:
        """Open the sockets.

        Raises:
            MissingFeatureError: CAP_NET_RAW is missing.
        """
        self._ifaces = {Side.CLIENT: client_iface, Side.SERVER: server_iface}
        self._index: dict[Side, int] = {}
        self._sockets: dict[tuple[Side, int], socket.socket] = {}
        for side in Side:
            self._open_side(side)

    def _open_side(self, side: Side) -> None:
        iface = self._ifaces[side]
        self._index[side] = socket.if_nametoindex(iface)
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            opened = _open(family, iface)
            if opened is None:
                continue
            before = self._sockets.get((side, version))
            if before is not None:
                before.close()
            self._sockets[side, version] = opened

    def send(self, side: Side, packet: bytes) -> str | None:
        """Send ``packet``; return None, or why it could not be sent.

        The packet is then lost, as packets get lost: whoever needs it will ask again. To an
        IPv4 address without a route the kernel sends as to a neighbour, because the socket is
        bound to an interface; for IPv6 it says that there is none.
        """
        try:
            return self._send(side, packet)
        except OSError as error:
            failed = error
        try:
            if self._is_another_now(side):
                self._open_side(side)
                return self._send(side, packet)
        except OSError as error:
            failed = error
        return failed.strerror or str(failed)

    def _send(self, side: Side, packet: bytes) -> str | None:
        version = packet[0] >> 4
        sender = self._sockets.get((side, version))
        if sender is None:
            return f"no IPv{version} here"
        if version == 4:
            destination = socket.inet_ntoa(packet[16:20])
        else:
            destination = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        sender.sendto(packet, (destination, 0))
        return None

    def _is_another_now(self, side: Side) -> bool:
        """Whether the interface was made anew, as PPPoE does: the sockets keep to the old one."""
        return socket.if_nametoindex(self._ifaces[side]) != self._index[side]

    def close(self) -> None:
        """Close the sockets."""
        for sender in self._sockets.values():
            sender.close()


def _open(family: socket.AddressFamily, iface: str) -> socket.socket | None:
    """Open a raw socket; None where the kernel has no such family."""
    try:
        opened = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError:
        raise MissingFeatureError(
            "CAP_NET_RAW is missing: run as root, or give the service that capability"
        ) from None
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            return None
        raise
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(iface) + b"\0")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return opened
