"""Fixtures of the tests that send real packets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nfq_zerortt.testbed.network import Testbed


@pytest.fixture(scope="session")
def testbed_factory() -> Iterator[Callable[..., Testbed]]:
    """Make testbeds with unique names, brought up unless ``up=False``; all go down at the end.

    The other keywords are those of Testbed.
    """
    if os.geteuid() != 0:
        pytest.fail("tests/kernel make network namespaces: run them as root", pytrace=False)
    numbers = itertools.count()
    made: list[Testbed] = []

    def make(*, up: bool = True, **keywords: Any) -> Testbed:
        testbed = Testbed(f"zt{os.getpid()}-{next(numbers)}", **keywords)
        made.append(testbed)
        if up:
            testbed.up()
        return testbed

    try:
        yield make
    finally:
        for testbed in made:
            testbed.down()
