"""GET /health/live and /health/ready."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from horde_proxy.api.front import front
from horde_proxy.errors import ProxyError

blueprint = Blueprint("health", __name__)


@blueprint.get("/health/live")
def live() -> Response:
    """The process answers."""
    return jsonify({"status": "ok"})


@blueprint.get("/health/ready")
def ready() -> tuple[Response, int]:
    """Some model can be had (200), or why not (503)."""
    try:
        models = len(front().router.models())
    except ProxyError as exc:
        return jsonify({"status": "unavailable", "models": 0, "reason": exc.message}), 503
    status = "ok" if models else "unavailable"
    return jsonify({"status": status, "models": models}), 200 if models else 503
