"""What several tests of the core begin with."""

from __future__ import annotations

import pytest

from tests.core.model.bench import Bench


@pytest.fixture
def bench() -> Bench:
    """Return an engine with a kernel in front of it, and nothing there yet."""
    return Bench()
