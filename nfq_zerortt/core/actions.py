"""What the core wants done. One of Accept, Drop and Replace is the verdict on the packet given."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class Side(enum.Enum):
    """The two sides of ClientNIC: where a packet comes from, or where it is sent to."""

    __hash__ = object.__hash__  # Enum has one of its own, in Python: often too slow

    CLIENT = "client"
    SERVER = "server"


@dataclass(slots=True)
class Accept:
    """Let the packet pass as it is."""

    reason: str


@dataclass(slots=True)
class Drop:
    """The packet goes no further."""

    reason: str


@dataclass(slots=True)
class Replace:
    """The packet goes on with ``data`` as its bytes, both checksums right."""

    data: bytes
    reason: str = "translated"


@dataclass(slots=True)
class Send:
    """A packet of our own, ``data``, leaves towards ``side``."""

    side: Side
    data: bytes
    reason: str


@dataclass(slots=True)
class Report:
    """Something happened that the log tells: ``event`` is a name of the interface's list."""

    event: str
    flow_id: int
    flow: str
    fields: dict[str, Any] = field(default_factory=dict)


Action = Accept | Drop | Replace | Send | Report
Actions = Sequence[Action]
