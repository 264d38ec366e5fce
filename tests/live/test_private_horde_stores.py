"""The private horde over a real PostgreSQL, and over one database with several servers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.opening import open_store
from tests.live.postgresql import Postgresql, needs_postgresql
from tests.test_private_horde_random import HordeContext
from tests.test_private_horde_store import (
    RestartBehaviour,
    SignalBehaviour,
    StoreBehaviour,
    TableBehaviour,
)

pytestmark = needs_postgresql


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

    server: Postgresql

    def new_store(self) -> Store:
        return open_store(self.server.new_database())


def test_a_horde_in_postgresql_under_random_use(postgresql: Postgresql) -> None:
    PostgresqlContext.server = postgresql
    case = PostgresqlContext.TestCase
    case.settings = settings(
        max_examples=15, stateful_step_count=30, phases=[Phase.generate], database=None
    )
    case("runTest").runTest()


@pytest.mark.parametrize("reading", [0, 1])
def test_a_text_reaches_a_reader_in_another_process_before_it_is_saved(
    url: str, reading: int
) -> None:
    hordes = [PrivateHorde(store=open_store(url)) for _ in range(2)]
    key = "k" * 22
    hordes[0].add_account(key, "owner")
    request_id = hordes[0].submit(key, {"prompt": "x", "models": ["test"]})["id"]
    job_id = hordes[0].pop(key, {"name": "w", "models": ["test"]})["id"]
    events = hordes[reading].streams.stream(request_id, {}, 0.2)
    texts = (event for event in events if event is not None and event.name == "text")
    # The reader's first look, and that of the process that has a worker.
    assert next(event for event in events if event is not None).name == "status"
    for number, piece in enumerate(("Hello", " worl", "d 🦙")):
        body = {"id": job_id, "offset": 5 * number, "text": piece}
        hordes[0].streams.progress(key, body)
        assert next(texts).data == {"index": 0, "offset": 5 * number, "text": piece}
    hordes[0].submit_generation(key, {"id": job_id, "generation": "Hello world 🦙"})
    assert [event.name for event in events if event is not None][-2:] == ["generation", "done"]
    for horde in hordes:
        horde.store.close()


def test_hosts_with_wrong_clocks_go_by_that_of_the_database(url: str) -> None:
    """One of two servers has its clock put forward and back by hours; nobody notices."""
    wrong = [0.0]
    stores = [open_store(url) for _ in range(2)]
    clocks = [store.clock(lambda: time.time() + wrong[0]) for store in stores]
    hordes = [
        PrivateHorde(store=store, clock=clock, rate_limits=False)
        for store, clock in zip(stores, clocks, strict=True)
    ]
    key = "k" * 22
    hordes[0].add_account(key, "owner", kudos=1000)
    popped = []
    for jump in (600.0, -7200.0, 86_400.0, -60.0):
        ids = [horde.submit(key, {"prompt": "x", "models": ["test"]})["id"] for horde in hordes]
        jobs = [horde.pop(key, {"name": "w", "models": ["test"]})["id"] for horde in hordes]
        wrong[0] = jump
        assert abs(clocks[0]() - clocks[1]()) < 5
        for horde, job_id in zip(hordes, reversed(jobs), strict=True):
            horde.submit_generation(key, {"id": job_id, "generation": "hi"})
        for request_id in ids:
            [generation] = hordes[0].status(request_id)["generations"]
            assert generation["text"] == "hi"
        popped += jobs
    assert len(set(popped)) == 8
    for store in stores:
        store.close()
