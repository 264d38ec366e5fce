"""Keys and usage in a database: SQLite in a file, or PostgreSQL.

The only module that imports SQLAlchemy, and only its Core. Import it where a store is wanted.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Executable,
    Float,
    MetaData,
    RowMapping,
    Table,
    Text,
    create_engine,
    func,
    make_url,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from horde_proxy.ledger.keys import ClientKey
from horde_proxy.ledger.records import DayUsage, StoreError, Usage

__all__ = ["Store", "StoreError"]

_PATIENCE = 5
"""How long to wait for a locked file or for a server to answer (s)."""
_LONGEST_NAME = 200
_LARGEST_COUNT = 2**40
_CREATING = 0x686F726465
_POSTGRESQL = "postgresql+psycopg"
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
    _POSTGRESQL: _POSTGRESQL,
}
_LISTS = ("models", "endpoints")
_COUNTS = ("requests", "errors", "prompt_tokens", "completion_tokens", "kudos")
_TABLES = MetaData()
_KEYS = Table(
    "client_keys",
    _TABLES,
    Column("digest", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("models", Text, nullable=False),
    Column("endpoints", Text, nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("concurrent", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("kudos_per_day", Float),
    Column("horde_key", Text),
    Column("admin", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)
_USAGE = Table(
    "usage",
    _TABLES,
    *(Column(name, Text, primary_key=True) for name in ("day", "name", "model", "endpoint")),
    *(Column(name, BigInteger, nullable=False) for name in _COUNTS[:-1]),
    Column("kudos", Float, nullable=False),
)


class Store:
    """Opens nothing before it is used. Every method raises StoreError where the database fails."""

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        self._url = _read_url(url)
        self._shown = self._url.set(query={}).render_as_string(hide_password=True)
        self._now = now
        self._lock = threading.Lock()
        self._opened: Engine | None = None

    def add(self, digest: str, key: ClientKey) -> None:
        """Keep a new key. Raises StoreError when its name or digest was ever in use."""
        row = {name: getattr(key, name) for name in _names(ClientKey)}
        row |= {name: json.dumps(row[name]) for name in _LISTS}
        try:
            with self._begin() as connection:
                connection.execute(_KEYS.insert(), {"digest": digest, **row})
        except StoreError as exc:
            if isinstance(exc.__cause__, IntegrityError):
                raise StoreError(self._in_use(digest, key.name)) from exc
            raise

    def revoke(self, name: str) -> bool:
        """Whether there was a key of this name to revoke."""
        statement = update(_KEYS).where(_KEYS.c.name == name, _KEYS.c.revoked.is_(None))
        with self._begin() as connection:
            return connection.execute(statement.values(revoked=int(self._now()))).rowcount > 0

    def keys(self) -> dict[str, ClientKey]:
        """The keys that are not revoked, by digest."""
        with self._begin() as connection:
            rows = connection.execute(select(_KEYS).where(_KEYS.c.revoked.is_(None))).mappings()
            return {row["digest"]: _key(row) for row in rows}

    def listed(self) -> list[tuple[ClientKey, int | None]]:
        """All keys, the oldest first, each with the time of its revocation (unix s)."""
        statement = select(_KEYS).order_by(_KEYS.c.created, _KEYS.c.name)
        with self._begin() as connection:
            rows = connection.execute(statement).mappings()
            return [(_key(row), row["revoked"]) for row in rows]

    def record(self, entries: Iterable[Usage]) -> None:
        """Add the entries to what is there: all of them or, with a StoreError, none."""
        # Two proxies that lock the same rows in another order would wait for each other.
        rows = sorted((_storable(entry) for entry in entries), key=lambda entry: entry.place)
        if not rows:
            return
        statement = self._insert(_USAGE)
        statement = statement.on_conflict_do_update(
            index_elements=list(_USAGE.primary_key),
            set_={name: _USAGE.c[name] + statement.excluded[name] for name in _COUNTS},
        )
        with self._begin() as connection:
            connection.execute(statement, [asdict(row) for row in rows])

    def usage(self, first_day: str, last_day: str, name: str | None = None) -> list[Usage]:
        """The usage from one day to another, both included; of one key or of all."""
        statement = select(*(_USAGE.c[each] for each in _names(Usage)))
        statement = statement.where(_USAGE.c.day.between(first_day, last_day))
        if name is not None:
            statement = statement.where(_USAGE.c.name == name)
        with self._begin() as connection:
            rows = [Usage(*row) for row in connection.execute(statement)]
        return sorted(rows, key=lambda row: row.place)

    def spent(self, day: str) -> dict[str, DayUsage]:
        """What each key used on a day, by name."""
        tokens = func.sum(_USAGE.c.prompt_tokens + _USAGE.c.completion_tokens)
        statement = select(_USAGE.c.name, tokens, func.sum(_USAGE.c.kudos))
        statement = statement.where(_USAGE.c.day == day).group_by(_USAGE.c.name)
        with self._begin() as connection:
            rows = connection.execute(statement)
            return {name: DayUsage(int(tokens), float(kudos)) for name, tokens, kudos in rows}

    def close(self) -> None:
        """Close the connections; what comes after opens them again."""
        with self._lock:
            if self._opened is not None:
                self._opened.dispose()
            self._opened = None

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """A transaction. The one place where the errors of a database become ours."""
        try:
            with self._engine().begin() as connection:
                yield connection
        except ImportError as exc:
            raise StoreError(
                f"{self._shown} needs psycopg: pip install 'horde-proxy[postgres]'"
            ) from exc
        except OSError as exc:
            raise StoreError(
                f"The store {self._shown} failed: {_reason(exc)}; access.database moves it"
            ) from exc
        except (SQLAlchemyError, ValueError, OverflowError) as exc:
            raise StoreError(f"The store {self._shown} failed: {_reason(exc)}") from exc

    def _engine(self) -> Engine:
        with self._lock:
            if self._opened is None:
                is_postgresql = self._is_postgresql()
                self._opened = self._open_postgresql() if is_postgresql else self._open_sqlite()
            return self._opened

    def _open_postgresql(self) -> Engine:
        url = self._url.set(query={"connect_timeout": str(_PATIENCE), **self._url.query})
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
        # IF NOT EXISTS alone fails where two proxies start at once.
        return _prepared(engine, select(func.pg_advisory_xact_lock(_CREATING)))

    def _open_sqlite(self) -> Engine:
        path = Path(self._url.database or "")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = create_engine(self._url, connect_args={"timeout": _PATIENCE}, hide_parameters=True)
        # A file that changes to WAL refuses others at once, however long they would wait.
        with _alone_in(path.parent):
            if not path.exists():
                _create(path)
            return _prepared(engine, text("PRAGMA journal_mode=WAL"))

    def _insert(self, table: Table) -> Any:
        """The database's own insert. Dialects take some MB: only the one in use is imported."""
        if self._is_postgresql():
            from sqlalchemy.dialects import postgresql

            return postgresql.insert(table)
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)

    def _is_postgresql(self) -> bool:
        return self._url.drivername == _POSTGRESQL

    def _in_use(self, digest: str, name: str) -> str:
        statement = select(_KEYS.c.name, _KEYS.c.revoked)
        statement = statement.where(or_(_KEYS.c.name == name, _KEYS.c.digest == digest))
        with self._begin() as connection:
            known = {row.name: row.revoked for row in connection.execute(statement)}
        if name not in known:
            return f"This key is kept under the name `{next(iter(known), '')}` already."
        if known[name] is None:
            return f"The name `{name}` is in use. Choose another, or revoke that key first."
        return f"The name `{name}` was a revoked key's, and its usage is kept. Choose another."


