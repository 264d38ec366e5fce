"""The private horde over a real PostgreSQL, and over one database with several servers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.opening import open_store
from tests.live.test_postgres import Server, programs, server_user
from tests.test_private_horde_random import HordeContext
from tests.test_private_horde_store import (
    RestartBehaviour,
    SignalBehaviour,
    StoreBehaviour,
    TableBehaviour,
)

pytest.importorskip("psycopg")
pytestmark = [
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(server_user() is None, reason="there is no user postgres to run it"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def url(server: Server) -> str:
    return server.new_database()


class TestPostgresql(StoreBehaviour):
    """All that a store does, here as well."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_store(url)
        yield store
        store.close()


class TestPostgresqlTables(TableBehaviour):
    """The migrations make the tables of the records, here as well."""


class TestPostgresqlRestart(RestartBehaviour):
    """What a new process finds in the database."""


class TestPostgresqlSignals(SignalBehaviour):
    """Waiting for what another process does, through NOTIFY."""


class PostgresqlContext(HordeContext):
    """Random use of a horde in PostgreSQL."""

    server: Server

    def new_store(self) -> Store:
        return open_store(self.server.new_database())


def test_a_horde_in_postgresql_under_random_use(server: Server) -> None:
    PostgresqlContext.server = server
    case = PostgresqlContext.TestCase
    case.settings = settings(
        max_examples=15, stateful_step_count=30, phases=[Phase.generate], database=None
    )
    case("runTest").runTest()
