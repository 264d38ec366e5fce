"""What is particular to the horde: the account, the running requests, pushed results."""

from __future__ import annotations

from dataclasses import asdict

from flask import Blueprint, Response, jsonify

from horde_proxy.api.auth import authenticate, client_name, is_admin, read_json
from horde_proxy.api.context import current_context
from horde_proxy.api.generation import horde_key
from horde_proxy.errors import ProxyError

blueprint = Blueprint("horde", __name__)
blueprint.before_request(authenticate)
webhook_blueprint = Blueprint("webhook", __name__)


class NotHere(ProxyError):
    status = 404
    type = "invalid_request_error"


@blueprint.get("/horde/account")
def account() -> Response:
    """The horde account that pays for this client's chats, and what runs on it here."""
    ctx = current_context()
    if ctx.horde is None:
        raise NotHere("No horde is configured.")
    found = ctx.horde.account(horde_key(ctx))
    running = ctx.live.in_flight.summaries(_owner())
    return jsonify({"object": "horde.account", **asdict(found), "running": running})


@blueprint.get("/horde/requests")
def requests() -> Response:
    """The client's own running requests; all of them for an admin's key."""
    return jsonify({"object": "list", "data": current_context().live.in_flight.summaries(_owner())})


@webhook_blueprint.post("/horde/webhook/<secret>")
def webhook(secret: str) -> tuple[str, int]:
    """A result that the horde pushes: 204, or 404 for what nobody waits for."""
    ctx, body = current_context(), read_json().document
    hook = ctx.horde.webhook if ctx.horde else None
    if hook is None or not isinstance(body, dict) or not hook.deliver(secret, body):
        raise NotHere("Nobody waits for this.")
    return "", 204


def _owner() -> str | None:
    """Whose requests may be seen; None: everybody's."""
    return None if is_admin() else client_name()
