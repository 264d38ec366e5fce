"""Schema versions: what is upgraded, copied, refused, and left as it was.

`MigrationBehaviour` holds for any database; SQLite is real here, PostgreSQL in tests/live.
"""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.migrations import Schema
from horde_proxy.ledger import schema as ledger_schema
from horde_proxy.ledger.database import LedgerDatabase
from horde_proxy.ledger.records import Usage
from tests.test_ledger_database import ANN, BOB

VERSION_1 = (Path(__file__).parent / "data" / "ledger_version_1.sql").read_text()
"""A ledger as releases before schema versions wrote it."""
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


def newer(*more: Callable[[Connection], None]) -> Schema:
    """The ledger of some later release."""
    return replace(ledger_schema.SCHEMA, migrations=[*ledger_schema.SCHEMA.migrations, *more])


ADD_NOTE = statements("ALTER TABLE client_keys ADD COLUMN note TEXT")
FAIL = statements(
    "ALTER TABLE client_keys ADD COLUMN note TEXT",
    "UPDATE usage SET requests = 99",
    "CREATE TABLE half_done (a TEXT)",
    "SELECT * FROM no_such_table",
)


class MigrationBehaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def database(self, url: str) -> Iterator[Database]:
        database = Database(url, setting="access.database", now=lambda: JANUARY_31)
        yield database
        database.close()

    def versions(self, database: Database, schema: Schema) -> list[tuple[str, int]]:
        with database.begin(schema) as connection:
            rows = connection.execute(text("SELECT owner, version FROM schema_versions"))
            return sorted((row.owner, row.version) for row in rows)

    def columns(self, database: Database, schema: Schema) -> list[str]:
        with database.begin(schema) as connection:
            return [column["name"] for column in inspect(connection).get_columns("client_keys")]

    def test_an_empty_database_gets_the_latest_version(self, database: Database) -> None:
        assert self.versions(database, newer(ADD_NOTE)) == [("ledger", 2)]
        assert "note" in self.columns(database, newer(ADD_NOTE))

    def test_the_migrations_make_the_declared_tables(self, database: Database) -> None:
        with database.begin(ledger_schema.SCHEMA) as connection:
            for table in (ledger_schema.CLIENT_KEYS, ledger_schema.USAGE):
                made = {
                    column["name"]: str(column["type"]).replace("DOUBLE PRECISION", "FLOAT")
                    for column in inspect(connection).get_columns(table.name)
                }
                assert made == {column.name: str(column.type) for column in table.columns}

    def test_a_ledger_without_a_version_is_version_1_and_loses_nothing(
        self, url: str, database: Database
    ) -> None:
        run(url, VERSION_1)
        ledger = LedgerDatabase(database)
        assert ledger.all_keys() == [(ANN, None), (BOB, 5000)]
        assert ledger.usage("2026-01-01", "2026-12-31") == [
            Usage("2026-01-31", "ann", "m", "chat", 1, 0, 10, 5, 1.5)
        ]
        assert self.versions(database, ledger_schema.SCHEMA) == [("ledger", 1)]

    def test_a_first_start_that_was_cut_short_is_finished(
        self, url: str, database: Database
    ) -> None:
        run(url, VERSION_1.partition("CREATE TABLE usage")[0])
        ledger = LedgerDatabase(database)
        assert ledger.all_keys() == [(ANN, None), (BOB, 5000)]
        assert ledger.usage("2026-01-01", "2026-12-31") == []

    def test_an_older_database_is_upgraded_with_its_rows(
        self, url: str, database: Database
    ) -> None:
        run(url, VERSION_1)
        assert self.columns(database, newer(ADD_NOTE))[-1] == "note"
        assert self.versions(database, newer(ADD_NOTE)) == [("ledger", 2)]
        assert LedgerDatabase(database).all_keys() == [(ANN, None), (BOB, 5000)]

    def test_a_newer_database_is_refused_with_what_to_do(
        self, url: str, database: Database
    ) -> None:
        self.versions(database, newer(ADD_NOTE))
        database.close()
        with pytest.raises(DatabaseError) as caught:
            LedgerDatabase(database).valid_keys()
        assert "its ledger tables have version 2, this program knows 1" in str(caught.value)
        assert "Install the newer horde-proxy again, or restore the copy" in str(caught.value)

    def test_a_failing_migration_leaves_the_database_as_it_was(
        self, url: str, database: Database
    ) -> None:
        LedgerDatabase(database).add_key("digest-a", ANN)
        LedgerDatabase(database).add_usage([Usage("2026-01-31", "ann", "m", "chat", 1)])
        database.close()
        with pytest.raises(DatabaseError, match="no_such_table"):
            self.versions(database, newer(FAIL))
        assert self.versions(database, ledger_schema.SCHEMA) == [("ledger", 1)]
        assert "note" not in self.columns(database, ledger_schema.SCHEMA)
        [row] = LedgerDatabase(database).usage("2026-01-31", "2026-01-31")
        assert row.requests == 1
        with database.begin(ledger_schema.SCHEMA) as connection:
            assert "half_done" not in inspect(connection).get_table_names()

    def test_many_that_open_at_once_upgrade_once(self, url: str) -> None:
        run(url, VERSION_1)
        databases = [Database(url, setting="access.database") for _ in range(8)]
        barrier = threading.Barrier(8)

        def open_one(database: Database) -> list[str]:
            barrier.wait()
            return self.columns(database, newer(ADD_NOTE))

        with ThreadPoolExecutor(8) as pool:
            columns = list(pool.map(open_one, databases))
        assert [names.count("note") for names in columns] == [1] * 8
        for database in databases:
            database.close()

    def test_two_owners_share_a_database(self, database: Database) -> None:
        other = Schema("page", [statements("CREATE TABLE page_notes (a TEXT)")] * 1)
        LedgerDatabase(database).add_key("digest-a", ANN)
        assert self.versions(database, other) == [("ledger", 1), ("page", 1)]
        assert LedgerDatabase(database).valid_keys() == {"digest-a": ANN}


