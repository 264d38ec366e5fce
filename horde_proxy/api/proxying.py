"""Proxying: requests go to endpoints unchanged, and their answers come back unchanged.

It picks the endpoints; upstreams/openai sends. What is generated from chunks is not done here.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from flask import Response, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from horde_proxy.api.access_log import RequestLog
from horde_proxy.api.auth import authenticate, check_limits, client_name, read_json
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.shared_answer import RequestInfo
from horde_proxy.api.unserved import is_wrong_base_url
from horde_proxy.api.uploads import Upload, read_upload
from horde_proxy.errors import (
    ClientGone,
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    Refused,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.protocol import sse
from horde_proxy.protocol.content_parts import shows_pictures
from horde_proxy.protocol.usage import estimate_prompt
from horde_proxy.protocol.usage_reader import UsageReader
from horde_proxy.router import Candidates
from horde_proxy.upstreams.proxying import NO_BODY, Body, JsonBody, ProxyRequest, ProxyResponse

# OpenAI's paths, and rerank and score of other servers, which are also proxied without /v1.
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
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
"""The blank line that ends an event, in all line ends that the HTML standard allows."""
# Streams that end with a finish_reason or [DONE]. opencode repeats a chat without, for ever.
_MUST_FINISH = frozenset({"chat/completions", "completions"})
# Count the tokens of a request, and generate nothing: Anthropic, OpenAI, vLLM and llama.cpp.
_COUNT_ONLY = frozenset({"count_tokens", "input_tokens", "tokenize", "detokenize"})
_LONGEST_NAME = 1000
"""Characters of a model's name: longer ones are no names, and would fill the log."""
# What clients call their JSON that say nothing else: curl's -d sends the last of these.
_MAYBE_JSON = frozenset({"", "text/plain", "application/x-www-form-urlencoded"})
_MOST_IMAGES = 10
"""Pictures of one call, as OpenAI's API allows: a server makes no more, whatever `n` is."""
_NEVER_PROXIED = frozenset({"TRACE", "CONNECT"})
"""A server answers TRACE with the request that it received, our key for it included."""
# Fields in which OpenRouter ("models") and LiteLLM ("fallbacks") read further models.
_OTHER_MODELS = frozenset({"models", "fallbacks"})

_Kind = TypeVar("_Kind", bound=Body)


class MakesImagesOnly(ProxyError):
    """A chat names a model that makes pictures."""

    status = 404
    type = "invalid_request_error"
    code = "unsupported_endpoint"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model `{name}` makes pictures: use it with POST /v1/images/generations."
        )


class UnsupportedEndpoint(ProxyError):
    """None of the model's endpoints can proxy."""

    status = 404
    type = "invalid_request_error"
    code = "unsupported_endpoint"


def proxy_unrouted() -> Response | None:
    """The response of an endpoint to a request that no route of ours takes; None: answer 404."""
    if not isinstance(request.routing_exception, NotFound | MethodNotAllowed):
        return None
    ctx, path = current_context(), _path()
    if not ctx.router.can_proxy or path is None or request.method in _NEVER_PROXIED:
        return None
    authenticate()
    if request.method not in ("GET", "HEAD"):
        check_limits()
    body = _unambiguous(_body(ctx))
    candidates = candidates_for(ctx, _model(body))
    candidates.keep_proxying()
    if not candidates:
        raise UnsupportedEndpoint(
            f"The endpoint of this model answers chats and completions only. For {request.path}, "
            "use a model of an endpoint that has it, of the type `openai`: GET /v1/models lists "
            "the `endpoints` of each model."
        )
    response = proxy(ctx, _proxy_request(body, path), candidates)
    if response is None:
        raise candidates.error()
    return response


def try_proxy(
    ctx: AppContext, body: JsonBody | Upload, front: Front[Any]
) -> tuple[Response | None, Candidates | None]:
    """(the response of the first candidates, if they can proxy; the candidates that are left).

    (None, None) when no endpoint can proxy, the front's bodies are not for proxying, or the
    request names no model.
    """
    name = _model(body)
    if not ctx.router.can_proxy or front.proxied_to is None:
        return None, None
    if not (front.may_proxy(ctx, name) if front.may_proxy else name):
        return None, None
    call = _proxy_request(_unambiguous(body), front.proxied_to, is_optional=front.is_optional)
    candidates = candidates_for(ctx, name)
    if isinstance(body, JsonBody) and shows_pictures(body.document):
        candidates.prefer_seeing()
    response = proxy(ctx, call, candidates)
    # Who is left here writes texts.
    return response, None if front.candidates else candidates


