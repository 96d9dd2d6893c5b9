"""The running service as a whole, for whoever asks: what it is, and what the kernel has of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from nfq_zerortt import __version__
from nfq_zerortt.carrying import Carrying
from nfq_zerortt.config import Config
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.states import State
from nfq_zerortt.handler import Handler
from nfq_zerortt.journal import Journal
from nfq_zerortt.workers.crew import Crew


class RunningService:
    """All processes of a service, from the moment on when it serves.

    Attributes:
        config: the settings as they are now.
        data_path: ``kernel`` or ``python``, for new flows.
    """

    def __init__(
        self,
        config: Config,
        *,
        data_path: str,
        handler: Handler,
        crew: Crew,
        carrying: Carrying | None,
        journal: Journal,
    ) -> None:
        """``handler``, ``carrying`` (if there is one) and ``journal`` are the first process's."""
        self.config = config
        self.data_path = data_path
        self._handler = handler
        self._crew = crew
        self._carrying = carrying
        self._event = journal.event
        self._started = time.monotonic()

    # --- what it is -----------------------------------------------------------------------

    @property
    def uptime_s(self) -> float:
        """Seconds since it began, in milliseconds' steps."""
        return round(time.monotonic() - self._started, 3)

    def summary(self) -> str:
        """Tell in a few words what it does."""
        where = "here" if self.data_path == "python" else "in the kernel"
        return (
            f"{self.config.strategy} between {self.config.client_iface} and "
            f"{self.config.server_iface}, established connections {where}"
        )

    def about(self) -> dict[str, Any]:
        """Tell what it is: its settings and its processes."""
        return {
            "version": __version__,
            "strategy": self.config.strategy,
            "data_path": self.data_path,
            "client_iface": self.config.client_iface,
            "server_iface": self.config.server_iface,
            "ports": str(self.config.ports),
            "queue": self.config.queue,
            "workers": self.config.workers,
            "pid": os.getpid(),
            "worker_pids": self._crew.pids or [os.getpid()],
            "network_namespace": os.stat("/proc/self/ns/net").st_ino,
            "log_level": self._handler.log_level,
            "uptime_s": self.uptime_s,
        }

    # --- what the kernel has --------------------------------------------------------------

    def carried(self) -> Iterator[Flow]:
        """Give the flows that are only the kernel's."""
        return iter(()) if self._carrying is None else self._carrying.flows()

    def entries(self) -> Iterator[State | str]:
        """Tell of each entry in the kernel's table of flows what it is."""
        return iter(()) if self._carrying is None else self._carrying.entries()

    def max_entries(self) -> int:
        """Tell how many entries that table takes; 0 if there is none."""
        return 0 if self._carrying is None else self._carrying.max_entries

    # --- what one may change by asking ----------------------------------------------------

    def learned_cleared(self, forgotten: Mapping[str, int]) -> None:
        """Take in that what was learned is forgotten, because somebody asked for it."""
        self._event(
            "service.learned_cleared",
            {
                "servers": forgotten["servers"],
                "habits": forgotten["habits"],
                "cookies": forgotten["cookies"],
                "refusals": forgotten["refusals"],
            },
        )

    async def set_log_level(self, level: str) -> None:
        """Let all processes write events of that level and above, until SIGHUP.

        Raises:
            ZeroRttError: a worker does not reply.
        """
        was = self._handler.log_level
        await self._crew.set_log_level(level)
        if level in ("debug", "info"):  # whichever level lets it be seen
            self._handler.set_log_level(level)
        self._event("service.log_level", {"log_level": level, "was": was})
        self._handler.set_log_level(level)
