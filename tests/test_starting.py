"""A start that has to wait. tests/kernel/test_service_notify.py has one with a real interface."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from nfq_zerortt.errors import AbsentError, ConfigError, MissingFeatureError, ZeroRttError
from nfq_zerortt.notify import ServiceManager
from nfq_zerortt.starting import made_when_possible, signals_held

BY_HAND = ServiceManager({})
MANAGED = ServiceManager({"NOTIFY_SOCKET": "@nobody listens there"})


def failing(error: ZeroRttError, times: int = 99) -> Callable[[], str]:
    """Something that cannot be made so many times."""
    errors = iter([error] * times)

    def make() -> str:
        for one in errors:
            raise one
        return "made"

    return make


def fail() -> None:
    raise AssertionError("nobody asked for that")


def refused(error: ZeroRttError, manager: ServiceManager) -> ZeroRttError:
    with pytest.raises(ZeroRttError) as raised:
        made_when_possible(failing(error), manager, fail, 0)
    return raised.value


def test_what_is_absent_is_waited_for_under_a_service_manager_alone() -> None:
    absent = AbsentError("--client-iface: no interface 'tun0' here")
    assert made_when_possible(failing(absent, 1), MANAGED, fail) == "made"
    assert refused(absent, BY_HAND) is absent
    assert absent.exit_status == ConfigError.exit_status, "a name that is wrong, for all we know"
    still = refused(absent, MANAGED)
    assert still.exit_status == 1, "which the units try again"
    assert str(absent) in str(still)


@pytest.mark.parametrize("error", [ConfigError("a"), MissingFeatureError("b"), ZeroRttError("c")])
def test_what_waiting_does_not_mend_is_told_at_once(error: ZeroRttError) -> None:
    assert refused(error, MANAGED) is error


ABSENT = AbsentError("--client-iface: no interface 'tun0' here")


def told(number: signal.Signals) -> None:
    """Send a signal to this thread: the test runner has others, which would not let it wait."""
    signal.pthread_kill(threading.get_ident(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_is_told_to_end_while_waiting_ends_in_peace(number: signal.Signals) -> None:
    with signals_held():
        told(number)
        began = time.monotonic()
        assert made_when_possible(failing(ABSENT), MANAGED, fail) is None
    assert time.monotonic() - began < 1


def test_settings_are_read_again_while_waiting() -> None:
    waits_for = ["tun0"]

    def make() -> str:
        if waits_for[-1] == "tun0":
            told(signal.SIGHUP)
            raise ABSENT
        return waits_for[-1]

    def reread() -> None:
        waits_for.append("tun0")
        if len(waits_for) < 3:
            raise ConfigError("client_ifcae is unknown")
        waits_for.append("eth0")

    with signals_held():
        assert made_when_possible(make, MANAGED, reread) == "eth0"
    assert waits_for == ["tun0", "tun0", "tun0", "eth0"], "a refused file changes nothing"
