"""What a probe says of one thing that was looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from nfq_zerortt.kernel import capabilities
from nfq_zerortt.kernel.scratch import Attempt, attempt
from nfq_zerortt.kernel.xtables import LockHeldError

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


def not_looked_at(name: str, error: Exception) -> Feature:
    """Say why something could not be looked at; to be root is the remedy only where one is not."""
    if isinstance(error, LockHeldError):
        remedy = "'nfq-zerortt check' looks again; see which program keeps the lock of iptables"
        return Feature(name, None, False, f"cannot be looked at: {error}", remedy)
    is_root = os.geteuid() == 0 and capabilities.effective() >= {"CAP_NET_ADMIN", "CAP_NET_RAW"}
    return Feature(name, None, False, f"cannot be looked at: {error}", "" if is_root else AS_ROOT)


def tried(name: str, action: Callable[[], str], remedy: str, *, required: bool = True) -> Feature:
    """Try something in a namespace that is gone afterwards; what it returns is the detail."""
    result: Attempt = attempt(action)
    return Feature(
        name, result.ok, required, result.detail, AS_ROOT if result.ok is None else remedy
    )
