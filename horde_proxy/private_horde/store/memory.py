"""Records in the memory of one process: everything is lost when it ends.

One lock is held from the beginning of a transaction to its end, so that one at a time changes
records. No I/O happens under it. Stored records are never changed: a transaction works on copies,
and its commit puts them in the place of the old ones.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from heapq import heappop, heappush
from typing import Any, TypeVar

from horde_proxy.private_horde.queue_order import merged, order_of, queue_name, queues_of
from horde_proxy.private_horde.records import NEW, TEXT, HordeRequest, UseCount, Worker
from horde_proxy.private_horde.store.base import KeyTaken, Observer, Store, Tx, Wake
from horde_proxy.private_horde.store.kinds import KINDS, Kind

R = TypeVar("R")


class _Rows:
    """The stored records of one kind, by key and by each index."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.by_key: dict[Any, Any] = {}
        # For each index: the keys, in order of their addition, by value.
        self.indexes: dict[str, dict[Any, dict[Any, None]]] = {name: {} for name in kind.indexes}
        # A heap of (due, key). An entry is outdated if the record has another time by now.
        self.dues: list[tuple[float, Any]] = []
        self._last_number = 0

    def next_number(self) -> int:
        """The key of a new record."""
        self._last_number += 1
        return self._last_number

    def put(self, key: Any, record: Any) -> Any:
        """Store a record; None removes it. Returns the one that was there before."""
        old = self.by_key.pop(key, None) if record is None else self.by_key.get(key)
        if record is not None:
            self.by_key[key] = record
        for name, index in self.indexes.items():
            before = None if old is None else getattr(old, name)
            after = None if record is None else getattr(record, name)
            if before != after or old is None:
                _move(index, key, before, after)
        due = self.kind.due
        if due is not None and record is not None:
            when = getattr(record, due)
            if when is not None and (old is None or getattr(old, due) != when):
                heappush(self.dues, (when, key))
        return old

    def first_due(self) -> Any:
        """The record that is due first; None if none is."""
        name = self.kind.due
        assert name is not None
        while self.dues:
            when, key = self.dues[0]
            record = self.by_key.get(key)
            if record is not None and getattr(record, name) == when:
                return record
            heappop(self.dues)
        return None


def _move(index: dict[Any, dict[Any, None]], key: Any, before: Any, after: Any) -> None:
    """Move a key from one value to another; None is not indexed."""
    if before is not None and (keys := index.get(before)) is not None:
        keys.pop(key, None)
        if not keys:
            del index[before]
    if after is not None:
        index.setdefault(after, {})[key] = None


class _Waiting:
    """The queued requests, in order, by queue, and by account and queue."""

    def __init__(self) -> None:
        self.lists: dict[tuple[int | None, str], list[HordeRequest]] = {}

    def put(self, old: HordeRequest | None, new: HordeRequest | None) -> None:
        """Replace a request that has changed."""
        was, is_queued = old is not None and old.queued, new is not None and new.queued
        if was:
            assert old is not None
            for key in _lists_of(old):
                requests = self.lists[key]
                position = bisect_left(requests, old.order, key=order_of)
                if is_queued:
                    assert new is not None
                    requests[position] = new
                    continue
                del requests[position]
                if not requests:
                    del self.lists[key]
        elif is_queued:
            assert new is not None
            for key in _lists_of(new):
                insort(self.lists.setdefault(key, []), new, key=order_of)


def _lists_of(request: HordeRequest) -> Iterator[tuple[int | None, str]]:
    for name in queues_of(request):
        yield None, name
        yield request.account_id, name


