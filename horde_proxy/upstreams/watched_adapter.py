"""Connections that a CallGuard knows, so that another thread can end the call that uses them.

A server closes connections when it likes, and a POST that meets the close is lost: they are kept
for a short time only, and not behind a stream where the server closes them then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from time import monotonic
from typing import Any

import requests
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.wait import wait_for_read

from horde_proxy.upstreams.connections import SHORT, FramedConnection
from horde_proxy.upstreams.disconnects import CallGuard, NotYet, current_guard
from horde_proxy.upstreams.lean_adapter import LeanAdapter
from horde_proxy.upstreams.unread_answer import has_answer

LONGEST_IDLE = 4.0
"""Seconds for which a connection waits for its next call. Uvicorn (vLLM, TabbyAPI), Node and
llama.cpp close theirs after 5: a POST that meets the close is lost, since it cannot be repeated."""
# "/v1/chat/completions": the same before and after it is encoded for a request.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._~-]*")
# "192.168.1.5", "fd00::1", "localhost". Other names have to be looked up, which takes seconds where
# the network is down.
_ADDRESS = re.compile(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|localhost")
_AT_ONCE_SECONDS = 0.05
"""A machine in the same house answers a connect within a millisecond; one that sleeps does not."""
_CLOSE_SECONDS = 0.1
"""How long the first stream of a server is watched at its end, for a server that closes then."""
_REMEMBERED_SECONDS = 60.0
"""How long a server counts as one that closes then: it may have closed because it was restarted."""


class _StreamEnds:
    """What a server does with a connection after a stream.

    llama.cpp closes it, although it announces "Keep-Alive: timeout=5" (measured; so do others built
    with cpp-httplib). A request that follows at once, as the next one in line does, would meet the
    close, and could not be repeated.
    """

    def __init__(self) -> None:
        self._keeps_open: bool | None = None
        self._noted_at = 0.0

    @property
    def keeps_open(self) -> bool | None:
        """None where it is not known: before the first stream, and long after a close."""
        is_old = monotonic() - self._noted_at > _REMEMBERED_SECONDS
        return None if is_old and not self._keeps_open else self._keeps_open

    @keeps_open.setter
    def keeps_open(self, keeps_open: bool) -> None:
        self._keeps_open, self._noted_at = keeps_open, monotonic()


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
    is_ahead = False
    """The request was sent already; see _GuardedPool.send_ahead."""

    @property
    def is_connected(self) -> bool:
        """Whether its pool may use it again: the server has not closed it, and will not soon."""
        is_fresh = monotonic() - self.idle_since < LONGEST_IDLE
        is_open = super().is_connected
        # Without a socket, it was closed here: behind a stream that a client left, for example.
        was_open = self.sock is not None and is_fresh
        if self.has_streamed and self.stream_ends and was_open and not is_open:
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
        guard = self.guard = current_guard()
        if self.is_ahead:
            self.is_ahead = False
            return
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

    def send_ahead(self, request: requests.PreparedRequest, path: str, guard: CallGuard) -> None:
        """Send a request where that cannot block; urlopen() then only waits for its answer.

        That is over a connection without TLS, whose buffers are empty. Raises NotYet where it could
        block, and where no answer comes within the guard's patience.
        """
        is_secure = isinstance(self, HTTPSConnectionPool)
        if is_secure or not (_PLAIN_PATH.fullmatch(path) and _is_short(request.body)):
            raise NotYet
        conn: Any = self._get_conn()
        try:
            if conn.sock is None:
                _connect_at_once(conn)
            # With the options of requests, as urlopen() gives them.
            conn.request(
                request.method,
                path,
                body=request.body,
                headers=request.headers,
                preload_content=False,
                decode_content=False,
            )
        except BaseException as exc:
            if not isinstance(exc, NotYet):
                conn.close()
            self._put_conn(conn)
            raise
        conn.is_ahead, guard.ahead = True, conn
        if not has_answer(conn.sock, guard.patience or 0):
            raise NotYet

    def _get_conn(self, timeout: float | None = None) -> Any:
        """The connection where the thread's call was sent ahead, or one of the pool's."""
        guard = current_guard()
        if guard and guard.ahead is not None:
            ahead, guard.ahead = guard.ahead, None
            return ahead
        return super()._get_conn(timeout)

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            if guard := conn.guard:
                guard.detach(conn)
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

    def send_ahead(
        self,
        request: requests.PreparedRequest,
        guard: CallGuard,
        *,
        verify: Any,
        cert: Any,
        proxies: Mapping[str, str],
        stream: bool,
    ) -> None:
        """Send a request if it can be answered without blocking; else raises NotYet.

        It is called within the guard's context, and so is send() after it, which then only reads.
        The options are those of send().
        """
        try:
            pool = self.get_connection_with_tls_context(request, verify, proxies, cert)
            pool.send_ahead(request, self.request_url(request, proxies), guard)
        except (HTTPError, OSError) as exc:
            # Nothing was sent, as where the server has closed the connection. The call takes
            # another one, or says why there is none.
            raise NotYet from exc


def _connect_at_once(conn: Any) -> None:
    """Connect where that cannot block for long; else raises NotYet. Raises HTTPError."""
    if not _ADDRESS.fullmatch(conn.host):
        raise NotYet
    conn.timeout = _AT_ONCE_SECONDS
    conn.connect()


def _is_short(body: Any) -> bool:
    return isinstance(body, bytes) and len(body) <= SHORT
