"""An OpenAI-compatible server as an upstream: it is proxied, and can also answer as a stream.

How a proxied call is guarded against a client that leaves:

    request thread    sends and reads within its CallGuard; blocks on the server's socket
    monitor thread    the client hangs up: shuts that socket down, so that the read fails

What an error means for the choice of a server is errors.py's, which headers pass is proxying.py's.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.errors import (
    AnswerLost,
    ProxyError,
    RateLimited,
    TimedOut,
    Unreachable,
    UpstreamFailed,
)
from horde_proxy.protocol.chunks import Head
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.protocol.openai_body import fields_left_out, openai_body
from horde_proxy.protocol.usage import estimate_prompt
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Accepted, Caller, Route, StreamItem
from horde_proxy.upstreams.connections import FramedResponse
from horde_proxy.upstreams.disconnects import CallGuard, DisconnectMonitor, WatchedAdapter
from horde_proxy.upstreams.kinds import EndpointOptions, Services
from horde_proxy.upstreams.lean_adapter import prepared
from horde_proxy.upstreams.openai.decoding import decoded
from horde_proxy.upstreams.openai.described_models import (
    ASK_SECONDS,
    DescribedModels,
    is_at_home,
)
from horde_proxy.upstreams.openai.errors import secrets_in
from horde_proxy.upstreams.openai.model_list import LONGEST_LIST, model_objects, parse_document
from horde_proxy.upstreams.openai.redirects import MOST_REDIRECTS, redirect_target
from horde_proxy.upstreams.openai.stream import stream_items
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from horde_proxy.upstreams.proxying import (
    JsonBody,
    ProxyRequest,
    ProxyResponse,
    response_headers,
)

CONNECT_SECONDS = 5.0
"""A server at home or in a data centre answers a connect at once, or not at all."""
LIST_SECONDS = 10.0
"""A list of models is short; some servers ask their own backends for it."""
_NO_LIST = frozenset({400, 404, 405, 501})
"""Statuses of servers without GET /models: any model may be tried there."""
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that may be repeated: twice is as good as once (RFC 9110, 9.2.2)."""
_STRICT_HOSTS = ("api.openai.com", "openai.azure.com", "api.mistral.ai", "api.groq.com")
"""The ends of hosts that refuse a request with a sampler that OpenAI does not have."""
_READ = 65_536
"""Bytes of one read, at most."""
_CONNECTIONS = 128
"""Connections kept in a pool. More calls at a time open more, which are closed after use."""
log = logging.getLogger(__name__)


def base_url(url: str) -> str:
    """The URL before /chat/completions: as configured, with /v1 where it has no path."""
    plain = url.rstrip("/")
    return plain if urlsplit(plain).path else f"{plain}/v1"


