"""Records in PostgreSQL, which the processes of several hosts may use.

Each transaction has a connection of its own; rows are locked by FOR UPDATE (see `base`).
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from horde_proxy.database.engine import Database
from horde_proxy.private_horde.store.base import Observer, Store, Tx, Wake
from horde_proxy.private_horde.store.notifier import Notifier
from horde_proxy.private_horde.store.sql import SqlTx, Values
from horde_proxy.private_horde.store.statements import Row, for_psycopg
from horde_proxy.private_horde.store.tables import SCHEMA

_PLACES = 8
"""Transactions at a time: fewer than a pool has connections (15). More would wait for each other's
rows, and two cores of a server do not get faster by it."""


class _PostgresqlDriver:
    """A connection of psycopg itself, whose transactions SQLAlchemy begins and ends."""

    is_postgresql = True

    def __init__(self, connection: Connection, texts: dict[str, str]) -> None:
        self._pooled = connection
        self._connection: Any = connection.connection.driver_connection
        self._texts = texts

    def drop_if_lost(self) -> None:
        """Take a connection that the server has closed out of the pool.

        SQLAlchemy knows nothing of errors of psycopg itself. It would try to roll back, and log a
        traceback for each connection.
        """
        if self._connection.closed:
            self._pooled.invalidate()

    def rows(self, sql: str, values: Values) -> Sequence[Row]:
        rows: Sequence[Row] = self._connection.execute(self._text(sql), values).fetchall()
        return rows

    def execute(self, sql: str, values: Values) -> int:
        return int(self._connection.execute(self._text(sql), values).rowcount)

    def write(self, statements: Sequence[tuple[str, Values]]) -> None:
        if len(statements) == 1:
            self.execute(*statements[0])
            return
        # One exchange with the server for all: until the commit, the rows of accounts are locked.
        with self._connection.pipeline():
            for sql, values in statements:
                self._connection.execute(self._text(sql), values)

    def _text(self, sql: str) -> str:
        if (text := self._texts.get(sql)) is None:
            text = self._texts[sql] = for_psycopg(sql)
        return text


class _Line:
    """Lets so many threads in at a time, in the order in which they came.

    SQLAlchemy's pool gives a connection to whoever asks at the right moment: of 300 threads, some
    would wait for half a minute.
    """

    def __init__(self, places: int) -> None:
        # Guards the places and those who wait. No I/O happens under it.
        self._lock = threading.Lock()
        self._places = places
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._places:
                self._places -= 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._places += 1


class PostgresqlStore(Store):
    """Records in PostgreSQL."""

    is_shared = True
    check_in_seconds = 10.0

    def __init__(self, database: Database) -> None:
        self.database = self._database = database
        # Polls have connections of their own, so that they do not wait behind workers.
        self._polled = Database(database.url, setting=database.setting)
        self._line, self._polls = _Line(_PLACES), _Line(_PLACES)
        self._observers: list[Observer] = []
        self._looks = itertools.count()
        self._notifier = Notifier(database)
        # The statements as psycopg takes them, by their own texts. There are some dozens.
        self._texts: dict[str, str] = {}

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        with self._line, self._failures():
            with self._database.engine(SCHEMA).begin() as connection, self._using(connection) as tx:
                yield tx
                tx.flush()
        if tx.changes:
            records = list(tx.changes.values())
            for observer in self._observers:
                observer(records)

    @contextmanager
    def snapshot(self) -> Iterator[Tx]:
        with self._polls, self._failures():
            # Without a transaction, each query is one exchange with the server instead of three.
            engine = self._polled.engine(SCHEMA).execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as connection, self._using(connection) as tx:
                yield tx

    @contextmanager
    def _using(self, connection: Connection) -> Iterator[SqlTx]:
        """The records over a connection, which is dropped if it gets lost meanwhile."""
        driver = _PostgresqlDriver(connection, self._texts)
        try:
            yield SqlTx(driver)
        except Exception:
            driver.drop_if_lost()
            raise

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def foreign_changes(self) -> int:
        return next(self._looks)

    def announce(self, topics: Sequence[str]) -> None:
        self._notifier.send(topics)

    def watch(self, wake: Wake, is_over: Callable[[], bool]) -> None:
        self._notifier.watch(wake, is_over)

    def close(self) -> None:
        self._notifier.close()
        self._notifier = Notifier(self._database)
        self._database.close()
        self._polled.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Errors of psycopg become ours. It is imported late: it may be missing."""
        with self._database.failures():
            import psycopg

            with self._database.failures(psycopg.Error):
                yield
