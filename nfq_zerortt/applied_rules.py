"""The iptables rules of a running service, from its start to its end."""

from __future__ import annotations

import asyncio
import time

from nfq_zerortt.config import Config
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel.features import served_families
from nfq_zerortt.kernel.rules import RuleSet
from nfq_zerortt.kernel.rules_in_place import in_place
from nfq_zerortt.ports import PortSet
from nfq_zerortt.slices import PAUSE_S


class AppliedRules:
    """Sets, changes and removes the rules. Without ``rules`` in the settings it does nothing."""

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

    def apply(self) -> None:
        """Set the rules.

        Raises:
            MissingFeatureError, ZeroRttError: they cannot be set.
        """
        if self._config.rules:
            self._rules.apply()
            self._are_set = True

    def inherit(self) -> None:
        """Take it that the rules are set, by the process that this one was forked off."""
        self._are_set = self._config.rules

    async def select(self, ports: PortSet) -> None:
        """Let the rules select more ports, if these are more.

        Flows on ports that are no longer wanted go on, so their packets must come here still:
        the engine knows that new ones there are to pass. Packets go on meanwhile: another
        program may hold the lock on the tables for seconds.

        Raises:
            ZeroRttError: it cannot be done; all is as it was.
        """
        wanted = self._ports | ports
        if wanted == self._ports or not self._are_set:
            return
        rules = self._selecting(wanted)
        async with self._lock:
            if not self._are_set:
                return
            await asyncio.to_thread(rules.apply, instead_of=self._rules)
            self._rules, self._ports = rules, wanted

    async def lost(self) -> tuple[list[str], float]:
        """Look for rules that another program has taken away.

        Returns:
            The tables that lack some of ours ("ipv4 mangle"), and for how many seconds the look
            has kept a packet waiting at most.
        """
        found, longest_s = [], 0.0
        for family in self._rules.families:
            for table in self._rules.tables:
                async with self._lock:
                    if not self._are_set:
                        return [], longest_s
                    began = time.monotonic()
                    try:
                        whole = in_place(family, table.of(family))
                    except ZeroRttError:
                        whole = False  # putting them back will tell why
                    longest_s = max(longest_s, time.monotonic() - began)
                if not whole:
                    found.append(f"{family} {table.name}")
                await asyncio.sleep(PAUSE_S)
        return found, longest_s

    async def put_back(self) -> bool:
        """Set them again, as far as they are missing. False if they are no longer wanted.

        Raises:
            ZeroRttError: it cannot be done.
        """
        async with self._lock:
            if self._are_set:
                await asyncio.to_thread(self._rules.apply, instead_of=self._rules)
            return self._are_set

    async def remove_later(self) -> None:
        """Remove the rules, as soon as nobody changes them any more."""
        async with self._lock:
            self.remove()

    def remove(self) -> None:
        """Remove the rules, if they are set.

        Raises:
            ZeroRttError: something of them had to stay.
        """
        if self._are_set:
            self._are_set = False
            self._rules.remove()
