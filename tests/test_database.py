"""Schema versions: what is upgraded, copied, refused, and left as it was.

`MigrationBehaviour` holds for any database; SQLite is real here, PostgreSQL in tests/live.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.pool import QueuePool

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.migrations import Schema
from horde_proxy.ledger import schema as ledger_schema
from horde_proxy.ledger.database import LedgerDatabase
from horde_proxy.ledger.records import Usage
from horde_proxy.store import schema as store_schema
from horde_proxy.web import session_database
from tests.test_ledger_database import ANN, BOB

OLD_ANN = replace(ANN, images_per_day=None, weight=1.0, places=())
"""Releases of that time limited no images, and keys had no weights and no places."""
LEDGER_VERSION_1 = (Path(__file__).parent / "data" / "ledger_version_1.sql").read_text()
"""A ledger as releases before schema versions wrote it."""
VERSION_1 = """
CREATE TABLE books (title TEXT NOT NULL PRIMARY KEY);
CREATE TABLE loans (title TEXT NOT NULL, reader TEXT NOT NULL);
INSERT INTO books VALUES ('Emma');
INSERT INTO books VALUES ('Dracula');
INSERT INTO loans VALUES ('Emma', 'ann');
"""
"""A library as its releases before schema versions wrote it."""
JANUARY_31 = 1_769_860_800.0


def statements(*lines: str) -> Callable[[Connection], None]:
    def migration(connection: Connection) -> None:
        for line in lines:
            connection.execute(text(line))

    return migration


def run(url: str, script: str) -> None:
    """Run SQL without any of the code under test."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.execute(text(statement))
    engine.dispose()


# A schema of the tests' own: those of the rooms get more versions as time goes on.
LIBRARY = Schema(
    "library",
    [
        statements(
            "CREATE TABLE IF NOT EXISTS books (title TEXT NOT NULL PRIMARY KEY)",
            "CREATE TABLE IF NOT EXISTS loans (title TEXT NOT NULL, reader TEXT NOT NULL)",
        )
    ],
    unversioned=("books", "loans"),
)
NEWER = replace(
    LIBRARY, migrations=[*LIBRARY.migrations, statements("ALTER TABLE books ADD COLUMN note TEXT")]
)
FAILING = replace(
    LIBRARY,
    migrations=[
        *LIBRARY.migrations,
        statements(
            "ALTER TABLE books ADD COLUMN note TEXT",
            "UPDATE loans SET reader = 'nobody'",
            "CREATE TABLE half_done (a TEXT)",
            "SELECT * FROM no_such_table",
        ),
    ],
)
DECLARED = {
    "ledger": (ledger_schema.SCHEMA, ledger_schema.USAGE.metadata),
    "page": (session_database.SCHEMA, session_database._ENDED.metadata),
    "answers": (store_schema.SCHEMA, store_schema.TABLES),
}
"""The schemas of the rooms, each with the tables that it declares."""
_PORTABLE = {"DOUBLE PRECISION": "FLOAT", "BYTEA": "BLOB"}
"""What PostgreSQL calls the types that SQLAlchemy and SQLite name otherwise."""


def run_in(database: Database, statement: str, schema: Schema = LIBRARY) -> list[tuple[Any, ...]]:
    """The rows of a statement, on tables that are up to date; [] where it has no rows."""
    with database.begin(schema) as connection:
        result = connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def titles(database: Database, schema: Schema = LIBRARY) -> list[str]:
    return [row[0] for row in run_in(database, "SELECT title FROM books ORDER BY title", schema)]


class MigrationBehaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def database(self, url: str) -> Iterator[Database]:
        database = Database(url, setting="access.database", now=lambda: JANUARY_31)
        yield database
        database.close()

    def versions(self, database: Database, schema: Schema) -> list[tuple[Any, ...]]:
        statement = "SELECT owner, version FROM schema_versions ORDER BY owner"
        return run_in(database, statement, schema)

    def columns(self, database: Database, schema: Schema) -> list[str]:
        with database.begin(schema) as connection:
            return [column["name"] for column in inspect(connection).get_columns("books")]

    def test_an_empty_database_gets_the_latest_version(self, database: Database) -> None:
        assert self.versions(database, NEWER) == [("library", 2)]
        assert self.columns(database, NEWER) == ["title", "note"]

    @pytest.mark.parametrize("owner", DECLARED)
    def test_the_migrations_make_the_declared_tables(self, database: Database, owner: str) -> None:
        schema, declared = DECLARED[owner]
        assert schema.owner == owner
        with database.begin(schema) as connection:
            tables = set(inspect(connection).get_table_names())
            assert tables == {*declared.tables, "schema_versions"}
            for table in declared.sorted_tables:
                made = {
                    column["name"]: _PORTABLE.get(str(column["type"]), str(column["type"]))
                    for column in inspect(connection).get_columns(table.name)
                }
                assert made == {column.name: str(column.type) for column in table.columns}

    def test_tables_without_a_version_are_version_1_and_lose_nothing(
        self, url: str, database: Database
    ) -> None:
        run(url, VERSION_1)
        assert titles(database) == ["Dracula", "Emma"]
        assert self.versions(database, LIBRARY) == [("library", 1)]

    def test_a_ledger_of_version_1_is_upgraded_and_loses_nothing(
        self, url: str, database: Database
    ) -> None:
        run(url, LEDGER_VERSION_1)
        ledger = LedgerDatabase(database)
        assert [(key, revoked) for _, key, revoked in ledger.all_keys()] == [
            (OLD_ANN, None),
            (BOB, 5000),
        ]
        assert ledger.usage("2026-01-01", "2026-12-31") == [
            Usage("2026-01-31", "ann", "m", "chat", 1, 0, 10, 5, 1.5)
        ]
        latest = ledger_schema.SCHEMA.version
        assert self.versions(database, ledger_schema.SCHEMA) == [("ledger", latest)]

    def test_usage_of_shortened_addresses_is_kept_under_names_that_no_client_has(
        self, url: str, database: Database
    ) -> None:
        run(url, LEDGER_VERSION_1)
        names = ("address 192.168.", "address 10.0.0.1", "address 10.0.0", "key 0123456789ab")
        row = "INSERT INTO usage VALUES ('2026-02-01', '{}', 'm', 'chat', 1, 0, 1, 1, 0)"
        for name in names:
            run(url, row.format(name))
        ledger = LedgerDatabase(database)
        assert [row.name for row in ledger.usage("2026-02-01", "2026-02-01")] == [
            "address 10.0.0",
            "address 10.0.0.1*",
            "address 192.168.*",
            "key 0123456789ab",
        ]

    def test_a_first_start_that_was_cut_short_is_finished(
        self, url: str, database: Database
    ) -> None:
        run(url, LEDGER_VERSION_1.partition("CREATE TABLE usage")[0])
        ledger = LedgerDatabase(database)
        assert [(key, revoked) for _, key, revoked in ledger.all_keys()] == [
            (OLD_ANN, None),
            (BOB, 5000),
        ]
        assert ledger.usage("2026-01-01", "2026-12-31") == []

    def test_an_older_database_is_upgraded_with_its_rows(
        self, url: str, database: Database
    ) -> None:
        run(url, VERSION_1)
        assert self.columns(database, NEWER) == ["title", "note"]
        assert self.versions(database, NEWER) == [("library", 2)]
        assert titles(database, NEWER) == ["Dracula", "Emma"]

    def test_a_newer_database_is_refused_with_what_to_do(
        self, url: str, database: Database
    ) -> None:
        self.versions(database, NEWER)
        database.close()
        with pytest.raises(DatabaseError) as caught:
            titles(database)
        assert "its library tables have version 2, this program knows 1" in str(caught.value)
        assert "Install the newer horde-proxy again, or restore the copy" in str(caught.value)

    def test_a_failing_migration_leaves_the_database_as_it_was(
        self, url: str, database: Database
    ) -> None:
        run(url, VERSION_1)
        assert titles(database) == ["Dracula", "Emma"]
        database.close()
        with pytest.raises(DatabaseError, match="no_such_table"):
            titles(database, FAILING)
        assert self.versions(database, LIBRARY) == [("library", 1)]
        assert self.columns(database, LIBRARY) == ["title"]
        assert run_in(database, "SELECT reader FROM loans") == [("ann",)]
        with database.begin(LIBRARY) as connection:
            assert "half_done" not in inspect(connection).get_table_names()

    def test_many_that_open_at_once_upgrade_once(self, url: str) -> None:
        run(url, VERSION_1)
        databases = [Database(url, setting="access.database") for _ in range(8)]
        barrier = threading.Barrier(8)

        def open_one(database: Database) -> list[str]:
            barrier.wait()
            return self.columns(database, NEWER)

        with ThreadPoolExecutor(8) as pool:
            columns = list(pool.map(open_one, databases))
        assert columns == [["title", "note"]] * 8
        for database in databases:
            database.close()

    def test_two_owners_share_a_database(self, database: Database) -> None:
        other = Schema("page", [statements("CREATE TABLE page_notes (a TEXT)")])
        run_in(database, "INSERT INTO books VALUES ('Emma')")
        assert self.versions(database, other) == [("library", 1), ("page", 1)]
        assert titles(database) == ["Emma"]


