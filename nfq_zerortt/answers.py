"""What can be asked of a running service over its control socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nfq_zerortt.core import descriptions, remembered
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.observe.control import Request


def requests(
    engine: Engine,
    carried: Callable[[], Iterator[Flow]],
    cleared: Callable[[dict[str, int]], None],
) -> Mapping[str, Request]:
    """Return the requests by name.

    ``carried`` gives the flows that are only the kernel's; ``cleared`` is told what was forgotten
    when one asked for it.
    """

    def flows() -> Iterator[dict[str, Any]]:
        now = time.monotonic()
        yield from descriptions.flows(engine.table, now)
        for flow in carried():
            yield descriptions.describe_flow(flow, now)

    def learned() -> Iterator[dict[str, Any]]:
        return remembered.records(engine.memory, time.monotonic())

    def clear_learned() -> dict[str, int]:
        forgotten = remembered.counts(engine.memory)
        engine.memory.clear()
        cleared(forgotten)
        return forgotten

    return {
        "flows": Request(flows),
        "learned": Request(learned),
        "clear_learned": Request(clear_learned),
    }
