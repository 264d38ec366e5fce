"""The lines of batches in their table, read a few at a time: a result may have some MB.

What the end of a line means for its batch is not known here (batches.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from sqlalchemy import Connection, and_, delete, select

from horde_proxy.database.engine import Database
from horde_proxy.protocol.batches import BatchLine
from horde_proxy.store.batch_records import StoredLine
from horde_proxy.store.batch_schema import BATCH_LINES, transaction

_ROWS = 500
_ROW_BYTES = 8_000_000
"""Lines of one transaction, and their bytes: SQLite's file is locked meanwhile."""
_FEW_ROWS = 20
"""Lines or results that are read at a time: a result with pictures may have some MB."""


class BatchLines:
    """The lines of batches in a database. Thread-safe. Raises Unavailable if that fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, connection: Connection, batch_id: str, lines: Iterable[BatchLine]) -> None:
        """Store some lines; those that are there already stay as they are."""
        rows = [
            {
                "batch_id": batch_id,
                "number": line.number,
                "custom_id": json.dumps(line.custom_id),
                "state": "waiting",
                "body": line.body,
            }
            for line in lines
        ]
        statement = self._database.insert(BATCH_LINES).on_conflict_do_nothing()
        connection.execute(statement, rows)

    def delete(self, connection: Connection, batch_id: str) -> None:
        """Delete all lines of a batch."""
        connection.execute(delete(BATCH_LINES).where(BATCH_LINES.c.batch_id == batch_id))

    def waiting(self, batch_id: str, limit: int, after: int = 0) -> list[StoredLine]:
        """At most `limit` lines that have not ended, in their order, after the line `after`."""
        columns = BATCH_LINES.c
        statement = (
            select(columns.number, columns.custom_id, columns.body)
            .where(
                columns.batch_id == batch_id,
                columns.state == "waiting",
                columns.number > after,
            )
            .order_by(columns.number)
            .limit(limit)
        )
        with self._begin() as connection:
            rows = connection.execute(statement).all()
        return [StoredLine(row[0], json.loads(row[1]), bytes(row[2])) for row in rows]

    def get(self, batch_id: str, number: int) -> StoredLine | None:
        """A line that has not ended; None if it has, or its batch has."""
        lines = self.waiting(batch_id, 1, after=number - 1)
        return lines[0] if lines and lines[0].number == number else None

    def has_waiting(self, batch_id: str) -> bool:
        """Whether there are lines that have not ended."""
        return bool(self.waiting(batch_id, 1))

    def all_waiting(self, batch_id: str) -> Iterator[StoredLine]:
        """All lines that have not ended, in their order."""
        number = 0
        while lines := self.waiting(batch_id, _FEW_ROWS, after=number):
            yield from lines
            number = lines[-1].number

    def results(self, batch_id: str, state: str) -> Iterator[bytes]:
        """The results of the lines in a state, in the order of the lines: JSON, no line end."""
        columns, last = BATCH_LINES.c, 0
        is_wanted = and_(columns.batch_id == batch_id, columns.state == state)
        statement = select(columns.number, columns.result).order_by(columns.number)
        while True:
            page = statement.where(is_wanted, columns.number > last).limit(_FEW_ROWS)
            with self._begin() as connection:
                rows = connection.execute(page).all()
            if not rows:
                return
            yield from (bytes(row.result) for row in rows)
            last = rows[-1].number

    def _begin(self) -> AbstractContextManager[Connection]:
        return transaction(self._database)


def in_chunks(lines: Iterable[BatchLine]) -> Iterator[list[BatchLine]]:
    """The lines in lists that are small enough for one transaction."""
    chunk: list[BatchLine] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line.body)
        if len(chunk) >= _ROWS or size >= _ROW_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
