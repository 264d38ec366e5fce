"""What was sent, in a database (see sent_notices.py): whoever adds a row sends the notice."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, delete, select, text

from horde_proxy.database.engine import Database
from horde_proxy.database.migrations import Schema

_KEPT = 30 * 24 * 3600
"""Seconds. What holds for a month is sent again; what the settings name no longer is forgotten."""

SENT = Table(
    "notices",
    MetaData(),
    Column("key", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
"""The target and the subject of each notice that holds, and since when (Unix time, s)."""


def _create_tables(connection: Connection) -> None:
    """Version 1."""
    connection.execute(text("CREATE TABLE notices (key TEXT PRIMARY KEY, since BIGINT NOT NULL)"))


SCHEMA = Schema("notices", [_create_tables])


class SentInDatabase:
    """Of all processes on a database."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self._database, self._now = database, now

    def add(self, key: str) -> bool:
        # By RETURNING: SQLAlchemy counts no rows of an INSERT on PostgreSQL.
        insert = self._database.insert(SENT).on_conflict_do_nothing().returning(SENT.c.key)
        with self._database.begin(SCHEMA) as connection:
            now = int(self._now())
            connection.execute(delete(SENT).where(SENT.c.since < now - _KEPT))
            return bool(connection.execute(insert, {"key": key, "since": now}).all())

    def remove(self, key: str) -> bool:
        with self._database.begin(SCHEMA) as connection:
            return connection.execute(delete(SENT).where(SENT.c.key == key)).rowcount == 1

    def keys(self) -> set[str]:
        # A proxy that has sent nothing makes no file for it.
        if not self._database.exists:
            return set()
        with self._database.begin(SCHEMA) as connection:
            return set(connection.execute(select(SENT.c.key)).scalars())
