"""Jobs in a real PostgreSQL, which several processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from horde_proxy.database.engine import Database
from horde_proxy.store.jobs import JobStore
from tests.live.postgresql import needs_postgresql
from tests.support import Clock
from tests.test_store_jobs import JobsBehaviour

pytestmark = needs_postgresql


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[JobStore]:
    database = Database(url, setting="store.database", now=clock)
    yield JobStore(database, now=clock)
    database.close()


class TestJobsInPostgreSQL(JobsBehaviour):
    """All that holds in a file, here as well."""