class MemoryStore(Store):
    """Records in memory."""

    def __init__(self) -> None:
        # Guards all records, from the beginning of a transaction to its end. Observers are called
        # under it; their own locks are taken after it, never before.
        self._lock = threading.Lock()
        self.rows = {record: _Rows(kind) for record, kind in KINDS.items()}
        self.waiting = _Waiting()
        self._observers: list[Observer] = []

    def transaction(self) -> AbstractContextManager[Tx]:
        return self._begin()

    @contextmanager
    def _begin(self) -> Iterator[Tx]:
        with self._lock:
            tx = MemoryTx(self)
            yield tx
            self._commit(tx)

    @contextmanager
    def snapshot(self) -> Iterator[Tx]:
        # Without the lock, or polls would wait behind all workers. Stored records do not change,
        # and each query copies what it walks through in one step.
        yield MemoryTx(self, copies=False)

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def foreign_changes(self) -> int:
        return 0

    def announce(self, topics: Sequence[str]) -> None:
        """No other process can see these records."""

    def watch(self, wake: Wake, is_over: Callable[[], bool]) -> None:
        """No other process can change these records."""

    def close(self) -> None:
        """Nothing is open."""

    def _commit(self, tx: MemoryTx) -> None:
        for (kind, key), record in tx.changed.items():
            old = self.rows[kind].put(key, record)
            if kind is HordeRequest:
                self.waiting.put(old, record)
        if changed := [*tx.changed.values(), *tx.deleted]:
            records = [record for record in changed if record is not None]
            for observer in self._observers:
                observer(records)


