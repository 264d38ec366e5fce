"""The ledger and the store over a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import text

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger.database import LedgerDatabase, open_ledger
from horde_proxy.ledger.records import DayUsage
from horde_proxy.ledger.usage import UsageRecorder
from horde_proxy.notices.sent_in_database import SCHEMA as NOTICES
from horde_proxy.notices.sent_in_database import SENT, SentInDatabase
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.store.opening import open_store
from horde_proxy.router.pause_database import PauseDatabase
from horde_proxy.store.generation_record import GenerationRecord
from horde_proxy.store.generations import GenerationStore
from horde_proxy.store.jobs import JobStore
from tests.live.postgresql import PASSWORD, Postgresql, needs_postgresql
from tests.live.processes import until
from tests.support import Clock
from tests.test_database import MigrationBehaviour
from tests.test_ledger_database import ANN, DAY, LedgerBehaviour
from tests.test_store import AnswersBehaviour
from tests.test_store_batches import BatchesBehaviour
from tests.test_store_files import FilesBehaviour
from tests.test_store_jobs import JobsBehaviour
from tests.test_web_admin_log import FILTERS, RECORDS, requests_of
from tests.test_web_sessions import SharedSessions, clock, processes

__all__ = ["clock", "processes"]
NOON = 1_769_860_800.0
RECORD = GenerationRecord("chatcmpl-2", "r-2", NOON, "/v1/chat/completions", model="model")


pytestmark = needs_postgresql


class TestPostgreSQL(LedgerBehaviour):
    """All that the ledger does, here as well."""


class TestPostgreSQLSessions(SharedSessions):
    """Sessions that proxies share, here as well."""


class TestPostgreSQLAnswers(AnswersBehaviour):
    """All that is stored of answers, here as well."""


class TestPostgreSQLFiles(FilesBehaviour):
    """All that is done with files, here as well."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()


class TestPostgreSQLBatches(BatchesBehaviour):
    """All that is done with batches, here as well."""


class TestPostgreSQLJobs(JobsBehaviour):
    """All that is done with jobs, here as well."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def store(self, url: str, clock: Clock) -> Iterator[JobStore]:
        database = Database(url, setting="store.database", now=clock)
        yield JobStore(database, now=clock)
        database.close()


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


def test_a_server_that_hangs_holds_no_call_for_long(postgresql: Postgresql, url: str) -> None:
    ledger = open_ledger(url)
    ledger.add_key("digest-a", ANN)

    def call(number: int) -> float:
        began = time.monotonic()
        with pytest.raises(DatabaseError):
            ledger.valid_keys()
        return time.monotonic() - began

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda number: ledger.valid_keys(), range(24)))
        with postgresql.hanging():
            # More calls than there are connections: 15 s for an answer, 5 s for a connection.
            assert max(pool.map(call, range(24))) < 28
            # By now no connection is left, so that the next call fails as it connects.
            assert call(0) < 10
    until(lambda: _reads(ledger))
    assert [key.name for key in ledger.valid_keys().values()] == ["ann"]
    ledger.close()


def _reads(ledger: LedgerDatabase) -> bool:
    try:
        ledger.valid_keys()
    except DatabaseError:
        return False
    return True


def test_a_private_hordes_calls_end_where_its_server_hangs(
    postgresql: Postgresql, url: str
) -> None:
    store = open_store(url)
    horde = PrivateHorde(store=store)
    horde.ensure_owner("owner-key", kudos=1.0, concurrency=1, is_from_settings=True)

    def call(number: int) -> float:
        began = time.monotonic()
        with pytest.raises(DatabaseError):
            horde.ensure_owner(f"key-{number}", kudos=1.0, concurrency=1, is_from_settings=True)
        return time.monotonic() - began

    with ThreadPoolExecutor(24) as pool, postgresql.hanging():
        assert max(pool.map(call, range(24))) < 50
    horde.ensure_owner("owner-key", kudos=1.0, concurrency=1, is_from_settings=True)
    store.close()


def test_a_host_that_vanishes_in_a_transaction_holds_no_lock_for_long(url: str) -> None:
    vanished, other = (Database(url, setting="store.database") for _ in range(2))
    with vanished.begin(NOTICES) as connection:
        connection.execute(SENT.insert(), {"key": "a", "since": 1})
    with pytest.raises(DatabaseError), vanished.begin(NOTICES) as connection:
        connection.execute(SENT.update().values(since=2))
        began = time.monotonic()
        # The server waits for the first transaction's end, which never comes.
        with pytest.raises(DatabaseError), other.begin(NOTICES) as waiting:
            waiting.execute(text("SET LOCAL lock_timeout = '3s'"))
            waiting.execute(SENT.update().values(since=3))
        until(lambda: _changes(other), 60)
        assert 10 < time.monotonic() - began < 40
    vanished.close()
    other.close()


def _changes(database: Database) -> bool:
    try:
        with database.begin(NOTICES) as connection:
            connection.execute(SENT.update().values(since=3))
    except DatabaseError:
        return False
    return True


def test_notices_of_two_hosts_are_sent_once(url: str) -> None:
    one, two = (SentInDatabase(Database(url, setting="store.database")) for _ in range(2))
    assert [one.add("ntfy: down"), two.add("ntfy: down")] == [True, False]
    assert (one.keys(), two.keys()) == ({"ntfy: down"}, {"ntfy: down"})
    assert [two.remove("ntfy: down"), one.remove("ntfy: down")] == [True, False]
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda number: (one, two)[number % 2].add("many"), range(40)))
    assert claims.count(True) == 1


def test_answers_of_one_host_are_looked_up_at_another(url: str) -> None:
    now = [NOON]
    one, two = (
        GenerationStore(Database(url, setting="store.database"), 30, now=lambda: now[0])
        for _ in range(2)
    )
    one.save([("ann", replace(RECORD, id="chatcmpl-1", request_id="r-1"))])
    one.save([("ann", replace(RECORD, request_id="r-2", kudos=1.5))])
    two.save([("ann", replace(RECORD, request_id="r-2", kudos=2.5))])
    found = two.get("ann", "r-2")
    assert found is not None
    assert (found.kudos, found.model) == (2.5, "model")
    assert two.get("ann", "chatcmpl-1") == replace(RECORD, id="chatcmpl-1", request_id="r-1")
    assert two.get("bob", "r-2") is None
    now[0] += 31 * 86400
    two.prune()
    assert one.get("ann", "r-2") is None


def test_records_of_answers_are_filtered_as_in_sqlite(url: str) -> None:
    with closing(Database(url, setting="store.database")) as database:
        store = GenerationStore(database, 30, now=lambda: NOON)
        store.save(RECORDS)
        assert [requests_of(store, wanted) for wanted, _ in FILTERS] == [
            requests for _, requests in FILTERS
        ]


def test_pauses_are_shared(url: str) -> None:
    with (
        closing(Database(url, setting="store.database")) as one,
        closing(Database(url, setting="store.database")) as two,
    ):
        PauseDatabase(one).pause("home", NOON)
        PauseDatabase(two).pause("home", NOON + 60)
        assert PauseDatabase(two).paused() == {"home": NOON}
        PauseDatabase(two).resume("home")
        assert PauseDatabase(one).paused() == {}
