"""Proxying: requests go to endpoints unchanged, and their answers come back unchanged.

It picks the endpoints. received_call.py reads the request, proxied_call.py makes the call,
upstreams/openai sends it, and proxied_body.py passes the bytes on. Nothing is generated here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Response, g, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from horde_proxy.api.auth import authenticate, check_limits
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.internal_call import current_job
from horde_proxy.api.named_models import further_models, warn_of_missing
from horde_proxy.api.places import bind_to_aliases
from horde_proxy.api.proxied_call import can_keep_alive, proxy
from horde_proxy.api.received_call import (
    leads_to_stored,
    model_in,
    path_after_v1,
    proxy_request,
    received_call,
    unambiguous,
)
from horde_proxy.api.sticky_session import note_body, session_identity
from horde_proxy.api.uploads import Upload
from horde_proxy.errors import InvalidRequest, ModelNotFound, ProxyError, Refused, Unavailable
from horde_proxy.protocol.content_parts import shows_pictures
from horde_proxy.protocol.models import makes_images
from horde_proxy.router import EVERYTHING, Candidates
from horde_proxy.router.scope import bound
from horde_proxy.upstreams.beside import Beside
from horde_proxy.upstreams.proxying import NO_BODY, Body, JsonBody, ProxyRequest

_NEVER_PROXIED = frozenset({"TRACE", "CONNECT"})
"""A server answers TRACE with the request that it received, our key for it included."""


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
    ctx, path = current_context(), path_after_v1()
    if not ctx.router.can_proxy or path is None or request.method in _NEVER_PROXIED:
        return None
    if leads_to_stored(path):
        return None
    authenticate()
    if request.method not in ("GET", "HEAD"):
        check_limits()
    call = received_call(ctx, path)
    return proxy_to(ctx, call, candidates_for(ctx, call.model))


def proxy_to(ctx: AppContext, call: ProxyRequest, candidates: Candidates) -> Response:
    """The response of the first of the candidates that can proxy.

    Raises UnsupportedEndpoint where none of them can.
    """
    candidates.keep_proxying()
    if not candidates:
        raise UnsupportedEndpoint(
            f"The endpoint of this model answers chats and completions only. For {request.path}, "
            "use a model of an endpoint that has it, of the type `openai`: GET /v1/models lists "
            "the `endpoints` of each model."
        )
    response = proxy(ctx, call, candidates)
    if response is None:
        raise candidates.error()
    return response


def proxy_stored(
    ctx: AppContext, body: Body = NO_BODY, *, is_optional: bool = False
) -> Response | None:
    """The response of an endpoint to a call about files or batches, which are routes of ours, too.

    None where no endpoint can proxy it, or where the key is for some models only. `is_optional`:
    None also where no endpoint has the route.
    """
    path = path_after_v1()
    if not ctx.router.can_proxy or path is None:
        return None
    try:
        candidates = ctx.router.candidates(None, g.scope, request.headers.get("X-Endpoint"))
    except Refused:
        return None
    if not candidates:
        return None
    if request.method not in ("GET", "HEAD"):
        check_limits()
    call = proxy_request(body, path, is_optional=is_optional)
    while candidates:
        response = proxy(ctx, call, candidates)
        if response is not None:
            return response
        candidates.skip()
    return None


def proxy_to_named(ctx: AppContext, endpoint: str, body: Body = NO_BODY) -> Response | None:
    """The response of the endpoint of this name to a call that names no model.

    None where the settings have it no longer. The key's models do not matter: who may make the
    call is known already. Where it may go does. Raises PlacesExcluded.
    """
    path = path_after_v1()
    scope = bound(EVERYTHING, *g.scope.bindings)
    try:
        candidates = ctx.router.candidates(None, scope, endpoint)
    except InvalidRequest:
        return None
    if not candidates or path is None:
        return None
    return proxy(ctx, proxy_request(body, path), candidates)


def try_proxy(
    ctx: AppContext,
    body: JsonBody | Upload,
    front: Front[Any],
    generated: Callable[[Candidates], Response] | None = None,
) -> tuple[Response | None, Candidates | None]:
    """(the response of the first candidates, if they can proxy; the candidates that are left).

    (None, None) when no endpoint can proxy, the front's bodies are not for proxying, or who may
    answer is not known from the model's name alone. A stream that begins before an endpoint answers
    goes on with `generated` where only endpoints that cannot proxy are left.
    """
    name = model_in(body)
    note_body(body.document if isinstance(body, JsonBody) else None)
    if not ctx.router.can_proxy or front.proxied_to is None:
        return None, None
    if front.proxy_candidates:
        candidates = front.proxy_candidates(ctx, name)
    else:
        candidates = candidates_for(ctx, name) if name else None
    if candidates is None:
        return None, None
    if front.is_ours and isinstance(body, JsonBody) and front.is_ours(ctx, body.document):
        return None, None
    if front.kept_at and isinstance(body, JsonBody):
        endpoint = front.kept_at(ctx, body.document)
        if endpoint is not None:
            candidates.keep_endpoint(endpoint)
            if not candidates and g.scope.bindings:
                # Raises PlacesExcluded where the endpoint is beyond them.
                ctx.router.candidates(name, g.scope, endpoint)
    call = proxy_request(unambiguous(body), front.proxied_to, is_optional=front.is_optional)
    # While a call blocks this thread, nothing else could be tried beside it.
    hedges = ctx.router.hedges and isinstance(body, JsonBody) and current_job() is None
    if hedges or can_keep_alive(ctx, call):
        watch = partial(ctx.live.disconnects.watch, call.client)
        call = replace(call, helper=Beside(ctx.live.helpers, watch))
    if isinstance(body, JsonBody) and shows_pictures(body.document):
        candidates.prefer_seeing()
    go_on = partial(generated, candidates) if generated is not None else None
    return proxy(ctx, call, candidates, go_on), candidates


def candidates_for(ctx: AppContext, name: str | None, generation: Any = None) -> Candidates:
    """The candidates for a model, for the current request. Raises ModelNotFound and the like.

    `generation` is what was read of the request's body, if it was.
    """
    record, further = g.record, further_models()
    record.requested = name
    bind_to_aliases(ctx.router, name, *further)
    try:
        session = session_identity(ctx, generation)
        candidates = _candidates_or_stand_in(ctx, name, further, session)
    except (ModelNotFound, Unavailable):
        if name is not None and _makes_images(ctx, name):
            raise MakesImagesOnly(name) from None
        raise
    record.requested = candidates.best
    candidates.on_failure = record.note_failure
    return candidates


def _candidates_or_stand_in(
    ctx: AppContext, name: str | None, further: Sequence[str], session: str | None
) -> Candidates:
    """The candidates for a name, or for what stands in for it where a view's `g.stand_in` says so.

    `g.warnings` then has the warning about it.
    """
    endpoint = request.headers.get("X-Endpoint")
    try:
        candidates = ctx.router.candidates(name, g.scope, endpoint, further, session)
        warn_of_missing(candidates)
        return candidates
    except ModelNotFound:
        other = g.stand_in(name) if "stand_in" in g and name else None
        if other is None:
            raise
        candidates = ctx.router.candidates(other, g.scope, endpoint, session=session)
        g.warnings.append(f"model: not served here, so '{other}' answers")
        return candidates


def _makes_images(ctx: AppContext, name: str) -> bool:
    """Whether a model that writes no texts is one of those that make pictures."""
    try:
        models = ctx.image_router.models(g.scope)
        return any(model["id"] == name and makes_images(model) for model in models)
    except ProxyError:
        return False
