"""The people of a private horde over a real PostgreSQL: the same tests as for the other stores."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.opening import open_store
from tests import test_private_horde_people as people
from tests.live.postgresql import Postgresql, needs_postgresql

pytestmark = needs_postgresql

# The tests with the fixture `store`; the fixture is the one below here.
globals().update(
    (name, test)
    for name, test in vars(people).items()
    if name.startswith("test_") and "store" in inspect.signature(test).parameters
)


@pytest.fixture
def store(postgresql: Postgresql) -> Iterator[Store]:
    store = open_store(postgresql.new_database())
    yield store
    store.close()


def test_all_tests_with_a_store_are_here() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 10
