"""The ledger over a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger.database import open_ledger
from horde_proxy.ledger.records import DayUsage
from horde_proxy.ledger.usage import UsageRecorder
from tests.live.postgresql import PASSWORD, Postgresql, needs_postgresql
from tests.live.processes import until
from tests.test_database import MigrationBehaviour
from tests.test_ledger_database import ANN, DAY, LedgerBehaviour
from tests.test_web_sessions import SharedSessions, clock, processes

__all__ = ["clock", "processes"]
NOON = 1_769_860_800.0


pytestmark = needs_postgresql


class TestPostgreSQL(LedgerBehaviour):
    """All that the ledger does, here as well."""


class TestPostgreSQLSessions(SharedSessions):
    """Sessions that proxies share, here as well."""


class TestPostgreSQLMigrations(MigrationBehaviour):
    """All upgrades, here as well."""


@pytest.fixture
def recorders(url: str) -> Iterator[tuple[UsageRecorder, UsageRecorder]]:
    ledgers = open_ledger(url), open_ledger(url)
    one, two = (UsageRecorder(ledger, now=lambda: NOON, interval=3600) for ledger in ledgers)
    yield one, two
    for opened in (one, two, *ledgers):
        opened.close()


def test_two_recorders_on_one_database_see_each_others_totals(
    recorders: tuple[UsageRecorder, UsageRecorder],
) -> None:
    one, two = recorders
    one.add("ann", "m", "chat", prompt_tokens=10, completion_tokens=5, kudos=1.5)
    two.add("ann", "n", "chat", prompt_tokens=20, completion_tokens=5, kudos=1.0)
    one.flush()
    two.flush()
    one.flush()
    assert [recorder.used_today("ann") for recorder in recorders] == [
        DayUsage(40, 2.5),
        DayUsage(40, 2.5),
    ]
    assert one.usage(DAY, DAY) == two.usage(DAY, DAY)


def test_two_recorders_with_threads_come_to_the_same_totals(url: str) -> None:
    ledgers = open_ledger(url), open_ledger(url)
    recorders = [UsageRecorder(ledger, now=lambda: NOON, interval=0.01) for ledger in ledgers]
    for number in range(200):
        recorders[number % 2].add("ann", str(number % 7), "chat", prompt_tokens=1)
    until(lambda: [recorder.used_today("ann").tokens for recorder in recorders] == [200, 200])
    for recorder in recorders:
        recorder.close()
    assert sum(row.requests for row in ledgers[0].usage(DAY, DAY)) == 200
    for ledger in ledgers:
        ledger.close()


def test_usage_is_written_when_a_stopped_server_is_back(
    postgresql: Postgresql, recorders: tuple[UsageRecorder, UsageRecorder]
) -> None:
    one, two = recorders
    one.add("ann", "m", "chat", prompt_tokens=10)
    one.flush()
    postgresql.stop()
    one.add("ann", "m", "chat", prompt_tokens=5)
    one.flush()
    assert one.used_today("ann") == DayUsage(15, 0.0)
    postgresql.start()
    one.flush()
    two.flush()
    assert (one.used_today("ann"), two.used_today("ann")) == (DayUsage(15, 0.0), DayUsage(15, 0.0))


def test_a_wrong_password_is_an_error_that_does_not_show_it(url: str) -> None:
    ledger = open_ledger(url.replace(PASSWORD, "wrong-secret"))
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        ledger.add_key("digest-a", ANN)
    assert "wrong-secret" not in str(caught.value)


def test_a_missing_database_is_named(postgresql: Postgresql) -> None:
    with pytest.raises(DatabaseError, match='database "nowhere" does not exist'):
        open_ledger(postgresql.url("nowhere")).valid_keys()
