"""gunicorn's threaded worker, which gives a request to a thread only after the client has sent it.

A connection is in one place at a time; only the main thread moves it:

    accepted --> RECEIVING --whole request--> in a thread --kept alive--> idle --bytes--> RECEIVING
                   |   \\--body too large to collect--> a thread of the few for uploads
                   |                                       |
                   10 s without a byte, malformed,         the answer says "close", or
                   or one too many: an error               a part of the body was not read
                   \\----------------> LINGERING <----------/
                                       what still comes is thrown away, until the client closes

- The main thread reads from all sockets that are ready, without blocking, and never waits for one.
  So clients that stop half-way hold memory and a descriptor, but no thread.
- A thread has a connection for itself from `enqueue_req` until `finish_request`, which gunicorn
  calls in the main thread. Three pools have threads: gunicorn's own, the one for uploads, whose
  slow bodies must not take the others' threads, and the one for what is urgent (/health/live).
- LINGERING: closing a socket with unread bytes makes the kernel send a reset, which destroys the
  answer that is on its way (RFC 9112, 9.6). Node got EPIPE in place of a 401.

Nothing here knows routes: which bodies are read, and who may send them, is decided in the app.
"""

from __future__ import annotations

import errno
import json
import logging
import resource
import selectors
import socket
import time
from collections.abc import Callable
from concurrent import futures
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.http.errors import NoMoreData
from gunicorn.workers.gthread import TConn, ThreadWorker

from horde_proxy.connections.framing import MalformedBody
from horde_proxy.connections.request import (
    STALLED_SECONDS,
    HeadTooLong,
    IncomingRequest,
    ReceivedParser,
    State,
)
from horde_proxy.connections.waiting import WaitingConnections
from horde_proxy.errors import error_envelope
from horde_proxy.networks import network_of

_RECEIVING = 2000
"""Connections whose next request is incomplete: each may hold 128 kB of memory."""
_RECEIVING_OF_ONE = 500
"""The same, of one address. Browsers open six, SDKs at most a hundred."""
_SPOOLED = 1024 * 1024 * 1024
"""Bytes of incomplete bodies on the disk, all together."""
_LINGERING = 500
_LINGER_SILENT, _LINGER_SECONDS = 5.0, 30.0
"""How long a client may send nothing after its answer, and how long at all: nginx' values."""
_STOPPING_SECONDS = 2.0
"""How long a worker that is to end waits for the next byte of a request."""
_UPLOAD_THREADS = 32
"""Threads that read bodies beyond server.max_body, and answer these requests."""
_WAITING_UPLOADS = 100
_URGENT_THREADS = 2
"""Threads for what must be answered while all others are taken: /health."""
_IDLE = 1000
"""Kept-alive connections without a request."""
CONNECTIONS_WITHOUT_THREAD = _RECEIVING + _LINGERING + _IDLE + _UPLOAD_THREADS + _WAITING_UPLOADS
_DESCRIPTORS = 16_384
"""As in the systemd unit: each connection has one, each large body and each upstream another."""
_THROWN_AWAY = 262_144
"""Bytes that are read at a time from a connection that lingers."""
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_CONNECTION = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED)
_CROWDED = "Too many clients are sending at the same time. Try again later."
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger(__name__)


