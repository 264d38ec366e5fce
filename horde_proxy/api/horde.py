"""Routes about hordes: the account, the running requests, results that a horde pushes.

Where several endpoints are hordes, `?endpoint=NAME` chooses one; without it, the first is meant.
"""

from __future__ import annotations

from dataclasses import asdict

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import authenticate, client_name, horde_key, is_admin, read_json
from horde_proxy.api.context import HordeEndpoint, current_context
from horde_proxy.errors import ProxyError

blueprint = Blueprint("horde", __name__)
blueprint.before_request(authenticate)
webhook_blueprint = Blueprint("webhook", __name__)
NOT_AWAITED = "No request waits for this result."
"""What a delivery hears that is for no request: by it `check` knows the proxy."""


class NotHere(ProxyError):
    status = 404
    type = "invalid_request_error"


@blueprint.get("/horde/account")
def account() -> Response:
    """The horde account that pays for this client's chats, and the client's running requests."""
    ctx = current_context()
    horde_account = chosen_horde().upstream.account(horde_key(ctx))
    running = ctx.live.in_flight.summaries(_owner())
    fields = asdict(horde_account)
    if horde_account.shared_key is None:
        del fields["shared_key"]
    return jsonify({"object": "horde.account", **fields, "running": running})


@blueprint.get("/horde/requests")
def requests() -> Response:
    """The client's own running requests; all of them for an admin's key."""
    return jsonify({"object": "list", "data": current_context().live.in_flight.summaries(_owner())})


@webhook_blueprint.post("/horde/webhook/<secret>")
def webhook(secret: str) -> tuple[str, int]:
    """A result that a horde pushes: 204, or 404 if no request waits for it.

    The secret, which each submit has for itself, tells which horde it is from.
    """
    all_hooks = [horde.upstream.webhook for horde in current_context().hordes.values()]
    hooks = [hook for hook in all_hooks if hook and hook.awaits(secret)]
    # The secret is the key: without the right one, no body is read.
    body = read_json().document if hooks else None
    if not isinstance(body, dict) or not any(hook.deliver(secret, body) for hook in hooks):
        raise NotHere(NOT_AWAITED)
    return "", 204


def chosen_horde() -> HordeEndpoint:
    """The horde that `?endpoint=` names, or the first. Raises NotHere where there is none."""
    hordes, name = current_context().hordes, request.args.get("endpoint")
    if not hordes:
        raise NotHere(
            "No endpoint of this proxy is a horde: add one with type = 'horde'. Servers are in "
            "GET /v1/endpoints and GET /v1/endpoints/history."
        )
    if name is None:
        return next(iter(hordes.values()))
    if name not in hordes:
        raise NotHere(f"No horde endpoint has this name. Available: {', '.join(hordes)}.")
    return hordes[name]


def _owner() -> str | None:
    """The client whose requests are shown; None for all clients."""
    return None if is_admin() else client_name()
