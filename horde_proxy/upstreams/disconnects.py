"""Noticing that a client has gone, while a thread waits for something else on its behalf.

One thread waits in epoll for the sockets of all clients:

    request thread    watch(socket) ----> epoll ----> waits for an upstream, or sleeps
    monitor thread    the client hangs up -> hang_up(): wakes the sleeper of a generation,
                      or shuts down the upstream's connection of a proxied call
    request thread    wakes up, raises ClientGone

A thread that reads from an upstream cannot be woken otherwise: the shutdown of its connection
makes its read fail. Nothing here reads from a client's socket.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any, Protocol

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.util.wait import wait_for_read

from horde_proxy.errors import ClientGone, ProxyError, ShuttingDown
from horde_proxy.upstreams.connections import FramedConnection
from horde_proxy.upstreams.lean_adapter import LeanAdapter

# Linux reports a peer that closed even behind bytes that nobody has read.
_HUNG_UP: int = getattr(select, "EPOLLRDHUP", 0)
_CURRENT = threading.local()
LONGEST_IDLE = 4.0
"""Seconds for which a connection waits for its next call. Uvicorn (vLLM, TabbyAPI), Node and
llama.cpp close theirs after 5: a POST that meets the close is lost, since it cannot be repeated."""
_CLOSE_SECONDS = 0.1
"""How long the first stream of a server is watched at its end, for a server that closes then."""
log = logging.getLogger(__name__)


def is_open(client: socket.socket | None) -> bool:
    """Whether the client is still there, for systems without epoll; True without a socket."""
    if client is None:
        return True
    try:
        poll = select.poll()
        poll.register(client, select.POLLIN)
        events = poll.poll(0)
        if not events:
            return True
        if events[0][1] & (select.POLLHUP | select.POLLERR):
            return False
        # An SSL socket's own recv() takes no flags.
        return bool(socket.socket.recv(client, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


class Wakeable(Protocol):
    """Something that waits for a client."""

    def wake(self) -> None:
        """Look at the client now."""

    def stop(self, error: ProxyError) -> None:
        """Give up with this error."""


class ClientWatch:
    """Watches the client of one generation. `waiter` is woken when the client has gone.

    Use it as a context manager: its end is the end of the watch.
    """

    def __init__(self, monitor: DisconnectMonitor, client: socket.socket | None) -> None:
        self.error: ProxyError | None = None
        self.waiter: Wakeable | None = None
        self.descriptor = client.fileno() if client and _HUNG_UP else -1
        self._monitor = monitor
        self._unwatched = None if _HUNG_UP else client

    def __enter__(self) -> ClientWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Raises ClientGone when the client has gone, ShuttingDown when the proxy stops."""
        if self.error is None and not is_open(self._unwatched):
            self.error = ClientGone()
        if self.error is not None:
            raise self.error

    def hang_up(self, error: ProxyError | None = None) -> None:
        """The client has gone, or the proxy stops (`error`). Called under the monitor's lock."""
        self.error = self.error or error or ClientGone()
        if self.waiter is None:
            return
        if isinstance(self.error, ClientGone):
            self.waiter.wake()
        else:
            self.waiter.stop(self.error)

    def close(self) -> None:
        """Watch no longer; may be called again."""
        self._monitor.forget(self)


