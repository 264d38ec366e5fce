"""Connections to PostgreSQL, which threads borrow in the order in which they came.

    lend() -> a turn -> an open connection -> BEGIN with the first statement -> commit | undo

SQLAlchemy opens them, and no more: its pool would ping, begin and commit in exchanges with the
server of their own. A connection is kept open from one borrower to the next. If the server has
closed it meanwhile, its next borrower gets a new one without noticing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import PoolProxiedConnection

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store.libpq import LibpqConnection, Statement
from horde_proxy.private_horde.store.sql import Values
from horde_proxy.private_horde.store.statements import Row
from horde_proxy.private_horde.store.tables import SCHEMA

_LONGEST_TURN = 20.0
"""Seconds that a thread waits for a connection: longer than a statement may take."""


class PostgresqlDriver:
    """One connection. `begin` are the statements before the first of a transaction, or none."""

    is_postgresql = True

    def __init__(self, connect: Callable[[], PoolProxiedConnection], begin: Sequence[str]) -> None:
        self._connect = connect
        self._begin: list[Statement] = [(sql, {}) for sql in begin]
        # Whether this transaction has executed a statement.
        self._is_used = False
        self._open()

    def _open(self) -> None:
        self._pooled = self._connect()
        psycopg_connection: Any = self._pooled.driver_connection
        psycopg_connection.autocommit = True
        self._connection = LibpqConnection(psycopg_connection)

    def rows(self, sql: str, values: Values) -> Sequence[Row]:
        return self.read([(sql, values)])[0]

    def read(self, statements: Sequence[Statement]) -> list[Sequence[Row]]:
        results = self._execute(statements)
        return [self._connection.rows_of(result) for result in results]

    def execute(self, sql: str, values: Values) -> int:
        return int(self._execute([(sql, values)])[0].command_tuples or 0)

    def write(self, statements: Sequence[Statement]) -> None:
        self._execute(statements)

    def commit(self, statements: Sequence[Statement]) -> None:
        """Execute several statements and commit, in one exchange with the server.

        Until then the rows of accounts are locked, which many transactions change.
        """
        if statements and not self._is_used:
            self.write(statements)
            statements = ()
        if self._is_used:
            self._connection.execute([*statements, ("COMMIT", {})])
        self._is_used = False

    def undo(self) -> bool:
        """Roll the transaction back. Whether the connection can be used again."""
        if self._is_used and not self._connection.is_broken:
            self._connection.execute([("ROLLBACK", {})])
        self._is_used = False
        return not self._connection.is_broken

    def drop(self) -> None:
        """Close the connection."""
        self._pooled.invalidate()

    def _execute(self, statements: Sequence[Statement]) -> list[Any]:
        """The results of some statements.

        The first ones of a transaction are executed again if the connection is lost, as all are
        after a restart of the server: nothing is committed by them, and what is not within a
        transaction only reads.
        """
        import psycopg

        if self._is_used:
            return self._connection.execute(statements)
        try:
            results = self._connection.execute([*self._begin, *statements])
        except psycopg.OperationalError:
            self.drop()
            self._open()
            results = self._connection.execute([*self._begin, *statements])
        self._is_used = bool(self._begin)
        return results[len(self._begin) :]


class Line:
    """Lets so many threads in at a time, in the order in which they came."""

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
        if turn.acquire(timeout=_LONGEST_TURN):
            return
        with self._lock:
            # Whoever left meanwhile may have given this thread its place.
            if turn in self._waiting:
                self._waiting.remove(turn)
                raise DatabaseError(
                    f"The database has not answered others for {_LONGEST_TURN:.0f} s."
                )

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._places += 1


class Connections:
    """At most so many connections as there are places. Thread-safe."""

    def __init__(self, database: Database, places: int, begin: Sequence[str] = ()) -> None:
        self._database, self._begin = database, begin
        self._line = Line(places)
        # Used from its right end, so that no more connections stay open than are needed.
        self._idle: deque[PostgresqlDriver] = deque()

    @contextmanager
    def lend(self) -> Iterator[PostgresqlDriver]:
        """A connection. After an exception, what was not committed is undone."""
        with self._line:
            driver = self._take()
            is_usable = False
            try:
                yield driver
                is_usable = True
            except Exception:
                is_usable = driver.undo()
                raise
            finally:
                if is_usable:
                    self._idle.append(driver)
                else:
                    driver.drop()

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Errors of psycopg become ours within it. psycopg is imported late: it may be missing."""
        with self._database.failures():
            import psycopg

            with self._database.failures(psycopg.Error):
                yield

    def _take(self) -> PostgresqlDriver:
        try:
            return self._idle.pop()
        except IndexError:
            return PostgresqlDriver(self._connect, self._begin)

    def _connect(self) -> PoolProxiedConnection:
        return self._database.engine(SCHEMA).raw_connection()

    def close(self) -> None:
        """Close the connections that nobody has borrowed."""
        while self._idle:
            self._idle.pop().drop()
