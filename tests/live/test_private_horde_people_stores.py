"""The people of a private horde over a real PostgreSQL: the same tests as for the other stores."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.opening import open_store
from tests import test_private_horde_people as people
from tests.live.test_postgres import Server, programs, server_user

pytest.importorskip("psycopg")
pytestmark = [
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(server_user() is None, reason="there is no user postgres to run it"),
]

# The tests with the fixture `store`; the fixture is the one below here.
globals().update(
    (name, test)
    for name, test in vars(people).items()
    if name.startswith("test_") and "store" in inspect.signature(test).parameters
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    store = open_store(server.new_database())
    yield store
    store.close()


def test_all_tests_with_a_store_are_here() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 10
