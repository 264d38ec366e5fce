"""Keys and usage in a database. `LedgerBehaviour` is what any of them does; SQLite is real here."""

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
    images_per_day=20,
    weight=2.5,
    horde_key="0000000000",
    admin=True,
    created=1000,
    places=("home", "private"),
)
BOB = ClientKey("bob", created=2000)
DAY = "2026-01-31"


def used(name: str = "ann", day: str = DAY, model: str = "m", tokens: int = 5) -> Usage:
    return Usage(day, name, model, "chat", 1, 0, 10, tokens, 1.5)


class LedgerBehaviour:
    """Needs the fixture `url`, an empty database."""

    @pytest.fixture
    def ledger(self, url: str) -> Iterator[LedgerDatabase]:
        ledger = open_ledger(url, now=lambda: 5000.7)
        yield ledger
        ledger.close()

    @pytest.fixture
    def other(self, url: str) -> Iterator[LedgerDatabase]:
        ledger = open_ledger(url)
        yield ledger
        ledger.close()

    def test_images_are_summed_by_row_and_by_day(
        self, ledger: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        other.add_usage([Usage(DAY, "ann", "m", "horde", 1, images=4)])
        ledger.add_usage([Usage(DAY, "ann", "m", "horde", 1, kudos=2.5, images=1)])
        assert other.usage(DAY, DAY) == [Usage(DAY, "ann", "m", "horde", 2, kudos=2.5, images=5)]
        assert other.totals(DAY) == {"ann": DayUsage(0, 2.5, 5)}

    def test_another_process_finds_a_key_with_all_of_its_limits(
        self, ledger: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        ledger.add_key("digest-a", ANN)
        ledger.add_key("digest-b", BOB)
        assert other.valid_keys() == {"digest-a": ANN, "digest-b": BOB}

    def test_a_revoked_key_is_listed_but_not_among_the_keys(
        self, ledger: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        ledger.add_key("digest-b", BOB)
        ledger.add_key("digest-a", ANN)
        assert ledger.revoke_key("ann") is True
        assert other.valid_keys() == {"digest-b": BOB}
        assert [(key, revoked) for _, key, revoked in other.all_keys()] == [
            (ANN, 5000),
            (BOB, None),
        ]

    def test_a_key_is_revoked_once(self, ledger: LedgerDatabase) -> None:
        ledger.add_key("digest-a", ANN)
        assert [ledger.revoke_key("ann"), ledger.revoke_key("ann"), ledger.revoke_key("eve")] == [
            True,
            False,
            False,
        ]

    def test_a_name_in_use_is_refused(self, ledger: LedgerDatabase) -> None:
        ledger.add_key("digest-a", ANN)
        with pytest.raises(DatabaseError, match="The name `ann` is in use. Choose another"):
            ledger.add_key("digest-b", ANN)

    def test_the_name_of_a_revoked_key_is_refused(self, ledger: LedgerDatabase) -> None:
        ledger.add_key("digest-a", ANN)
        ledger.revoke_key("ann")
        with pytest.raises(
            DatabaseError, match="`ann` belonged to a revoked key, whose usage is kept"
        ):
            ledger.add_key("digest-b", ANN)

    def test_a_key_under_a_second_name_is_refused(self, ledger: LedgerDatabase) -> None:
        ledger.add_key("digest-a", ANN)
        with pytest.raises(DatabaseError, match="exists already, under the name `ann`"):
            ledger.add_key("digest-a", BOB)

    def test_a_limit_that_no_column_holds_is_an_error(self, ledger: LedgerDatabase) -> None:
        with pytest.raises(DatabaseError):
            ledger.add_key("digest-a", ClientKey("ann", tokens_per_day=2**80))

    def test_usage_is_added_to_the_sums(
        self, ledger: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        ledger.add_usage([used(), used(model="n")])
        other.add_usage([used(tokens=7), Usage(DAY, "ann", "m", "chat", 2, 1)])
        assert ledger.usage(DAY, DAY) == [
            Usage(DAY, "ann", "m", "chat", 4, 1, 20, 12, 3.0),
            Usage(DAY, "ann", "n", "chat", 1, 0, 10, 5, 1.5),
        ]

    def test_usage_is_of_the_given_days_and_name(self, ledger: LedgerDatabase) -> None:
        days = ("2025-12-31", "2026-01-01", "2026-01-09", "2026-01-10")
        ledger.add_usage([used(name, day) for name in ("bob", "ann") for day in days])
        rows = ledger.usage("2026-01-01", "2026-01-09")
        assert [(row.day, row.name) for row in rows] == [
            ("2026-01-01", "ann"),
            ("2026-01-01", "bob"),
            ("2026-01-09", "ann"),
            ("2026-01-09", "bob"),
        ]
        assert ledger.usage("2026-01-10", "2026-01-31", "bob") == [used("bob", "2026-01-10")]

    def test_totals_are_of_one_day_and_all_models(self, ledger: LedgerDatabase) -> None:
        ledger.add_usage([used(), used(model="n"), used("bob"), used(day="2026-02-01")])
        assert ledger.totals(DAY) == {"ann": DayUsage(30, 3.0), "bob": DayUsage(15, 1.5)}
        assert ledger.totals("2026-02-02") == {}

    def test_no_usage_is_lost_when_many_threads_add_at_once(
        self, ledger: LedgerDatabase, other: LedgerDatabase
    ) -> None:
        rows = [used(model=str(number)) for number in range(5)]
        both = (ledger, other)

        def record(number: int) -> None:
            both[number % 2].add_usage(rows if number % 3 else rows[::-1])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(record, range(80)))
        assert [row.requests for row in ledger.usage(DAY, DAY)] == [80] * 5

    def test_many_threads_may_create_the_tables_at_once(self, url: str) -> None:
        ledgers = [open_ledger(url) for _ in range(8)]
        barrier = threading.Barrier(8)

        def begin(ledger: LedgerDatabase) -> None:
            barrier.wait()
            ledger.add_usage([used()])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(begin, ledgers))
        assert ledgers[0].totals(DAY) == {"ann": DayUsage(120, 12.0)}
        for ledger in ledgers:
            ledger.close()

    def test_usage_that_no_database_accepts_is_made_storable(self, ledger: LedgerDatabase) -> None:
        ledger.add_usage(
            [Usage(DAY, "ann", "a\0b\ud800" + "c" * 300, "chat", 1, 0, 10**30, -5, float("nan"))]
        )
        assert ledger.usage(DAY, DAY) == [
            Usage(DAY, "ann", "a?b?" + "c" * 196, "chat", 1, 0, 2**40, 0, 0.0)
        ]

    def test_adding_no_usage_is_no_error(self, ledger: LedgerDatabase) -> None:
        ledger.add_usage([])
        assert ledger.usage(DAY, DAY) == []

    def test_a_closed_ledger_opens_again(self, ledger: LedgerDatabase) -> None:
        ledger.add_key("digest-a", ANN)
        ledger.close()
        assert ledger.valid_keys() == {"digest-a": ANN}


class TestSQLite(LedgerBehaviour):
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
    ledger = open_ledger(f"sqlite:///{tmp_path}/data/ledger.db")
    ledger.add_key("digest-a", ANN)
    assert mode(tmp_path / "data") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "data").iterdir()} == {
        "ledger.db": 0o600,
        "ledger.db-wal": 0o600,
        "ledger.db-shm": 0o600,
    }
    ledger.close()


