"""Waits until what was committed to PostgreSQL is on the server's disk, for many threads at once.

    thread 1: COMMIT (asynchronous) -- flush() -- leads: one exchange with the server --.
    thread 2:    COMMIT (asynchronous) -- flush() -- waits for the next, or leads it    +-> return
    thread 3:       COMMIT (asynchronous) -- flush() -- waits with it ------------------'

A transaction that waits for the disk while it commits keeps its rows locked for some ms more, and
all others need the rows of accounts. So transactions commit without waiting (`synchronous_commit`
off): the server writes its log in order, and ends their locks at once. Then threads wait here, and
only then anybody gets an answer. What is lost with the server before that was confirmed to
nobody.
"""

from __future__ import annotations

import threading

from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde.store.connections import Connections

_FLUSH = (
    "SELECT CASE WHEN pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn() "
    "THEN pg_logical_emit_message(true, 'private_horde', '') END"
)
"""Commits a note in the server's log, which nobody reads, as the administrator wants commits to be:
on the disk, or on the standby's too. All that was committed before is there then as well, also by
other processes. If nothing is missing on the disk, nothing is written."""


class _Flush:
    """One exchange with the server."""

    def __init__(self) -> None:
        self.is_over = False
        self.failure: DatabaseError | None = None


class Durability:
    """Knows when commits are on the disk. Thread-safe."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        # Guards the three fields, and those of flushes. No I/O happens under it.
        self._changed = threading.Condition()
        self._is_flushing = False
        # The first flush that begins after now.
        self._next = _Flush()

    def flush(self) -> None:
        """Return once all that was committed is on the disk. Raises DatabaseError."""
        with self._changed:
            flush = self._next
            self._changed.wait_for(lambda: flush.is_over or not self._is_flushing)
            leads = not flush.is_over
            if leads:
                self._is_flushing, self._next = True, _Flush()
        if leads:
            self._run(flush)
        if flush.failure is not None:
            raise flush.failure

    def _run(self, flush: _Flush) -> None:
        failure: DatabaseError | None = DatabaseError("the flush was interrupted")
        try:
            with self._connections.failures(), self._connections.lend() as driver:
                driver.rows(_FLUSH, {})
            failure = None
        except DatabaseError as exc:
            failure = exc
        finally:
            with self._changed:
                flush.failure, flush.is_over, self._is_flushing = failure, True, False
                self._changed.notify_all()
