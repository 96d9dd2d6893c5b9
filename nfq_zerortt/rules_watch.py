"""Sees to it that a running service keeps its iptables rules.

What takes them away, a firewall that is loaded anew as a rule, tells nobody; without them the
service would go on with nothing to do, and connections that it renumbers would stall. So it looks
every few seconds, between packets, and puts back what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from nfq_zerortt.applied_rules import AppliedRules
from nfq_zerortt.errors import ZeroRttError

EVERY_S = 2.0
"""Between two looks. A stalled connection recovers by what its ends repeat, which takes longer."""

_LONGEST_PAUSE_S = 60.0
_SHARE = 4000
"""A look at a table with thousands of others' rules takes longer, and so comes less often: that a
packet has to wait for it stays as rare."""

_SPARE = (
    "let whatever flushes the tables spare raw and mangle (iptables-restore --noflush), or restart "
    "this service after it"
)


async def watch(rules: AppliedRules, event: Callable[[str, Mapping[str, Any]], None]) -> None:
    """Put the rules back whenever they are missing, and say so; for as long as the service runs.

    What cannot be put back is said once, and tried again at every look.
    """
    refused = ""
    while True:
        lost, longest_s = await rules.lost()
        if lost:
            try:
                if await rules.put_back():
                    event(
                        "service.rules_lost", {"tables": lost, "put_back": True, "remedy": _SPARE}
                    )
                refused = ""
            except ZeroRttError as error:
                if str(error) != refused:
                    event(
                        "service.rules_lost",
                        {"tables": lost, "put_back": False, "error": str(error), "remedy": _SPARE},
                    )
                refused = str(error)
        await asyncio.sleep(min(max(EVERY_S, longest_s * _SHARE), _LONGEST_PAUSE_S))
