"""The start of the service under a service manager: as soon as what its settings name is there.

An interface may be away for a moment when the service is restarted (a VPN, a bond, a card that is
plugged in), and another program may just be leaving the queue. For whoever starts the service by
hand a name that is not there is a mistake, told at once, with exit status 2. A service waits for a
while, then ends with exit status 1: its manager starts it again. Wrong settings (2) and missing
features (3) are still so a second later, and not tried again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from nfq_zerortt.errors import AbsentError, ZeroRttError
from nfq_zerortt.notify import ServiceManager

PATIENCE_S = 10.0
"""So long, whoever misspells an interface waits for ``systemctl start`` to say so. The starts that
follow are too few for systemd's limit, which is for a service that crashes (StartLimitBurst=)."""

_LOOK_EVERY_S = 1.0

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What the service is asked for by: to end, and to read its settings again."""

_Made = TypeVar("_Made")


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals wait until the start looks at them, or the service that was started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def made_when_possible(
    make: Callable[[], _Made],
    manager: ServiceManager,
    reread: Callable[[], None],
    patience_s: float = PATIENCE_S,
) -> _Made | None:
    """Return what ``make`` returns; under a service manager, try again while something is absent.

    None if SIGTERM or SIGINT came meanwhile. ``reread`` is called at SIGHUP; what it refuses
    changes nothing. Signals have to be held for that (:func:`signals_held`).

    Raises:
        AbsentError: something is absent, and there is no service manager.
        ZeroRttError: it is still absent after ``patience_s``; or whatever else ``make`` raises.
    """
    until = time.monotonic() + patience_s
    refused = ""
    while True:
        try:
            return make()
        except AbsentError as error:
            if not manager.listens:
                raise
            if time.monotonic() >= until:
                raise ZeroRttError(f"{error} (waited for {patience_s:g} s)") from None
            manager.starting(f"waiting: {error}{refused}")
        got = signal.sigtimedwait(SIGNALS, _LOOK_EVERY_S)
        if got is not None and got.si_signo != signal.SIGHUP:
            return None
        if got is not None:
            try:
                reread()
                refused = ""
            except ZeroRttError as error:
                refused = f"; settings refused: {error}"
