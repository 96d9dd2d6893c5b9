"""What a running service has learned of servers, across restarts: whichever process learned it.

With several workers each learns for itself. Their memories are put together in the first process's,
of which :mod:`nfq_zerortt.keeping` makes the state file.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.remembered import restore
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.journal import Journal
from nfq_zerortt.keeping import EVERY_S, Keeper
from nfq_zerortt.workers.crew import Crew
from nfq_zerortt.workers.merging import merged


class Learning:
    """Takes up what was learned before, and keeps what is learned now.

    Without a state file no method does anything.
    """

    def __init__(self, state_file: str, memory: Memory, crew: Crew, journal: Journal) -> None:
        """``memory`` is the first process's; ``state_file`` is empty if nothing shall be kept.

        Raises:
            ConfigError: there is something else by the state file's name.
        """
        self._keeper = Keeper(Path(state_file), memory) if state_file else None
        if self._keeper is not None:
            self._keeper.require_own()
        self._memory = memory
        self._crew = crew
        self._journal = journal
        self._known: list[str] = []  # what the workers' memories were like when asked last

    def restore(self) -> int:
        """Take up what an earlier run has learned; return how many records there were.

        Raises:
            StateFileError: the state file cannot be used; nothing was taken from it.
        """
        return 0 if self._keeper is None else self._keeper.load()

    async def keep(self) -> None:
        """Write the state file once a minute if something is new, until cancelled."""
        if self._keeper is None:
            return
        if not self._crew:
            await self._keeper.keep(self._not_kept)
        else:  # at once, not in slices: with workers this process has no packets that would wait
            while True:
                await asyncio.sleep(EVERY_S)
                await self.save()

    async def save(self) -> None:
        """Write the state file now, if something is new."""
        if self._keeper is not None:
            await self._gather()
            self._keeper.save(self._not_kept)

    async def _gather(self) -> None:
        """Put what the workers have learned into the memory that the state file is made of."""
        if not self._crew:
            return
        try:
            known = [value async for value in self._crew.ask("fingerprint")]
            if known == self._known:
                return
            learned = await merged(self._crew.ask("learned"))
        except ZeroRttError as error:
            self._not_kept(str(error))
            return
        self._memory.clear()
        restore(self._memory, learned, 0.0, time.monotonic())
        self._known = known

    def _not_kept(self, error: str) -> None:
        self._journal.warn(
            "state_file", error, "what was learned is lost at the end of the service"
        )
