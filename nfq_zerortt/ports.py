"""The server ports that the service handles: ``all``, or a list such as ``80,443,8000-8999``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nfq_zerortt.errors import ConfigError

ALLOWED = "'all', or ports and ranges from 1 to 65535 such as 80,443,8000-8999"
LAST_PORT = 65535
MULTIPORT_SLOTS = 15
"""What one multiport match holds; a range takes two slots (iptables-extensions(8))."""

_ITEM = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class PortSet:
    """A set of TCP ports, kept as sorted ranges that neither touch nor overlap.

    An empty tuple of ranges stands for all ports.
    """

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str, option: str = "--ports") -> PortSet:
        """Read ``text``; ``option`` is the name that the error shows.

        Raises ConfigError when the text is not exactly such a list.
        """
        if text == "all":
            return cls()
        ranges: list[tuple[int, int]] = []
        for item in text.split(","):
            match = _ITEM.fullmatch(item)
            if match is None:
                raise _refused(option, text, f"{item!r} is neither a port nor a range")
            first = int(match[1])
            last = int(match[2] or first)
            if not 1 <= first <= LAST_PORT or not 1 <= last <= LAST_PORT:
                raise _refused(option, text, f"{item!r} is out of range")
            if first > last:
                raise _refused(option, text, f"{item!r} runs backwards")
            ranges.append((first, last))
        return cls(_merged(ranges))

    @property
    def is_all(self) -> bool:
        """Whether every port is in the set, so that no match is needed."""
        return not self.ranges

    def __contains__(self, port: int) -> bool:
        return self.is_all or any(first <= port <= last for first, last in self.ranges)

    def overlaps(self, other: PortSet) -> bool:
        """Whether some port is in both sets."""
        return (
            self.is_all
            or other.is_all
            or any(
                first <= last_of_other and first_of_other <= last
                for first, last in self.ranges
                for first_of_other, last_of_other in other.ranges
            )
        )

    def __str__(self) -> str:
        if self.is_all:
            return "all"
        return ",".join(_written(one, "-") for one in self.ranges)

    def __or__(self, other: PortSet) -> PortSet:
        if self.is_all or other.is_all:
            return ALL_PORTS
        return PortSet(_merged([*self.ranges, *other.ranges]))

    def multiport_groups(self) -> tuple[str, ...]:
        """Return the set as values of ``multiport --dports``, each within its 15 slots.

        Empty when the set is ``all``.
        """
        groups: list[list[str]] = []
        free = 0
        for one in self.ranges:
            slots = 1 if one[0] == one[1] else 2
            if slots > free:
                groups.append([])
                free = MULTIPORT_SLOTS
            groups[-1].append(_written(one, ":"))
            free -= slots
        return tuple(",".join(group) for group in groups)


ALL_PORTS = PortSet()


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _written(ports: tuple[int, int], dash: str) -> str:
    first, last = ports
    return str(first) if first == last else f"{first}{dash}{last}"


def _refused(option: str, text: str, why: str) -> ConfigError:
    return ConfigError(f"{option}: {text!r} is not a list of ports: {why}; allowed is {ALLOWED}")
