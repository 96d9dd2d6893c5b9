"""Tells the service manager how the service is: the protocol of sd_notify(3).

It is a datagram of lines ``KEY=value`` to the Unix socket that NOTIFY_SOCKET names. That is less
than the binding to libsystemd which would have to be compiled for it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

_PATIENCE_S = 1.0
_PER_TIMEOUT = 3
"""Signs of life in the time after which the manager gives the service up: one may get lost."""


class ServiceManager:
    """systemd, or another that speaks its protocol; without one, nothing is said to anybody.

    Attributes:
        listens: whether there is one.
        alive_every_s: how often it wants a sign of life; 0 if it does not.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """``environment`` is as the manager has set it for this process."""
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.listens = bool(self._address)
        self.alive_every_s = 0.0
        usec = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", "")
        if self._address and usec.isdecimal() and meant in ("", str(os.getpid())):
            self.alive_every_s = int(usec) / 1e6 / _PER_TIMEOUT

    def starting(self, status: str) -> None:
        """Say what the start waits for."""
        self._tell(f"STATUS={status}")

    def ready(self, status: str) -> None:
        """Say that the start, or the reload, is over."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Say that settings are being read again; ready() says that it is over."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reading the settings again")

    def stopping(self, status: str) -> None:
        """Say that the end has begun."""
        self._tell(f"STOPPING=1\nSTATUS={status}")

    def alive(self) -> None:
        """Give a sign of life. It waits for nobody: the next one will do."""
        self._tell("WATCHDOG=1", patience_s=0)

    def _tell(self, message: str, patience_s: float = _PATIENCE_S) -> None:
        if not self._address:
            return
        # A manager that is gone, or does not listen, keeps no packet waiting. It draws its own
        # conclusions.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
            teller.settimeout(patience_s)
            teller.sendto(message.encode(), self._address)
