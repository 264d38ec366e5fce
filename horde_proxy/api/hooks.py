"""What happens before and after every request: log, ids, times, CORS, errors.

Nothing here knows a single route. Errors have OpenAI's shape; at a path of another API they have
that one's.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from functools import partial

from flask import Flask, Response, g, jsonify, make_response, request
from werkzeug.exceptions import (
    ClientDisconnected,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)

from horde_proxy.api import unserved
from horde_proxy.api.access_log import RequestLog, shown_path
from horde_proxy.api.auth import client_address, client_key, count_wrong_key, guard_request
from horde_proxy.api.context import current_context
from horde_proxy.api.generations import keep_record
from horde_proxy.api.inspections import keep_inspection
from horde_proxy.api.internal_call import current_job
from horde_proxy.api.late_kudos import KudosCorrections, count_usage
from horde_proxy.api.metrics import route
from horde_proxy.api.proxying import UnsupportedEndpoint, proxy_unrouted
from horde_proxy.api.this_request import current_request, current_values
from horde_proxy.content_codings import UnsupportedCoding
from horde_proxy.errors import (
    InvalidApiKey,
    ProxyError,
    ServerBug,
    TooManyWrongKeys,
    without_retry_triggers,
)
from horde_proxy.protocol import error_shapes
from horde_proxy.protocol.error_shapes import ErrorFacts, Shape
from horde_proxy.protocol.leniency import warnings_header

# Scripts of other origins see no other headers.
_EXPOSED = (
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, x-horde-request-id, "
    "x-horde-model, x-horde-format, x-horde-warnings, x-endpoint"
)
WEBHOOK_PATH = "/horde/webhook/"
"""A secret follows it, which must not be logged."""
_UNGUARDED = ("/health/", WEBHOOK_PATH, "/v1/files/images/", "/files/images/")
"""What no stranger can use: probes of machines, and paths with a secret, which a horde calls, or
pages and clients that were given the link of a picture."""
# What machines and the open page fetch every few seconds.
_UNLOGGED = (
    "/health/",
    "/metrics",
    "/page/live",
    "/page/state.json",
    "/page/events",
    "/page/static/",
)
_INERT = ("application/json", "application/x-ndjson", "text/event-stream")
"""The types of almost all answers, which a browser only shows."""
_PAGES = frozenset({"page", "first_run", "admin", "inspector"})
"""The blueprints of this proxy's own pages, which set their headers themselves."""
_LONGEST_METHOD = 20
"""Characters of a method that an error repeats. Any word is one, and DELETE is the longest."""
_MODEL_VIEWS = frozenset({"models.models", "models_v1.models", "models.model", "models_v1.model"})
"""The views of the list of models, which OpenAI's and Anthropic's clients share."""
_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
log = logging.getLogger(__name__)


def register(app: Flask) -> None:
    """Put the hooks and the error handlers on an app."""
    app.before_request(_begin)
    app.before_request(proxy_unrouted)
    app.after_request(_finish)
    app.register_error_handler(ProxyError, _proxy_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _bug)


def _begin() -> Response | None:
    values, received = current_values(), current_request()
    values.began = time.monotonic()
    values.closing, values.warnings = [], []
    path = shown_path(received.path)
    path = WEBHOOK_PATH if path.startswith(WEBHOOK_PATH) else path
    values.record = RequestLog(
        uuid.uuid4().hex, received.method[:_LONGEST_METHOD], path, client_address(current_context())
    )
    if not received.path.startswith(_UNGUARDED):
        guard_request()
    return make_response("", 204) if received.method == "OPTIONS" else None


def _finish(response: Response) -> Response:
    headers, values, received = response.headers, current_values(), current_request()
    headers["X-Request-Id"] = values.record.id
    if _shape() is error_shapes.anthropic:
        # What Anthropic's SDKs show as `_request_id`. A proxied answer has its server's own.
        headers.setdefault("request-id", _anthropic_id())
    headers.setdefault("openai-processing-ms", str(int((time.monotonic() - values.began) * 1000)))
    headers.setdefault("openai-version", "2020-10-01")
    # Any page that is not refused may call the API; our own acts with its visitor's session.
    if received.blueprint not in _PAGES:
        if not values.get("is_refused"):
            headers["Access-Control-Allow-Origin"] = "*"
        if response.mimetype not in _INERT:
            # A server, or a client's file on it, may answer with HTML. Its scripts would run with
            # the page's origin. `sandbox` gives such a document none; CSP 3, section 6.2.
            headers.add("Content-Security-Policy", "sandbox")
            headers["X-Content-Type-Options"] = "nosniff"
    headers["Access-Control-Expose-Headers"] = _EXPOSED
    if received.method == "OPTIONS":
        # Echoed, because "*" does not include Authorization (Fetch standard, CORS).
        wanted = received.headers.get(
            "Access-Control-Request-Headers", "authorization, content-type"
        )
        headers["Access-Control-Allow-Methods"] = _METHODS
        headers["Access-Control-Allow-Headers"] = wanted
        headers["Access-Control-Max-Age"] = "86400"
        # Chrome asks this before a public page may reach a private address.
        headers["Access-Control-Allow-Private-Network"] = "true"
        headers["Vary"] = "Access-Control-Request-Headers"
    if values.warnings:
        before = filter(None, headers.getlist("X-Horde-Warnings"))
        headers["X-Horde-Warnings"] = warnings_header([*before, *values.warnings])
    _log_at_the_end(response)
    return response


