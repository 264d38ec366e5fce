"""GET /models and /models/{id}, and the same list as a configuration of opencode."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy import opencode
from horde_proxy.api.auth import authenticate
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.query import whole_number
from horde_proxy.errors import ProxyError, Unavailable
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.protocol.messages.models import anthropic_model, anthropic_page
from horde_proxy.protocol.models import makes_images
from horde_proxy.upstreams.proxying import header_text

_MOST_OF_A_PAGE = 1_000
"""Models of one page, the bound of Anthropic's API."""

blueprint = Blueprint("models", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/models")
def models() -> Response:
    """All models that are available now: those of texts, then those of pictures.

    Anthropic's clients get its fields as well, and pages of the query's limit, after_id, before_id.
    """
    ctx = current_context()
    listed = ctx.router.models(g.scope)
    known = {model.get("full_id", model["id"]) for model in listed}
    # Those of servers are in the first list already, whatever they make.
    images = [model for model in _image_models(ctx) if model["id"] not in known]
    listed = [*listed, *images]
    if not _is_anthropics():
        return jsonify({"object": "list", "data": listed})
    limit = whole_number("limit", 1, _MOST_OF_A_PAGE)
    after, before = request.args.get("after_id"), request.args.get("before_id")
    return jsonify(anthropic_page(listed, rfc3339, limit=limit, after_id=after, before_id=before))


def _is_anthropics() -> bool:
    """Whether the client is one of Anthropic's API, whose clients all send this header."""
    return "anthropic-version" in request.headers


def rfc3339(time: float) -> str:
    """The date of a Unix time as Anthropic's API writes it."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _image_models(ctx: AppContext) -> list[dict[str, Any]]:
    """The models that are known to make pictures; none while they cannot be listed."""
    try:
        return [model for model in ctx.image_router.models(g.scope) if makes_images(model)]
    except ProxyError:
        return []


@blueprint.get("/opencode.json")
def opencode_json() -> Response:
    """opencode's configuration with the models that are available now.

    Query: base_url and key are written into it; min_context leaves out smaller models, by default
    those in which opencode cannot work. Those of unknown context are left out as well, and named in
    X-Horde-Warnings.
    """
    base_url = request.args.get("base_url") or f"{request.host_url}v1"
    min_context = whole_number("min_context", 0)
    listed = current_context().router.models(g.scope)
    models, note = opencode.capable(listed, min_context), opencode.left_out(listed, min_context)
    if not models:
        hint = f" These are {note}; min_context=0 takes them as well." if note else ""
        raise Unavailable(f"No model with such a context is available right now.{hint}")
    response = jsonify(opencode.fresh(models, base_url, request.args.get("key") or "none"))
    if note:
        response.headers["X-Horde-Warnings"] = header_text(warnings_header([f"models: {note}"]))
    return response


@blueprint.get("/models/<path:name>")
def model(name: str) -> Response:
    """One model; its name may contain slashes, escaped or not."""
    ctx = current_context()
    image_models = {model["id"]: model for model in _image_models(ctx)}
    try:
        entry = ctx.router.model(name, g.scope)
    except ProxyError:
        if name not in image_models:
            raise
        entry = image_models[name]
    return jsonify(anthropic_model(entry, rfc3339) if _is_anthropics() else entry)
