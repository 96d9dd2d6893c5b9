"""What the kernel data path carries at this moment, whichever process began it."""

from __future__ import annotations

from nfq_zerortt.kernel import adoption, filters, pins
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf_object import FLOWS, close_all
from nfq_zerortt.kernel.flow_map import FlowMap
from nfq_zerortt.kernel.tc import TrafficControl

_OVER = layout.ENDED | layout.SUPERSEDED


def interfaces(queue: int) -> list[str]:
    """Return the interfaces of this network namespace that have our filters of a queue."""
    with TrafficControl() as control:
        return sorted(one.interface for one in filters.everywhere(control, queue))


def established(queue: int) -> int:
    """Count the connections of a queue that the kernel renumbers and that have not ended.

    Raises:
        MissingFeatureError: no libbpf, or no right to look into its maps.
        ZeroRttError: the maps cannot be found.
        OSError: they cannot be read.
    """
    maps = adoption.find_maps(queue, pins.directory(queue))
    try:
        if FLOWS not in maps:
            return 0
        return sum(
            not layout.glance(value).flags & _OVER
            for entries in FlowMap(maps[FLOWS]).entries()
            for _, value in entries
        )
    finally:
        close_all(maps)
