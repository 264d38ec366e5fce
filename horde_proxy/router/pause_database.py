"""The paused endpoints in a database, which all processes of a proxy share.

This module imports SQLAlchemy, so import it only if there is a database.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, delete, select, text

from horde_proxy.database.engine import Database
from horde_proxy.database.migrations import Schema

_PAUSES = Table(
    "paused_endpoints",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
"""Paused endpoints by name. `since` is Unix time (s)."""


def _create_table(connection: Connection) -> None:
    """Version 1."""
    connection.execute(
        text(
            "CREATE TABLE paused_endpoints (name TEXT NOT NULL PRIMARY KEY, since BIGINT NOT NULL)"
        )
    )


SCHEMA = Schema("pauses", [_create_table])


@dataclass(frozen=True)
class PauseDatabase:
    """A PauseStore. Two are equal if their database is the same."""

    database: Database

    def paused(self) -> dict[str, float]:
        """The paused endpoints, each with the time of its pause (Unix s). Raises DatabaseError."""
        if not self.database.exists:
            return {}
        with self.database.begin(SCHEMA) as connection:
            rows = connection.execute(select(_PAUSES.c.name, _PAUSES.c.since))
            return {name: float(since) for name, since in rows}

    def pause(self, name: str, at: float) -> None:
        """Store a pause. Raises DatabaseError."""
        # Two administrators may press the button at the same time.
        insert = self.database.insert(_PAUSES).on_conflict_do_nothing()
        with self.database.begin(SCHEMA) as connection:
            connection.execute(insert, {"name": name, "since": int(at)})
        # A pause is rare, and must outlive a power failure.
        self.database.flush()

    def resume(self, name: str) -> None:
        """Remove a pause. Raises DatabaseError."""
        with self.database.begin(SCHEMA) as connection:
            connection.execute(delete(_PAUSES).where(_PAUSES.c.name == name))
        self.database.flush()
