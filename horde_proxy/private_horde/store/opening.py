"""Opens the store of a URL. Imported only where there is a database, because of SQLAlchemy."""

from __future__ import annotations

import time
from collections.abc import Callable

from horde_proxy.database.engine import Database
from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.postgresql import PostgresqlStore
from horde_proxy.private_horde.store.sqlite import SqliteStore


def open_store(
    url: str, *, setting: str = "private_horde.database", now: Callable[[], float] = time.time
) -> Store:
    """The store in the database of a URL, opened at its first use. Raises DatabaseError."""
    database = Database(url, setting=setting, now=now)
    return PostgresqlStore(database) if database.is_postgresql else SqliteStore(database)