class TestSQLite(MigrationBehaviour):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/ledger.db"

    def test_the_file_is_copied_before_an_upgrade(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        run(url, VERSION_1)
        self.columns(database, newer(ADD_NOTE))
        database.close()
        copy = tmp_path / "ledger.db.ledger-1.2026-01-31"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.db", copy.name]
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        restored = Database(f"sqlite:///{copy}", setting="access.database")
        assert LedgerDatabase(restored).all_keys() == [(ANN, None), (BOB, 5000)]
        restored.close()

    def test_a_copy_holds_what_is_only_in_the_write_ahead_log(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        run(url, VERSION_1)
        ledger = LedgerDatabase(database)
        ledger.add_key("digest-c", replace(BOB, name="carl"))
        self.upgrade_beside(url)
        copy = sqlite3.connect(tmp_path / "ledger.db.ledger-1.2026-01-31")
        assert copy.execute("SELECT count(*) FROM client_keys").fetchone() == (3,)
        copy.close()

    def upgrade_beside(self, url: str) -> None:
        """Another process of a newer release, while this one still has the file open."""
        other = Database(url, setting="access.database", now=lambda: JANUARY_31)
        self.columns(other, newer(ADD_NOTE))
        other.close()

    def test_a_second_upgrade_on_the_same_day_replaces_the_copy(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        LedgerDatabase(database).add_key("digest-a", ANN)
        database.close()
        for _ in range(2):
            with pytest.raises(DatabaseError):
                self.versions(database, newer(FAIL))
            LedgerDatabase(database).revoke_key("ann")
            database.close()
        assert len(list(tmp_path.glob("ledger.db.ledger-1.*"))) == 1

    def test_an_empty_or_current_database_is_not_copied(
        self, database: Database, tmp_path: Path
    ) -> None:
        LedgerDatabase(database).add_key("digest-a", ANN)
        database.close()
        LedgerDatabase(database).add_key("digest-b", BOB)
        database.close()
        assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]

    def test_nothing_is_upgraded_where_the_file_cannot_be_copied(
        self, url: str, database: Database, tmp_path: Path
    ) -> None:
        run(url, VERSION_1)
        (tmp_path / "ledger.db.ledger-1.2026-01-31").mkdir()
        with pytest.raises(DatabaseError, match=r"failed: .*ledger\.db\.ledger-1\.2026-01-31"):
            self.columns(database, newer(ADD_NOTE))
        assert "note" not in self.columns(database, ledger_schema.SCHEMA)

    def test_a_copy_that_failed_halfway_is_removed(
        self, url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(url, VERSION_1)

        def fail(path: Path, copy: Path) -> None:
            copy.write_bytes(b"half of it")
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr("horde_proxy.database.engine._copy_pages", fail)
        with pytest.raises(DatabaseError, match="disk is full"):
            self.columns(database, newer(ADD_NOTE))
        assert list(tmp_path.glob("ledger.db.ledger-1.*")) == []
        assert "note" not in self.columns(database, ledger_schema.SCHEMA)
