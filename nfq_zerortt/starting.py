"""The start of the service under a service manager: as soon as what its settings name is there.

An interface may be away for a moment when the service is restarted (a VPN, a bond, a card that is
plugged in), and another program may just be leaving the queue. For whoever starts the service by
hand a name that is not there is a mistake, told at once, with exit status 2. A service waits for a
while, then ends with exit status 1: its manager starts it again. Wrong settings (2) and missing
features (3) are still so a second later, and not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nfq_zerortt.errors import AbsentError, ZeroRttError
from nfq_zerortt.notify import ServiceManager

PATIENCE_S = 10.0
"""So long, whoever misspells an interface waits for ``systemctl start`` to say so. The starts that
follow are too few for systemd's limit, which is for a service that crashes (StartLimitBurst=)."""

_LOOK_EVERY_S = 1.0

_Made = TypeVar("_Made")


def made_when_possible(
    make: Callable[[], _Made], manager: ServiceManager, patience_s: float = PATIENCE_S
) -> _Made:
    """Return what ``make`` returns; under a service manager, try again while something is absent.

    Raises:
        AbsentError: something is absent, and there is no service manager.
        ZeroRttError: it is still absent after ``patience_s``; or whatever else ``make`` raises.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            return make()
        except AbsentError as error:
            if not manager.listens:
                raise
            if time.monotonic() >= until:
                raise ZeroRttError(f"{error} (waited for {patience_s:g} s)") from None
            manager.starting(f"waiting: {error}")
            time.sleep(_LOOK_EVERY_S)