class _CurrentGuard:
    """A context of one thread, in which this guard is its current one.

    A class, because every proxied call enters one: a generator would cost three times as much.
    """

    def __init__(self, guard: CallGuard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        _CURRENT.guard = self._guard

    def __exit__(self, *_: object) -> None:
        _CURRENT.guard = None


class CallGuard(ClientWatch):
    """Watches the client of one proxied call. `error` says why the call was ended.

    `is_reused`: the call went over a connection that had been kept open. `is_sent`: the whole
    request was written, so that the server may have taken it.
    """

    def __init__(self, monitor: DisconnectMonitor, client: socket.socket | None) -> None:
        super().__init__(monitor, client)
        self.is_reused = self.is_sent = False
        self._connection: Any = None

    def current(self) -> _CurrentGuard:
        """Within this context, the thread's next call to an upstream is guarded."""
        self.is_reused = self.is_sent = False
        return _CurrentGuard(self)

    def attach(self, connection: Any, *, is_reused: bool) -> None:
        """Note the connection that the call uses. Raises `error` if the call is over."""
        self._connection, self.is_reused = connection, is_reused
        if self.error:
            raise self.error

    def hang_up(self, error: ProxyError | None = None) -> None:
        """End the call: shut its connection down, which wakes the thread that reads from it.

        Called under the monitor's lock; others call end_call().
        """
        self.error = self.error or error or ClientGone()
        connection = self._connection
        if connection is not None and connection.guard is self:
            try:
                # An SSL socket's own shutdown() would unwrap it under the reader.
                socket.socket.shutdown(connection.sock or connection.answering, socket.SHUT_RDWR)
            except (OSError, TypeError):
                log.debug("there was no connection to shut down")

    def end_call(self) -> None:
        """End the call from any thread: its answer is not needed any more."""
        self._monitor.hang_up(self)

    def close(self) -> None:
        """The call is over; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.guard is self:
            connection.guard = None
        super().close()


class DisconnectMonitor:
    """Watches clients. Without epoll (not Linux), see ClientWatch.check."""

    def __init__(self) -> None:
        # Guards the two collections and the registrations in epoll. It is also held while a watch
        # hangs up, so that forget() returns only after that: a connection that is given back to
        # its pool is never shut down later. Under it there is no I/O that could block.
        self._lock = threading.Lock()
        self._by_descriptor: dict[int, list[ClientWatch]] = {}
        self._all: set[ClientWatch] = set()
        self._poll: Any = None

    def watch_client(self, client: socket.socket | None) -> ClientWatch:
        """A watch of a client whose answer is generated; without a socket it notices nothing."""
        watch = ClientWatch(self, client)
        self._add(watch)
        return watch

    def watch(self, client: socket.socket | None) -> CallGuard:
        """A guard for a proxied call of a client; without a socket it notices nothing."""
        guard = CallGuard(self, client)
        self._add(guard)
        return guard

    def hang_up_all(self) -> None:
        """End all that is watched: the proxy is being stopped."""
        with self._lock:
            for watch in self._all:
                watch.hang_up(ShuttingDown())

    def hang_up(self, watch: ClientWatch) -> None:
        """End what is watched, as if its client had gone."""
        # Under the lock: another call may get the connection as soon as forget() has returned.
        with self._lock:
            watch.hang_up()

    def forget(self, watch: ClientWatch) -> None:
        """Watch this client no longer."""
        with self._lock:
            self._all.discard(watch)
            watches = self._by_descriptor.get(watch.descriptor, [])
            if watch not in watches:
                return
            watches.remove(watch)
            if not watches:
                del self._by_descriptor[watch.descriptor]
                # The server may have closed the socket already, which also ends the registration.
                with contextlib.suppress(OSError):
                    self._poll.unregister(watch.descriptor)

    def _add(self, watch: ClientWatch) -> None:
        with self._lock:
            self._all.add(watch)
            if watch.descriptor >= 0:
                # A client whose call is made at two servers at once has two watches.
                watches = self._by_descriptor.setdefault(watch.descriptor, [])
                watches.append(watch)
                self._register(watch.descriptor, is_known=len(watches) > 1)

    def _register(self, descriptor: int, *, is_known: bool) -> None:
        """Have epoll report the client's end once; again, where it has reported it already."""
        # One shot: a hang-up is final, and level-triggered epoll would report it forever.
        events = _HUNG_UP | select.EPOLLHUP | select.EPOLLONESHOT
        poll = self._started()
        if is_known:
            # The server may have closed that socket, whose number this one has now.
            with contextlib.suppress(FileNotFoundError):
                poll.modify(descriptor, events)
                return
        poll.register(descriptor, events)

    def _started(self) -> Any:
        if self._poll is None:
            poll = select.epoll()
            # Kept only once the thread runs: where none can be started now, a later call tries.
            threading.Thread(
                target=self._run, args=(poll,), name="disconnects", daemon=True
            ).start()
            self._poll = poll
        return self._poll

    def _run(self, poll: Any) -> None:
        while True:
            for descriptor, _ in poll.poll():
                with self._lock:
                    for watch in self._by_descriptor.get(descriptor, ()):
                        watch.hang_up()


class _StreamEnds:
    """What a server does with a connection after a stream: None until its first stream ended.

    llama.cpp closes it, although it announces "Keep-Alive: timeout=5" (measured; so do others built
    with cpp-httplib). A request that follows at once, as the next one in line does, would meet the
    close, and could not be repeated.
    """

    def __init__(self) -> None:
        self.keeps_open: bool | None = None


class _GuardedConnection(FramedConnection):
    """Tells the thread's current guard that it is used, whether before, and how far a call is.

    `answering` is the socket of the last call: a connection that is not kept open gives it away.
    """

    guard: CallGuard | None = None
    was_used = False
    answering: Any = None
    idle_since = 0.0
    has_streamed = False
    stream_ends: _StreamEnds | None = None

    @property
    def is_connected(self) -> bool:
        """Whether its pool may use it again: the server has not closed it, and will not soon."""
        is_fresh = monotonic() - self.idle_since < LONGEST_IDLE
        is_open = super().is_connected
        if self.has_streamed and self.stream_ends and is_fresh and not is_open:
            self.stream_ends.keeps_open = False
        return is_open and is_fresh

    def getresponse(self) -> Any:
        """The answer, of which the end of a stream is remembered."""
        response = super().getresponse()
        self.has_streamed = bool(getattr(response._original_response, "chunked", False))
        return response

    def connect(self) -> None:
        self.was_used = False
        super().connect()

    def request(self, *arguments: Any, **options: Any) -> None:
        guard = self.guard = getattr(_CURRENT, "guard", None)
        if guard:
            guard.attach(self, is_reused=self.was_used and self.sock is not None)
        super().request(*arguments, **options)
        self.was_used, self.answering = True, self.sock
        if guard:
            guard.is_sent = True
            if guard.error:
                raise guard.error


class _GuardedSecureConnection(_GuardedConnection, HTTPSConnection):
    """The same over TLS."""


class _GuardedPool(HTTPConnectionPool):
    ConnectionCls = _GuardedConnection

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stream_ends = _StreamEnds()

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.stream_ends = self._stream_ends
            if conn.has_streamed and conn.sock is not None:
                self._after_stream(conn)
            conn.idle_since = monotonic()
        super()._put_conn(conn)

    def _after_stream(self, conn: Any) -> None:
        """Close a connection that its server is about to close. Blocks shortly, once a server."""
        ends = self._stream_ends
        # Over TLS, more than the close may come after an answer: session tickets (RFC 8446, 4.6.1).
        if ends.keeps_open is None and not isinstance(conn, HTTPSConnection):
            ends.keeps_open = not wait_for_read(conn.sock, timeout=_CLOSE_SECONDS)
        if ends.keeps_open is False:
            conn.close()


class _GuardedSecurePool(_GuardedPool, HTTPSConnectionPool):
    ConnectionCls = _GuardedSecureConnection


class WatchedAdapter(LeanAdapter):
    """Sends requests over connections that a CallGuard can shut down."""

    pool_classes: Mapping[str, type[HTTPConnectionPool]] = {
        "http": _GuardedPool,
        "https": _GuardedSecurePool,
    }
