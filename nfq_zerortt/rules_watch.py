"""Sees to it that a running service keeps its iptables rules.

What takes them away, a firewall that is loaded anew as a rule, tells nobody; without them the
service would go on with nothing to do, and connections that it renumbers would stall. So it looks
every few seconds, and puts back what is missing or was changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from nfq_zerortt.applied_rules import AppliedRules
from nfq_zerortt.errors import ZeroRttError

EVERY_S = 2.0
"""Between two looks. A stalled connection recovers by what its ends repeat, which takes longer."""

_SPARE = (
    "let whatever flushes the tables spare raw and mangle (iptables-restore --noflush), or restart "
    "this service after it"
)
_LEAVE_CHAINS = (
    "leave this service's chains to it: what is to pass it is named by a [[destination]], or by "
    "rules of yours before its jumps"
)

_Event = Callable[[str, Mapping[str, Any]], None]


async def watch(rules: AppliedRules, event: _Event, fault: Callable[[], None]) -> None:
    """Put the rules back whenever they are not as they were set; for as long as the service runs.

    What cannot be looked at or put back is said once, and tried again at every look. ``fault``
    tells of the exception that is being handled.
    """
    failed = ""
    while True:
        try:
            failed = await _look(rules, event, failed)
        except (OSError, ZeroRttError) as error:  # out of descriptors, which may pass
            if str(error) != failed:
                _warn(event, str(error))
            failed = str(error)
        except Exception as error:  # a bug of ours; the rules are to be kept all the same
            if repr(error) != failed:
                fault()
            failed = repr(error)
        await asyncio.sleep(EVERY_S)


async def _look(rules: AppliedRules, event: _Event, failed: str) -> str:
    """Look once; return why they cannot be put back, which is said unless it is ``failed``."""
    differing = await rules.differing()
    if not differing:
        return ""
    taken_away = any("missing" in difference for difference in differing.values())
    tables, differences = list(differing), list(differing.values())
    remedy = _SPARE if taken_away else _LEAVE_CHAINS
    try:
        if await rules.put_back():
            event(
                "service.rules_lost",
                {"tables": tables, "differences": differences, "put_back": True, "remedy": remedy},
            )
    except ZeroRttError as error:
        if str(error) != failed:
            event(
                "service.rules_lost",
                {
                    "tables": tables,
                    "differences": differences,
                    "put_back": False,
                    "error": str(error),
                    "remedy": remedy,
                },
            )
        return str(error)
    return ""


def _warn(event: _Event, error: str) -> None:
    event(
        "service.warning",
        {
            "about": "rules",
            "warning": f"whether the iptables rules are still there cannot be told: {error}",
            "remedy": "it is tried again every two seconds",
        },
    )
