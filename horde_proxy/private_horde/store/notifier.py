"""Signals between processes through PostgreSQL's LISTEN and NOTIFY.

    commits of this process -> send(): topics in memory -> sender thread: NOTIFY, 50 times a second
    watcher: a connection that listens -> wake();  while it is lost: wake all, once in a second

A NOTIFY within a commit would make all commits of the database wait for each other; so it has a
connection of its own, and a signal may be lost when the process ends.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store.base import Wake
from horde_proxy.private_horde.store.tables import SCHEMA

log = logging.getLogger(__name__)

_CHANNEL = "private_horde"
_PAUSE = 0.02
"""Seconds between two NOTIFYs."""
_MOST_TOPICS = 100
"""Topics of one NOTIFY, whose payload may have 8,000 bytes; more wake everybody instead."""
_LISTEN_SECONDS = 0.5
"""How often the watcher looks whether anybody listens."""
_RETRY_SECONDS = 1.0


class Notifier:
    """Sends the topics of this process, and receives those of others. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Guards the topics and the sender. No I/O happens under it.
        self._lock = threading.Lock()
        self._topics: set[str] = set()
        self._sender: threading.Thread | None = None
        self._has_topics = threading.Event()
        self._is_closed = threading.Event()
        # Held by the watcher as long as it has a connection.
        self._watching = threading.Lock()

    def send(self, topics: Sequence[str]) -> None:
        """Tell other processes. Returns at once."""
        with self._lock:
            self._topics.update(topics)
            if self._sender is None and not self._is_closed.is_set():
                self._sender = threading.Thread(target=self._send_all, daemon=True)
                self._sender.start()
        self._has_topics.set()

    def _send_all(self) -> None:
        while not self._is_closed.is_set():
            self._has_topics.wait()
            self._has_topics.clear()
            with self._lock:
                topics, self._topics = self._topics, set()
            if not topics:
                continue
            payload = json.dumps(sorted(topics) if len(topics) <= _MOST_TOPICS else None)
            try:
                with self._database.failures(), self._database.engine(SCHEMA).begin() as connection:
                    # There is nothing to be written to the disk.
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
                    connection.exec_driver_sql(
                        "SELECT pg_notify(%(channel)s, %(payload)s)",
                        {"channel": _CHANNEL, "payload": payload},
                    )
            except DatabaseError as exc:
                # Others look at the database by themselves, only later.
                log.debug("no NOTIFY: %s", exc)
                self._is_closed.wait(_RETRY_SECONDS)
            self._is_closed.wait(_PAUSE)

    def close(self) -> None:
        """End the threads; this notifier sends and receives no more."""
        self._is_closed.set()
        self._has_topics.set()
        with self._lock:
            sender = self._sender
        if sender is not None:
            sender.join(2 * _LISTEN_SECONDS)
        if self._watching.acquire(timeout=2 * _LISTEN_SECONDS):
            self._watching.release()

    def watch(self, wake: Wake, is_over: Callable[[], bool]) -> None:
        """Call `wake` with the topics of other processes, until `is_over` returns true."""
        with self._watching:
            self._watch(wake, lambda: self._is_closed.is_set() or is_over())

    def _watch(self, wake: Wake, is_over: Callable[[], bool]) -> None:
        while not is_over():
            try:
                with self._database.failures(), self._listener() as connection:
                    connection.exec_driver_sql(f"LISTEN {_CHANNEL}")
                    driver = connection.connection.driver_connection
                    # The pool would give it to others, and it would go on listening.
                    connection.detach()
                    # What happened before is not known.
                    wake(None)
                    self._receive(driver, wake, is_over)
            except DatabaseError as exc:
                log.debug("no LISTEN: %s", exc)
                self._is_closed.wait(_RETRY_SECONDS)
                wake(None)

    def _receive(self, connection: Any, wake: Wake, is_over: Callable[[], bool]) -> None:
        import psycopg

        try:
            while not is_over():
                for notification in connection.notifies(timeout=_LISTEN_SECONDS, stop_after=1):
                    wake(json.loads(notification.payload))
        except psycopg.Error as exc:
            raise DatabaseError(f"the connection that listens is lost: {exc}") from exc

    def _listener(self) -> Connection:
        engine = self._database.engine(SCHEMA).execution_options(isolation_level="AUTOCOMMIT")
        return engine.connect()
