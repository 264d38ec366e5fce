"""Keys and usage in a database. `Behaviour` is what any of them does; SQLite is real here."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger.database import LedgerDatabase, open_ledger
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.records import DayUsage, Usage

ANN = ClientKey(
    "ann",
    models=("*llama*", "b"),
    endpoints=("chat",),
    requests_per_minute=60,
    concurrent=2,
    tokens_per_day=100_000,
    kudos_per_day=12.5,
    horde_key="0000000000",
    admin=True,
    created=1000,
)
BOB = ClientKey("bob", created=2000)
DAY = "2026-01-31"


def used(name: str = "ann", day: str = DAY, model: str = "m", tokens: int = 5) -> Usage:
    return Usage(day, name, model, "chat", 1, 0, 10, tokens, 1.5)


class Behaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[LedgerDatabase]:
        store = open_ledger(url, now=lambda: 5000.7)
        yield store
        store.close()

    @pytest.fixture
    def other(self, url: str) -> Iterator[LedgerDatabase]:
        store = open_ledger(url)
        yield store
        store.close()

    def test_another_store_finds_a_key_with_all_of_its_limits(
        self, store: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        store.add_key("digest-a", ANN)
        store.add_key("digest-b", BOB)
        assert other.valid_keys() == {"digest-a": ANN, "digest-b": BOB}

    def test_a_revoked_key_is_listed_but_not_among_the_keys(
        self, store: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        store.add_key("digest-b", BOB)
        store.add_key("digest-a", ANN)
        assert store.revoke_key("ann") is True
        assert other.valid_keys() == {"digest-b": BOB}
        assert other.all_keys() == [(ANN, 5000), (BOB, None)]

    def test_there_is_nothing_to_revoke_twice(self, store: LedgerDatabase) -> None:
        store.add_key("digest-a", ANN)
        assert [store.revoke_key("ann"), store.revoke_key("ann"), store.revoke_key("eve")] == [
            True,
            False,
            False,
        ]

    def test_a_name_in_use_is_refused(self, store: LedgerDatabase) -> None:
        store.add_key("digest-a", ANN)
        with pytest.raises(DatabaseError, match="The name `ann` is in use. Choose another"):
            store.add_key("digest-b", ANN)

    def test_the_name_of_a_revoked_key_is_refused(self, store: LedgerDatabase) -> None:
        store.add_key("digest-a", ANN)
        store.revoke_key("ann")
        with pytest.raises(
            DatabaseError, match="`ann` belonged to a revoked key, whose usage is kept"
        ):
            store.add_key("digest-b", ANN)

    def test_a_key_under_a_second_name_is_refused(self, store: LedgerDatabase) -> None:
        store.add_key("digest-a", ANN)
        with pytest.raises(DatabaseError, match="exists already, under the name `ann`"):
            store.add_key("digest-a", BOB)

    def test_a_limit_that_no_column_holds_is_an_error(self, store: LedgerDatabase) -> None:
        with pytest.raises(DatabaseError):
            store.add_key("digest-a", ClientKey("ann", tokens_per_day=2**80))

    def test_what_is_recorded_adds_up(self, store: LedgerDatabase, other: LedgerDatabase) -> None:
        store.add_usage([used(), used(model="n")])
        other.add_usage([used(tokens=7), Usage(DAY, "ann", "m", "chat", 2, 1)])
        assert store.usage(DAY, DAY) == [
            Usage(DAY, "ann", "m", "chat", 4, 1, 20, 12, 3.0),
            Usage(DAY, "ann", "n", "chat", 1, 0, 10, 5, 1.5),
        ]

    def test_usage_is_of_the_given_days_and_name(self, store: LedgerDatabase) -> None:
        days = ("2025-12-31", "2026-01-01", "2026-01-09", "2026-01-10")
        store.add_usage([used(name, day) for name in ("bob", "ann") for day in days])
        found = store.usage("2026-01-01", "2026-01-09")
        assert [(row.day, row.name) for row in found] == [
            ("2026-01-01", "ann"),
            ("2026-01-01", "bob"),
            ("2026-01-09", "ann"),
            ("2026-01-09", "bob"),
        ]
        assert store.usage("2026-01-10", "2026-01-31", "bob") == [used("bob", "2026-01-10")]

    def test_what_was_spent_is_of_one_day_and_all_models(self, store: LedgerDatabase) -> None:
        store.add_usage([used(), used(model="n"), used("bob"), used(day="2026-02-01")])
        assert store.totals(DAY) == {"ann": DayUsage(30, 3.0), "bob": DayUsage(15, 1.5)}
        assert store.totals("2026-02-02") == {}

    def test_nothing_is_lost_when_many_record_at_once(
        self, store: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        rows = [used(model=str(number)) for number in range(5)]
        both = (store, other)

        def record(number: int) -> None:
            both[number % 2].add_usage(rows if number % 3 else rows[::-1])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(record, range(80)))
        assert [row.requests for row in store.usage(DAY, DAY)] == [80] * 5

    def test_many_may_make_the_tables_at_once(self, url: str) -> None:
        stores = [open_ledger(url) for _ in range(8)]
        barrier = threading.Barrier(8)

        def begin(store: LedgerDatabase) -> None:
            barrier.wait()
            store.add_usage([used()])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(begin, stores))
        assert stores[0].totals(DAY) == {"ann": DayUsage(120, 12.0)}
        for store in stores:
            store.close()

    def test_an_entry_that_no_database_takes_is_made_fit(self, store: LedgerDatabase) -> None:
        store.add_usage(
            [Usage(DAY, "ann", "a\0b\ud800" + "c" * 300, "chat", 1, 0, 10**30, -5, float("nan"))]
        )
        assert store.usage(DAY, DAY) == [
            Usage(DAY, "ann", "a?b?" + "c" * 196, "chat", 1, 0, 2**40, 0, 0.0)
        ]

    def test_nothing_to_record_is_no_error(self, store: LedgerDatabase) -> None:
        store.add_usage([])
        assert store.usage(DAY, DAY) == []

    def test_a_closed_store_opens_again(self, store: LedgerDatabase) -> None:
        store.add_key("digest-a", ANN)
        store.close()
        assert store.valid_keys() == {"digest-a": ANN}


class TestSQLite(Behaviour):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/ledger.db"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    store = open_ledger(f"sqlite:///{tmp_path}/data/ledger.db")
    store.add_key("digest-a", ANN)
    assert mode(tmp_path / "data") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "data").iterdir()} == {
        "ledger.db": 0o600,
        "ledger.db-wal": 0o600,
        "ledger.db-shm": 0o600,
    }
    store.close()


def test_what_root_makes_in_a_services_directory_is_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    store = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    store.add_key("digest-a", ANN)
    owner = tmp_path.stat().st_uid
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {owner}
    assert mode(tmp_path / "ledger.db") == 0o600
    store.close()


def test_a_store_that_is_not_used_makes_no_file(tmp_path: Path) -> None:
    open_ledger(f"sqlite:///{tmp_path}/data/ledger.db").close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_one_that_readers_and_a_writer_share(tmp_path: Path) -> None:
    store = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    store.valid_keys()
    store.close()
    connection = sqlite3.connect(tmp_path / "ledger.db")
    assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    connection.close()


@pytest.mark.parametrize(
    "url",
    [
        "ledger.db",
        "",
        "postgresql://ann:secret@host:port/db",
        "mysql://ann:secret@host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:ledger?mode=memory&uri=true",
        "postgresql+asyncpg://ann:secret@host/db",
    ],
)
def test_a_wrong_url_is_told_at_once_with_what_to_write(url: str) -> None:
    with pytest.raises(DatabaseError, match="Write sqlite:///FILE") as caught:
        open_ledger(url)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_an_error_without_the_password() -> None:
    pytest.importorskip("psycopg")
    store = open_ledger("postgresql://ann:secret@127.0.0.1:1/db?application_name=secret")
    with pytest.raises(DatabaseError, match=r"//ann:\*\*\*@127.0.0.1:1/db failed") as caught:
        store.valid_keys()
    assert "secret" not in str(caught.value)


def test_a_directory_that_cannot_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DatabaseError, match="ledger.db failed: .*file.*Set access.database to a place"
    ):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.db").valid_keys()


def test_a_read_only_directory_is_an_error_of_the_store(tmp_path: Path) -> None:
    imports_all = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    imports_all.valid_keys()
    imports_all.close()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o555)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            with pytest.raises(DatabaseError, match="ledger.db failed: .*Permission denied"):
                open_ledger(f"sqlite:///{directory}/ledger.db").valid_keys()
        finally:
            if is_root:
                os.seteuid(0)


def test_a_file_that_is_no_database_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no database, but quite some text all the same" * 9)
    with pytest.raises(DatabaseError, match="file is not a database"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.db").valid_keys()


def test_an_error_shows_nothing_of_a_key(tmp_path: Path) -> None:
    store = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(DatabaseError) as caught:
        store.add_key("digest-a", ClientKey("ann", horde_key="secret", concurrent=2**80))
    assert "secret" not in str(caught.value)
    store.close()
