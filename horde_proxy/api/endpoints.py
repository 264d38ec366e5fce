"""GET /endpoints: who answers, and how they fare. GET /usage: who used how much."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, jsonify

from horde_proxy.api.auth import ANONYMOUS_ACCOUNT, client_name, guard, is_admin, whole_number
from horde_proxy.api.context import AppContext, front
from horde_proxy.errors import Unavailable
from horde_proxy.ledger import ClientKey, StoreError

_MOST_DAYS = 366
_USUAL_DAYS = 30
_SHORT = 16

blueprint = Blueprint("endpoints", __name__)
blueprint.before_request(guard)


@blueprint.get("/endpoints")
def endpoints() -> Response:
    """Every endpoint that the client may use: type, url, models, state, what runs, latencies."""
    return jsonify({"object": "list", "data": front().router.states(g.scope)})


@blueprint.get("/usage")
def usage() -> Response:
    """Requests, tokens and kudos by day, key, model and endpoint: one's own; an admin's: all."""
    here, days = front(), whole_number("days", 1, _MOST_DAYS) or _USUAL_DAYS
    last = datetime.fromtimestamp(time.time(), UTC).date()
    first = last - timedelta(days=days - 1)
    try:
        rows = here.book.usage(first.isoformat(), last.isoformat(), _whose(here))
    except StoreError as exc:
        raise Unavailable("The usage cannot be read now.", code="store_failed") from exc
    found: dict[str, Any] = {"object": "list", "from": first.isoformat(), "to": last.isoformat()}
    if g.key is not None:
        found["allowance"] = _allowance(here, g.key)
    found["data"] = [_row(asdict(row)) for row in rows]
    return jsonify(found)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {"day": row.pop("day"), "key": row.pop("name"), **row}


def _allowance(here: AppContext, key: ClientKey) -> dict[str, Any]:
    """What the key may use a day, and has used today."""
    spent = here.book.spent(key.name)
    return {
        "requests_per_minute": key.requests_per_minute,
        "concurrent": key.concurrent,
        "tokens_per_day": key.tokens_per_day,
        "tokens_today": spent.tokens,
        "kudos_per_day": key.kudos_per_day,
        "kudos_today": spent.kudos,
    }


def _whose(here: AppContext) -> str | None:
    """Whose usage is shown; None: everybody's."""
    if g.key is not None:
        return None if is_admin() else g.key.name
    return client_name()[:_SHORT] if here.passthrough else ANONYMOUS_ACCOUNT
