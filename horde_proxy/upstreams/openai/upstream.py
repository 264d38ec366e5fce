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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar
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
from horde_proxy.prompts.fit import is_begun
from horde_proxy.protocol.chunks import Head
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.protocol.openai_body import fields_left_out, openai_body
from horde_proxy.protocol.usage import estimate_prompt
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Accepted, Caller, Route, StreamItem, Waiting
from horde_proxy.upstreams.disconnects import CallGuard, DisconnectMonitor, NotYet
from horde_proxy.upstreams.inspection import Inspection
from horde_proxy.upstreams.kinds import EndpointOptions, Services
from horde_proxy.upstreams.lean_adapter import LeanAdapter, prepared
from horde_proxy.upstreams.openai.anthropic_calls import is_anthropics, with_anthropic_key
from horde_proxy.upstreams.openai.decoding import decoded
from horde_proxy.upstreams.openai.described_models import (
    ASK_SECONDS,
    DescribedModels,
    is_at_home,
)
from horde_proxy.upstreams.openai.errors import secrets_in
from horde_proxy.upstreams.openai.events import events
from horde_proxy.upstreams.openai.images import OpenAIImages
from horde_proxy.upstreams.openai.kept_models import KeptModels, NotStarted
from horde_proxy.upstreams.openai.model_list import model_objects, parse_document
from horde_proxy.upstreams.openai.native_apis import kind_of
from horde_proxy.upstreams.openai.redirects import redirect_target
from horde_proxy.upstreams.openai.sending import CONNECT_SECONDS, Sender, release
from horde_proxy.upstreams.openai.stream import stream_items
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from horde_proxy.upstreams.picture_links import PictureLinks
from horde_proxy.upstreams.power import LOOK_SECONDS, PowerState
from horde_proxy.upstreams.proxying import (
    JsonBody,
    ProxyRequest,
    ProxyResponse,
    response_headers,
)
from horde_proxy.upstreams.public_addresses import PublicAdapter
from horde_proxy.upstreams.watched_adapter import WatchedAdapter

LIST_SECONDS = 10.0
"""A list of models is short; some servers ask their own backends for it."""
_NO_LIST = frozenset({400, 404, 405, 501})
"""Statuses of servers without GET /models: any model may be tried there."""
_STRICT_HOSTS = ("api.openai.com", "openai.azure.com", "api.mistral.ai", "api.groq.com")
"""The ends of hosts that refuse a request with a sampler that OpenAI does not have."""
_CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}
"""How vLLM, SGLang and llama.cpp are told to go on with the last message. Others refuse the fields,
or go on by themselves."""
_NOT_STARTED = frozenset({502, 503, 504})
"""Statuses of a server that loads its model (llama.cpp, vLLM), or of the gateway before it."""
_SLEEPERS_CONNECT = 2.0
"""Seconds to connect to a machine that may sleep: it answers nothing then, not even a refusal."""
_CONNECTIONS = 128
"""Connections kept in a pool. More calls at a time open more, which are closed after use."""
log = logging.getLogger(__name__)
T = TypeVar("T")


def base_url(url: str) -> str:
    """The URL before /chat/completions: as configured, with /v1 where it has no path."""
    plain = url.rstrip("/")
    return plain if urlsplit(plain).path else f"{plain}/v1"


