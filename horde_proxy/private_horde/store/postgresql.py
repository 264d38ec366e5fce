"""Records in PostgreSQL, which the processes of several hosts may use.

Each transaction has a connection of its own; rows are locked by FOR UPDATE (see `base`). It commits
without waiting for the disk, so that the next one gets its rows, and waits afterwards (see
`durability`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store.base import Observer, Store, Tx, Wake
from horde_proxy.private_horde.store.connections import Connections
from horde_proxy.private_horde.store.durability import Durability
from horde_proxy.private_horde.store.notifier import Notifier
from horde_proxy.private_horde.store.server_clock import ServerClock
from horde_proxy.private_horde.store.sql import SqlTx

_PLACES = 8
"""Transactions at a time: fewer than a pool has connections (15). More would wait for each other's
rows, and two cores of a server do not get faster by it."""
_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision AS seconds"
_BEGIN = ("BEGIN", "SET LOCAL synchronous_commit TO OFF")


class PostgresqlStore(Store):
    """Records in PostgreSQL."""

    is_shared = True
    check_in_seconds = 10.0
    sends_topics = True

    def __init__(self, database: Database) -> None:
        self.database = self._database = database
        # Polls have connections of their own, so that they do not wait behind workers.
        self._polled = Database(database.url, setting=database.setting)
        self._writers = Connections(database, _PLACES, _BEGIN)
        self._readers = Connections(self._polled, _PLACES)
        self._flushing = Connections(database, 1)
        self._durability = Durability(self._flushing)
        self._observers: list[Observer] = []
        self._looks = itertools.count()
        self._notifier = Notifier(database)

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        try:
            with self._writers.failures(), self._writers.lend() as driver:
                tx = SqlTx(driver)
                yield tx
                driver.commit(tx.take_writes())
        except DatabaseError:
            raise
        except Exception:
            # A refusal may confirm what another thread has committed, such as a result that is
            # submitted twice.
            self._durability.flush()
            raise
        self._durability.flush()
        if tx.changes:
            records = list(tx.changes.values())
            for observer in self._observers:
                observer(records)

    @contextmanager
    def snapshot(self) -> Iterator[Tx]:
        # Without a transaction, each query is one exchange with the server.
        with self._readers.failures(), self._readers.lend() as driver:
            yield SqlTx(driver)

    def clock(self, local: Callable[[], float]) -> Callable[[], float]:
        return ServerClock(self._server_time)

    def _server_time(self) -> float:
        with self._readers.failures(), self._readers.lend() as driver:
            [[seconds]] = driver.rows(_NOW, {})
        return float(seconds)

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def foreign_changes(self) -> int:
        return next(self._looks)

    def announce(self, topics: Sequence[str]) -> None:
        self._notifier.send(topics)

    def watch(self, wake: Wake, is_over: Callable[[], bool]) -> None:
        self._notifier.watch(wake, is_over)

    def close(self) -> None:
        self._notifier.close()
        self._notifier = Notifier(self._database)
        for connections in (self._writers, self._readers, self._flushing):
            connections.close()
        self._database.close()
        self._polled.close()
