"""Being in another network namespace for a moment.

A socket belongs to the namespace in which it was made, for good. So one test
can hold the sockets of both ends and decide itself what happens in which order.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Let the calling thread be in the named network namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            _enter(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(own)


UNPRIVILEGED = ("unshare", "--user", "--")
"""Before a command: run it as nobody, without a capability, and still able to read the files of
whoever runs the tests, wherever the Python that they use is installed."""
