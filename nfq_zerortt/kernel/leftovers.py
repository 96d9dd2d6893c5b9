"""Finds whose queues have left something in this network namespace: rules, filters or pins."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nfq_zerortt.kernel import filters, pins, xtables
from nfq_zerortt.kernel.declarations import BUILT_IN, FAMILIES, OWN_PREFIX
from nfq_zerortt.kernel.tc import TrafficControl

_CHAIN = re.compile(rf"{OWN_PREFIX}(\d+)(-[A-Z]+)?")


def queues() -> list[int]:
    """Return the queue numbers of which something is there, whichever process it is of.

    Raises:
        MissingFeatureError: no privilege to look.
    """
    with TrafficControl() as control:
        of_filters = filters.queues(control)
    return sorted({*of_filters, *_of_chains(), *pins.queues()})


def _of_chains() -> Iterator[int]:
    for family in FAMILIES:
        for table in BUILT_IN:
            if xtables.is_in_use(family, table):
                with xtables.opened(family, table) as handle:
                    chains = handle.chains()
                yield from (int(found[1]) for one in chains if (found := _CHAIN.fullmatch(one)))
