"""The interface of a store: transactions, and what they can do.

    with store.transaction() as tx:      all or nothing; an exception undoes it
        request = tx.lock(HordeRequest, request_id)
        request.waiting -= 1
        tx.save(request)

Records that a transaction hands out belong to it: it may change them, and must `save` them. Those
of `waiting` and of a `snapshot` are shared: read them only.

Transactions of other threads and processes run at the same time. To change a field that is not a
counter (see `kinds`), lock the record first. Locks are taken in this order, or two transactions
may wait for each other: one request (further ones only with `try_lock`), then all accounts in one
call, then a shared key, then workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from horde_proxy.private_horde.records import TEXT, HordeRequest, UseCount, Worker

if TYPE_CHECKING:
    from horde_proxy.database.engine import Database

R = TypeVar("R")

Observer = Callable[[Sequence[Any]], None]
"""Called after a commit with the records that it added, saved or deleted."""

Wake = Callable[[Sequence[str] | None], None]


class Tx(ABC):
    """One transaction. Only the thread that began it may use it.

    `get`, `find` and the locks know what this transaction has changed; the other queries may not.
    """

    @abstractmethod
    def get(self, kind: type[R], key: Any) -> R | None:
        """The record with this key, or None."""

    @abstractmethod
    def lock(self, kind: type[R], key: Any) -> R | None:
        """The newest state of a record; others cannot change it until this transaction ends.

        Waits for a transaction that holds it.
        """

    @abstractmethod
    def try_lock(self, kind: type[R], key: Any) -> R | None:
        """As `lock`, but None if another transaction holds the record."""

    def lock_each(self, *wanted: tuple[type[Any], Any]) -> list[Any]:
        """As `lock` for several records (kind, key), in this order; in one exchange if possible."""
        return [self.lock(kind, key) for kind, key in wanted]

    @abstractmethod
    def lock_all(self, kind: type[R], keys: Sequence[Any]) -> dict[Any, R]:
        """As `lock` for several records, by key. They are locked in order of their keys."""

    @abstractmethod
    def find(self, kind: type[R], **equals: Any) -> list[R]:
        """The records with these values, in order of their keys. One field must be an index."""

    @abstractmethod
    def newest(self, kind: type[R], limit: int, **equals: Any) -> list[R]:
        """As `find` for a numbered kind: the last of these records, the newest first."""

    @abstractmethod
    def page(
        self, kind: type[R], order: str, *, descending: bool, offset: int, limit: int
    ) -> list[R]:
        """Some of all records of a kind, in order of a field; records of equal value by key."""

    @abstractmethod
    def add(self, record: Any) -> None:
        """Store a new record. If the store numbers its kind, its `id` is set.

        Raises KeyTaken if there is a record with this key, or with a field that must be unique.
        """

    @abstractmethod
    def save(self, record: Any) -> None:
        """Store the changed fields of a record of this transaction."""

    @abstractmethod
    def delete(self, record: Any) -> None:
        """Remove a record."""

    @abstractmethod
    def waiting(
        self, models: Sequence[str], account_id: int | None = None, kind: str = TEXT
    ) -> Iterator[HordeRequest]:
        """The queued requests of a kind, in order, that name one of these models or none.

        Of one account, or of all. They are read as they are needed, a page at a time.
        """

    @abstractmethod
    def open_requests(self, account_id: int | None = None) -> list[HordeRequest]:
        """The open requests of one account, or of all; the oldest first."""

    @abstractmethod
    def workers_since(self, last_seen: float) -> list[Worker]:
        """The workers that were seen after this time, in order of it."""

    @abstractmethod
    def due(self, kind: type[R], now: float, limit: int) -> list[R]:
        """The records whose time has come, the earliest first."""

    @abstractmethod
    def next_due(self, kind: type[Any]) -> float | None:
        """When the next record of a kind is due; None if none is."""

    @abstractmethod
    def due_after(self, kind: type[R], time: float) -> list[R]:
        """The records that are due after this time."""

    @abstractmethod
    def total(self, kind: type[Any], name: str) -> int:
        """The sum of a field over all records of a kind that are stored."""

    @abstractmethod
    def count_use(self, use: UseCount) -> None:
        """Add to the count of this span, account and model, which is made if need be."""

    @abstractmethod
    def use_by_model(self, width: int, after: float) -> dict[str, tuple[int, int]]:
        """(jobs, tokens) by model of the spans of this width that begin after this time."""

    @abstractmethod
    def take_use(self, width: int, until: float) -> list[UseCount]:
        """Remove and return the counts of this width that begin at this time or before."""


class KeyTaken(Exception):
    """There is a record with this key already."""


class Store(ABC):
    """Keeps the records. Thread-safe.

    `database` is where it is kept, None in memory. `is_shared`: other processes may use it as well.
    `check_in_seconds`: workers that pop again need not be saved more often, because a write costs
    much here; 0 where it costs nothing. `sends_topics`: what is announced reaches other processes.
    """

    database: Database | None = None
    is_shared: bool = False
    check_in_seconds: float = 0.0
    sends_topics: bool = False

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Tx]:
        """A transaction that may change records; it commits when the block ends."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Tx]:
        """A transaction that only reads."""

    def clock(self, local: Callable[[], float]) -> Callable[[], float]:
        """The clock that all who use this store go by, in Unix seconds: `local` on one machine."""
        return local

    @abstractmethod
    def observe(self, observer: Observer) -> None:
        """Call the observer after each commit of this process. It must not call the store."""

    @abstractmethod
    def foreign_changes(self) -> int:
        """A number that is another one after another process may have changed records."""

    @abstractmethod
    def announce(self, topics: Sequence[str]) -> None:
        """Tell other processes that something happened, if they cannot see it by themselves."""

    @abstractmethod
    def watch(self, wake: Wake, is_over: Callable[[], bool]) -> None:
        """Call `wake` when other processes did something, until `is_over` returns true.

        It gets the topics, or None where they are unknown.
        """

    @abstractmethod
    def close(self) -> None:
        """Close files and connections. The next transaction opens them again."""
