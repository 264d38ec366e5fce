"""Fixtures of the tests with real processes, and the marker that all of them carry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.processes import Processes

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test of this folder `live`, and keep each file in one process of pytest-xdist.

    The tests of a file share servers, which would be started once for each process otherwise.
    """
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("live")
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.end()
