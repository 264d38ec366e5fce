"""GET /models and /models/{id}, and the same list as a configuration of opencode."""

from __future__ import annotations

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy import opencode
from horde_proxy.api.auth import authenticate
from horde_proxy.api.context import current_context
from horde_proxy.api.query import whole_number
from horde_proxy.errors import Unavailable

DEFAULT_CONTEXT = 8192
"""Tokens of the smallest model that is listed: opencode's prompt and tools take some thousand."""

blueprint = Blueprint("models", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/models")
def models() -> Response:
    """All models that are available now."""
    return jsonify({"object": "list", "data": current_context().router.models(g.scope)})


@blueprint.get("/opencode.json")
def opencode_json() -> Response:
    """opencode's configuration with the models that are available now.

    Query: base_url and key are written into it; min_context leaves out smaller models.
    """
    base_url = request.args.get("base_url") or f"{request.host_url}v1"
    min_context = whole_number("min_context", 0)
    least = DEFAULT_CONTEXT if min_context is None else min_context
    models = opencode.capable(current_context().router.models(g.scope), least)
    if not models:
        raise Unavailable("No model with such a context is available right now.")
    return jsonify(opencode.fresh(models, base_url, request.args.get("key") or "none"))


@blueprint.get("/models/<path:name>")
def model(name: str) -> Response:
    """One model; its name may contain slashes, escaped or not."""
    return jsonify(current_context().router.model(name, g.scope))
