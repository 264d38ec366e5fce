"""GET /endpoints: the endpoints and their state. GET /usage: tokens and kudos by day and key."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, jsonify

from horde_proxy.api.auth import account_name, authenticate, is_admin, is_operator
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.query import whole_number
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable
from horde_proxy.ledger import ClientKey

_MOST_DAYS = 366
_DEFAULT_DAYS = 30

blueprint = Blueprint("endpoints", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/endpoints")
def endpoints() -> Response:
    """The endpoints that the client may use: type, url, models, state, running calls, latency.

    `settings` tells when the settings in use were read, why newer ones are not in use, and whether
    the proxy serves its own machine only.
    """
    ctx = current_context()
    status = {
        "loaded_at": int(ctx.live.settings.loaded_at),
        "problem": settings_problem(ctx),
        "local_only": ctx.access.guard.is_local_only,
    }
    return jsonify({"object": "list", "data": ctx.router.states(g.scope), "settings": status})


def settings_problem(ctx: AppContext) -> str | None:
    """Why newer settings are not in use, if so; only the operator may see names and paths."""
    problem = ctx.live.settings.problem
    if problem is None or is_operator():
        return problem
    return "The settings were changed and could not be reloaded. The log says why."


@blueprint.get("/usage")
def usage() -> Response:
    """Requests, tokens and kudos by day, key, model and endpoint.

    A client gets its own, an admin everybody's.
    """
    ctx, days = current_context(), whole_number("days", 1, _MOST_DAYS) or _DEFAULT_DAYS
    last = datetime.fromtimestamp(ctx.now(), UTC).date()
    first = last - timedelta(days=days - 1)
    account = None if is_admin() else account_name(ctx)
    try:
        rows = ctx.access.usage.usage(first.isoformat(), last.isoformat(), account)
    except DatabaseError as exc:
        raise Unavailable("The usage cannot be read now.", code="store_failed") from exc
    answer: dict[str, Any] = {"object": "list", "from": first.isoformat(), "to": last.isoformat()}
    if g.key is not None:
        answer["allowance"] = _allowance(ctx, g.key)
    answer["data"] = [_row(asdict(row)) for row in rows]
    return jsonify(answer)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {"day": row.pop("day"), "key": row.pop("name"), **row}


def _allowance(ctx: AppContext, key: ClientKey) -> dict[str, Any]:
    """The limits of a key, and what it used today."""
    spent = ctx.access.usage.used_today(key.name)
    return {
        "requests_per_minute": key.requests_per_minute,
        "concurrent": key.concurrent,
        "tokens_per_day": key.tokens_per_day,
        "tokens_today": spent.tokens,
        "kudos_per_day": key.kudos_per_day,
        "kudos_today": spent.kudos,
        "images_per_day": key.images_per_day,
        "images_today": spent.images,
        "weight": key.weight,
    }
