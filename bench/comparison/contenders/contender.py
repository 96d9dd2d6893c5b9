"""What every contender can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bench.comparison.laboratory import ComparisonLab


class Contender(Protocol):
    """Something that may stand on ClientNIC between the client and the server."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    @property
    def about(self) -> str:
        """What it is and how it is set up, in one line."""

    def up(self, lab: ComparisonLab) -> Sequence[int]:
        """Begin to work on ClientNIC of ``lab``; return the ids of its processes.

        All of it lives in the lab's hosts and is gone with them.

        Raises:
            MissingFeatureError: this machine lacks what it needs; says what by name.
            ZeroRttError: it did not start.
        """
