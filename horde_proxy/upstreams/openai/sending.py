"""Sending to one server: time-outs, repetitions, redirects; exceptions of requests become ours.

How a proxied call is guarded against a client that leaves:

    request thread    sends and reads within its CallGuard; blocks on the server's socket
    monitor thread    the client hangs up: shuts that socket down, so that the read fails

What a request looks like, and what its answer means, is not known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from horde_proxy.errors import AnswerLost, TimedOut, Unreachable, UpstreamFailed
from horde_proxy.response_body import UnreadableBody, with_body
from horde_proxy.upstreams.connections import FramedResponse
from horde_proxy.upstreams.disconnects import CallGuard, NotYet
from horde_proxy.upstreams.openai.redirects import MOST_REDIRECTS, redirect_target
from horde_proxy.upstreams.watched_adapter import WatchedAdapter

CONNECT_SECONDS = 5.0
"""A server at home or in a data centre answers a connect at once, or not at all."""
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that may be repeated: twice is as good as once (RFC 9110, 9.2.2)."""
_READ = 65_536
"""Bytes of one read, at most."""


class Sender:
    """Sends to the server whose API is at `base`. `timeout` is in seconds between two bytes.

    `name` is the endpoint's, for the log. `connect` is in seconds until there is a connection.
    """

    def __init__(
        self,
        session: requests.Session,
        name: str,
        base: str,
        timeout: float,
        connect: float = CONNECT_SECONDS,
    ) -> None:
        self._session, self._name, self._base = session, name, base
        self._host = urlsplit(base).netloc
        self._timeout, self._connect = timeout, connect
        self._environment: dict[str, Any] = {
            **session.merge_environment_settings(base, {}, True, None, None)
        }

    def read(self, request: requests.PreparedRequest, timeout: float) -> requests.Response:
        """The response with its whole body, for our own questions, e.g. for the list of models.

        Raises Unreachable, TimedOut or UpstreamFailed.
        """
        return self._send(request, timeout, stream=False)

    def open(self, request: requests.PreparedRequest, guard: CallGuard) -> requests.Response:
        """The response whose body is to be read, after redirects within the server's API.

        Raises Redirected for other redirects, NotYet where the guard has no more patience, and what
        is named at OpenAIUpstream.proxy.
        """
        for _ in range(MOST_REDIRECTS):
            response = self._send_again(request, guard)
            target = redirect_target(response, self._base, self._name)
            if target is None:
                return response
            response.close()
            # The call is made again from its first URL, which what comes next does not belong to.
            if guard.patience is not None:
                raise NotYet
            request.url = target
            _rewind(request)
        raise UpstreamFailed("it redirects in a circle")

    def pieces(self, response: requests.Response, guard: CallGuard) -> Iterator[bytes]:
        """The body as it comes, still encoded."""
        raw = response.raw
        framed = getattr(raw, "_original_response", None)
        try:
            if isinstance(framed, FramedResponse) and framed.chunked:
                yield from framed.chunks()
            else:
                while piece := raw.read1(_READ, decode_content=False):
                    yield piece
                # Where the connection's end is the answer's end, a shut down one looks complete.
                if guard.error and raw.length_remaining is None:
                    raise guard.error
        except (HTTPError, OSError) as exc:
            if guard.error:
                raise guard.error from exc
            is_lost = response.request.method not in _IDEMPOTENT
            error = AnswerLost if is_lost else Unreachable
            raise error(f"{self._host} broke the answer off") from exc

    def _send_again(self, request: requests.PreparedRequest, guard: CallGuard) -> requests.Response:
        """The response; over a new connection where a kept one broke, as idle ones do.

        What the server may have taken is sent again only if its method is idempotent (RFC 9110,
        9.2.2). An Idempotency-Key changes nothing: hardly any server of this kind reads it.
        """
        try:
            return self._send_guarded(request, guard)
        except Unreachable:
            if not guard.is_reused:
                raise
        _rewind(request)
        return self._send_guarded(request, guard)

    def _send_guarded(
        self, request: requests.PreparedRequest, guard: CallGuard
    ) -> requests.Response:
        """The response. Raises AnswerLost where the server may have taken the request."""
        try:
            with guard.current():
                if guard.patience is not None:
                    self._send_ahead(request, guard)
                return self._send(request, self._timeout, stream=True)
        except (UpstreamFailed, TimedOut) as exc:
            # A head that is shut down amid a line looks like one that is wrong.
            if guard.error:
                raise guard.error from exc
            is_lost = isinstance(exc, Unreachable) and guard.is_sent
            if is_lost and request.method not in _IDEMPOTENT:
                raise AnswerLost(
                    f"{self._host} took the request and closed the connection without an answer; "
                    "it is not sent there again, because it may be under way"
                ) from exc
            raise

    def _send_ahead(self, request: requests.PreparedRequest, guard: CallGuard) -> None:
        """Send the request where the answer can be read without blocking. Raises NotYet."""
        adapter = self._session.get_adapter(request.url or "")
        if not isinstance(adapter, WatchedAdapter):
            raise NotYet
        adapter.send_ahead(request, guard, **self._environment)

    def _send(
        self, request: requests.PreparedRequest, timeout: float, *, stream: bool
    ) -> requests.Response:
        """The response. All exceptions of requests become ours here, or in pieces()."""
        try:
            adapter = self._session.get_adapter(request.url or "")
            response = adapter.send(
                request,
                timeout=(self._connect, timeout),
                **self._environment,
            )
            return response if stream else with_body(response)
        except UnreadableBody as exc:
            raise UpstreamFailed(f"it sent {exc}") from exc
        except requests.ConnectTimeout as exc:
            raise Unreachable(f"{self._host} does not answer") from exc
        except requests.Timeout as exc:
            raise TimedOut(f"{self._host} did not answer within {timeout:.0f} s") from exc
        # urllib3 has its own for a host that is no name, which requests passes on.
        except (requests.RequestException, HTTPError) as exc:
            raise Unreachable(f"{self._host} cannot be reached: {_reason(exc)}") from exc


def _rewind(request: requests.PreparedRequest) -> None:
    """Make the body ready to be sent once more."""
    seek = getattr(request.body, "seek", None)
    if seek:
        seek(0)


def release(response: requests.Response, *, is_shut_down: bool = False) -> None:
    """Give the connection back to the pool; closed, where the body was not read to its end.

    One that a guard has shut down is closed as well: its pool would take the server for one that
    closes connections.
    """
    # A connection that cannot be closed is of no use either. The error would keep from its end what
    # else ends with the response: the client's count of requests at a time, and its log.
    with contextlib.suppress(OSError):
        if is_shut_down or not response.raw.closed:
            response.raw.close()
    response.raw.release_conn()


CERTIFICATE_NOT_TRUSTED = "its certificate is not trusted"
# Parts of the messages of urllib3 and OpenSSL, with what they mean; the first that fits counts.
_REASONS = {
    "Connection refused": "connection refused",
    "Name or service": "unknown host",
    "resolution": "unknown host",
    "CERTIFICATE": CERTIFICATE_NOT_TRUSTED,
    "SSL": "no TLS connection",
    "unreachable": "no route to it",
}


def _reason(exc: Exception) -> str:
    """Why a connection failed, in a few words: requests' own message shows the whole URL."""
    text = repr(exc)
    reasons = (reason for sign, reason in _REASONS.items() if sign in text)
    return next(reasons, "the connection broke")