def candidates_for(ctx: AppContext, name: str | None) -> Candidates:
    """The candidates for a model, for the current request. Raises ModelNotFound and the like."""
    g.record.requested = name
    try:
        candidates = ctx.router.candidates(name, g.scope, request.headers.get("X-Endpoint"))
    except (ModelNotFound, Unavailable):
        if name is not None and _makes_images(ctx, name):
            raise MakesImagesOnly(name) from None
        raise
    g.record.requested = candidates.best
    return candidates


def _makes_images(ctx: AppContext, name: str) -> bool:
    """Whether a model that writes no texts is one of those that make pictures."""
    try:
        return any(model["id"] == name for model in ctx.image_router.models(g.scope))
    except ProxyError:
        return False


def route_family() -> str | None:
    """The beginning of an unrouted request's path, e.g. /embeddings; None for an unknown one."""
    name = request.path.removeprefix("/v1").strip("/").partition("/")[0]
    return f"/{name}" if name in _WITHOUT_V1 else None


def proxy(ctx: AppContext, call: ProxyRequest, candidates: Candidates) -> Response | None:
    """The response of the first of the candidates that can proxy and answers.

    None when a candidate comes next that cannot proxy the call. Raises AllEndpointsFailed and the
    like when no candidate is left.
    """
    free, began = _begin(ctx, call.body), ctx.clock()
    try:
        proxied = ctx.router.proxy(call, candidates)
    except BaseException as exc:
        free()
        if isinstance(exc, ClientGone):
            _note_left(call, candidates)
        raise
    if proxied is None:
        free()
        if candidates:
            return None
        raise candidates.error()
    proxied.on_close.append(free)
    if proxied.status < 400 and g.record.requested:
        g.record.first_text = round(ctx.clock() - began, 3)
    try:
        return _response(proxied, call)
    except BaseException:
        proxied.close()
        raise


def _begin(ctx: AppContext, body: Body) -> Callable[[], None]:
    """Take a slot and note the request; call the result when it has ended. Raises Unavailable."""
    free, record = ctx.live.slots.acquire(), g.record
    info = RequestInfo(record.id, client_name(), _model(body) or "", _is_stream(body), time.time())
    forget = ctx.live.in_flight.track_proxied(info)

    def end() -> None:
        forget()
        free()

    return end


def _is_stream(body: Body) -> bool:
    document: Any = body.document if isinstance(body, JsonBody) else None
    return isinstance(document, dict) and document.get("stream") is True


def _generates(call: ProxyRequest) -> bool:
    """Whether tokens are estimated where no usage tells them. Generations always name a model."""
    return (
        call.method == "POST"
        and call.model is not None
        and _plain_path(call).rpartition("/")[2] not in _COUNT_ONLY
    )


def _plain_path(call: ProxyRequest) -> str:
    """The path without query and slash at its end."""
    return call.path.partition("?")[0].rstrip("/")


def _prompt_estimate(call: ProxyRequest) -> int:
    """About how many tokens the prompt has; 0 for an upload, and for what generates nothing."""
    if not isinstance(call.body, JsonBody) or not _generates(call):
        return 0
    return estimate_prompt(call.body.document)


def _note_left(call: ProxyRequest, candidates: Candidates) -> None:
    """Count the prompt of a client that left before the first byte: it was read by then."""
    record, candidate = cast(RequestLog, g.record), candidates.current
    if candidate is not None:
        record.model, record.upstream = candidate.model, candidate.endpoint.name
        record.note_tokens(_prompt_estimate(call), 0)


def _image_count(call: ProxyRequest) -> int:
    """How many pictures a call asks for; of a form, whose `n` is not read, one."""
    if not _plain_path(call).startswith("images/"):
        return 0
    document = call.body.document if isinstance(call.body, JsonBody) else None
    count = document.get("n") if isinstance(document, dict) else None
    return min(max(count, 1), _MOST_IMAGES) if isinstance(count, int) else 1


