"""What a probe says of one thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nfq_zerortt.kernel.scratch import Attempt, attempt

AS_ROOT = "run as root (sudo), or give the service the capability (AmbientCapabilities= in systemd)"


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        ok: whether it is as it should be; None when that could not be found out.
        required: whether the service does not run without it.
        detail: what was found.
        remedy: how to mend it; empty when there is nothing to mend.
    """

    name: str
    ok: bool | None
    required: bool
    detail: str
    remedy: str = ""

    @property
    def status(self) -> str:
        """One word: ok, missing (required), warning (not required), or unknown."""
        if self.ok is None:
            return "unknown"
        if self.ok:
            return "ok"
        return "missing" if self.required else "warning"


Probe = Callable[[], Feature]


def tried(name: str, action: Callable[[], str], remedy: str, *, required: bool = True) -> Feature:
    """Try something in a namespace that is gone afterwards; what it returns is the detail."""
    result: Attempt = attempt(action)
    return Feature(
        name, result.ok, required, result.detail, AS_ROOT if result.ok is None else remedy
    )
