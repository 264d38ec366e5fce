"""Signals between processes through PostgreSQL's LISTEN and NOTIFY.

    commits of this process -> send(): topics in memory -> sender thread: NOTIFY, 50 times a second
    watcher: a connection that listens -> wake();  while it is lost: wake all, once in a second

A NOTIFY within a commit would make all commits of the database wait for each other; so it has a
connection of its own, and a signal may be lost when the process ends.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection

from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store.base import Wake
from horde_proxy.private_horde.store.connections import Connections
from horde_proxy.private_horde.store.tables import SCHEMA

log = logging.getLogger(__name__)

_CHANNEL = "private_horde"
_PAUSE = 0.02
"""Seconds between two NOTIFYs."""
_MOST_BYTES = 7900
"""Of the topics of one NOTIFY, whose payload may have 8,000 bytes with the sender."""
_MOST_PAYLOADS = 20
"""NOTIFYs at a time. For more topics, everybody is woken instead."""
_LISTEN_SECONDS = 0.5
"""How often the watcher looks whether anybody listens."""
_RETRY_SECONDS = 1.0


_NOTIFY = f"SELECT pg_notify('{_CHANNEL}', CAST(:payload AS text))"


def payloads_of(sender: str, topics: Sequence[str]) -> list[str]:
    """The payloads of NOTIFYs, in JSON: the sender, and some topics, or null for all."""
    groups: list[list[str]] = [[]]
    size = 0
    for topic in topics:
        size += len(json.dumps(topic)) + len(", ")
        if size > _MOST_BYTES:
            groups.append([])
            size = len(json.dumps(topic))
        groups[-1].append(topic)
    if len(groups) > _MOST_PAYLOADS:
        return [json.dumps([sender, None])]
    return [json.dumps([sender, group]) for group in groups if group]


def read_payload(payload: str) -> tuple[str, list[str] | None]:
    """(sender, topics) of a NOTIFY; None for all topics, also where it cannot be read.

    The channel is the database's: any program that has it may send something there.
    """
    try:
        sender, topics = json.loads(payload)
    except (ValueError, TypeError):
        return "", None
    is_known = isinstance(topics, list) and all(isinstance(topic, str) for topic in topics)
    return str(sender), topics if is_known else None


class Notifier:
    """Sends the topics of this process, and receives those of others. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A process is told by the server what it has sent itself.
        self._id = secrets.token_hex(4)
        # It does not wait for the disk: a NOTIFY is not written there.
        self._sending = Connections(database, 1)
        # Guards the topics and the sender. No I/O happens under it.
        self._lock = threading.Lock()
        # In the order in which they came, each once.
        self._topics: dict[str, None] = {}
        self._sender: threading.Thread | None = None
        self._has_topics = threading.Event()
        self._is_closed = threading.Event()
        # Held by the watcher as long as it has a connection.
        self._watching = threading.Lock()

    def send(self, topics: Sequence[str]) -> None:
        """Tell other processes. Returns at once."""
        with self._lock:
            self._topics.update(dict.fromkeys(topics))
            if self._sender is None and not self._is_closed.is_set():
                self._sender = threading.Thread(target=self._send_all, daemon=True)
                self._sender.start()
        self._has_topics.set()

    def _send_all(self) -> None:
        while not self._is_closed.is_set():
            self._has_topics.wait()
            self._has_topics.clear()
            with self._lock:
                topics, self._topics = list(self._topics), {}
            if not topics:
                continue
            payloads = payloads_of(self._id, topics)
            try:
                with self._sending.failures(), self._sending.lend() as driver:
                    driver.write([(_NOTIFY, {"payload": payload}) for payload in payloads])
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
        self._sending.close()
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
                    sender, topics = read_payload(notification.payload)
                    if sender != self._id:
                        wake(topics)
        except psycopg.Error as exc:
            raise DatabaseError(f"the connection that listens is lost: {exc}") from exc

    def _listener(self) -> Connection:
        engine = self._database.engine(SCHEMA).execution_options(isolation_level="AUTOCOMMIT")
        return engine.connect()
