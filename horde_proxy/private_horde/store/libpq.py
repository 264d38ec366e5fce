"""Statements to PostgreSQL by libpq itself, several in one exchange with the server.

    execute([s1, s2, s3]) -> prepare (first time) -> send all, sync -> poll -> results of s1, s2, s3

A horde sends thousands of statements a second. psycopg's cursors, which know any type and any way
to wait, take 50 us of Python for a statement, and so does each exchange of its own. Here a value is
text, number, bool, bytes or None, as the columns of `tables` are. psycopg opens the connection, and
its module `pq` is libpq. It knows no record and no transaction.
"""

from __future__ import annotations

import select
from collections.abc import Mapping, Sequence
from typing import Any

from horde_proxy.private_horde.store.statements import Row, numbered

Statement = tuple[str, Mapping[str, Any]]


def encoded(value: Any) -> bytes | None:
    """A value as PostgreSQL reads it."""
    if value is None:
        return None
    if isinstance(value, str):
        # A text of PostgreSQL holds no NUL, and libpq would end it there.
        return value.replace("\0", "\ufffd").encode()
    if isinstance(value, bytes):
        # The text of a BYTEA, as its documentation writes it: \\x00ff.
        return b"\\x" + value.hex().encode()
    return repr(value).encode()


def type_of(value: Any) -> int:
    """The number of a value's type in pg_type; 0 for one that the server finds out.

    It takes any number for a column of another type of numbers, but not its text.
    """
    if isinstance(value, int):
        # A bool is an int as well.
        return 16 if isinstance(value, bool) else 20
    return 701 if isinstance(value, float) else 0


class LibpqConnection:
    """A connection that psycopg has opened.

    Raises psycopg.Error. It is broken after an error: the rest of the exchange was not read.
    """

    def __init__(self, connection: Any) -> None:
        # Late: psycopg may be missing where there is no PostgreSQL.
        from psycopg import DatabaseError, adapt, errors, pq

        from horde_proxy.database.postgresql import ANSWER_SECONDS

        # Whatever the database's own encoding is.
        connection.execute("SET client_encoding TO 'UTF8'")
        self._libpq: Any = connection.pgconn
        self._loader = adapt.Transformer(connection)
        self._good = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
        self._error_of = errors.error_from_result
        self._longest_wait = ANSWER_SECONDS
        # Not an OperationalError, after which the first statements of a transaction are repeated.
        self._no_answer = DatabaseError
        self._poll = select.poll()
        self._poll.register(self._libpq.socket, select.POLLIN)
        self.is_broken = False
        # The text and the parameters of each statement. There are some dozens.
        self._parameters: dict[str, tuple[str, tuple[str, ...]]] = {}
        # The name by text and types: a value may be None.
        self._prepared: dict[tuple[str, tuple[int, ...]], bytes] = {}

    def execute(self, statements: Sequence[Statement]) -> list[Any]:
        """The results of some statements (libpq's PGresult), in one exchange."""
        self.is_broken, libpq = True, self._libpq
        libpq.enter_pipeline_mode()
        # True for the results of statements; the others are those of preparations.
        wanted = [is_wanted for statement in statements for is_wanted in self._queue(*statement)]
        libpq.pipeline_sync()
        self._send()
        results = [self._result() for _ in wanted]
        # The end of the pipeline has a result as well.
        self._next()
        libpq.exit_pipeline_mode()
        self.is_broken = False
        return [result for result, is_wanted in zip(results, wanted, strict=True) if is_wanted]

    def rows_of(self, result: Any) -> list[Row]:
        """The rows of a result."""
        self._loader.set_pgresult(result)
        return self._loader.load_rows(0, result.ntuples, tuple)

    def _queue(self, sql: str, values: Mapping[str, Any]) -> tuple[bool, ...]:
        """Queue a statement, and its preparation the first time."""
        if sql not in self._parameters:
            self._parameters[sql] = numbered(sql)
        text, parameters = self._parameters[sql]
        row = [values[parameter] for parameter in parameters]
        types = tuple(map(type_of, row))
        is_new = (sql, types) not in self._prepared
        if is_new:
            name = self._prepared[sql, types] = b"horde_%d" % len(self._prepared)
            self._libpq.send_prepare(name, text.encode(), types)
        self._libpq.send_query_prepared(self._prepared[sql, types], list(map(encoded, row)))
        return (False, True) if is_new else (True,)

    def _send(self) -> None:
        """Send what is queued. What the server sends meanwhile is read, or both would wait."""
        while self._libpq.flush():
            self._poll.modify(self._libpq.socket, select.POLLIN | select.POLLOUT)
            self._wait()
            self._poll.modify(self._libpq.socket, select.POLLIN)

    def _next(self) -> Any:
        """The next result; None between two statements."""
        while self._libpq.is_busy():
            self._wait()
        return self._libpq.get_result()

    def _wait(self) -> None:
        """Wait for the server without the interpreter's lock, which libpq's functions hold."""
        events = self._poll.poll(self._longest_wait * 1000)
        if not events:
            raise self._no_answer(f"no answer for {self._longest_wait:.0f} s")
        if any(event & ~select.POLLOUT for _, event in events):
            self._libpq.consume_input()

    def _result(self) -> Any:
        """The result of the next statement. Raises psycopg.Error."""
        result = self._next()
        if result is None or result.status not in self._good:
            raise self._error_of(result)
        # Two statements are separated by None.
        self._next()
        return result
