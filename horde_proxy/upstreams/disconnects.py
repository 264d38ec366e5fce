"""Ending calls whose client has gone: one thread looks at the sockets of all clients.

A thread that waits for an upstream's bytes cannot look at its client. When the client hangs up,
the upstream's connection is shut down, and that thread wakes with an error.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from horde_proxy.errors import ClientGone, ProxyError, ShuttingDown

_HUNG_UP: int = getattr(select, "EPOLLRDHUP", 0)
_CURRENT = threading.local()
log = logging.getLogger(__name__)


class CallGuard:
    """One client's call. `error` says why it is over, once the client hung up.

    `is_reused`: the call went over a connection that had been kept open.
    """

    def __init__(self, hangups: DisconnectMonitor, client: socket.socket | None) -> None:
        self.error: ProxyError | None = None
        self.is_reused = False
        self._hangups = hangups
        self._connection: Any = None
        self.descriptor = client.fileno() if client else -1

    def __enter__(self) -> None:
        """This thread's next call to an upstream is watched."""
        _CURRENT.watch = self

    def __exit__(self, *_: object) -> None:
        _CURRENT.watch = None

    def attach(self, connection: Any, *, is_reused: bool) -> None:
        """This connection is used for the call now. Raises `error`."""
        self._connection, self.is_reused = connection, is_reused
        if self.error:
            raise self.error

    def hang_up(self, error: ProxyError | None = None) -> None:
        """The client has gone, or another error ends the call: wakes who works for it."""
        self.error = self.error or error or ClientGone()
        connection = self._connection
        if connection is not None and connection.watch is self:
            try:
                # An SSL socket's own method would take the socket from under the reader.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
            except (OSError, TypeError):
                log.debug("there was no connection to shut down")

    def close(self) -> None:
        """The call is over; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.watch is self:
            connection.watch = None
        self._hangups.forget(self)


class DisconnectMonitor:
    """Watches clients. Without epoll (other systems), nothing is noticed before a write fails."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[int, CallGuard] = {}
        self._all: set[CallGuard] = set()
        self._poll: Any = None

    def watch(self, client: socket.socket | None) -> CallGuard:
        """A watch for one call of a client; without a socket it sees nothing."""
        found = CallGuard(self, client if _HUNG_UP else None)
        with self._lock:
            self._all.add(found)
            if found.descriptor >= 0:
                self._watches[found.descriptor] = found
                self._started().register(
                    found.descriptor, _HUNG_UP | select.EPOLLHUP | select.EPOLLONESHOT
                )
        return found

    def hang_up_all(self) -> None:
        """End all calls: the proxy is being stopped."""
        with self._lock:
            for watch in self._all:
                watch.hang_up(ShuttingDown())

    def forget(self, watch: CallGuard) -> None:
        """Look no longer at a call's client."""
        with self._lock:
            self._all.discard(watch)
            if self._watches.get(watch.descriptor) is watch:
                del self._watches[watch.descriptor]
                with contextlib.suppress(OSError):
                    self._poll.unregister(watch.descriptor)

    def _started(self) -> Any:
        if self._poll is None:
            self._poll = select.epoll()
            threading.Thread(target=self._run, daemon=True).start()
        return self._poll

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                with self._lock:
                    watch = self._watches.get(descriptor)
                    if watch:
                        watch.hang_up()


class _Watched(HTTPConnection):
    """Tells its watch that it is used, and whether it was before."""

    watch: CallGuard | None = None
    was_asked = False

    def connect(self) -> None:
        self.was_asked = False
        super().connect()

    def request(self, *arguments: Any, **options: Any) -> None:
        watch = self.watch = getattr(_CURRENT, "watch", None)
        if watch:
            watch.attach(self, is_reused=self.was_asked and self.sock is not None)
        super().request(*arguments, **options)
        self.was_asked = True
        if watch and watch.error:
            raise watch.error


class _SecureConnection(_Watched, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class WatchedAdapter(HTTPAdapter):
    """Sends requests whose client may be watched."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        found: Any = super().proxy_manager_for(*arguments, **options)
        found.pool_classes_by_scheme = _POOLS
        return found