class TestSQLite(MigrationBehaviour):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/library.db"

    def test_the_file_is_copied_before_an_upgrade(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        run(url, VERSION_1)
        self.columns(database, NEWER)
        database.close()
        copy = tmp_path / "library.db.library-1.2026-01-31"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["library.db", copy.name]
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        restored = Database(f"sqlite:///{copy}", setting="access.database")
        assert titles(restored) == ["Dracula", "Emma"]
        restored.close()

    def test_a_copy_holds_what_is_only_in_the_write_ahead_log(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        run(url, VERSION_1)
        run_in(database, "INSERT INTO books VALUES ('Persuasion')")
        self.upgrade_beside(url)
        copy = sqlite3.connect(tmp_path / "library.db.library-1.2026-01-31")
        assert copy.execute("SELECT count(*) FROM books").fetchone() == (3,)
        copy.close()

    def upgrade_beside(self, url: str) -> None:
        """Another process of a newer release, while this one still has the file open."""
        other = Database(url, setting="access.database", now=lambda: JANUARY_31)
        self.columns(other, NEWER)
        other.close()

    def test_a_second_upgrade_on_the_same_day_replaces_the_copy(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        run_in(database, "INSERT INTO books VALUES ('Emma')")
        database.close()
        for _ in range(2):
            with pytest.raises(DatabaseError):
                titles(database, FAILING)
            run_in(database, "DELETE FROM books")
            database.close()
        assert len(list(tmp_path.glob("library.db.library-1.*"))) == 1

    def test_an_empty_or_current_database_is_not_copied(
        self, database: Database, tmp_path: Path
    ) -> None:
        run_in(database, "INSERT INTO books VALUES ('Emma')")
        database.close()
        run_in(database, "INSERT INTO books VALUES ('Dracula')")
        database.close()
        assert [path.name for path in tmp_path.iterdir()] == ["library.db"]

    def test_nothing_is_upgraded_where_the_file_cannot_be_copied(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        run(url, VERSION_1)
        (tmp_path / "library.db.library-1.2026-01-31").mkdir()
        with pytest.raises(DatabaseError, match=r"failed: .*library\.db\.library-1\.2026-01-31"):
            self.columns(database, NEWER)
        assert self.columns(database, LIBRARY) == ["title"]

    def test_a_copy_that_failed_halfway_is_removed(
        self, url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(url, VERSION_1)

        def fail(path: Path, copy: Path) -> None:
            copy.write_bytes(b"half of it")
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr("horde_proxy.database.engine._copy_pages", fail)
        with pytest.raises(DatabaseError, match="disk is full"):
            self.columns(database, NEWER)
        assert list(tmp_path.glob("library.db.library-1.*")) == []
        assert self.columns(database, LIBRARY) == ["title"]


def test_a_database_that_is_dropped_closes_its_connections(tmp_path: Path) -> None:
    """Else sqlite3 warns of each of them, from Python 3.13 on."""
    database = Database(f"sqlite:///{tmp_path}/library.db", setting="library.database")
    with database.begin(LIBRARY) as connection:
        opened = connection.engine
    pool = opened.pool
    assert isinstance(pool, QueuePool)
    # The end of the database replaces the pool, whose connections it has closed.
    before = pool.checkedin()
    del database
    gc.collect()
    assert (before, opened.pool is pool) == (1, False)


def test_what_was_committed_is_flushed_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino))
    url = f"sqlite:///{tmp_path}/library.db"
    database = Database(url, setting="store.database", waits_for_disk=False)
    database.flush()
    assert flushed == []
    run_in(database, "SELECT 1")
    database.flush()
    assert flushed == [(tmp_path / "library.db-wal").stat().st_ino]
    database.close()


@pytest.mark.usefixtures("waits_for_disk")
@pytest.mark.parametrize(("waits", "level"), [(True, 2), (False, 1)])
def test_sqlite_waits_for_the_disk_unless_it_need_not(
    tmp_path: Path, waits: bool, level: int
) -> None:
    url = f"sqlite:///{tmp_path}/library.db"
    database = Database(url, setting="access.database", waits_for_disk=waits)
    assert run_in(database, "PRAGMA synchronous") == [(level,)]
    database.close()