class ProxiedBody:
    """The bytes of an answer to a call. Its tokens are noted in the record.

    A stream that breaks off ends with an error event; a stream of chunks does so, too, when it ends
    without a finish_reason.
    """

    def __init__(self, proxied: ProxyResponse, record: RequestLog, call: ProxyRequest) -> None:
        self._response, self._record = proxied, record
        self._prompt_estimate = _prompt_estimate(call)
        kind = proxied.header("content-type")
        self._is_stream = _is_events(kind)
        self._must_finish = self._is_stream and _plain_path(call) in _MUST_FINISH
        self._usage = UsageReader(kind)
        # A stored response tells the usage of its generation again, each time it is fetched.
        self._is_counted = call.method == "POST" and proxied.status < 400
        self._generates = _generates(call)
        self._images = _image_count(call)

    def __iter__(self) -> Iterator[bytes]:
        feed = self._usage.feed
        try:
            for chunk in self._response:
                feed(chunk)
                yield chunk
            self._check_finished()
        except ProxyError as exc:
            yield from self._broken(exc)

    def close(self) -> None:
        """End the call and log its usage. May be called again."""
        self._response.close()
        self._usage.end()
        if self._is_counted and (self._generates or self._usage.has_usage):
            self._record.note_tokens(*self._usage.tokens(self._prompt_estimate))
        if self._is_counted and self._images:
            self._record.images = self._images

    def _check_finished(self) -> None:
        """Raises UpstreamFailed for a stream that ended in the middle of the answer."""
        if self._must_finish and self._response.status < 400:
            self._usage.end()
            if not self._usage.is_finished and not self._usage.has_failed:
                raise UpstreamFailed("The answer broke off.")

    def _broken(self, exc: ProxyError) -> Iterator[bytes]:
        self._record.error = exc.code or exc.type
        if isinstance(exc, ClientGone):
            return
        if not self._is_stream:
            # The server then closes the connection, and the client sees that bytes are missing.
            raise ConnectionResetError(errno.ECONNRESET, str(exc)) from exc
        # It may have died in the middle of a line, which the error must not be read as a part of.
        ending = self._usage.ending()
        is_within = ending and not ending.endswith(_EVENT_ENDS)
        yield (b"\n\n" if is_within else b"") + sse.event(exc.envelope())
        yield sse.DONE


def _is_events(content_type: str) -> bool:
    return content_type.lower().startswith(_EVENTS)


def _response(proxied: ProxyResponse, call: ProxyRequest) -> Response:
    record: RequestLog = g.record
    record.model, record.upstream = proxied.model, proxied.header("x-endpoint")
    if proxied.status >= 400:
        record.error = f"status_{proxied.status}"
    response = Response(ProxiedBody(proxied, record, call), proxied.status, proxied.headers)
    if not proxied.header("content-type"):
        response.headers.pop("Content-Type", None)
    if _is_events(proxied.header("content-type")):
        response.headers["X-Accel-Buffering"] = "no"
        response.headers.setdefault("Cache-Control", "no-cache")
    return response


def _proxy_request(body: Body, path: str, *, is_optional: bool = False) -> ProxyRequest:
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
        client_socket(),
        is_optional,
    )


def client_socket() -> socket.socket | None:
    """The client's connection, to notice when it is closed; only gunicorn gives it."""
    return cast("socket.socket | None", request.environ.get("gunicorn.socket"))


def _path() -> str | None:
    """The path after /v1/, as it was sent; None for a path that no endpoint is to get."""
    raw: str = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI") or request.path
    path = raw.partition("?")[0].lstrip("/")
    if is_wrong_base_url(path):
        return None
    if path.startswith("v1/"):
        path = path.removeprefix("v1/")
    elif path.partition("/")[0] not in _WITHOUT_V1 | {"chat", "completions"}:
        return None
    # Some servers take what follows a semicolon for parameters of a part.
    parts = [part.partition(";")[0] for part in unquote(path).replace("\\", "/").split("/")]
    return path if parts[0] and not {".", ".."} & set(parts) else None


def read_body(ctx: AppContext) -> JsonBody | Upload:
    """The body of a front that takes forms as well. Raises what `read_json` does."""
    body = _body(ctx)
    # It says that an empty body is no JSON.
    return read_json() if body is NO_BODY else cast("JsonBody | Upload", body)


def _body(ctx: AppContext) -> Body:
    """A JsonBody if the body is JSON, whatever Content-Type says; otherwise an upload on disk."""
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
    """The body, written anew for a key that is limited to some models. Raises Refused.

    Servers differ in which of two `model` fields they read, and some read more models from other
    fields; so that only the model that was checked can reach them.
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
