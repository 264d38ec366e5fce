"""Records in PostgreSQL, which the processes of several hosts may use.

Each transaction has a connection of its own; rows are locked by FOR UPDATE (see `base`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection

from horde_proxy.database.engine import Database
from horde_proxy.private_horde.store.base import Observer, Store, Tx, Wake
from horde_proxy.private_horde.store.notifier import Notifier
from horde_proxy.private_horde.store.sql import SqlTx, Values
from horde_proxy.private_horde.store.statements import Row, for_psycopg
from horde_proxy.private_horde.store.tables import SCHEMA


class _PostgresqlDriver:
    """A connection of SQLAlchemy."""

    is_postgresql = True

    def __init__(self, connection: Connection, texts: dict[str, str]) -> None:
        self._connection, self._texts = connection, texts

    def rows(self, sql: str, values: Values) -> Sequence[Row]:
        return self._connection.exec_driver_sql(self._text(sql), dict(values)).fetchall()

    def execute(self, sql: str, values: Values) -> int:
        return self._connection.exec_driver_sql(self._text(sql), dict(values)).rowcount

    def execute_all(self, sql: str, values: Sequence[Values]) -> None:
        self._connection.exec_driver_sql(self._text(sql), [dict(row) for row in values])

    def _text(self, sql: str) -> str:
        if (text := self._texts.get(sql)) is None:
            text = self._texts[sql] = for_psycopg(sql)
        return text


class PostgresqlStore(Store):
    """Records in PostgreSQL."""

    is_shared = True
    check_in_seconds = 10.0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._observers: list[Observer] = []
        self._looks = itertools.count()
        self._notifier = Notifier(database)
        # The statements as psycopg takes them, by their own texts. There are some dozens.
        self._texts: dict[str, str] = {}

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        with self._database.failures():
            with self._database.engine(SCHEMA).begin() as connection:
                tx = SqlTx(_PostgresqlDriver(connection, self._texts))
                yield tx
                tx.flush()
        if tx.changes:
            records = list(tx.changes.values())
            for observer in self._observers:
                observer(records)

    @contextmanager
    def snapshot(self) -> Iterator[Tx]:
        with self._database.failures():
            # Without a transaction, each query is one exchange with the server instead of three.
            engine = self._database.engine(SCHEMA).execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                yield SqlTx(_PostgresqlDriver(connection, self._texts))

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
