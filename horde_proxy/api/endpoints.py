"""GET /endpoints: who answers, and how they fare. GET /usage: who used how much."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, jsonify

from horde_proxy.api.auth import (
    ANONYMOUS_ACCOUNT,
    authenticate,
    client_name,
    is_admin,
    whole_number,
)
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable
from horde_proxy.ledger import ClientKey

_MOST_DAYS = 366
_USUAL_DAYS = 30
_SHORT = 16

blueprint = Blueprint("endpoints", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/endpoints")
def endpoints() -> Response:
    """Every endpoint that the client may use: type, url, models, state, what runs, latencies."""
    return jsonify({"object": "list", "data": current_context().router.states(g.scope)})


@blueprint.get("/usage")
def usage() -> Response:
    """Requests, tokens and kudos by day, key, model and endpoint: one's own; an admin's: all."""
    ctx, days = current_context(), whole_number("days", 1, _MOST_DAYS) or _USUAL_DAYS
    last = datetime.fromtimestamp(ctx.now(), UTC).date()
    first = last - timedelta(days=days - 1)
    try:
        rows = ctx.access.usage.usage(first.isoformat(), last.isoformat(), _whose(ctx))
    except DatabaseError as exc:
        raise Unavailable("The usage cannot be read now.", code="store_failed") from exc
    found: dict[str, Any] = {"object": "list", "from": first.isoformat(), "to": last.isoformat()}
    if g.key is not None:
        found["allowance"] = _allowance(ctx, g.key)
    found["data"] = [_row(asdict(row)) for row in rows]
    return jsonify(found)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {"day": row.pop("day"), "key": row.pop("name"), **row}


def _allowance(ctx: AppContext, key: ClientKey) -> dict[str, Any]:
    """What the key may use a day, and has used today."""
    spent = ctx.access.usage.used_today(key.name)
    return {
        "requests_per_minute": key.requests_per_minute,
        "concurrent": key.concurrent,
        "tokens_per_day": key.tokens_per_day,
        "tokens_today": spent.tokens,
        "kudos_per_day": key.kudos_per_day,
        "kudos_today": spent.kudos,
    }


def _whose(ctx: AppContext) -> str | None:
    """Whose usage is shown; None: everybody's."""
    if g.key is not None:
        return None if is_admin() else g.key.name
    return client_name()[:_SHORT] if ctx.access.passthrough else ANONYMOUS_ACCOUNT