def test_a_file_that_root_creates_in_a_services_directory_belongs_to_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.add_key("digest-a", ANN)
    owner = tmp_path.stat().st_uid
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {owner}
    assert mode(tmp_path / "ledger.db") == 0o600
    ledger.close()


def test_a_ledger_that_is_not_used_creates_no_file(tmp_path: Path) -> None:
    open_ledger(f"sqlite:///{tmp_path}/data/ledger.db").close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_uses_a_write_ahead_log(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.valid_keys()
    ledger.close()
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
def test_a_wrong_url_is_refused_at_once_with_what_to_write(url: str) -> None:
    with pytest.raises(DatabaseError, match="Write sqlite:///FILE") as caught:
        open_ledger(url)
    assert "secret" not in str(caught.value)


def test_an_unreachable_server_is_an_error_without_the_password() -> None:
    pytest.importorskip("psycopg")
    ledger = open_ledger("postgresql://ann:secret@127.0.0.1:1/db?application_name=secret")
    with pytest.raises(DatabaseError, match=r"//ann:\*\*\*@127.0.0.1:1/db failed") as caught:
        ledger.valid_keys()
    assert "secret" not in str(caught.value)


def test_a_directory_that_cannot_be_created_is_a_database_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DatabaseError, match="ledger.db failed: .*file.*Set access.database to a place"
    ):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.db").valid_keys()


def test_a_read_only_directory_is_a_database_error(tmp_path: Path) -> None:
    imports_everything = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    imports_everything.valid_keys()
    imports_everything.close()
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


def test_a_file_of_another_kind_is_a_database_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no database, but quite some text all the same" * 9)
    with pytest.raises(DatabaseError, match="file is not a database"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.db").valid_keys()


def test_an_error_shows_nothing_of_a_key(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(DatabaseError) as caught:
        ledger.add_key("digest-a", ClientKey("ann", horde_key="secret", concurrent=2**80))
    assert "secret" not in str(caught.value)
    ledger.close()