def _log_at_the_end(response: Response) -> None:
    """Log and count the request when its response is closed: a stream ends after this call."""
    values = current_values()
    record, began = values.record, values.began
    record.status = response.status_code
    late = KudosCorrections(record)
    for call in values.closing:
        response.call_on_close(call)
    ctx = current_context()
    if record.account is not None:
        usage = ctx.access.usage
        response.call_on_close(lambda: late.add_counter(count_usage(usage, record)))
    if not request.path.startswith(_UNLOGGED):
        rule = route()
        response.call_on_close(lambda: record.write(began))
        response.call_on_close(lambda: ctx.live.page.history.add(record))
        response.call_on_close(lambda: ctx.live.hourly.add(record))
        response.call_on_close(lambda: ctx.live.metrics.answered(rule, record, ctx.was_offered))
        late.add_counter(partial(ctx.live.page.history.add_kudos, record))
        late.add_counter(lambda kudos: ctx.live.metrics.charged(record, kudos, ctx.was_offered))
        keep_record(ctx, record, response, late)
        keep_inspection(ctx, record, response)
    # The last one: what all of them have counted is what it corrects.
    response.call_on_close(late.follow)


def _proxy_error(exc: ProxyError) -> Response:
    if isinstance(exc, InvalidApiKey) and current_context().access.passthrough:
        exc = _refused_by_horde(exc)
    g.record.error = exc.code or exc.type
    response = _error(error_shapes.facts_of(exc))
    response.headers.update(exc.headers(for_job=current_job() is not None))
    _let_go_of_frames(exc)
    return response


def _let_go_of_frames(exc: BaseException) -> None:
    """Free what the functions held that an error passed through, such as a body of 30 MB.

    A traceback and its frames refer to each other. Only the garbage collector would find them, and
    it counts objects, not bytes.
    """
    current: BaseException | None = exc
    while current is not None and current.__traceback__ is not None:
        current.__traceback__ = None
        current = current.__cause__ or current.__context__


def _refused_by_horde(exc: InvalidApiKey) -> ProxyError:
    """The error for a client's horde key that the horde refused: in passthrough, it checks keys."""
    key = client_key()
    try:
        if key is not None:
            count_wrong_key(current_context(), key)
    except TooManyWrongKeys as too_many:
        # A job that is told to wait would be tried again.
        return exc if current_job() else too_many
    return exc


def _http_error(exc: HTTPException) -> Response:
    """The response to Flask's own errors: no route, wrong method, body too large."""
    code, message, method = None, exc.description or exc.name, request.method[:_LONGEST_METHOD]
    methods = sorted(exc.valid_methods or ()) if isinstance(exc, MethodNotAllowed) else []
    if isinstance(exc, NotFound):
        explained = unserved.explanation(request.path)
        code = UnsupportedEndpoint.code if explained else None
        message = explained or f"Invalid URL ({method} {shown_path(request.path)})"
    elif isinstance(exc, MethodNotAllowed):
        code = "method_not_supported"
        path = shown_path(request.path)
        message = f"Not allowed to {method} on {path}. {_right_methods(methods)}"
    elif isinstance(exc, RequestEntityTooLarge):
        code = "request_too_large"
        # Werkzeug's own words are about bytes.
        if exc.description == RequestEntityTooLarge.description:
            message = "The request body is too large for this proxy."
    elif isinstance(exc, ClientDisconnected):
        message = "The request body did not arrive completely, or its framing is malformed."
    elif isinstance(exc, UnsupportedCoding):
        code = "unsupported_content_encoding"
    status = exc.code or 500
    kind = "server_error" if status >= 500 else "invalid_request_error"
    response = _error(ErrorFacts(status, without_retry_triggers(message), kind, code=code))
    if methods:
        response.headers["Allow"] = ", ".join(methods)
    if isinstance(exc, UnsupportedCoding):
        response.headers.update(exc.headers)
    return response


def _right_methods(methods: Sequence[str]) -> str:
    """Which methods a route takes, in a sentence."""
    usual = [method for method in methods if method not in ("HEAD", "OPTIONS")]
    # People try an address in their browser first.
    if usual == ["POST"]:
        return "It takes POST with a JSON body; a browser sends GET."
    return f"It takes {' and '.join(usual)}."


def _error(error: ErrorFacts) -> Response:
    """An error in the shape of the API that the path belongs to. Our own routes have OpenAI's."""
    shape = _shape()
    status = error_shapes.status_in(shape, error)
    if shape is error_shapes.anthropic:
        error = error._replace(request_id=_anthropic_id())
    response = jsonify(shape(error))
    response.status_code = status
    # Claude Code sends a request up to eleven times after one of these. Only for want of a worker
    # (529) and above a limit (429) is another try worth its kudos.
    if shape is error_shapes.anthropic and (status == 401 or (status >= 500 and status != 529)):
        response.headers["x-should-retry"] = "false"
    return response


def _shape() -> Shape:
    """How the current request's API writes errors; of GET /models, by its client."""
    received = current_request()
    if received.endpoint in _MODEL_VIEWS and "anthropic-version" in received.headers:
        return error_shapes.anthropic
    return unserved.shape_of(received.path)


def _anthropic_id() -> str:
    """The id of the current request in the form of Anthropic's; the log has it without "req_"."""
    return f"req_{g.record.id}"


def _bug(exc: Exception) -> Response:
    """The last guard: a fault of ours is logged with its traceback and answered without details."""
    log.exception("%s %s failed", request.method, shown_path(request.path), exc_info=exc)
    return _proxy_error(ServerBug())