class MemoryTx(Tx):
    """A transaction: its own copies of the records that it has read, and what it has changed.

    Without `copies`, it hands out the stored records themselves, for reading only.
    """

    def __init__(self, store: MemoryStore, copies: bool = True) -> None:
        self._store, self._copies = store, copies
        self._mine: dict[tuple[type[Any], Any], Any] = {}
        # The new state by kind and key; None for a deleted record.
        self.changed: dict[tuple[type[Any], Any], Any] = {}
        self.deleted: list[Any] = []

    def get(self, kind: type[R], key: Any) -> R | None:
        if (mine := self._mine.get((kind, key), self)) is not self:
            return mine  # type: ignore[no-any-return]
        record = self._store.rows[kind].by_key.get(key)
        if record is None or not self._copies:
            return record  # type: ignore[no-any-return]
        copy = object.__new__(kind)
        copy.__dict__.update(record.__dict__)
        self._mine[kind, key] = copy
        return copy

    def lock(self, kind: type[R], key: Any) -> R | None:
        return self.get(kind, key)

    def try_lock(self, kind: type[R], key: Any) -> R | None:
        return self.get(kind, key)

    def lock_all(self, kind: type[R], keys: Sequence[Any]) -> dict[Any, R]:
        records = {key: self.get(kind, key) for key in keys}
        return {key: record for key, record in records.items() if record is not None}

    def find(self, kind: type[R], **equals: Any) -> list[R]:
        rows = self._store.rows[kind]
        name = next(name for name in equals if name in rows.indexes)
        keys = dict(rows.indexes[name].get(equals[name], ()))
        keys.update(dict.fromkeys(key for changed, key in self.changed if changed is kind))
        records = (self.get(kind, key) for key in keys)
        return sorted(
            (
                record
                for record in records
                if record is not None
                and all(getattr(record, name) == value for name, value in equals.items())
            ),
            key=rows.kind.key_of,
        )

    def newest(self, kind: type[R], limit: int, **equals: Any) -> list[R]:
        return self.find(kind, **equals)[: -limit - 1 : -1]

    def page(
        self, kind: type[R], order: str, *, descending: bool, offset: int, limit: int
    ) -> list[R]:
        # A copy: a snapshot holds no lock, and records may be deleted while this sorts.
        items = list(self._store.rows[kind].by_key.items())
        items.sort(key=lambda item: item[0])
        items.sort(key=lambda item: getattr(item[1], order), reverse=descending)
        records = (self.get(kind, key) for key, _ in items[offset : offset + limit])
        return [record for record in records if record is not None]

    def add(self, record: Any) -> None:
        rows = self._store.rows[type(record)]
        if rows.kind.numbered and record.id == NEW:
            record.id = rows.next_number()
        key = rows.kind.key_of(record)
        names = [name for name in rows.kind.unique if name in rows.indexes]
        taken = any(self.find(type(record), **{name: getattr(record, name)}) for name in names)
        if taken or self.get(type(record), key) is not None:
            raise KeyTaken(f"{type(record).__name__} {key} is taken")
        self._mine[type(record), key] = self.changed[type(record), key] = record

    def save(self, record: Any) -> None:
        kind = type(record)
        key = KINDS[kind].key_of(record)
        assert self._mine.get((kind, key)) is record, "the record is not of this transaction"
        self.changed[kind, key] = record

    def delete(self, record: Any) -> None:
        kind = type(record)
        key = KINDS[kind].key_of(record)
        self._mine[kind, key] = self.changed[kind, key] = None
        self.deleted.append(record)

    def waiting(
        self, models: Sequence[str], account_id: int | None = None, kind: str = TEXT
    ) -> Iterator[HordeRequest]:
        lists = self._store.waiting.lists
        names = dict.fromkeys(queue_name(kind, model) for model in ("", *models))
        queues = [lists.get((account_id, name), ()) for name in names]
        filled = [queue for queue in queues if queue]
        if len(filled) == 1:
            return iter(filled[0])
        return merged(filled)

    def open_requests(self, account_id: int | None = None) -> list[HordeRequest]:
        rows = self._store.rows[HordeRequest]
        if account_id is None:
            requests = list(rows.by_key.values())
        else:
            keys = list(rows.indexes["account_id"].get(account_id, ()))
            requests = [rows.by_key.get(key) for key in keys]
        # Requests are stored in the order of their submits.
        return [request for request in requests if request is not None and request.open]

    def workers_since(self, last_seen: float) -> list[Worker]:
        workers = list(self._store.rows[Worker].by_key.values())
        online = (worker for worker in workers if worker.last_seen > last_seen)
        return sorted(online, key=lambda worker: worker.last_seen)

    def due(self, kind: type[R], now: float, limit: int) -> list[R]:
        rows = self._store.rows[kind]
        entries: list[tuple[float, Any]] = []
        while len(entries) < limit:
            first = rows.first_due()
            if first is None or getattr(first, str(rows.kind.due)) > now:
                break
            entries.append(heappop(rows.dues))
        # Back onto the heap: what a caller leaves alone is due again.
        for entry in entries:
            heappush(rows.dues, entry)
        records = (self.get(kind, key) for key in dict.fromkeys(key for _, key in entries))
        return [record for record in records if record is not None]

    def next_due(self, kind: type[Any]) -> float | None:
        rows = self._store.rows[kind]
        first = rows.first_due()
        return None if first is None else getattr(first, str(rows.kind.due))

    def due_after(self, kind: type[R], time: float) -> list[R]:
        rows = self._store.rows[kind]
        late = [key for when, key in rows.dues if when > time]
        records = (self.get(kind, key) for key in dict.fromkeys(late))
        name = str(rows.kind.due)
        return [r for r in records if r is not None and (getattr(r, name) or 0.0) > time]

    def total(self, kind: type[Any], name: str) -> int:
        return sum(getattr(record, name) for record in list(self._store.rows[kind].by_key.values()))

    def count_use(self, use: UseCount) -> None:
        record = self.get(UseCount, KINDS[UseCount].key_of(use))
        if record is None:
            self.add(use)
            return
        record.jobs += use.jobs
        record.tokens += use.tokens
        record.kudos += use.kudos
        self.save(record)

    def use_by_model(self, width: int, after: float) -> dict[str, tuple[int, int]]:
        counts: dict[str, tuple[int, int]] = {}
        for use in list(self._store.rows[UseCount].by_key.values()):
            if use.width == width and use.start > after:
                jobs, tokens = counts.get(use.model, (0, 0))
                counts[use.model] = (jobs + use.jobs, tokens + use.tokens)
        return counts

    def take_use(self, width: int, until: float) -> list[UseCount]:
        stored = self._store.rows[UseCount].by_key.values()
        taken = [use for use in stored if use.width == width and use.start <= until]
        for use in taken:
            self.delete(use)
        return taken
