"""Long work in slices, between which packets are handled: the service is one thread."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TypeVar

SLICE_S = 0.0002
"""What a packet may have to wait for. A client's SYN is to be answered within a millisecond."""

PAUSE_S = 0.001
"""What lies between two slices at least: a service with a real-time priority would otherwise keep a
processor from everybody else for as long as the work lasts."""

_Item = TypeVar("_Item")


def slices(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Give the items in lists, each of what can be made in :data:`SLICE_S`, one at least.

    After each, the caller pauses: ``await asyncio.sleep(PAUSE_S)``.
    """
    made: list[_Item] = []
    until = time.monotonic() + SLICE_S
    for item in items:
        made.append(item)
        if time.monotonic() >= until:
            yield made
            made = []
            until = time.monotonic() + SLICE_S
    if made:
        yield made


async def async_slices(items: AsyncIterable[_Item]) -> AsyncIterator[list[_Item]]:
    """Give the items of an asynchronous iterator as :func:`slices` does."""
    made: list[_Item] = []
    until = time.monotonic() + SLICE_S
    async for item in items:
        made.append(item)
        if time.monotonic() >= until:
            yield made
            made = []
            until = time.monotonic() + SLICE_S
    if made:
        yield made
