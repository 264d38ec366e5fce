"""GET /models and /models/{id}, and the same as opencode wants it."""

from __future__ import annotations

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy import opencode
from horde_proxy.api.auth import authenticate, whole_number
from horde_proxy.api.context import current_context
from horde_proxy.errors import Unavailable

DEFAULT_CONTEXT = 8192

blueprint = Blueprint("models", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/models")
def models() -> Response:
    """All models on offer now."""
    return jsonify({"object": "list", "data": current_context().router.models(g.scope)})


@blueprint.get("/opencode.json")
def opencode_json() -> Response:
    """opencode's configuration for what is on offer now; base_url, key and min_context as query."""
    base_url = request.args.get("base_url") or f"{request.host_url}v1"
    given = whole_number("min_context", 0)
    least = DEFAULT_CONTEXT if given is None else given
    models = opencode.capable(current_context().router.models(g.scope), least)
    if not models:
        raise Unavailable("No model with such a context is available right now.")
    return jsonify(opencode.fresh(models, base_url, request.args.get("key") or "none"))


@blueprint.get("/models/<path:name>")
def model(name: str) -> Response:
    """One model; its name may hold slashes."""
    return jsonify(current_context().router.model(name, g.scope))
