"""The state of sessions that the processes of a proxy share, in a database.

This module imports SQLAlchemy, so import it only if there is a database.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, delete, select, text

from horde_proxy.database.engine import Database
from horde_proxy.database.migrations import Schema
from horde_proxy.web.sessions import SessionState

_TABLES = MetaData()
_SECRET = Table("page_secret", _TABLES, Column("secret", Text, primary_key=True))
# The ids of sessions that ended by logging out. `until` is the end of their cookies (unix s).
_ENDED = Table(
    "page_ended_sessions",
    _TABLES,
    Column("id", Text, primary_key=True),
    Column("until", BigInteger, nullable=False),
)


def _create_tables(connection: Connection) -> None:
    """Version 1. A migration runs only once, so there is exactly one secret."""
    connection.execute(text("CREATE TABLE page_secret (secret TEXT NOT NULL PRIMARY KEY)"))
    connection.execute(
        text(
            "CREATE TABLE page_ended_sessions (id TEXT NOT NULL PRIMARY KEY, until BIGINT NOT NULL)"
        )
    )
    connection.execute(_SECRET.insert(), {"secret": secrets.token_urlsafe(32)})


SCHEMA = Schema("page", [_create_tables])


class SessionDatabase:
    """A SessionStore. `now` is unix time (s)."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database, self._now = database, now

    def state(self) -> SessionState:
        """The secret, and the ended sessions that have not expired. Raises DatabaseError."""
        statement = select(_ENDED.c.id).where(_ENDED.c.until > int(self._now()))
        with self._database.begin(SCHEMA) as connection:
            secret = connection.execute(select(_SECRET.c.secret)).scalar_one()
            return SessionState(secret, frozenset(connection.execute(statement).scalars()))

    def end(self, session_id: str, until: int) -> None:
        """Store that a session has ended, and delete expired ones. Raises DatabaseError."""
        # Two tabs may log out at the same time, so the row may exist already.
        insert = self._database.insert(_ENDED).on_conflict_do_nothing()
        with self._database.begin(SCHEMA) as connection:
            connection.execute(delete(_ENDED).where(_ENDED.c.until <= int(self._now())))
            connection.execute(insert, {"id": session_id, "until": until})
