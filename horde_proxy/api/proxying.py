"""Requests that pass through: to endpoints that take them as they are, and back as it comes."""

from __future__ import annotations

import errno
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from flask import Response, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import admit, client_name, guard, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.in_flight import RequestInfo
from horde_proxy.api.uploads import Upload, read_upload
from horde_proxy.errors import ClientGone, InvalidRequest, ProxyError, Refused
from horde_proxy.protocol import sse
from horde_proxy.protocol.usage import about_asked, usage_in
from horde_proxy.router import Candidates
from horde_proxy.upstreams.proxying import NO_BODY, Body, JsonBody, ProxyRequest, ProxyResponse

_WITHOUT_V1 = frozenset(
    {
        "assistants",
        "audio",
        "batches",
        "containers",
        "conversations",
        "embeddings",
        "evals",
        "files",
        "fine_tuning",
        "images",
        "moderations",
        "realtime",
        "rerank",
        "responses",
        "score",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    }
)
_EVENTS = "text/event-stream"
_TAIL = 16_384
_LAST = 16
_LONGEST_NAME = 1000
_MAYBE_JSON = frozenset({"", "text/plain", "application/x-www-form-urlencoded"})
_NEVER_PASSED_ON = frozenset({"TRACE", "CONNECT"})
"""A server answers TRACE with the request that it got, the endpoint's key included."""
_OTHER_MODELS = frozenset({"models", "fallbacks"})
PAGE_CHAT = "chat/completions"
"""What the page's own route for chats stands for."""

_Kind = TypeVar("_Kind", bound=Body)


class UnsupportedEndpoint(ProxyError):
    """The model's endpoint answers chats and completions only."""

    status = 404
    type = "invalid_request_error"
    code = "unsupported_endpoint"


def pass_on() -> Response | None:
    """The answer to what no route of ours takes, from an endpoint that may take it; or None."""
    if not isinstance(request.routing_exception, NotFound | MethodNotAllowed):
        return None
    ctx, path = current_context(), _path()
    if not ctx.router.can_proxy or path is None or request.method in _NEVER_PASSED_ON:
        return None
    guard()
    if request.method not in ("GET", "HEAD"):
        admit()
    body = _unambiguous(_body(ctx))
    candidates = candidates_for(ctx, _model(body))
    candidates.keep_proxying()
    if not candidates:
        raise UnsupportedEndpoint("The endpoint of this model answers chats and completions only.")
    response = relay(ctx, body, candidates)
    if response is None:
        raise candidates.error()
    return response


def passed_on(ctx: AppContext, body: JsonBody) -> tuple[Response | None, Candidates | None]:
    """The answer of those candidates that take the request as it is, and who else may answer.

    (None, None) where nothing is relayed anyway, or no model is named.
    """
    name = _model(body)
    if not ctx.router.can_proxy or name is None:
        return None, None
    body = _unambiguous(body)
    candidates = candidates_for(ctx, name)
    return relay(ctx, body, candidates), candidates


def candidates_for(ctx: AppContext, name: str | None) -> Candidates:
    """Who may answer this request, for a model. Raises ModelNotFound and the like."""
    g.record.asked = name
    candidates = ctx.router.candidates(name, g.scope, request.headers.get("X-Endpoint"))
    g.record.asked = candidates.best
    return candidates


def family() -> str | None:
    """What requests of no route of ours are about, e.g. /embeddings; None where that is unknown."""
    name = request.path.removeprefix("/v1").strip("/").partition("/")[0]
    return f"/{name}" if name in _WITHOUT_V1 else None


def relay(ctx: AppContext, body: Body, candidates: Candidates) -> Response | None:
    """The answer of the first candidates, as long as they take requests as they are; or None.

    Raises AllEndpointsFailed and the like when there is no other candidate.
    """
    free, began = _begun(ctx, body), ctx.clock()
    try:
        relayed = ctx.router.proxy(_call(body), candidates)
    except BaseException:
        free()
        raise
    if relayed is None:
        free()
        if candidates:
            return None
        raise candidates.error()
    relayed.on_close.append(free)
    if relayed.status < 400 and g.record.asked:
        g.record.first_text = round(ctx.clock() - began, 3)
    try:
        return _response(relayed, _asked(body))
    except BaseException:
        relayed.close()
        raise


def _begun(ctx: AppContext, body: Body) -> Callable[[], None]:
    """What to call when it has ended. Raises Unavailable."""
    free, record = ctx.live.slots.take(), g.record
    about = RequestInfo(record.id, client_name(), _model(body) or "", _is_stream(body), time.time())
    forget = ctx.live.in_flight.passing(about)

    def end() -> None:
        forget()
        free()

    return end


def _is_stream(body: Body) -> bool:
    document: Any = body.document if isinstance(body, JsonBody) else None
    return isinstance(document, dict) and document.get("stream") is True


