"""Keys and usage in a database.

This module imports SQLAlchemy, so import it only if there is a database.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, Update, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.names import storable_name
from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.records import DayUsage, Usage
from horde_proxy.ledger.schema import CLIENT_KEYS, COUNTS, SCHEMA, USAGE

_LARGEST_COUNT = 2**40
"""Keeps the sum of many rows within a BIGINT."""
_FIXED = ("name", "created")
"""The fields of a key that a change leaves alone."""
_LISTS = ("models", "endpoints", "places")
"""The fields of a key that are stored as JSON."""


class StoredKey(NamedTuple):
    """A key of the database. `revoked` is when (Unix s), None for a valid one."""

    digest: str
    key: ClientKey
    revoked: int | None


class LedgerDatabase:
    """The ledger's tables in a database. If that fails, every method raises DatabaseError."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self.database, self._now = database, now

    def add_key(self, digest: str, key: ClientKey) -> None:
        """Store a new key. Raises DatabaseError also if its name or digest was ever used."""
        try:
            with self._begin() as connection:
                connection.execute(CLIENT_KEYS.insert(), {"digest": digest, **_row(key)})
        except DatabaseError as exc:
            if isinstance(exc.__cause__, IntegrityError):
                raise DatabaseError(self._conflict(digest, key.name)) from exc
            raise

    def change_key(self, key: ClientKey) -> bool:
        """Give the key of this name these rights. False if there is no valid key of that name."""
        rights = {name: value for name, value in _row(key).items() if name not in _FIXED}
        with self._begin() as connection:
            return connection.execute(_valid(key.name).values(rights)).rowcount > 0

    def revoke_key(self, name: str) -> bool:
        """Revoke the key of this name. False if there is no valid key of that name."""
        with self._begin() as connection:
            return connection.execute(_valid(name).values(revoked=int(self._now()))).rowcount > 0

    def valid_keys(self) -> dict[str, ClientKey]:
        """The keys that are not revoked, by digest."""
        statement = select(CLIENT_KEYS).where(CLIENT_KEYS.c.revoked.is_(None))
        with self._begin() as connection:
            rows = connection.execute(statement).mappings()
            return {row["digest"]: _key(row) for row in rows}

    def all_keys(self) -> list[StoredKey]:
        """All keys, also revoked ones, the oldest first."""
        statement = select(CLIENT_KEYS).order_by(CLIENT_KEYS.c.created, CLIENT_KEYS.c.name)
        with self._begin() as connection:
            rows = connection.execute(statement).mappings()
            return [StoredKey(row["digest"], _key(row), row["revoked"]) for row in rows]

    def add_usage(self, entries: Iterable[Usage]) -> None:
        """Add the entries to the stored sums: all of them or, with a DatabaseError, none."""
        # Sorted: two proxies that lock the same rows in different orders deadlock.
        rows = sorted((_storable(entry) for entry in entries), key=lambda entry: entry.key)
        if not rows:
            return
        statement = self.database.insert(USAGE)
        statement = statement.on_conflict_do_update(
            index_elements=list(USAGE.primary_key),
            set_={name: USAGE.c[name] + statement.excluded[name] for name in COUNTS},
        )
        with self._begin() as connection:
            connection.execute(statement, [asdict(row) for row in rows])

    def usage(self, first_day: str, last_day: str, name: str | None = None) -> list[Usage]:
        """The usage from one day to another, both included; of one key or of all."""
        statement = select(*(USAGE.c[column] for column in _names(Usage)))
        statement = statement.where(USAGE.c.day.between(first_day, last_day))
        if name is not None:
            statement = statement.where(USAGE.c.name == name)
        with self._begin() as connection:
            rows = [Usage(*row) for row in connection.execute(statement)]
        return sorted(rows, key=lambda row: row.key)

    def totals(self, day: str) -> dict[str, DayUsage]:
        """What each key used on a day, by the key's name."""
        tokens = func.sum(USAGE.c.prompt_tokens + USAGE.c.completion_tokens)
        kudos, images = func.sum(USAGE.c.kudos), func.sum(USAGE.c.images)
        statement = select(USAGE.c.name, tokens, kudos, images)
        statement = statement.where(USAGE.c.day == day).group_by(USAGE.c.name)
        with self._begin() as connection:
            rows = connection.execute(statement)
            return {row[0]: DayUsage(int(row[1]), float(row[2]), int(row[3])) for row in rows}

    def last_days(self) -> dict[str, str]:
        """The last day with a request of each key, by the key's name."""
        statement = select(USAGE.c.name, func.max(USAGE.c.day)).group_by(USAGE.c.name)
        with self._begin() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def prune_usage(self, first_day: str) -> int:
        """Remove the usage of the days before one. How many rows there were."""
        with self._begin() as connection:
            return connection.execute(delete(USAGE).where(USAGE.c.day < first_day)).rowcount

    def close(self) -> None:
        """Close the connections. The next call opens them again."""
        self.database.close()

    def _begin(self) -> AbstractContextManager[Connection]:
        return self.database.begin(SCHEMA)

    def _conflict(self, digest: str, name: str) -> str:
        """Why a key could not be added."""
        statement = select(CLIENT_KEYS.c.name, CLIENT_KEYS.c.revoked)
        statement = statement.where(or_(CLIENT_KEYS.c.name == name, CLIENT_KEYS.c.digest == digest))
        with self._begin() as connection:
            revoked = {row.name: row.revoked for row in connection.execute(statement)}
        if name not in revoked:
            return f"This key exists already, under the name `{next(iter(revoked), '')}`."
        if revoked[name] is None:
            return f"The name `{name}` is in use. Choose another, or revoke that key first."
        return f"The name `{name}` belonged to a revoked key, whose usage is kept. Choose another."


def _names(kind: type[ClientKey] | type[Usage]) -> list[str]:
    return [field.name for field in fields(kind)]


def _row(key: ClientKey) -> dict[str, Any]:
    """The columns of a key, but for its digest."""
    row = {name: getattr(key, name) for name in _names(ClientKey)}
    return row | {name: json.dumps(row[name]) for name in _LISTS}


def _valid(name: str) -> Update:
    """An UPDATE of the key of this name that is not revoked."""
    statement = update(CLIENT_KEYS)
    return statement.where(CLIENT_KEYS.c.name == name, CLIENT_KEYS.c.revoked.is_(None))


def _key(row: RowMapping) -> ClientKey:
    values: dict[str, Any] = {name: row[name] for name in _names(ClientKey)}
    return ClientKey(**values | {name: tuple(json.loads(values[name])) for name in _LISTS})


def _storable(entry: Usage) -> Usage:
    """The entry as any database accepts it: names and numbers may come from other servers.

    A single entry that the database always refuses would keep all others from being written.
    """
    return replace(
        entry,
        model=storable_name(entry.model),
        endpoint=storable_name(entry.endpoint),
        requests=_storable_count(entry.requests),
        errors=_storable_count(entry.errors),
        prompt_tokens=_storable_count(entry.prompt_tokens),
        completion_tokens=_storable_count(entry.completion_tokens),
        images=_storable_count(entry.images),
        kudos=float(entry.kudos) if math.isfinite(entry.kudos) else 0.0,
    )


def _storable_count(number: int) -> int:
    return min(max(int(number), 0), _LARGEST_COUNT)


def open_ledger(url: str, *, now: Callable[[], float] = time.time) -> LedgerDatabase:
    """The ledger in the database of a URL, opened at its first use. Raises DatabaseError."""
    return LedgerDatabase(Database(url, setting="access.database", now=now), now=now)
