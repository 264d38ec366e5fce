"""An OpenAI-compatible server as an upstream: it is proxied, and can also answer as a stream.

How requests get to the server is sending.py's, what an error means for the choice of a server is
errors.py's, which headers pass is proxying.py's.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from horde_proxy.caching.background import BackgroundValue, in_background
from horde_proxy.errors import (
    ProxyError,
    RateLimited,
    TimedOut,
    Unreachable,
    UpstreamFailed,
)
from horde_proxy.printable import without_login
from horde_proxy.protocol.chunks import Head
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.protocol.openai_body import fields_left_out, openai_body
from horde_proxy.protocol.usage import estimate_prompt
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Accepted, Caller, Route, StreamItem
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
from horde_proxy.upstreams.openai.model_list import model_objects, parse_document
from horde_proxy.upstreams.openai.redirects import redirect_target
from horde_proxy.upstreams.openai.sending import Sender, release
from horde_proxy.upstreams.openai.stream import stream_items
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from horde_proxy.upstreams.proxying import (
    JsonBody,
    ProxyRequest,
    ProxyResponse,
    response_headers,
)

LIST_SECONDS = 10.0
"""A list of models is short; some servers ask their own backends for it."""
_NO_LIST = frozenset({400, 404, 405, 501})
"""Statuses of servers without GET /models: any model may be tried there."""
_STRICT_HOSTS = ("api.openai.com", "openai.azure.com", "api.mistral.ai", "api.groq.com")
"""The ends of hosts that refuse a request with a sampler that OpenAI does not have."""
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
        self.name, self.url = name, without_login(url)
        self.offers_any, self._left_out = False, 0
        self._base = self._api_base(self.url)
        self._monitor = monitor
        self._sender = Sender(session, name, self._base, timeout)
        self._own_headers = dict(headers or {})
        login = f"Bearer {api_key}" if api_key else _basic_login(url)
        if login:
            self._own_headers.setdefault("Authorization", login)
        self._secrets = secrets_in(self._own_headers)
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
            return self._started(self._sender.open(self._prepared(call, model), guard), guard)
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
        response = self._sender.read(prepared(method, url, headers, data), ASK_SECONDS)
        return parse_document(response.content) if response.ok else None

    def _get(self, url: str) -> requests.Response:
        headers = CaseInsensitiveDict({"Accept": "application/json", **self._own_headers})
        response = self._sender.read(prepared("GET", url, headers), LIST_SECONDS)
        target = redirect_target(response, url, self.name)
        if target is None:
            return response
        return self._sender.read(prepared("GET", target, headers), LIST_SECONDS)

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

    def _started(self, response: requests.Response, guard: CallGuard) -> ProxyResponse:
        """The response to pass on, whose first byte has come."""
        headers, pieces = decoded(
            response.status_code,
            response_headers(response.raw.headers.items()),
            self._sender.pieces(response, guard),
            response.request.method,
        )
        proxied = ProxyResponse(
            response.status_code,
            headers,
            pieces,
            [guard.close, lambda: release(response)],
        )
        proxied.secrets = self._secrets
        try:
            proxied.head(1)
        except BaseException:
            proxied.close()
            raise
        return proxied


def _basic_login(url: str) -> str | None:
    """The Authorization header of user and password in a URL, http://bob:p%40w@host."""
    parts = urlsplit(url)
    if not parts.username:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return f"Basic {b64encode(pair).decode()}"
