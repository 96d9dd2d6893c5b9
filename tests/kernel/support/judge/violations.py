"""What is wrong with a capture."""

from __future__ import annotations

from support.reading import Read

_MOST_SHOWN = 12


class Violations:
    """What is wrong, to be shown all at once."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def add(self, what: str, *packets: Read) -> None:
        self._said.append("\n      ".join([what, *map(str, packets)]))

    def require(self, right: bool, what: str, *packets: Read) -> None:
        if not right:
            self.add(what, *packets)

    def fail_if_any(self) -> None:
        if self._said:
            shown = "\n  - ".join(self._said[:_MOST_SHOWN])
            raise AssertionError(f"{len(self._said)} violations:\n  - {shown}")
