"""Whose control socket it is: taking the path, and giving it back.

A pathname socket belongs to the file system, not to the network namespace, so
services in several namespaces see each other's. One that has died leaves its
file behind; nobody listens there, and the file is replaced.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from nfq_zerortt.errors import ZeroRttError

_LONGEST = 107  # bytes: unix(7)
_LOCK_S = 2.0
_LOCK_STEP_S = 0.02
_CONNECT_S = 1.0
_BACKLOG = 16
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED


class PathError(ZeroRttError):
    """The path cannot be had; the message names it and says why."""


class ControlPath:
    """A listening socket in the file system, for root only."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.path = path
        self.listener = listener
        self._identity = _identity(path)

    @classmethod
    def take(cls, path: Path) -> Self:
        """Listen at ``path``; its directory is made if it is not there.

        Raises:
            PathError: another service listens there, something else is there, or it cannot be.
        """
        if len(os.fsencode(path)) > _LONGEST:
            raise PathError(f"{path} is too long: {_LONGEST} bytes are allowed")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(path.parent):
                _clear_away(path)
                return cls(path, _listen(path))
        except OSError as error:
            raise PathError(f"{path} cannot be made: {error.strerror or error}") from None

    def close(self) -> None:
        """Listen no longer, and remove the file unless it is another's by now."""
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)
        self.listener.close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def _clear_away(path: Path) -> None:
    """Remove the socket of a service that has died."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PathError(f"{path} is there already, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except (BlockingIOError, TimeoutError):
            raise PathError(f"{path} belongs to another service, which is busy") from None
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    raise PathError(f"{path} belongs to another service (pid {_CREDENTIALS.unpack(peer)[0]})")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other services from looking at, and replacing, the same file at the same time."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise PathError(f"{directory} is locked by another process") from None
            time.sleep(_LOCK_STEP_S)
        yield
    finally:
        os.close(held)


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None
