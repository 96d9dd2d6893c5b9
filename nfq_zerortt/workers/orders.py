"""What the first process and a worker say to each other: whole messages over a pair of sockets.

They are pickled, for both are one program: nobody else can send there. The
end of a process ends the pair, so each learns of the other's death at once.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from nfq_zerortt.errors import ZeroRttError

LONGEST = 1 << 20
"""Bytes of a message. The longest are settings, with a line for each destination."""


class Message(NamedTuple):
    """An order, or the reply to it, which has the same ``number``; 0 where none is expected.

    ``what`` is the name of an order, and ``value`` what it is about, or what the reply is.
    """

    number: int
    what: str
    value: Any = None


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        with suppress(PermissionError):
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * LONGEST)
    return ends


_SO_SNDBUFFORCE = 32  # socket(7); needs CAP_NET_ADMIN


def send(end: socket.socket, message: Message, files: Sequence[int] = ()) -> None:
    """Send a message, without waiting, and open files with it.

    Raises:
        ZeroRttError: it is too long.
        OSError: the other process is gone, or does not read.
    """
    data = pickle.dumps(tuple(message))
    if len(data) > LONGEST:
        raise ZeroRttError(f"the settings are too long for workers: {len(data)} bytes")
    socket.send_fds(end, [data], files)


def receive(end: socket.socket) -> tuple[Message, list[int]] | None:
    """Return the next message and the files that came with it; None if the other end is closed.

    Raises:
        BlockingIOError: nothing is there.
    """
    try:
        data, files, _, _ = socket.recv_fds(end, LONGEST, 1, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    if not data:
        return None
    return Message(*pickle.loads(data)), files


def close(files: Sequence[int]) -> None:
    """Close files that nobody wants."""
    for file in files:
        os.close(file)