def _prepared(engine: Engine, first: Executable) -> Engine:
    """The engine, once the tables are there."""
    try:
        with engine.begin() as connection:
            connection.execute(first)
            for table in _TABLES.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
    except BaseException:
        engine.dispose()
        raise
    return engine


def _create(path: Path) -> None:
    """An empty file. What root makes in a service's directory is the service's."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        folder = path.parent.stat()
        if os.geteuid() == 0 and folder.st_uid != 0:
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
    finally:
        os.close(descriptor)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Until the end no other store, of this process or another, is here."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_url(given: str) -> URL:
    try:
        url = make_url(given)
    except (SQLAlchemyError, ValueError):
        # The exception would show the password.
        raise StoreError(
            "The store's URL cannot be read. Write sqlite:///FILE (four slashes before a path "
            "from the root) or postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from None
    if url.drivername not in _DRIVERS:
        raise StoreError(
            f"A store of the kind `{url.drivername}` is not known. Write sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/DATABASE."
        )
    database = url.database or ":memory:"
    if url.drivername == "sqlite" and (database == ":memory:" or database.startswith("file:")):
        raise StoreError("The store's URL names no file. Write sqlite:///FILE.")
    return url.set(drivername=_DRIVERS[url.drivername])


def _reason(exc: Exception) -> str:
    """The first line of what the database itself said, without statement and parameters."""
    said = str(exc.orig) if isinstance(exc, DBAPIError) and exc.orig else str(exc)
    return said.partition("\n")[0]


def _names(kind: type[ClientKey] | type[Usage]) -> list[str]:
    return [field.name for field in fields(kind)]


def _key(row: RowMapping) -> ClientKey:
    values: dict[str, Any] = {name: row[name] for name in _names(ClientKey)}
    return ClientKey(**values | {name: tuple(json.loads(values[name])) for name in _LISTS})


def _storable(entry: Usage) -> Usage:
    """The entry as any database takes it: names and numbers may come from far away.

    One entry that is refused again and again would hold up all others.
    """
    return replace(
        entry,
        model=_plain(entry.model),
        endpoint=_plain(entry.endpoint),
        requests=_count(entry.requests),
        errors=_count(entry.errors),
        prompt_tokens=_count(entry.prompt_tokens),
        completion_tokens=_count(entry.completion_tokens),
        kudos=float(entry.kudos) if math.isfinite(entry.kudos) else 0.0,
    )


def _count(number: int) -> int:
    return min(max(int(number), 0), _LARGEST_COUNT)


def _plain(name: str) -> str:
    return name.encode("utf-8", "replace").decode().replace("\0", "?")[:_LONGEST_NAME]
