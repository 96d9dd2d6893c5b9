"""A start that has to wait. tests/kernel/test_service_notify.py has one with a real interface."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nfq_zerortt.errors import AbsentError, ConfigError, MissingFeatureError, ZeroRttError
from nfq_zerortt.notify import ServiceManager
from nfq_zerortt.starting import made_when_possible

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


def refused(error: ZeroRttError, manager: ServiceManager) -> ZeroRttError:
    with pytest.raises(ZeroRttError) as raised:
        made_when_possible(failing(error), manager, 0)
    return raised.value


def test_what_is_absent_is_waited_for_under_a_service_manager_alone() -> None:
    absent = AbsentError("--client-iface: no interface 'tun0' here")
    assert made_when_possible(failing(absent, 1), MANAGED) == "made"
    assert refused(absent, BY_HAND) is absent
    assert absent.exit_status == ConfigError.exit_status, "a name that is wrong, for all we know"
    still = refused(absent, MANAGED)
    assert still.exit_status == 1, "which the units try again"
    assert str(absent) in str(still)


@pytest.mark.parametrize("error", [ConfigError("a"), MissingFeatureError("b"), ZeroRttError("c")])
def test_what_waiting_does_not_mend_is_told_at_once(error: ZeroRttError) -> None:
    assert refused(error, MANAGED) is error