class Connection(TConn):  # type: ignore[misc]
    """A client's connection, with the bytes that came and the request that they begin."""

    def __init__(self, settings: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(settings, sock, client, server)
        # gunicorn then takes the parser that it finds here, and does not wait for bytes.
        self.initialized = self.data_ready = True
        self.received = bytearray()
        self.incoming: IncomingRequest | None = None
        self.is_watched = False

    @property
    def name(self) -> str:
        """The client's address, for the log."""
        return str(self.client[0]) if isinstance(self.client, tuple) else "a Unix socket"


class CollectingWorker(ThreadWorker):  # type: ignore[misc]
    """Gives threads whole requests. `most_body()` is the largest body that is collected."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.max_keepalived = _IDLE
        self._receiving: WaitingConnections[Connection] = WaitingConnections(
            _RECEIVING, _RECEIVING_OF_ONE
        )
        self._lingering: WaitingConnections[Connection] = WaitingConnections(_LINGERING, _LINGERING)
        self._spooled = self._uploads = 0
        self._upload_threads: futures.ThreadPoolExecutor
        self._urgent_threads: futures.ThreadPoolExecutor
        self._thrown_away = bytearray(_THROWN_AWAY)

    def most_body(self) -> int:
        """Bytes of a body that are received before a thread serves the request."""
        raise NotImplementedError

    def network_of(self, connection: Connection) -> str | None:
        """What the client's connections are counted by; None to count them with nobody's."""
        client = connection.client
        # A Unix socket's has no address.
        return network_of(client[0]) if isinstance(client, tuple) else None

    def is_urgent(self, request: Any) -> bool:
        """Whether threads of its own are kept for this request, which takes no time."""
        return False

    # gunicorn's own methods, called in the main thread.

    def init_process(self) -> None:
        """Serve, in the worker's own process."""
        _raise_descriptor_limit()
        self._upload_threads = futures.ThreadPoolExecutor(_UPLOAD_THREADS, "uploads")
        self._urgent_threads = futures.ThreadPoolExecutor(_URGENT_THREADS, "urgent")
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, and close another one if there are too many."""
        try:
            sock, client = listener.accept()
        except OSError as exc:
            if exc.errno in _NO_DESCRIPTORS:
                self._free_descriptor()
            elif exc.errno not in _NO_CONNECTION:
                raise
            return
        self.nr_conns += 1
        self._begin_request(Connection(self.cfg, sock, client, listener.getsockname()))

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """An idle connection brings its next request, or its end."""
        # It may have been closed for another one since the poller reported it.
        if client.fileno() >= 0:
            self.poller.unregister(client)
            self.keepalived_conns.remove(conn)
            self._begin_request(conn)

    def finish_request(self, conn: Connection, fs: futures.Future[Any]) -> None:
        """A thread has served the request of a connection."""
        incoming, conn.incoming = conn.incoming, None
        is_whole = incoming is not None and incoming.is_body_complete
        if incoming is not None:
            incoming.close()
            self._uploads -= incoming.state is State.OVERSIZED
        if not (is_whole and _is_kept(fs)):
            self._linger(conn)
        elif conn.received:
            self._begin_request(conn)
        else:
            super().finish_request(conn, fs)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Serve what is ready, and end what has waited for too long."""
        super().wait_for_and_dispatch_events(min(timeout, 1.0))
        self._end_silent(time.monotonic())

    def run(self) -> None:
        """Serve until the worker is to end."""
        try:
            super().run()
        finally:
            self._upload_threads.shutdown(wait=False)
            self._urgent_threads.shutdown(wait=False)

    # RECEIVING

    def _begin_request(self, conn: Connection) -> None:
        network = self.network_of(conn)
        if (victim := self._receiving.one_too_many(network)) is not None:
            self._refuse(victim, HTTPStatus.SERVICE_UNAVAILABLE, _CROWDED)
        conn.incoming = IncomingRequest(self.cfg, conn.client, self.most_body())
        conn.sock.setblocking(False)
        self._receiving.add(conn, time.monotonic(), network)
        if conn.received:
            self._advance(conn)
        else:
            self._receive(conn)
        if conn in self._receiving and not conn.is_watched:
            self._watch(conn, self._receive)

    def _receive(self, conn: Connection) -> None:
        """Read what has come, once, so that every connection gets its turn."""
        if conn not in self._receiving or conn.incoming is None:
            return
        try:
            received = conn.sock.recv(conn.incoming.wanted)
        except BlockingIOError:
            return
        except OSError:
            self._close(conn)
            return
        if received:
            conn.received += received
            self._receiving.progressed(conn, time.monotonic())
            self._advance(conn)
        elif conn.incoming.state is State.BODY:
            self._refuse(
                conn, HTTPStatus.BAD_REQUEST, "The request body is shorter than announced."
            )
        else:
            self._close(conn)

    def _advance(self, conn: Connection) -> None:
        """Feed the request, and hand it over when it is complete."""
        incoming = conn.incoming
        assert incoming is not None
        before = incoming.spooled
        try:
            incoming.feed(conn.received)
        except MalformedBody as exc:
            self._refuse(conn, HTTPStatus.BAD_REQUEST, str(exc))
        except HeadTooLong as exc:
            self._refuse(conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, str(exc))
        except (NoMoreData, StopIteration):
            self._refuse(conn, HTTPStatus.BAD_REQUEST, "This is no HTTP request.")
        except OSError as exc:
            log.error("the body of a request could not be kept in a temporary file: %s", exc)
            self._refuse(conn, HTTPStatus.SERVICE_UNAVAILABLE, "This proxy cannot store the body.")
        # gunicorn answers each of its errors for a wrong head itself, and logs all others, of which
        # none may end the main thread.
        except Exception as exc:  # noqa: BLE001
            self.handle_error(None, conn.sock, conn.client, exc)
            self._linger(conn)
        else:
            self._spooled += incoming.spooled - before
            self._go_on(conn, incoming)

    def _go_on(self, conn: Connection, incoming: IncomingRequest) -> None:
        if incoming.state in (State.COMPLETE, State.OVERSIZED):
            self._hand_over(conn, incoming)
        elif incoming.expects_continue:
            incoming.continued()
            # Nothing else is being sent to this client, so the buffer has room for it.
            self._send(conn, _CONTINUE)
        while self._spooled > _SPOOLED:
            victim = self._receiving.most_silent(_is_spooled)
            if victim is None:
                break
            self._refuse(victim, HTTPStatus.SERVICE_UNAVAILABLE, _CROWDED)

    def _hand_over(self, conn: Connection, incoming: IncomingRequest) -> None:
        """Give the request to a thread."""
        is_oversized = incoming.state is State.OVERSIZED
        if is_oversized and self._uploads >= _UPLOAD_THREADS + _WAITING_UPLOADS:
            self._refuse(conn, HTTPStatus.SERVICE_UNAVAILABLE, _CROWDED)
            return
        self._stop_receiving(conn)
        conn.parser = ReceivedParser(partial(incoming.with_body, conn.received, conn.sock))
        if not is_oversized and not self.is_urgent(incoming.parsed):
            self.enqueue_req(conn)
            return
        self._uploads += is_oversized
        threads = self._upload_threads if is_oversized else self._urgent_threads
        future = threads.submit(self.handle, conn)
        future.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def _stop_receiving(self, conn: Connection) -> None:
        if conn in self._receiving and conn.incoming is not None:
            self._spooled -= conn.incoming.spooled
        self._receiving.remove(conn)
        self._unwatch(conn)

    def _refuse(self, conn: Connection, status: HTTPStatus, message: str) -> None:
        """Answer a request that did not become complete, and linger."""
        if conn.incoming is not None and conn.incoming.has_begun:
            log.info("a request from %s was refused with %s: %s", conn.name, status.value, message)
            self._send(conn, _refusal(status, message))
            self._linger(conn)
        else:
            self._close(conn)

    def _send(self, conn: Connection, content: bytes) -> None:
        try:
            conn.sock.send(content)
        except OSError:
            log.debug("a client left before its answer")

    # LINGERING

    def _linger(self, conn: Connection) -> None:
        """Say that nothing more comes, and wait for the client's end."""
        self._stop_receiving(conn)
        if conn.incoming is not None:
            conn.incoming.close()
        if (victim := self._lingering.one_too_many()) is not None:
            self._close(victim)
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
        except OSError:
            self._close(conn)
            return
        self._lingering.add(conn, time.monotonic())
        self._watch(conn, self._throw_away)

    def _throw_away(self, conn: Connection) -> None:
        if conn not in self._lingering:
            return
        try:
            size = conn.sock.recv_into(self._thrown_away)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            self._lingering.progressed(conn, time.monotonic())
        else:
            self._close(conn)

    # Their end

    def _end_silent(self, now: float) -> None:
        is_ending = not self.alive
        for conn in self._receiving.silent(
            now, _STOPPING_SECONDS if is_ending else STALLED_SECONDS
        ):
            self._refuse(conn, HTTPStatus.REQUEST_TIMEOUT, "The rest of the request did not come.")
        for conn in self._lingering.silent(now, _STOPPING_SECONDS if is_ending else _LINGER_SILENT):
            self._close(conn)
        for conn in self._lingering.older(now, _LINGER_SECONDS):
            self._close(conn)

    def _free_descriptor(self) -> None:
        """Close the connection that is needed least, since no further one can be accepted."""
        victim = self._lingering.most_silent() or self._receiving.most_silent()
        if victim is None and self.keepalived_conns:
            victim = self.keepalived_conns.popleft()
            victim.is_watched = True
        if victim is not None:
            self._close(victim)
        else:
            # run() tries again after a second.
            self.set_accept_enabled(False)

    def _close(self, conn: Connection) -> None:
        self._stop_receiving(conn)
        self._lingering.remove(conn)
        if conn.incoming is not None:
            conn.incoming.close()
        self.nr_conns -= 1
        conn.close()

    def _watch(self, conn: Connection, call: Callable[[Connection], None]) -> None:
        conn.is_watched = True
        self.poller.register(conn.sock, selectors.EVENT_READ, lambda _: call(conn))

    def _unwatch(self, conn: Connection) -> None:
        if conn.is_watched:
            conn.is_watched = False
            self.poller.unregister(conn.sock)


def _raise_descriptor_limit() -> None:
    """Let the process open as many descriptors as it may: shells begin with 1024."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # RLIM_INFINITY is -1.
        wanted = _DESCRIPTORS if hard < 0 else min(_DESCRIPTORS, hard)
        if 0 <= soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as exc:
        # Sandboxes forbid these calls. Connections are then closed earlier, see _free_descriptor.
        log.warning("the limit of open files could not be raised: %s", exc)


def _is_kept(future: futures.Future[Any]) -> bool:
    """Whether the answer said that the connection stays open."""
    return not future.cancelled() and future.exception() is None and bool(future.result())


def _is_spooled(conn: Connection) -> bool:
    return conn.incoming is not None and conn.incoming.spooled > 0


def _refusal(status: HTTPStatus, message: str) -> bytes:
    """A whole response with an error in OpenAI's envelope."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    content = json.dumps(error_envelope(message, kind)).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    )
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.REQUEST_TIMEOUT):
        head += "Retry-After: 10\r\n"
    return head.encode() + b"\r\n" + content
