"""Connections to PostgreSQL that never wait for ever. This module imports psycopg.

What may be lost is the server, its machine, or the network to it, and none of them says so:

    no connection          connect_timeout, 5 s
    the network is cut     TCP_USER_TIMEOUT and keep-alives, 11 s: the kernel closes the connection
    the server hangs       ANSWER_SECONDS without an answer: the connection is closed here

On its side, the server ends sessions of a host that has vanished, and with them their locks:
without that, a host that is cut off in a transaction stops all others.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection

ANSWER_SECONDS = 15.0
"""The longest wait for the answer to a statement. Those of a request take milliseconds; the longest
ones, of a year of history, a few seconds."""
LIVENESS = {
    # 5 s of silence, then three probes: a connection without an answer is closed after 11 s.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    # The same for what was sent and is not acknowledged (ms); Linux alone takes 15 minutes.
    "tcp_user_timeout": "11000",
}
"""Parameters of libpq, which the database's URL may override."""
_SESSION = """
SET idle_in_transaction_session_timeout = '15s';
SET tcp_keepalives_idle = 5;
SET tcp_keepalives_interval = 2;
SET tcp_keepalives_count = 3
"""
"""For the server. Not as `options` of libpq, which PgBouncer refuses. No transaction of ours pauses
for more than milliseconds between two statements."""

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server has not answered for `longest_wait` seconds."""

    longest_wait: float | None = ANSWER_SECONDS

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """What psycopg waits for. Raises OperationalError."""
        if self.longest_wait is None:
            return super().wait(gen, *args, **kwargs)
        return super().wait(self._bounded(gen, self.longest_wait), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
        """The same generator with an end. psycopg resumes it ten times a second without news."""
        deadline = time.monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() >= deadline:
                    # SQLAlchemy takes a closed connection for a lost one, and opens another.
                    self.close()
                    raise psycopg.OperationalError(f"no answer for {seconds:.0f} s")
                wanted = gen.send(ready) or wanted
        except StopIteration as end:
            answer: T = end.value
            return answer


def connect(dialect: object, record: object, arguments: Any, parameters: Any) -> BoundedConnection:
    """A new connection, for SQLAlchemy's event `do_connect`."""
    connection = BoundedConnection.connect(*arguments, **parameters)
    connection.execute(_SESSION)
    connection.commit()
    return connection


@contextmanager
def patient(connection: Connection) -> Iterator[None]:
    """Within it, statements may take any time: upgrades, and the wait for another host's."""
    driver: Any = connection.connection.driver_connection
    driver.longest_wait = None
    try:
        yield
    finally:
        driver.longest_wait = ANSWER_SECONDS