class OpenAIUpstream:
    """One server. `timeout` is in seconds between two bytes, `ttl` in seconds for the model list.

    `headers` are sent with each request, and replace the client's. `offers_any`: the server lists
    no models. `is_free_at_home`: an address of one's own network means that nobody charges for it.
    `is_strict`: the server refuses what OpenAI does not know. `images` are its pictures, for which
    `link_session` makes sessions; see PictureLinks. `kept` is the list of a server that sleeps.
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
        link_session: Callable[[bool], requests.Session] | None = None,
        kept: KeptModels | None = None,
    ) -> None:
        self.name, self.url = name, without_login(url)
        self.offers_any, self._left_out = False, 0
        self.is_strict = (urlsplit(self.url).hostname or "").endswith(_STRICT_HOSTS)
        self._base = self._api_base(self.url)
        self._monitor = monitor
        self._kept = kept
        connect = _SLEEPERS_CONNECT if kept else CONNECT_SECONDS
        self._sender = Sender(session, name, self._base, timeout, connect)
        self._own_headers = dict(headers or {})
        login = f"Bearer {api_key}" if api_key else _basic_login(url)
        if login:
            self._own_headers.setdefault("Authorization", login)
        self._secrets = secrets_in(self._own_headers)
        self._listed = self._new_list(ttl=ttl, clock=clock, run=run, telemetry=telemetry)
        self._described = DescribedModels(
            self._listed.get,
            self._ask,
            is_free=self.is_free_at_home and is_at_home(self.url),
            ttl=ttl,
            clock=clock,
            run=run,
        )
        self.images = OpenAIImages(self, PictureLinks(self._base, open_session=link_session))

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
            link_session=lambda is_own: services.new_session(
                LeanAdapter() if is_own else PublicAdapter()
            ),
            kept=_kept_models(services),
        )

    def models(self) -> Sequence[dict[str, Any]]:
        """OpenAI's model objects, with the facts of each; the same list while nothing changed.

        Raises a ProxyError until they were listed once.
        """
        models = self._described.get()
        return self._kept.shown(models) if self._kept else models

    def slots(self, model: str) -> int | None:
        """How many requests for the model run at a time at the server; None where it is not known.

        It never waits, so that a server's first requests come before it is known.
        """
        return self._described.known(model).slots

    def is_loaded(self, model: str) -> bool | None:
        """Whether the server has the model in memory; None where it is not known. Never waits."""
        if self._kept and not self._kept.power.is_awake:
            return False
        return self._described.known(model).is_loaded

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
        UpstreamFailed, Redirected, ClientGone or ShuttingDown; NotYet where the guard is out of
        patience: the same call with the same guard then goes on.
        """
        guard = guard or self._monitor.watch(call.client)
        try:
            if call.inspection is None:
                prepared_call = self._prepared(call, model)
                return self._started(self._sender.open(prepared_call, guard), guard)
            # It notes one attempt, and is not made in two goes.
            if guard.patience is not None:
                raise NotYet
            return self._inspected(call.inspection, self._prepared(call, model), guard)
        except NotYet:
            raise
        except BaseException:
            guard.close()
            raise

    def _inspected(
        self, inspection: Inspection, request: requests.PreparedRequest, guard: CallGuard
    ) -> ProxyResponse:
        """The response, whose bytes are kept for a client that looks into them."""
        attempt = inspection.begin(self.name, _sent(request.body))
        try:
            response = self._started(self._sender.open(request, guard), guard)
        except ProxyError as exc:
            attempt.end(exc.message)
            raise
        attempt.status, attempt.media_type = response.status, response.header("content-type")
        attempt.note_bytes(response.arrived())
        response.wrap_rest(attempt.noted)
        response.on_close.append(attempt.end)
        return response

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """See horde_proxy.upstreams.base. For what was not proxied."""
        body = {
            **openai_body(request, is_strict=self.is_strict),
            **self._continuation(request),
            "model": route.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        path = "completions" if request.raw else "chat/completions"
        json_body = JsonBody(json.dumps(body).encode())
        headers = {"Content-Type": "application/json"}
        call = ProxyRequest("POST", path, headers, json_body, inspection=caller.inspection)
        answer = ForeignAnswer(
            Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), route.model),
            n=request.n,
            legacy_functions=request.legacy_functions,
            prompt_tokens=estimate_prompt(body),
        )
        headers = {"X-Endpoint": self.name}
        left_out = fields_left_out(request, is_strict=self.is_strict)
        if warnings := [*request.warnings_anywhere, *(f"{name}: not sent" for name in left_out)]:
            headers["X-Horde-Warnings"] = warnings_header(warnings)
        accepted = Accepted(headers, self.name, answer.spent)
        yield from self.answered(
            call, accepted, lambda response: answer.chunks(events(response, response.secrets))
        )

    def answered(
        self, call: ProxyRequest, accepted: Accepted, read: Callable[[ProxyResponse], Iterator[T]]
    ) -> Generator[Accepted | Waiting | T, None, None]:
        """What `read` makes of the answer to a call of our own; see stream.stream_items."""
        guard = self._monitor.watch(None)
        return stream_items(accepted, read, lambda: self.proxy(call, None, guard), guard.end_call)

    def _continuation(self, request: GenerationRequest) -> Mapping[str, bool]:
        """What has the server go on with the last message, where that is the answer's beginning.

        A body that came in OpenAI's shape is the client's own matter.
        """
        if request.source or request.raw or not is_begun(request.messages[-1]):
            return {}
        with suppress(ProxyError):
            kind = kind_of(self.models())
            return _CONTINUED if kind and kind.name in ("vLLM", "llama.cpp") else {}
        return {}

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

    def _new_list(self, **options: Any) -> BackgroundValue[Sequence[dict[str, Any]]]:
        """The list of models, which a thread loads; of a server that sleeps the kept one first."""
        name, kept = f"models:{self.name}", self._kept
        if kept is None:
            return BackgroundValue(self._list, name=name, **options)
        listed: BackgroundValue[Sequence[dict[str, Any]]]
        listed = BackgroundValue(self._list_or_kept, name=name, initial=kept.last, **options)
        kept.power.look_by(lambda: listed.refresh(LOOK_SECONDS / 2, is_awaited=False))
        return listed

    def _list_or_kept(self) -> Sequence[dict[str, Any]]:
        """The model objects of a server that may sleep. Raises a ProxyError without any."""
        assert self._kept is not None
        return self._kept.load(self._list_of_started)

    def _list_of_started(self) -> list[dict[str, Any]]:
        """The model objects. Raises NotStarted while the server loads its model after a boot."""
        assert self._kept is not None
        is_waking = self._kept.power.state is PowerState.WAKING
        models = self._list()
        # llama.cpp lists its model while it loads it, and refuses chats until then. Servers
        # without this path answer 404.
        if is_waking:
            url = self._base.removesuffix("/v1") + "/health"
            headers = CaseInsensitiveDict({"Accept": "application/json", **self._own_headers})
            _check_started(self._sender.read(prepared("GET", url, headers), ASK_SECONDS))
        return models

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """The JSON of the server's own API, which is beside /v1; see native_apis.Ask.

        None for an error's status. Raises a ProxyError, also for what is not JSON.
        """
        if self._kept and not self._kept.power.may_look():
            raise Unreachable("it is asleep")
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
        host = urlsplit(self.url).hostname or ""
        if is_anthropics(url.removeprefix(f"{self._base}/"), host):
            headers = with_anthropic_key(headers, self._own_headers, host)
        response = self._sender.read(prepared("GET", url, headers), LIST_SECONDS)
        target = redirect_target(response, url, self.name)
        if target is None:
            return response
        return self._sender.read(prepared("GET", target, headers), LIST_SECONDS)

    def _document(self, response: requests.Response) -> Any:
        """The JSON of a list of models. Raises UpstreamFailed."""
        if response.status_code in (401, 403):
            raise UpstreamFailed("it refuses the api_key that is configured for it")
        _check_started(response)
        if not response.ok:
            raise UpstreamFailed(f"its models cannot be listed: status {response.status_code}")
        return parse_document(response.content)

    def _prepared(self, call: ProxyRequest, model: str | None) -> requests.PreparedRequest:
        body, length = call.body.with_model(model)
        headers = call.upstream_headers(self._own_headers)
        host = urlsplit(self.url).hostname or ""
        if is_anthropics(call.path, host):
            headers = with_anthropic_key(headers, self._own_headers, host)
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
            [guard.close, lambda: release(response, is_shut_down=guard.error is not None)],
        )
        proxied.secrets = self._secrets
        try:
            proxied.head(1)
        except BaseException:
            proxied.close()
            raise
        return proxied


def _sent(body: Any) -> Any:
    """A body as a document, or as a text where it is none. A file is only named."""
    if not isinstance(body, bytes):
        return "(a form with files)" if body is not None else None
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _kept_models(services: Services) -> KeptModels | None:
    """The model list of a server that sleeps; None for any other server."""
    if services.power is None:
        return None
    return KeptModels(services.power, services.models_file, services.run)


def _check_started(response: requests.Response) -> None:
    """Raises NotStarted for the status of a server that cannot answer yet."""
    if response.status_code in _NOT_STARTED:
        raise NotStarted(f"its models cannot be listed: status {response.status_code}")


def _basic_login(url: str) -> str | None:
    """The Authorization header of user and password in a URL, http://bob:p%40w@host."""
    parts = urlsplit(url)
    if not parts.username:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return f"Basic {b64encode(pair).decode()}"
