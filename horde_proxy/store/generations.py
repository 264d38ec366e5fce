"""The table of answers' records (generation_record.py): who gave them, what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    Text,
    and_,
    cast,
    delete,
    func,
    or_,
    select,
    text,
)

from horde_proxy.database.engine import Database
from horde_proxy.database.migrations import Schema
from horde_proxy.store.generation_filter import FAILED, GenerationFilter
from horde_proxy.store.generation_record import GenerationRecord
from horde_proxy.store.stored_text import stored_id

_DAY = 24 * 3600
_INTERVAL = 3600.0
"""Seconds between two prunings."""
MOST_RECORDS = 200_000
"""Records of all owners that are kept, about 100 MB. The oldest are removed first."""

TABLES = MetaData()
GENERATIONS = Table(
    "generations",
    TABLES,
    Column("owner", Text, primary_key=True),
    Column("request", Text, primary_key=True),
    Column("answer", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
)
"""Records as JSON, by the ids of the request and of the answer. `created` is Unix time (s)."""


def _create_tables(connection: Connection) -> None:
    """Version 1."""
    for statement in (
        "CREATE TABLE generations (owner TEXT NOT NULL, request TEXT NOT NULL, "
        "answer TEXT NOT NULL, created BIGINT NOT NULL, record TEXT NOT NULL, "
        "PRIMARY KEY (owner, request))",
        "CREATE INDEX generations_by_answer ON generations (owner, answer)",
        "CREATE INDEX generations_by_time ON generations (created)",
    ):
        connection.execute(text(statement))


SCHEMA = Schema("generations", [_create_tables])

OwnedRecord = tuple[str, GenerationRecord]
"""An owner, and a record of theirs."""


class GenerationStore:
    """The records of all owners, kept for so many days. Methods raise DatabaseError."""

    def __init__(
        self, database: Database, days: int, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._days, self._now = database, days, now
        # One thread at a time writes (GenerationLog), so that this needs no lock.
        self._pruned = float("-inf")

    def save(self, records: Sequence[OwnedRecord]) -> None:
        """Store records. One of the same request and owner is replaced."""
        rows = [
            {
                "owner": owner,
                "request": record.request_id,
                "answer": stored_id(record.id),
                "created": int(record.created),
                "record": record.to_text(),
            }
            for owner, record in records
        ]
        statement = self._database.insert(GENERATIONS)
        statement = statement.on_conflict_do_update(
            index_elements=list(GENERATIONS.primary_key),
            set_={"answer": statement.excluded.answer, "record": statement.excluded.record},
        )
        with self._database.begin(SCHEMA) as connection:
            connection.execute(statement, rows)
        # A clock that was set back must not stop it.
        if not 0 <= self._now() - self._pruned < _INTERVAL:
            self._pruned = self._now()
            self.prune()

    def get(self, owner: str, identity: str) -> GenerationRecord | None:
        """The newest record of this owner with such an id, of the answer or of the request."""
        if not self._database.exists:
            return None
        key = stored_id(identity)
        has_id = and_(
            GENERATIONS.c.owner == owner,
            or_(GENERATIONS.c.request == key, GENERATIONS.c.answer == key),
        )
        newest = select(GENERATIONS.c.record).where(has_id).order_by(GENERATIONS.c.created.desc())
        with self._database.begin(SCHEMA) as connection:
            record = connection.execute(newest.limit(1)).scalar()
        return None if record is None else GenerationRecord.from_text(record)

    def search(self, wanted: GenerationFilter, *, limit: int, offset: int) -> list[OwnedRecord]:
        """The records that are wanted, of all owners, the newest first."""
        if not self._database.exists:
            return []
        columns = GENERATIONS.c
        statement = select(columns.owner, columns.record).where(*self._conditions(wanted))
        # Ids order the records of one second.
        newest = statement.order_by(columns.created.desc(), columns.request)
        with self._database.begin(SCHEMA) as connection:
            rows = connection.execute(newest.limit(limit).offset(offset))
            return [(owner, GenerationRecord.from_text(record)) for owner, record in rows]

    def _conditions(self, wanted: GenerationFilter) -> Iterator[ColumnElement[bool]]:
        columns, error = GENERATIONS.c, self._field("error")
        if wanted.owner is not None:
            yield columns.owner == wanted.owner
        if wanted.first is not None:
            yield columns.created >= wanted.first
        if wanted.last is not None:
            yield columns.created <= wanted.last
        if wanted.model:
            # SQLite's lower() knows ASCII only, as models' names are.
            yield func.lower(self._field("model")).contains(wanted.model.lower(), autoescape=True)
        if wanted.endpoint is not None:
            yield self._field("endpoint") == wanted.endpoint
        if wanted.status is not None:
            yield cast(self._field("status"), BigInteger) == wanted.status
        if wanted.outcome is not None:
            yield error.is_not(None) if wanted.outcome == FAILED else error.is_(None)

    def _field(self, name: str) -> ColumnElement[Any]:
        """A field of a record as SQL. They have no columns: only this list, which is rare, reads
        them, and an answer is written for every request.
        """
        field: ColumnElement[Any] = func.json_extract(GENERATIONS.c.record, f"$.{name}")
        if self._database.is_postgresql:
            field = cast(GENERATIONS.c.record, JSON)[name].as_string()
        return field

    def prune(self, most: int = MOST_RECORDS) -> None:
        """Remove what is older than its days, and the oldest records beyond so many."""
        oldest = int(self._now()) - self._days * _DAY
        created = GENERATIONS.c.created
        first_beyond = select(created).order_by(created.desc()).offset(most).limit(1)
        # A transaction of its own: SQLite refuses to write after a read, if others wrote meanwhile.
        with self._database.begin(SCHEMA) as connection:
            beyond = connection.execute(first_beyond).scalar()
        last = oldest if beyond is None else max(oldest, int(beyond) + 1)
        with self._database.begin(SCHEMA) as connection:
            connection.execute(delete(GENERATIONS).where(created < last))
