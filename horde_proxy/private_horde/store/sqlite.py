"""Records in a SQLite file, which several processes of one machine may use.

One thread at a time has the turn and works on the writer's connection. What several threads did in
their turns is committed together, because a commit waits for the disk (1 to 10 ms):

    thread 1: turn [BEGIN, its changes] ----------- waits ---------------.
    thread 2:            turn [its changes] ------- waits ---------------+-> all return
    thread 3:                      turn [its changes, COMMIT, observers] '

The last one that nobody waits behind commits. A transaction that fails is undone by itself, by its
savepoint. Readers have connections of their own, and see what is committed.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import PoolProxiedConnection

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store.base import Observer, Store, Tx, Wake
from horde_proxy.private_horde.store.sql import SqlTx, Values
from horde_proxy.private_horde.store.statements import Row
from horde_proxy.private_horde.store.tables import SCHEMA

log = logging.getLogger(__name__)

_MOST = 64
"""Transactions of one commit, so that the first does not wait for long."""
_WATCH_SECONDS = 0.1
_BUSY_MILLISECONDS = 20_000
"""How long to wait for another process that writes."""


class _SqliteDriver:
    """A connection of sqlite3 itself: through SQLAlchemy, a statement would take twice as long."""

    is_postgresql = False

    def __init__(self, pooled: PoolProxiedConnection) -> None:
        self.connection = cast(sqlite3.Connection, pooled.driver_connection)

    def rows(self, sql: str, values: Values) -> Sequence[Row]:
        return self.connection.execute(sql, values).fetchall()

    def read(self, statements: Sequence[tuple[str, Values]]) -> list[Sequence[Row]]:
        return [self.rows(sql, values) for sql, values in statements]

    def execute(self, sql: str, values: Values) -> int:
        return self.connection.execute(sql, values).rowcount

    def write(self, statements: Sequence[tuple[str, Values]]) -> None:
        for sql, values in statements:
            self.connection.execute(sql, values)


class _Group:
    """Transactions that are committed together."""

    def __init__(self) -> None:
        self.size = 0
        self.changes: list[list[Any]] = []
        self.is_over = threading.Event()
        self.failure: Exception | None = None


class SqliteStore(Store):
    """Records in a SQLite file. Nothing that was committed is lost, even when the power fails."""

    is_shared = True
    check_in_seconds = 10.0

    def __init__(self, database: Database) -> None:
        self.database = self._database = database
        self._observers: list[Observer] = []
        # The turn: guards the writer's connection, the group and the version. The database's I/O
        # happens under it on purpose: SQLite lets only one write at a time anyway.
        self._turn = threading.Lock()
        self._writer: PoolProxiedConnection | None = None
        self._group: _Group | None = None
        self._version: int | None = None
        self._changes = 0
        # Guards the number of threads that wait for the turn.
        self._counting = threading.Lock()
        self._queued = 0

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        with self._database.failures():
            self._take_turn()
            try:
                group = self._join()
                yield from self._work(group)
            finally:
                self._end_turn()
            group.is_over.wait()
            if group.failure is not None:
                raise group.failure

    @contextmanager
    def snapshot(self) -> Iterator[Tx]:
        with self._database.failures():
            pooled = self._database.engine(SCHEMA).raw_connection()
            try:
                driver = _SqliteDriver(pooled)
                driver.connection.execute("BEGIN")
                yield SqlTx(driver)
            finally:
                # The pool ends the transaction.
                pooled.close()

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def foreign_changes(self) -> int:
        with self._database.failures(), self._turn:
            # Within a group, the version is that of its beginning.
            if self._group is None:
                self._look_at_version(self._driver().connection)
            return self._changes

    def announce(self, topics: Sequence[str]) -> None:
        """Other processes see that the file has changed."""

    def watch(self, wake: Wake, is_over: Callable[[], bool]) -> None:
        seen = 0
        while not is_over():
            time.sleep(_WATCH_SECONDS)
            try:
                changes = self.foreign_changes()
            except DatabaseError as exc:
                log.warning("the private horde cannot look for changes: %s", exc)
                time.sleep(1)
                continue
            if changes != seen:
                seen = changes
                wake(None)

    def close(self) -> None:
        with self._turn:
            self._drop_writer()
        self._database.close()

    def _take_turn(self) -> None:
        with self._counting:
            self._queued += 1
        self._turn.acquire()
        with self._counting:
            self._queued -= 1

    def _join(self) -> _Group:
        """The group of transactions that this one belongs to."""
        if self._group is None:
            connection = self._driver().connection
            connection.execute("BEGIN IMMEDIATE")
            self._group = _Group()
            self._look_at_version(connection)
        self._group.size += 1
        return self._group

    def _work(self, group: _Group) -> Iterator[Tx]:
        driver = self._driver()
        driver.connection.execute("SAVEPOINT one")
        tx = SqlTx(driver)
        try:
            yield tx
            tx.flush()
        except BaseException:
            driver.connection.execute("ROLLBACK TO one")
            raise
        else:
            if tx.changes:
                group.changes.append(list(tx.changes.values()))
        finally:
            driver.connection.execute("RELEASE one")

    def _end_turn(self) -> None:
        """Commit the group, unless the next thread that waits for the turn will."""
        group = self._group
        try:
            if group is not None and (self._queued == 0 or group.size >= _MOST):
                self._group = None
                self._commit(group)
        finally:
            self._turn.release()

    def _commit(self, group: _Group) -> None:
        try:
            self._driver().connection.execute("COMMIT")
            for records in group.changes:
                for observer in self._observers:
                    observer(records)
        except sqlite3.Error as exc:
            group.failure = exc
            self._drop_writer()
        finally:
            group.is_over.set()

    def _look_at_version(self, connection: sqlite3.Connection) -> None:
        # It changes only with the commits of other connections; all of ours are this one's.
        [version] = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._changes += 1
        self._version = version

    def _driver(self) -> _SqliteDriver:
        if self._writer is None:
            self._writer = self._database.engine(SCHEMA).raw_connection()
            connection = _SqliteDriver(self._writer).connection
            # FULL: a commit is on the disk when it returns; NORMAL would lose the last ones.
            connection.execute("PRAGMA synchronous=FULL")
            # Prompts and answers do not stay in the file once they are deleted, where that costs
            # no further write.
            connection.execute("PRAGMA secure_delete=FAST")
            connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
        return _SqliteDriver(self._writer)

    def _drop_writer(self) -> None:
        """Close the writer's connection, which undoes what it did not commit."""
        if self._writer is not None:
            self._writer.invalidate()
        self._writer = self._version = None
