"""Fixtures and settings of all tests. What tests import is in support.py."""

from __future__ import annotations

import hypothesis
import pytest

from tests.support import World

# Nothing in the tests depends on the speed of the machine.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture
def world() -> World:
    return World()
