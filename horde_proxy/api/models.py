"""GET /models and /models/{id}."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from horde_proxy.api.front import front
from horde_proxy.api.incoming import guard

blueprint = Blueprint("models", __name__)
blueprint.before_request(guard)


@blueprint.get("/models")
def models() -> Response:
    """All models on offer now."""
    return jsonify({"object": "list", "data": front().router.models()})


@blueprint.get("/models/<path:name>")
def model(name: str) -> Response:
    """One model; its name may hold slashes."""
    return jsonify(front().router.model(name))
