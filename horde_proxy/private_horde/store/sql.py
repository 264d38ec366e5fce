"""A transaction in a database: the same for SQLite and PostgreSQL.

It reads a record once, notes what changes, and writes all of it at the end (or before a query that
must see it): first what belongs to requests, then accounts, then workers (the order of `KINDS`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from horde_proxy.printable import encodable
from horde_proxy.private_horde.queue_order import merged, queue_name, queues_of
from horde_proxy.private_horde.records import NEW, TEXT, HordeRequest, UseCount, Worker
from horde_proxy.private_horde.store.base import KeyTaken, Tx
from horde_proxy.private_horde.store.kinds import KINDS
from horde_proxy.private_horde.store.statements import RECORD_SQL, Row
from horde_proxy.private_horde.store.tables import WAITING

R = TypeVar("R")

Values = Mapping[str, Any]

_PAGES = (4, 32, 256)
"""Rows of the first, the second, and each further page of the queue: one of the first is taken."""

_FEW = 4
"""Models of a worker, with "" for any."""

_OPEN = "expires IS NOT NULL AND NOT faulted AND finished < n"
"""HordeRequest.open, as in the index horde_requests_open."""

_RANKS = {kind: number for number, kind in enumerate(KINDS)}
"""The place of each kind in the order of writes."""

_ENLIST = (
    f"INSERT INTO {WAITING} (model, request_id, account_id, rank, queued_at) "
    "VALUES (:model, :request_id, :account_id, :rank, :queued_at)"
)
_DELIST = f"DELETE FROM {WAITING} WHERE request_id = :id"


class Driver(Protocol):
    """One connection, with a transaction begun."""

    is_postgresql: bool

    def rows(self, sql: str, values: Values) -> Sequence[Row]:
        """The rows of a statement."""

    def read(self, statements: Sequence[tuple[str, Values]]) -> list[Sequence[Row]]:
        """The rows of several statements, in one exchange."""

    def execute(self, sql: str, values: Values) -> int:
        """The number of rows that a statement has changed."""

    def write(self, statements: Sequence[tuple[str, Values]]) -> None:
        """Execute several statements, in this order."""


@dataclass
class _Held:
    """A record of a transaction: its row as it was read, None for a new one, and its state."""

    record: Any
    row: dict[str, Any] | None
    is_locked: bool = False
    is_changed: bool = False
    is_deleted: bool = False


class SqlTx(Tx):
    """A transaction on a connection. Its caller begins and ends it, and calls `flush` before."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._held: dict[tuple[type[Any], Any], _Held] = {}
        self._added: list[Any] = []
        self._saved: list[_Held] = []
        self._deleted: list[Any] = []
        # The statements of the flush that is being prepared.
        self._writes: list[tuple[str, Values]] = []
        self._counts: list[UseCount] = []
        self._is_clean = True
        # All records that were added, saved or deleted.
        self.changes: dict[int, Any] = {}

    # Reading.

    def get(self, kind: type[R], key: Any) -> R | None:
        held = self._held.get((kind, key))
        if held is not None:
            return None if held.is_deleted else held.record
        return self._read(kind, key)

    def lock(self, kind: type[R], key: Any) -> R | None:
        return self._lock_each([(kind, key)], "FOR UPDATE")[0]  # type: ignore[no-any-return]

    def try_lock(self, kind: type[R], key: Any) -> R | None:
        mode = "FOR UPDATE SKIP LOCKED"
        return self._lock_each([(kind, key)], mode)[0]  # type: ignore[no-any-return]

    def lock_each(self, *wanted: tuple[type[Any], Any]) -> list[Any]:
        return self._lock_each(wanted, "FOR UPDATE")

    def lock_all(self, kind: type[R], keys: Sequence[Any]) -> dict[Any, R]:
        keys = sorted(keys)
        records = self.lock_each(*((kind, key) for key in keys))
        return {key: record for key, record in zip(keys, records, strict=True) if record}

    def _lock_each(self, wanted: Sequence[tuple[type[Any], Any]], mode: str) -> list[Any]:
        # A transaction of SQLite that may write keeps all others from writing.
        if not self._driver.is_postgresql:
            return [self.get(kind, key) for kind, key in wanted]
        new = [pair for pair in wanted if not self._is_locked(pair)]
        if new:
            # What it has changed would be lost when the rows are read again.
            self.flush()
            statements = [self._by_key(kind, key, mode) for kind, key in new]
            for (kind, _), rows in zip(new, self._driver.read(statements), strict=True):
                for record in self._hold_all(kind, rows):
                    self._held[kind, KINDS[kind].key_of(record)].is_locked = True
        held = (self._held.get(pair) for pair in wanted)
        return [None if h is None or not h.is_locked or h.is_deleted else h.record for h in held]

    def _is_locked(self, pair: tuple[type[Any], Any]) -> bool:
        held = self._held.get(pair)
        return held is not None and (held.is_locked or held.is_deleted)

    def _by_key(self, kind: type[Any], key: Any, mode: str = "") -> tuple[str, Values]:
        """The statement that reads one row."""
        sql = RECORD_SQL[kind]
        names = sql.kind.key
        values = (key,) if len(names) == 1 else key
        equals = {name: sql.dump(name, value) for name, value in zip(names, values, strict=True)}
        return f"{sql.by_key} {mode}" if mode else sql.by_key, equals

    def _read(self, kind: type[R], key: Any) -> R | None:
        text, equals = self._by_key(kind, key)
        parent = KINDS[kind].parent
        if parent is None:
            rows = self._driver.rows(text, equals)
        else:
            statements = [(text, equals), (RECORD_SQL[kind].parent_by_key, equals)]
            rows, parents = self._driver.read(statements)
            self._hold_all(parent[0], parents)
        return self._hold(kind, rows[0]) if rows else None

    def find(self, kind: type[R], **equals: Any) -> list[R]:
        self.flush()
        sql = RECORD_SQL[kind]
        values = {name: sql.dump(name, value) for name, value in equals.items()}
        return self._hold_all(kind, self._driver.rows(sql.find(tuple(equals)), values))

    def newest(self, kind: type[R], limit: int, **equals: Any) -> list[R]:
        self.flush()
        sql = RECORD_SQL[kind]
        values = {name: sql.dump(name, value) for name, value in equals.items()}
        text = f"{sql.find(tuple(equals))} DESC LIMIT :newest"
        return self._hold_all(kind, self._driver.rows(text, {**values, "newest": limit}))

    def page(
        self, kind: type[R], order: str, *, descending: bool, offset: int, limit: int
    ) -> list[R]:
        self.flush()
        sql = RECORD_SQL[kind]
        assert order in sql.names
        direction = " DESC" if descending else ""
        keys = ", ".join(sql.kind.key)
        text = sql.select(f"ORDER BY {order}{direction}, {keys} LIMIT :page OFFSET :offset")
        return self._hold_all(kind, self._driver.rows(text, {"page": limit, "offset": offset}))

    def _hold(self, kind: type[R], row: Row) -> R:
        """The record of a row that was just read; the same object as before, if there was one."""
        record = RECORD_SQL[kind].load(row)
        key = KINDS[kind].key_of(record)
        held = self._held.get((kind, key))
        if held is None:
            self._held[kind, key] = _Held(record, dict(record.__dict__))
            return record  # type: ignore[no-any-return]
        if not held.is_changed:
            held.row = dict(record.__dict__)
            held.record.__dict__.update(record.__dict__)
        return held.record  # type: ignore[no-any-return]

    def _hold_all(self, kind: type[R], rows: Sequence[Row]) -> list[R]:
        return [self._hold(kind, row) for row in rows]

    # Writing.

    def add(self, record: Any) -> None:
        kind = KINDS[type(record)]
        self._is_clean = False
        self.changes[id(record)] = record
        if kind.appended:
            self._added.append(record)
            return
        row = None
        if kind.numbered and record.id == NEW:
            record.id = self._insert_numbered(record)
            row = dict(record.__dict__)
        elif kind.unique:
            self._insert_unless_taken(record)
            row = dict(record.__dict__)
        else:
            self._added.append(record)
        self._held[type(record), kind.key_of(record)] = _Held(record, row, is_locked=True)

    def _insert_numbered(self, record: Any) -> int:
        sql = RECORD_SQL[type(record)]
        rows = self._driver.rows(f"{sql.insert_numbered} RETURNING id", sql.row(record))
        return int(rows[0][0])

    def _insert_unless_taken(self, record: Any) -> None:
        sql = RECORD_SQL[type(record)]
        if self._driver.execute(f"{sql.insert} ON CONFLICT DO NOTHING", sql.row(record)) == 0:
            raise KeyTaken(f"this {type(record).__name__} exists already")

    def save(self, record: Any) -> None:
        held = self._held.get((type(record), KINDS[type(record)].key_of(record)))
        assert held is not None and held.record is record, "the record is not of this transaction"
        if not held.is_changed:
            held.is_changed = True
            self._saved.append(held)
        self._is_clean = False
        self.changes[id(record)] = record

    def delete(self, record: Any) -> None:
        self._is_clean = False
        sql = RECORD_SQL[type(record)]
        held = self._held.setdefault(
            (type(record), sql.kind.key_of(record)), _Held(record, dict(record.__dict__))
        )
        held.is_deleted = True
        self._deleted.append(record)
        self.changes[id(record)] = record

    def count_use(self, use: UseCount) -> None:
        self._counts.append(use)
        self._is_clean = False

    def flush(self) -> None:
        """Write all changes."""
        if writes := self.take_writes():
            self._driver.write(writes)

    def take_writes(self) -> Sequence[tuple[str, Values]]:
        """The statements that write all changes; the caller executes them."""
        if self._is_clean:
            return ()
        self._is_clean = True
        kinds = {type(record) for record in self._added}
        kinds.update(type(held.record) for held in self._saved)
        for kind in sorted(kinds, key=_RANKS.__getitem__):
            self._insert_all(kind)
            self._update_all(kind)
        self._added.clear()
        self._saved.clear()
        # Sorted: two transactions that lock the same rows in different orders deadlock.
        sql = RECORD_SQL[UseCount]
        for use in sorted(self._counts, key=sql.kind.key_of):
            self._writes.append((sql.add_up, sql.row(use)))
        for record in self._deleted:
            self._delete(record)
        self._counts.clear()
        self._deleted.clear()
        writes, self._writes = self._writes, []
        return writes

    def _delete(self, record: Any) -> None:
        sql = RECORD_SQL[type(record)]
        values = {name: sql.dump(name, getattr(record, name)) for name in sql.kind.key}
        self._writes.append((sql.delete, values))
        if isinstance(record, HordeRequest):
            self._writes.append((_DELIST, values))

    def _insert_all(self, kind: type[Any]) -> None:
        records = [record for record in self._added if type(record) is kind]
        if not records:
            return
        sql = RECORD_SQL[kind]
        text = sql.insert_numbered if sql.kind.appended else sql.insert
        for record in records:
            self._writes.append((text, sql.row(record)))
            if not sql.kind.appended:
                self._held[kind, sql.kind.key_of(record)].row = dict(record.__dict__)
            if kind is HordeRequest and record.queued:
                self._enlist(record)

    def _update_all(self, kind: type[Any]) -> None:
        changed = [
            held for held in self._saved if type(held.record) is kind and not held.is_deleted
        ]
        if len(changed) > 1:
            changed.sort(key=lambda held: KINDS[kind].key_of(held.record))
        for held in changed:
            self._update(held)

    def _update(self, held: _Held) -> None:
        record, row = held.record, held.row
        held.is_changed = False
        assert row is not None
        sql = RECORD_SQL[type(record)]
        now, counters = record.__dict__, sql.kind.counters
        names = tuple(name for name, value in now.items() if value != row[name])
        if not names:
            return
        values = {
            name: now[name] - row[name] if name in counters else sql.dump(name, now[name])
            for name in names
        }
        values.update((name, sql.dump(name, now[name])) for name in sql.kind.key)
        self._writes.append((sql.update(names), values))
        if isinstance(record, HordeRequest):
            self._relist(record, row)
        held.row = dict(now)

    def _enlist(self, request: HordeRequest) -> None:
        row = {
            "request_id": request.id,
            "account_id": request.account_id,
            "rank": request.rank,
            "queued_at": request.queued_at,
        }
        for model in dict.fromkeys(map(encodable, queues_of(request))):
            self._writes.append((_ENLIST, {"model": model, **row}))

    def _relist(self, request: HordeRequest, row: dict[str, Any]) -> None:
        """Keep the index of the queue right for a request that has changed."""
        before = object.__new__(HordeRequest)
        before.__dict__.update(row)
        if before.queued and not request.queued:
            self._writes.append((_DELIST, {"id": request.id}))
        elif request.queued and not before.queued:
            self._enlist(request)

    # Queries.

    def waiting(
        self, models: Sequence[str], account_id: int | None = None, kind: str = TEXT
    ) -> Iterator[HordeRequest]:
        self.flush()
        names = dict.fromkeys(encodable(queue_name(kind, model)) for model in ("", *models))
        # To look whether anybody waits for these models costs as much as a page of some of them.
        wanted = list(names) if len(names) <= _FEW else self._wanted(list(names), account_id)
        first = _PAGES[0]
        pages = self._driver.read([_page(model, account_id, first) for model in wanted])
        queues = [
            self._queue_of(model, account_id, page)
            for model, page in zip(wanted, pages, strict=True)
            if page
        ]
        return queues[0] if len(queues) == 1 else merged(queues)

    def _wanted(self, models: Sequence[str], account_id: int | None) -> list[str]:
        """Which of these models somebody waits for."""
        source = "json_each(:models) AS served"
        if self._driver.is_postgresql:
            source = "jsonb_array_elements_text(CAST(:models AS jsonb)) AS served (value)"
        text = (
            f"SELECT value FROM {source} WHERE EXISTS "
            f"(SELECT 1 FROM {WAITING} WHERE {_of(account_id)}model = served.value)"
        )
        values = {"models": json.dumps(models), "account_id": account_id}
        return [row[0] for row in self._driver.rows(text, values)]

    def _queue_of(
        self, model: str, account_id: int | None, rows: Sequence[Row]
    ) -> Iterator[HordeRequest]:
        """The queued requests of one model, a page at a time; `rows` is the first one."""
        sql = RECORD_SQL[HordeRequest]
        for number in range(1_000_000):
            requests = [sql.load(row) for row in rows]
            yield from requests
            if len(requests) < _PAGES[min(number, len(_PAGES) - 1)]:
                return
            size = _PAGES[min(number + 1, len(_PAGES) - 1)]
            rows = self._driver.rows(*_page(model, account_id, size, after=requests[-1]))

    def open_requests(self, account_id: int | None = None) -> list[HordeRequest]:
        self.flush()
        sql = RECORD_SQL[HordeRequest]
        text = sql.select(f"WHERE {_of(account_id)}{_OPEN} ORDER BY queued_at, id")
        return [sql.load(row) for row in self._driver.rows(text, {"account_id": account_id})]

    def workers_since(self, last_seen: float) -> list[Worker]:
        self.flush()
        sql = RECORD_SQL[Worker]
        text = sql.select("WHERE last_seen > :last_seen ORDER BY last_seen, id")
        return [sql.load(row) for row in self._driver.rows(text, {"last_seen": last_seen})]

    def due(self, kind: type[R], now: float, limit: int) -> list[R]:
        self.flush()
        sql = RECORD_SQL[kind]
        due = sql.kind.due
        text = sql.select(f"WHERE {due} <= :now ORDER BY {due} LIMIT :page")
        return self._hold_all(kind, self._driver.rows(text, {"now": now, "page": limit}))

    def next_due(self, kind: type[Any]) -> float | None:
        self.flush()
        sql = RECORD_SQL[kind]
        [[first]] = self._driver.rows(f"SELECT min({sql.kind.due}) FROM {sql.table}", {})
        return first  # type: ignore[no-any-return]

    def due_after(self, kind: type[R], time: float) -> list[R]:
        self.flush()
        sql = RECORD_SQL[kind]
        text = sql.select(f"WHERE {sql.kind.due} > :time ORDER BY id")
        return self._hold_all(kind, self._driver.rows(text, {"time": time}))

    def total(self, kind: type[Any], name: str) -> int:
        self.flush()
        sql = RECORD_SQL[kind]
        assert name in sql.names
        [[total]] = self._driver.rows(f"SELECT SUM({name}) FROM {sql.table}", {})
        return int(total or 0)

    def use_by_model(self, width: int, after: float) -> dict[str, tuple[int, int]]:
        self.flush()
        text = (
            f"SELECT model, SUM(jobs), SUM(tokens) FROM {RECORD_SQL[UseCount].table} "
            "WHERE width = :width AND start > :after GROUP BY model"
        )
        rows = self._driver.rows(text, {"width": width, "after": after})
        return {model: (int(jobs), int(tokens)) for model, jobs, tokens in rows}

    def take_use(self, width: int, until: float) -> list[UseCount]:
        self.flush()
        sql = RECORD_SQL[UseCount]
        text = (
            f"DELETE FROM {sql.table} WHERE width = :width AND start <= :until "
            f"RETURNING {sql.columns}"
        )
        rows = self._driver.rows(text, {"width": width, "until": until})
        return [sql.load(row) for row in rows]


def _of(account_id: int | None) -> str:
    """The beginning of a condition for one account, or for all."""
    return "" if account_id is None else "account_id = :account_id AND "


def _page(
    model: str, account_id: int | None, size: int, after: HordeRequest | None = None
) -> tuple[str, Values]:
    """The statement that reads a page of the queue of a model."""
    values: dict[str, Any] = {"model": model, "account_id": account_id, "page": size}
    rest = ""
    if after is not None:
        values |= {"rank": after.rank, "queued_at": after.queued_at, "id": after.id}
        rest = " AND (rank, queued_at, request_id) > (:rank, :queued_at, :id)"
    text = RECORD_SQL[HordeRequest].select(
        f"WHERE id IN (SELECT request_id FROM {WAITING} "
        f"WHERE {_of(account_id)}model = :model{rest} "
        "ORDER BY rank, queued_at, request_id LIMIT :page) ORDER BY rank, queued_at, id"
    )
    return text, values