def _asked(body: Body) -> int:
    """About how many tokens, in case that a stream does not tell: most only do when asked to."""
    return about_asked(body.document) if isinstance(body, JsonBody) and _is_stream(body) else 0


class ProxiedBody:
    """The bytes of an answer, which tell what it used; a stream that breaks off ends legally."""

    def __init__(self, relayed: ProxyResponse, record: RequestLog, asked: int) -> None:
        self._relayed, self._record, self._asked = relayed, record, asked
        self._is_stream = relayed.header("content-type").startswith(_EVENTS)
        self._last: deque[bytes] = deque(maxlen=_LAST)
        self._events = 0

    def __iter__(self) -> Iterator[bytes]:
        note, is_stream = self._last.append, self._is_stream
        try:
            for chunk in self._relayed:
                note(chunk)
                if is_stream:
                    self._events += chunk.count(b"data:")
                yield chunk
        except ProxyError as exc:
            yield from self._broken(exc)

    def close(self) -> None:
        """End the call and write down what is known of it. May be called again."""
        self._relayed.close()
        if self._relayed.status < 400:
            usage = usage_in(b"".join(self._last)[-_TAIL:])
            self._record.use(usage, self._asked, self._events)

    def _broken(self, exc: ProxyError) -> Iterator[bytes]:
        self._record.error = exc.code or exc.type
        if isinstance(exc, ClientGone):
            return
        if not self._is_stream:
            # The server then closes the connection, and the client sees that bytes are missing.
            raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc
        yield sse.event(exc.envelope())
        yield sse.DONE


def _response(relayed: ProxyResponse, asked: int) -> Response:
    record: RequestLog = g.record
    record.model, record.upstream = relayed.model, relayed.header("x-endpoint")
    if relayed.status >= 400:
        record.error = f"status_{relayed.status}"
    response = Response(ProxiedBody(relayed, record, asked), relayed.status, relayed.headers)
    if not relayed.header("content-type"):
        response.headers.pop("Content-Type", None)
    if relayed.header("content-type").startswith(_EVENTS):
        response.headers["X-Accel-Buffering"] = "no"
        response.headers.setdefault("Cache-Control", "no-cache")
    return response


def _call(body: Body) -> ProxyRequest:
    path = _path() or PAGE_CHAT
    query = request.query_string.decode("latin-1")
    headers = dict(request.headers)
    if isinstance(body, JsonBody) and body.content and not _is_json():
        headers["Content-Type"] = "application/json"
    return ProxyRequest(
        request.method,
        f"{path}?{query}" if query else path,
        headers,
        body,
        _model(body),
        request.environ.get("gunicorn.socket"),
    )


def _path() -> str | None:
    """What follows /v1/, as it was sent; None where it is no business of an endpoint's."""
    raw: str = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI") or request.path
    path = raw.partition("?")[0].lstrip("/")
    if path.startswith("v1/"):
        path = path.removeprefix("v1/")
    elif path.partition("/")[0] not in _WITHOUT_V1 | {"chat", "completions"}:
        return None
    # Some servers take what follows a semicolon for parameters of a part.
    parts = [each.partition(";")[0] for each in unquote(path).replace("\\", "/").split("/")]
    return path if parts[0] and not {".", ".."} & set(parts) else None


def _body(ctx: AppContext) -> Body:
    """JSON, whatever its type is called, as it fits into memory; or else a file."""
    is_chunked = "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    if not request.content_length and not is_chunked:
        return NO_BODY
    if _is_json():
        return read_json()
    upload = read_upload(request, ctx.serving.max_upload)
    g.closing.append(upload.close)
    most = current_app.config["MAX_CONTENT_LENGTH"]
    is_text = request.mimetype in _MAYBE_JSON and upload.length <= most
    return (upload.as_json() if is_text else None) or upload


def _is_json() -> bool:
    return request.mimetype == "application/json" or request.mimetype.endswith("+json")


def _unambiguous(body: _Kind) -> _Kind:
    """The body of a key that is for some models only: the model that was looked at, no other.

    Servers differ in which of two they read, and some take more in fields of their own.
    """
    document = body.document if isinstance(body, JsonBody) else None
    if not getattr(g.scope, "models", ()) or not isinstance(document, dict):
        return body
    names = [name.casefold() for name in document]
    if names.count("model") > 1 or _OTHER_MODELS & set(names):
        raise Refused("This key is for some models only, and the request names others.")
    return cast(_Kind, JsonBody(json.dumps(document).encode(), document))


def _model(body: Body) -> str | None:
    if isinstance(body, Upload):
        return body.model
    document: Any = body.document if isinstance(body, JsonBody) else None
    model = document.get("model") if isinstance(document, dict) else None
    if isinstance(model, str) and len(model) > _LONGEST_NAME:
        raise InvalidRequest("The model's name is too long.", param="model", code="invalid_value")
    return model if isinstance(model, str) and model else None
