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
from typing import Any, Protocol

from horde_proxy.errors import ClientGone, ProxyError, ShuttingDown

# Linux reports a peer that closed even behind bytes that nobody has read.
_HUNG_UP: int = getattr(select, "EPOLLRDHUP", 0)
_CURRENT = threading.local()
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


def _has_hung_up(descriptor: int) -> bool:
    """Whether the client of a socket has gone, where there is epoll. Does not block."""
    poll = select.poll()
    poll.register(descriptor, _HUNG_UP)
    return bool(poll.poll(0))


def current_guard() -> CallGuard | None:
    """The guard of the call that this thread is making; see CallGuard.current."""
    return getattr(_CURRENT, "guard", None)


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


class NotYet(Exception):
    """The answer is not there. Whoever waits for it makes the same call again, which goes on."""


class _CurrentGuard:
    """A context of one thread, in which this guard is its current one.

    A class, because every proxied call enters one: a generator would cost three times as much.
    """

    def __init__(self, guard: CallGuard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        _CURRENT.guard = self._guard

    def __exit__(self, *_: object) -> None:
        # The collector may end a forgotten call's context while the thread makes the next call.
        if _CURRENT.guard is self._guard:
            _CURRENT.guard = None


class CallGuard(ClientWatch):
    """Watches the client of one proxied call. `error` says why the call was ended.

    `is_reused`: the call went over a connection that had been kept open. `is_sent`: the whole
    request was written, so that the server may have taken it. `patience`: a call that could block
    for more than so many seconds raises NotYet instead. `ahead` is the connection where the request
    of such a call was sent already, so that the call only waits for its answer when it is made
    again.
    """

    patience: float | None = None
    ahead: Any = None

    def __init__(self, monitor: DisconnectMonitor, client: socket.socket | None) -> None:
        super().__init__(monitor, client)
        self.is_reused = self.is_sent = False
        self._connection: Any = None

    def current(self) -> _CurrentGuard:
        """Within this context, the thread's next call to an upstream is guarded."""
        if self.ahead is None:
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

    def detach(self, connection: Any) -> None:
        """The call uses this connection no longer: it is not shut down after this has returned."""
        self._monitor.detach(self, connection)

    def end_call(self) -> None:
        """End the call from any thread: its answer is not needed any more."""
        self._monitor.hang_up(self)

    def close(self) -> None:
        """The call is over; may be called again."""
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            # Nobody reads the answer that is coming there.
            ahead.close()
        connection, self._connection = self._connection, None
        if connection is not None and connection.guard is self:
            connection.guard = None
        super().close()


class DisconnectMonitor:
    """Watches clients. Without epoll (not Linux), see ClientWatch.check."""

    def __init__(self) -> None:
        # Guards the two collections and the registrations in epoll. It is also held while a watch
        # hangs up, so that forget() and detach() return only after that: a connection that is given
        # back to its pool is never shut down later. Under it there is no I/O that could block.
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

    def detach(self, guard: CallGuard, connection: Any) -> None:
        """Leave a connection alone when this guard hangs up."""
        with self._lock:
            if connection.guard is guard:
                connection.guard = None

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
                    watches = self._by_descriptor.get(descriptor)
                    # The one that was reported may be closed by now, and its number another's.
                    if watches and _has_hung_up(descriptor):
                        for watch in watches:
                            watch.hang_up()
