"""GET /models and /models/{id}, and the same list as a configuration of opencode."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy import opencode
from horde_proxy.api.auth import authenticate
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.query import whole_number
from horde_proxy.errors import ProxyError, Unavailable
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.upstreams.proxying import header_text

blueprint = Blueprint("models", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/models")
def models() -> Response:
    """All models that are available now: those of texts, then those of pictures."""
    ctx = current_context()
    return jsonify({"object": "list", "data": [*ctx.router.models(g.scope), *_image_models(ctx)]})


def _image_models(ctx: AppContext) -> list[dict[str, Any]]:
    """The models of pictures; none while they cannot be listed."""
    try:
        return ctx.image_router.models(g.scope)
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
        return jsonify(ctx.router.model(name, g.scope))
    except ProxyError:
        if name not in image_models:
            raise
        return jsonify(image_models[name])
