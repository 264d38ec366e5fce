"""One database, opened at its first use. SQLAlchemy's and SQLite's errors become ours only here.

Any thread may begin a transaction. The first one of a process opens the database; the first one
of each schema brings that owner's tables up to date:

    begin(schema) -> open: make the file, WAL | connect           once for each process
                  -> upgrade: lock, one transaction, copy first   once for each process and owner
                  -> the caller's transaction
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.files import create_private
from horde_proxy.database.locking import advisory_lock, directory_lock
from horde_proxy.database.migrations import Schema, upgrade
from horde_proxy.extras import command_for

_TIMEOUT = 5
"""How long to wait for a locked file, for a connection to a server, or for a free one (s)."""
_POSTGRESQL = "postgresql+psycopg"
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
    _POSTGRESQL: _POSTGRESQL,
}
_URLS = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


class Database:
    """A database by its URL. Raises DatabaseError for a URL that cannot be used.

    `setting` names the setting that holds the URL, for error messages. `waits_for_disk`: SQLite's
    transactions outlive a power failure, which takes a few milliseconds each; without it they
    outlive the end of the process only, until `flush`.
    """

    def __init__(
        self,
        url: str,
        *,
        setting: str,
        now: Callable[[], float] = time.time,
        waits_for_disk: bool = True,
    ) -> None:
        self.url, self.setting, self._waits_for_disk = url, setting, waits_for_disk
        self._url = _read_url(url)
        # Options after the "?" may hold a password as well.
        self._label = self._url.set(query={}).render_as_string(hide_password=True)
        self._now = now
        self.is_postgresql = self._url.drivername == _POSTGRESQL
        # Guards the engine and the set of schemas that are ready. Opening and upgrading, which do
        # I/O, happen under it on purpose: no thread can use the database before they are done.
        self._lock = threading.Lock()
        self._opened: Engine | None = None
        # Closes the connections of `_opened`, also where this object is dropped without close():
        # a connection of sqlite3 warns of that from Python 3.13 on.
        self._end: Callable[[], object] = lambda: None
        self._ready: set[str] = set()

    @contextmanager
    def begin(self, schema: Schema) -> Iterator[Connection]:
        """A transaction on up-to-date tables. Raises DatabaseError if anything fails."""
        with self.failures(ValueError, OverflowError), self.engine(schema).begin() as connection:
            yield connection

    @contextmanager
    def failures(self, *others: type[Exception]) -> Iterator[None]:
        """Within it, the errors of the database, and `others`, become DatabaseError."""
        ours: tuple[type[Exception], ...] = (SQLAlchemyError, sqlite3.Error, *others)
        try:
            yield
        except ImportError as exc:
            raise DatabaseError(f"{self._label} needs psycopg; {command_for('postgres')}") from exc
        except OSError as exc:
            raise DatabaseError(
                f"The database {self._label} failed: {_reason(exc)}. Set {self.setting} to a "
                "place that can be written."
            ) from exc
        except ours as exc:
            raise DatabaseError(f"The database {self._label} failed: {_reason(exc)}") from exc

    def insert(self, table: Table) -> Any:
        """An INSERT of the database's own dialect, which supports ON CONFLICT.

        A dialect takes some MB of memory, so only the one in use is imported.
        """
        if self.is_postgresql:
            from sqlalchemy.dialects import postgresql

            return postgresql.insert(table)
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)

    @property
    def exists(self) -> bool:
        """Whether there is something to read; a file is made by the first transaction."""
        return self.is_postgresql or self._path.exists()

    def flush(self) -> None:
        """Have all transactions so far outlive a power failure. PostgreSQL's do so by themselves.

        SQLite has no call for it. Its write-ahead log is what a commit would wait for; no lock of
        SQLite is on that file, so that opening it here breaks none.
        """
        if self.is_postgresql or self._waits_for_disk:
            return
        with self.failures(), suppress(FileNotFoundError):
            log = os.open(f"{self._path}-wal", os.O_RDONLY)
            try:
                os.fsync(log)
            finally:
                os.close(log)

    def close(self) -> None:
        """Close the connections. The next transaction opens them again."""
        with self._lock:
            self._end()
            self._opened = None
            self._ready.clear()

    def engine(self, schema: Schema) -> Engine:
        """The connections, for owners that keep one; the tables are up to date. See `failures`."""
        with self._lock:
            if self._opened is None:
                self._opened = self._connect() if self.is_postgresql else self._open_file()
                self._end = weakref.finalize(self, self._opened.dispose)
            if schema.owner not in self._ready:
                self._upgrade(self._opened, schema)
                self._ready.add(schema.owner)
            return self._opened

    def _connect(self) -> Engine:
        from horde_proxy.database.postgresql import LIVENESS, connect

        defaults = {"connect_timeout": str(_TIMEOUT), **LIVENESS}
        # Pre-ping replaces pooled connections that a restarted server has closed. Without
        # hide_parameters, exceptions would show keys. Unless it is told otherwise, the pool has a
        # request wait 30 s for a connection while those that there are hang.
        engine = create_engine(
            self._url.set(query={**defaults, **self._url.query}),
            pool_pre_ping=True,
            pool_timeout=_TIMEOUT,
            hide_parameters=True,
        )
        event.listen(engine, "do_connect", connect)
        return engine

    def _open_file(self) -> Engine:
        engine = create_engine(self._url, connect_args={"timeout": _TIMEOUT}, hide_parameters=True)
        event.listen(engine, "connect", _disable_implicit_transactions)
        if not self._waits_for_disk:
            event.listen(engine, "connect", _let_disk_write_later)
        event.listen(engine, "begin", _begin_transaction)
        # The directory also gets -wal and -shm files, with keys in them.
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # While a file is switched to WAL, SQLite refuses other connections immediately, without
            # waiting for the time-out.
            with directory_lock(self._path.parent):
                if not self._path.exists():
                    create_private(self._path)
                with closing(engine.raw_connection()) as connection:
                    connection.cursor().execute("PRAGMA journal_mode=WAL")
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _upgrade(self, engine: Engine, schema: Schema) -> None:
        if self.is_postgresql:
            from horde_proxy.database.postgresql import patient

            with engine.begin() as connection, patient(connection):
                advisory_lock(connection)
                upgrade(connection, schema, self._label)
            return
        # IMMEDIATE takes the write lock now. Otherwise a write by somebody else between our read of
        # the version and our first change would make this transaction fail (SQLITE_BUSY_SNAPSHOT).
        with (
            directory_lock(self._path.parent),
            engine.connect().execution_options(begin="BEGIN IMMEDIATE") as connection,
            connection.begin(),
        ):
            upgrade(connection, schema, self._label, self._copy)

    def _copy(self, schema: Schema, version: int) -> None:
        """Copy the file beside itself: ledger.db -> ledger.db.ledger-1.2026-01-31.

        The upgrade's transaction already keeps others from writing, and has changed nothing yet.
        """
        day = datetime.fromtimestamp(self._now(), UTC).date()
        copy = self._path.with_name(f"{self._path.name}.{schema.owner}-{version}.{day}")
        # A copy of the same day is left from an upgrade that failed.
        copy.unlink(missing_ok=True)
        create_private(copy)
        try:
            _copy_pages(self._path, copy)
        except BaseException:
            # An incomplete copy is useless, and the disk may be full.
            copy.unlink()
            raise

    @property
    def _path(self) -> Path:
        return Path(self._url.database or "")


def _disable_implicit_transactions(connection: sqlite3.Connection, record: object) -> None:
    """Stop Python's sqlite3 from starting transactions: it would start none before CREATE TABLE.

    See SQLAlchemy's documentation, "Serializable isolation / Savepoints / Transactional DDL".
    """
    connection.isolation_level = None


def _let_disk_write_later(connection: sqlite3.Connection, record: object) -> None:
    """Commit without fsync. With a write-ahead log, this cannot damage the file.

    See https://www.sqlite.org/pragma.html#pragma_synchronous.
    """
    connection.execute("PRAGMA synchronous=NORMAL").close()


def _begin_transaction(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _copy_pages(path: Path, copy: Path) -> None:
    """Copy with SQLite's own backup, which includes pages that are only in the write-ahead log."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _read_url(written: str) -> URL:
    try:
        url = make_url(written)
    except (SQLAlchemyError, ValueError):
        # The exception would show the password.
        raise DatabaseError(
            f"The database's URL cannot be read. Write {_URLS} (four slashes before a path from "
            "the root)."
        ) from None
    if url.drivername not in _DRIVERS:
        raise DatabaseError(f"`{url.drivername}` is not a supported database. Write {_URLS}.")
    database = url.database or ":memory:"
    if url.drivername == "sqlite" and (database == ":memory:" or database.startswith("file:")):
        raise DatabaseError("The database's URL names no file. Write sqlite:///FILE.")
    return url.set(drivername=_DRIVERS[url.drivername])


def _reason(exc: Exception) -> str:
    """The first line of the database's own message, without statement and parameters."""
    message = str(exc.orig) if isinstance(exc, DBAPIError) and exc.orig else str(exc)
    return message.partition("\n")[0]
