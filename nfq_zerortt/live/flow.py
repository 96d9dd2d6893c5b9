"""A flow as the live view keeps it: there may be 65,536, twice while new ones are on their way."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

FlowRecord = Mapping[str, Any]
"""What the service tells of a flow, by the names of docs/reference/control.md."""

_SHORT = 16
"""Texts no longer than that are of a few kinds: states, strategies, and the like."""


class _Kept(Mapping[str, Any]):
    """A flow with as little memory as there can be: a third of a dictionary's."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: dict[str, int], values: tuple[Any, ...]) -> None:
        self._places = places
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


_PLACES: dict[tuple[str, ...], dict[str, int]] = {}
"""Which value stands where; all flows of one service have the same names."""


def kept(pairs: list[tuple[str, Any]]) -> FlowRecord:
    """Make a flow of its names and values, to be kept."""
    names, values = zip(*pairs, strict=True)
    places = _PLACES.get(names)
    if places is None:
        places = _PLACES[names] = {name: place for place, name in enumerate(names)}
    return _Kept(places, tuple(map(_shared, values)))


def _shared(value: Any) -> Any:
    return sys.intern(value) if isinstance(value, str) and len(value) <= _SHORT else value
