"""POST /embeddings: embeddings of the endpoints that have them, as hordes have none.

The body is proxied unchanged, but for the name of the model: a client with another server's name
in its settings, as text-embedding-3-small, gets `routing.default_embedding`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flask import Blueprint, Response, g, request

from horde_proxy.api.auth import authenticate, check_limits
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.named_models import further_models
from horde_proxy.api.proxying import UnsupportedEndpoint, candidates_for, proxy_to
from horde_proxy.api.received_call import client_socket, model_in, received_call
from horde_proxy.api.unserved import NOT_FROM_HORDES
from horde_proxy.errors import (
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    RateLimited,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.json_reading import parse_json
from horde_proxy.router import Candidates
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest

_MOST_VALUES = 10_000_000
"""Numbers in one answer: a thousand texts with vectors of 8192 numbers, and some to spare."""

_ERRORS: Mapping[int, type[ProxyError]] = {429: RateLimited, 503: Unavailable}
"""What clients repeat later. Other refusals are a 400 or a 502 like those of any answer."""

blueprint = Blueprint("embeddings", __name__)


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """The answer of an endpoint, unchanged."""
    ctx = current_context()
    authenticate()
    check_limits()
    call = received_call(ctx, "embeddings", has_model_list=True)
    default = ctx.serving.default_embedding
    document = call.body.document if isinstance(call.body, JsonBody) else None
    if default is not None and call.model is None and isinstance(document, dict):
        call = _call({**document, "model": default})
    return proxy_to(ctx, call, embedding_candidates(ctx, call.model))


def embedding_candidates(ctx: AppContext, name: str | None) -> Candidates:
    """The endpoints that may embed with a model, else with the default one.

    Raises UnsupportedEndpoint where only hordes have the model, and what candidates_for does.
    """
    if not ctx.router.can_proxy:
        raise UnsupportedEndpoint(NOT_FROM_HORDES.replace("{path}", request.path))
    try:
        candidates = candidates_for(ctx, name)
    except ModelNotFound:
        if by_default := _default_candidates(ctx):
            return by_default
        raise
    # What the client itself names besides is for embeddings, too.
    if candidates.has_requested() or further_models():
        return candidates
    # The fallbacks of an unknown name, as of "*", are mostly models for chats.
    return _default_candidates(ctx) or candidates


def _default_candidates(ctx: AppContext) -> Candidates | None:
    """The endpoints that have the default model; None without a default, or where none has it."""
    default = ctx.serving.default_embedding
    if default is not None:
        with suppress(ModelNotFound):
            return candidates_for(ctx, default)
    return None


def embeddings_of(ctx: AppContext, document: Mapping[str, Any]) -> tuple[Response, Any]:
    """(the response of an endpoint, its JSON) to a body of OpenAI's that a front has written.

    The response has the headers, and a front gives it another body. Raises ProxyError.
    """
    call = _call(document)
    response = proxy_to(ctx, call, embedding_candidates(ctx, call.model))
    try:
        answer = _read(response)
    except BaseException:
        response.close()
        raise
    return response, answer


def _call(document: Mapping[str, Any]) -> ProxyRequest:
    body = JsonBody(json.dumps(document).encode(), dict(document))
    headers = {"Content-Type": "application/json"}
    return ProxyRequest(
        "POST",
        "embeddings",
        headers,
        body,
        model_in(body),
        client_socket(),
        inspection=g.get("inspection"),
    )


def _read(response: Response) -> Any:
    """The JSON of a response. Raises InvalidRequest or another ProxyError."""
    try:
        answer = parse_json(response.get_data(), _MOST_VALUES)
    # The connection broke, see ProxiedBody; or it is no JSON.
    except (OSError, ValueError, RecursionError) as exc:
        raise UpstreamFailed("The endpoint sent no readable embeddings.") from exc
    if response.status_code >= 400:
        raise _refusal(response, answer)
    return answer


def _refusal(response: Response, answer: Any) -> ProxyError:
    """The error that an endpoint answered with, in its own words where there are some."""
    error = answer.get("error") if isinstance(answer, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    message = text if isinstance(text, str) and text else "The endpoint refused the texts."
    status, seconds = response.status_code, response.headers.get("Retry-After", "")
    default = UpstreamFailed if status >= 500 else InvalidRequest
    kind = _ERRORS.get(status, default)
    return kind(message, retry_after=int(seconds) if seconds.isdecimal() else None)
