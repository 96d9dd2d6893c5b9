"""Waiting for something that must happen, and never for longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 60.0
"""What does not happen on a busy or an emulated machine in this time does not happen."""

_T = TypeVar("_T")


def until(
    condition: Callable[[], _T], what: str | Callable[[], str], timeout_s: float = PATIENCE_S
) -> _T:
    """Return ``condition()`` as soon as it is true; fail with ``what`` when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout_s:.0f} s: {said}")
        time.sleep(0.01)
    return result
