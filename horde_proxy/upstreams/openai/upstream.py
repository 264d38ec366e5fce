"""An OpenAI-compatible server as an upstream: requests and answers pass through as they are."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.errors import ProxyError, RateLimited, TimedOut, Unreachable, UpstreamFailed
from horde_proxy.protocol.chat import GenerationRequest
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Caller, Route, StreamItem
from horde_proxy.upstreams.disconnects import CallGuard, DisconnectMonitor, WatchedAdapter
from horde_proxy.upstreams.kinds import EndpointOptions, Services
from horde_proxy.upstreams.openai.stream import chunks
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse, kept

CONNECT_SECONDS = 5.0
LIST_SECONDS = 10.0
_NO_LIST = frozenset({400, 404, 405, 501})
_READ = 65_536
_CONNECTIONS = 128
"""Connections kept in a pool. More calls at a time open more, which are closed after use."""


def base_url(url: str) -> str:
    """What comes before /chat/completions: the url, with /v1 where it names only a server."""
    plain = url.rstrip("/")
    return plain if urlsplit(plain).path else f"{plain}/v1"


class OpenAIUpstream:
    """One server. `timeout` is in seconds between bytes, `ttl` how long its model list is good.

    `headers` are sent with each request, beside the key.
    """

    kind = "openai"
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
        hangups: DisconnectMonitor,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        ttl: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        run: Callable[[Callable[[], None]], None] = in_background,
        observer: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.name, self.url = name, _without_password(url)
        self.offers_any = False
        self._base = self._calls(self.url)
        self._host = urlsplit(self.url).netloc
        self._session, self._hangups = session, hangups
        self._own = dict(headers or {})
        if not api_key and urlsplit(url).username:
            user, password = urlsplit(url).username or "", urlsplit(url).password or ""
            pair = f"{unquote(user)}:{unquote(password)}".encode()
            self._own.setdefault("Authorization", f"Basic {b64encode(pair).decode()}")
        if api_key:
            self._own.setdefault("Authorization", f"Bearer {api_key}")
        self._timeout = timeout
        self._environment: dict[str, Any] = {
            **session.merge_environment_settings(self._base, {}, True, None, None)
        }
        self._listed = BackgroundValue(
            self._list, ttl=ttl, clock=clock, run=run, name=f"models:{name}", observer=observer
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
            observer=services.telemetry,
        )

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects, as the server lists them; the same list while nothing changed.

        Raises a ProxyError while they have never been had.
        """
        return self._listed.get()

    def refresh(self) -> None:
        """Have the models listed anew, for whoever asks next."""
        self._listed.refresh()

    def error(self) -> ProxyError | None:
        """Why the models could not be listed the last time."""
        return self._listed.error

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        """A request names one model."""
        return tuple(models[:1])

    def proxy(
        self, call: ProxyRequest, model: str | None, watch: CallGuard | None = None
    ) -> ProxyResponse:
        """The answer to a call, once its first bytes are there; `model` is its name here.

        Whoever has the `watch` may end it from another thread. Raises Unreachable, TimedOut,
        UpstreamFailed, ClientGone or ShuttingDown.
        """
        watch = watch or self._hangups.watch(call.client)
        try:
            return self._begun(self._sent_twice(self._prepared(call, model), watch), watch)
        except BaseException:
            watch.close()
            raise

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """See horde_proxy.upstreams: for answers that another upstream began to wait for."""
        body = {
            **request.source,
            "model": route.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        path = "completions" if request.raw else "chat/completions"
        headers = {"Content-Type": "application/json"}
        call = ProxyRequest("POST", path, headers, JsonBody(json.dumps(body).encode()))
        watch = self._hangups.watch(None)
        yield from chunks(self.name, lambda: self.proxy(call, None, watch), watch.hang_up)

    @staticmethod
    def _calls(url: str) -> str:
        """What comes before the path of a call."""
        return base_url(url)

    def _list(self) -> list[dict[str, Any]]:
        response = self._got(f"{self._base}/models")
        self.offers_any = response.status_code in _NO_LIST
        if self.offers_any:
            return []
        return _models(self._document(response))

    def _got(self, url: str) -> requests.Response:
        headers = CaseInsensitiveDict({"Accept": "application/json", **self._own})
        return self._send(_request("GET", url, headers, None), LIST_SECONDS, stream=False)

    def _document(self, response: requests.Response) -> Any:
        if response.status_code in (401, 403):
            raise UpstreamFailed("it refuses the api_key that is configured for it")
        if not response.ok:
            raise UpstreamFailed(f"its models cannot be listed: status {response.status_code}")
        try:
            return response.json()
        except ValueError as exc:
            raise UpstreamFailed("its list of models is not JSON") from exc

    def _prepared(self, call: ProxyRequest, model: str | None) -> requests.PreparedRequest:
        body, length = call.body.naming(model)
        headers = call.passed_on(self._own)
        if body is not None or call.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(length)
        return _request(call.method, f"{self._base}/{call.path}", headers, body)

    def _sent_twice(self, request: requests.PreparedRequest, watch: CallGuard) -> requests.Response:
        """The response; over another connection where one broke that had been kept open."""
        try:
            return self._watched(request, watch)
        except Unreachable as exc:
            if watch.error:
                raise watch.error from exc
            if not watch.is_reused:
                raise
        seek = getattr(request.body, "seek", None)
        if seek:
            seek(0)
        return self._watched(request, watch)

    def _watched(self, request: requests.PreparedRequest, watch: CallGuard) -> requests.Response:
        with watch:
            return self._send(request, self._timeout, stream=True)

    def _send(
        self, request: requests.PreparedRequest, timeout: float, *, stream: bool
    ) -> requests.Response:
        try:
            adapter = self._session.get_adapter(request.url or "")
            response = adapter.send(
                request,
                timeout=(CONNECT_SECONDS, timeout),
                **{**self._environment, "stream": stream},
            )
            if not stream:
                _ = response.content  # reads the whole body
            return response
        except requests.ConnectTimeout as exc:
            raise Unreachable(f"{self._host} does not answer") from exc
        except requests.Timeout as exc:
            raise TimedOut(f"{self._host} did not answer within {timeout:.0f} s") from exc
        except requests.RequestException as exc:
            raise Unreachable(f"{self._host} cannot be reached: {_reason(exc)}") from exc

    def _begun(self, response: requests.Response, watch: CallGuard) -> ProxyResponse:
        relayed = ProxyResponse(
            response.status_code,
            kept(response.raw.headers.items()),
            self._bytes(response, watch),
            [watch.close, lambda: _dropped(response)],
        )
        try:
            relayed.head(1)
        except BaseException:
            relayed.close()
            raise
        return relayed

    def _bytes(self, response: requests.Response, watch: CallGuard) -> Iterator[bytes]:
        """The body as it comes."""
        raw = response.raw
        try:
            if raw.chunked:
                yield from raw.read_chunked(decode_content=False)
            else:
                yield from _pieces(raw, watch)
        except (HTTPError, OSError) as exc:
            if watch.error:
                raise watch.error from exc
            raise Unreachable(f"{self._host} broke the answer off") from exc


def _pieces(raw: Any, watch: CallGuard) -> Iterator[bytes]:
    """What has come, without waiting for more.

    With the last of a known length the call is over: a client that goes then, as many do at once,
    must not take the connection along, which the next call may use already.
    """
    while piece := raw.read1(_READ, decode_content=False):
        if raw.length_remaining == 0:
            watch.close()
        yield piece


def _request(
    method: str, url: str, headers: CaseInsensitiveDict[str], body: Any
) -> requests.PreparedRequest:
    """A request as it is: preparing one the usual way costs as much as sending it."""
    request = requests.PreparedRequest()
    request.method, request.url, request.headers, request.body = method, url, headers, body
    return request


def _dropped(response: requests.Response) -> None:
    """Give the connection back, or close it where the answer was not read to its end."""
    if not response.raw.closed:
        response.raw.close()
    response.raw.release_conn()


def _models(document: Any) -> list[dict[str, Any]]:
    found = document.get("data") if isinstance(document, dict) else document
    if not isinstance(found, list):
        raise UpstreamFailed("its list of models is not OpenAI's")
    models = [each for each in found if isinstance(each, dict) and isinstance(each.get("id"), str)]
    return [{"object": "model", "created": 0, "owned_by": "unknown", **each} for each in models]


def _reason(exc: requests.RequestException) -> str:
    """A word for what went wrong; requests' own message shows the whole url."""
    text = repr(exc)
    known = {
        "Connection refused": "connection refused",
        "Name or service": "unknown host",
        "resolution": "unknown host",
        "CERTIFICATE": "its certificate is not trusted",
        "SSL": "no TLS connection",
        "unreachable": "no route to it",
    }
    found = (word for sign, word in known.items() if sign in text)
    return next(found, "the connection broke")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