class OpenAIUpstream:
    """One server. `timeout` is in seconds between two bytes, `ttl` in seconds for the model list.

    `headers` are sent with each request, and replace the client's. `offers_any`: the server lists
    no models. `is_free_at_home`: an address of one's own network means that nobody charges for it.
    """

    kind = "openai"
    is_free_at_home = True
    cooldown_errors: tuple[type[ProxyError], ...] = (
        Unreachable,
        UpstreamFailed,
        TimedOut,
        RateLimited,
    )

    def __init__(
        self,
        name: str,
        url: str,
        session: requests.Session,
        monitor: DisconnectMonitor,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        ttl: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.name, self.url = name, _without_password(url)
        self.offers_any, self._left_out = False, 0
        self._base = self._api_base(self.url)
        self._host = urlsplit(self.url).netloc
        self._session, self._monitor = session, monitor
        self._own_headers = dict(headers or {})
        login = f"Bearer {api_key}" if api_key else _basic_login(url)
        if login:
            self._own_headers.setdefault("Authorization", login)
        self._secrets = secrets_in(self._own_headers)
        self._timeout = timeout
        self._environment: dict[str, Any] = {
            **session.merge_environment_settings(self._base, {}, True, None, None)
        }
        self._listed = BackgroundValue(
            self._list, ttl=ttl, clock=clock, run=run, name=f"models:{name}", telemetry=telemetry
        )
        self._described = DescribedModels(
            self._listed.get,
            self._ask,
            is_free=self.is_free_at_home and is_at_home(self.url),
            ttl=ttl,
            clock=clock,
            run=run,
        )

    @classmethod
    def build(cls, endpoint: EndpointOptions, services: Services) -> Self:
        """The upstream for an endpoint of the settings; see horde_proxy.upstreams.kinds.

        Its adapter retries nothing: the router tries another endpoint instead.
        """
        return cls(
            endpoint.label(),
            endpoint.url or "",
            services.new_session(WatchedAdapter(pool_maxsize=_CONNECTIONS)),
            services.disconnects,
            api_key=endpoint.api_key,
            headers=endpoint.headers,
            timeout=endpoint.timeout,
            ttl=services.models_ttl,
            clock=services.clock,
            run=services.run,
            telemetry=services.telemetry,
        )

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects, with the facts of each; the same list while nothing changed.

        Raises a ProxyError until they were listed once.
        """
        return self._described.get()

    def refresh(self) -> None:
        """Drop the known list of models: the next call of models() loads it."""
        self._listed.refresh()

    def error(self) -> ProxyError | None:
        """Why the last listing of the models failed; None when it did not."""
        return self._listed.error

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        """The first model: a request to such a server names one."""
        return tuple(models[:1])

    def proxy(
        self, call: ProxyRequest, model: str | None, guard: CallGuard | None = None
    ) -> ProxyResponse:
        """The response to a call, once its first byte is there. `model` is the server's name.

        Another thread may end the call through `guard`. Raises Unreachable, AnswerLost, TimedOut,
        UpstreamFailed, Redirected, ClientGone or ShuttingDown.
        """
        guard = guard or self._monitor.watch(call.client)
        try:
            return self._started(self._final(self._prepared(call, model), guard), guard)
        except BaseException:
            guard.close()
            raise

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """See horde_proxy.upstreams.base. For what was not proxied."""
        is_strict = (urlsplit(self.url).hostname or "").endswith(_STRICT_HOSTS)
        body = {
            **openai_body(request, is_strict=is_strict),
            "model": route.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        path = "completions" if request.raw else "chat/completions"
        json_body = JsonBody(json.dumps(body).encode())
        call = ProxyRequest("POST", path, {"Content-Type": "application/json"}, json_body)
        guard = self._monitor.watch(None)
        answer = ForeignAnswer(
            Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), route.model),
            n=request.n,
            legacy_functions=request.legacy_functions,
            prompt_tokens=estimate_prompt(body),
        )
        headers = {"X-Endpoint": self.name}
        if left_out := fields_left_out(request, is_strict=is_strict):
            headers["X-Horde-Warnings"] = warnings_header(
                [f"{name}: not sent" for name in left_out]
            )
        accepted = Accepted(headers, self.name, answer.spent)
        yield from stream_items(
            accepted, answer, lambda: self.proxy(call, None, guard), guard.hang_up
        )

    @staticmethod
    def _api_base(url: str) -> str:
        """The URL before the path of a call. Kinds with another layout override it."""
        return base_url(url)

    def _list(self) -> list[dict[str, Any]]:
        """The model objects, of which some servers have no list. Raises a ProxyError."""
        response = self._get(f"{self._base}/models")
        self.offers_any = response.status_code in _NO_LIST
        if self.offers_any:
            return []
        models, left_out = model_objects(self._document(response))
        # The list is loaded every minute; what is wrong with it is logged when that changes.
        if left_out and left_out != self._left_out:
            sentence = "%s: entries left out of its list of models because of their ids: %d"
            log.warning(sentence, self.name, left_out)
        self._left_out = left_out
        return models

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """The JSON of the server's own API, which is beside /v1; see native_apis.Ask.

        None for an error's status. Raises a ProxyError, also for what is not JSON.
        """
        url = self._base.removesuffix("/v1") + path
        headers = CaseInsensitiveDict({"Accept": "application/json", **self._own_headers})
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers.update({"Content-Type": "application/json", "Content-Length": str(len(data))})
        method = "GET" if data is None else "POST"
        response = self._send(prepared(method, url, headers, data), ASK_SECONDS, stream=False)
        return parse_document(response.content) if response.ok else None

    def _get(self, url: str) -> requests.Response:
        headers = CaseInsensitiveDict({"Accept": "application/json", **self._own_headers})
        response = self._send(prepared("GET", url, headers), LIST_SECONDS, stream=False)
        target = redirect_target(response, url, self.name)
        if target is None:
            return response
        return self._send(prepared("GET", target, headers), LIST_SECONDS, stream=False)

    def _document(self, response: requests.Response) -> Any:
        """The JSON of a list of models. Raises UpstreamFailed."""
        if response.status_code in (401, 403):
            raise UpstreamFailed("it refuses the api_key that is configured for it")
        if not response.ok:
            raise UpstreamFailed(f"its models cannot be listed: status {response.status_code}")
        return parse_document(response.content)

    def _prepared(self, call: ProxyRequest, model: str | None) -> requests.PreparedRequest:
        body, length = call.body.with_model(model)
        headers = call.upstream_headers(self._own_headers)
        # Without a body a POST says so with a 0 (RFC 9110, 8.6).
        if body is not None or call.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(length)
        return prepared(call.method, f"{self._base}/{call.path}", headers, body)

    def _final(self, request: requests.PreparedRequest, guard: CallGuard) -> requests.Response:
        """The response, after redirects within this server. Raises Redirected for others."""
        for _ in range(MOST_REDIRECTS):
            response = self._send_again(request, guard)
            target = redirect_target(response, self._base, self.name)
            if target is None:
                return response
            response.close()
            request.url = target
            _rewind(request)
        raise UpstreamFailed("it redirects in a circle")

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
                return self._send(request, self._timeout, stream=True)
        except Unreachable as exc:
            if guard.error:
                raise guard.error from exc
            if guard.is_sent and request.method not in _IDEMPOTENT:
                raise AnswerLost(
                    f"{self._host} took the request and closed the connection without an answer; "
                    "it is not sent there again, because it may be under way"
                ) from exc
            raise

    def _send(
        self, request: requests.PreparedRequest, timeout: float, *, stream: bool
    ) -> requests.Response:
        """The response. All exceptions of requests become ours here, or in _bytes."""
        try:
            adapter = self._session.get_adapter(request.url or "")
            response = adapter.send(
                request,
                timeout=(CONNECT_SECONDS, timeout),
                **{**self._environment, "stream": stream},
            )
            if not stream:
                _read_list(response)
            return response
        except requests.ConnectTimeout as exc:
            raise Unreachable(f"{self._host} does not answer") from exc
        except requests.Timeout as exc:
            raise TimedOut(f"{self._host} did not answer within {timeout:.0f} s") from exc
        except requests.RequestException as exc:
            raise Unreachable(f"{self._host} cannot be reached: {_reason(exc)}") from exc

    def _started(self, response: requests.Response, guard: CallGuard) -> ProxyResponse:
        """The response to pass on, whose first byte has come."""
        headers, pieces = decoded(
            response.status_code,
            response_headers(response.raw.headers.items()),
            self._bytes(response, guard),
            response.request.method,
        )
        proxied = ProxyResponse(
            response.status_code,
            headers,
            pieces,
            [guard.close, lambda: _release(response)],
        )
        proxied.secrets = self._secrets
        try:
            proxied.head(1)
        except BaseException:
            proxied.close()
            raise
        return proxied

    def _bytes(self, response: requests.Response, guard: CallGuard) -> Iterator[bytes]:
        """The body as it comes, still encoded."""
        raw = response.raw
        framed = getattr(raw, "_original_response", None)
        try:
            if isinstance(framed, FramedResponse) and framed.chunked:
                yield from framed.chunks()
            else:
                yield from _pieces(raw, guard)
                # Where the connection's end is the answer's end, a shut down one looks complete.
                if guard.error and raw.length_remaining is None:
                    raise guard.error
        except (HTTPError, OSError) as exc:
            if guard.error:
                raise guard.error from exc
            raise Unreachable(f"{self._host} broke the answer off") from exc


def _pieces(raw: Any, guard: CallGuard) -> Iterator[bytes]:
    """What has come, without waiting for more.

    With the last byte of a known length the call is over. Many clients close right then; the guard
    must not shut down a connection that the next call may use already.
    """
    while piece := raw.read1(_READ, decode_content=False):
        if raw.length_remaining == 0:
            guard.close()
        yield piece


def _rewind(request: requests.PreparedRequest) -> None:
    """Make the body ready to be sent once more."""
    seek = getattr(request.body, "seek", None)
    if seek:
        seek(0)


def _read_list(response: requests.Response) -> None:
    """Read the whole body, which is a list of models. Raises UpstreamFailed if it is too long."""
    pieces, size = [], 0
    for piece in response.iter_content(_READ):
        pieces.append(piece)
        size += len(piece)
        if size > LONGEST_LIST:
            response.close()
            raise UpstreamFailed("its list of models is too long")
    response._content = b"".join(pieces)  # what `response.content` returns from now on


def _release(response: requests.Response) -> None:
    """Give the connection back to the pool; closed, where the body was not read to its end."""
    if not response.raw.closed:
        response.raw.close()
    response.raw.release_conn()


# Parts of the messages of urllib3 and OpenSSL, with what they mean; the first that fits counts.
_REASONS = {
    "Connection refused": "connection refused",
    "Name or service": "unknown host",
    "resolution": "unknown host",
    "CERTIFICATE": "its certificate is not trusted",
    "SSL": "no TLS connection",
    "unreachable": "no route to it",
}


def _reason(exc: requests.RequestException) -> str:
    """Why a connection failed, in a few words: requests' own message shows the whole URL."""
    text = repr(exc)
    reasons = (reason for sign, reason in _REASONS.items() if sign in text)
    return next(reasons, "the connection broke")


def _basic_login(url: str) -> str | None:
    """The Authorization header of user and password in a URL, http://bob:p%40w@host."""
    parts = urlsplit(url)
    if not parts.username:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return f"Basic {b64encode(pair).decode()}"


def _without_password(url: str) -> str:
    """The URL as it may be shown, without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
