"""The iptables rules of a running service, from its start to its end."""

from __future__ import annotations

import asyncio
import math
import time

from nfq_zerortt.config import Config
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel.features import served_families
from nfq_zerortt.kernel.rules import RuleSet
from nfq_zerortt.kernel.rules_in_place import outline
from nfq_zerortt.kernel.xtables import LockHeldError
from nfq_zerortt.ports import PortSet

COMPARE_EVERY_S = 10.0
"""How often every word is compared, for what a glance does not show: 10 ms of a thread's time."""

_Outlines = list[bytes | None]


class AppliedRules:
    """Sets, changes and removes the rules. Without ``rules`` in the settings it does nothing.

    Another program may hold the lock on the tables for seconds, or have thousands of rules in
    them. So what is awaited here is done in a thread, one at a time, while packets go on.
    """

    def __init__(self, config: Config) -> None:
        """Nothing is set yet.

        Raises:
            ConfigError: an interface or a queue that cannot be.
        """
        self._config = config
        self._ports = config.ports  # never fewer than live flows need
        self._rules = self._selecting(config.ports)
        self._are_set = False
        self._lock = asyncio.Lock()
        self._latest = math.inf
        self._refused = ""
        self._whole: _Outlines = []  # the tables' at the last comparison that found all in order
        self._compare_at = 0.0

    def _selecting(self, ports: PortSet) -> RuleSet:
        config = self._config
        return RuleSet.for_clientnic(
            config.client_iface,
            config.server_iface,
            ports,
            config.queue,
            served_families(),
            workers=config.workers,
        )

    async def apply(self) -> None:
        """Set the rules.

        Raises:
            MissingFeatureError, ZeroRttError: they cannot be set.
        """
        if self._config.rules:
            async with self._lock:
                await asyncio.to_thread(self._rules.apply)
                self._are_set = True

    def inherit(self) -> None:
        """Take it that the rules are set, by the process that this one was forked off."""
        self._are_set = self._config.rules

    def end_within(self, seconds: float) -> None:
        """Put nothing back any more; to remove them, wait for the lock that long at most."""
        self._latest = time.monotonic() + seconds

    async def select(self, ports: PortSet) -> None:
        """Let the rules select more ports, if these are more.

        Flows on ports that are no longer wanted go on, so their packets must come here still:
        the engine knows that new ones there are to pass.

        Raises:
            ZeroRttError: it cannot be done; all is as it was.
        """
        async with self._lock:
            wanted = self._ports | ports
            if wanted == self._ports or not self._are_set:
                return
            rules = self._selecting(wanted)
            await asyncio.to_thread(rules.apply, self._rules, self._while_kept)
            self._rules, self._ports = rules, wanted

    async def differing(self) -> dict[str, str]:
        """Look for rules of ours that another program has removed or changed.

        Returns:
            The tables that are not as they were set ("ipv4 mangle"), each with one difference.

        Raises:
            ZeroRttError, OSError: they cannot be looked at.
        """
        async with self._lock:
            if not self._is_kept():
                return {}
            outlines: _Outlines = [
                outline(family, table.name)
                for family in self._rules.families
                for table in self._rules.tables
            ]
            now = time.monotonic()
            if outlines == self._whole and None not in outlines and now < self._compare_at:
                return {}
            differing = await asyncio.to_thread(self._rules.differing)
            if not differing:
                # What was changed after the glance, and was compared, shows at the next one.
                self._whole, self._compare_at = outlines, now + COMPARE_EVERY_S
            return differing

    async def put_back(self) -> bool:
        """Set them again, if they are still wanted; tell whether anything had to be written.

        Raises:
            ZeroRttError: it cannot be done.
        """
        async with self._lock:
            if not self._is_kept():
                return False
            return await asyncio.to_thread(self._rules.apply, self._rules, self._while_kept)

    def _is_kept(self) -> bool:
        return self._are_set and self._latest == math.inf

    def _while_kept(self) -> float:
        return math.inf if self._is_kept() else 0.0

    async def remove_later(self) -> None:
        """Remove the rules, as soon as nobody changes them any more.

        Raises:
            ZeroRttError: something of them had to stay.
        """
        async with self._lock:
            await asyncio.to_thread(self.remove)

    def remove(self) -> None:
        """Remove the rules, if they are set; to be called when nothing else is under way.

        Raises:
            ZeroRttError: something of them had to stay.
        """
        if not self._are_set:
            return
        try:
            self._rules.remove(lambda: self._latest)
        except LockHeldError as error:
            self._refused = self._refused or str(error)  # a second try is not waited for as long
            raise ZeroRttError(
                f"the iptables rules had to stay: {self._refused}: nfq-zerortt rules remove "
                f"--queue {self._config.queue}"
            ) from None
        self._are_set = False
