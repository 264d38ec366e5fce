"""GET /horde/history and /endpoints/history: hourly facts of hordes and endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Blueprint, Response, g, jsonify, request

from horde_proxy.api.auth import authenticate, is_admin, is_operator
from horde_proxy.api.context import current_context
from horde_proxy.api.horde import NotHere, chosen_horde
from horde_proxy.api.query import choice, unusable, whole_number
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import InvalidRequest, Refused, Unavailable
from horde_proxy.stats.history import answers
from horde_proxy.stats.history.hourly_facts import KINDS, HourlyFacts
from horde_proxy.stats.history.records import DAY, HOUR, Period

_MOST_DAYS = 366
_USUAL_HOURS = 24
_MOST_HOURLY = 31 * 24
"""Hours of an answer in steps of hours; longer periods are read in days."""
_USUAL_LIMIT = 1000
_MOST_OF_PAGE = 10_000
"""Rows of one answer: a month of hours of a dozen endpoints."""
_USUAL_MODELS, _MOST_MODELS = 100, 200
_STEPS = {"hour": HOUR, "day": DAY}
_PERIOD = ("hours", "days", "step", "limit", "offset")

T = TypeVar("T")
blueprint = Blueprint("history", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/horde/history")
def horde() -> Response:
    """Workers, threads, queue and speed of a horde by hour or day: of a model, or of all.

    Raises ModelNotFound for a model that it never had, as far as the history goes.
    """
    _check_parameters("endpoint", "type", "model", *_PERIOD)
    facts, name, kind, model = _facts(), _horde_name(), _kind(), request.args.get("model")
    period, limit, offset = _period(), *_page(_USUAL_LIMIT, _MOST_OF_PAGE)
    head: dict[str, Any] = {"type": kind, "endpoint": name, "model": model}
    if model is not None:
        head |= _read(lambda: answers.hours_seen(facts, name, kind, model))
    rows = _read(lambda: answers.horde_rows(facts, name, kind, period, model))
    head |= _span(period)
    return jsonify({"object": "list", **head, **answers.paged(rows, limit, offset)})


@blueprint.get("/horde/history/models")
def horde_models() -> Response:
    """The models that a horde had in a period, with their means, first and last hours."""
    _check_parameters("endpoint", "type", *_PERIOD)
    facts, name, kind = _facts(), _horde_name(), _kind()
    period, limit, offset = _period(), *_page(_USUAL_MODELS, _MOST_MODELS)
    data = _read(
        lambda: answers.horde_models(facts, name, kind, period, limit=limit, offset=offset)
    )
    head = {"type": kind, "endpoint": name, **_span(period)}
    return jsonify({"object": "list", **head, **data})


@blueprint.get("/endpoints/history")
def endpoints() -> Response:
    """Requests, failures, durations and tokens of each endpoint by hour or day.

    A client with a key gets those of its own requests, an admin everybody's. Raises Refused where
    clients bring their own keys, but for this machine.
    """
    _check_parameters("endpoint", "model", *_PERIOD)
    facts, period = _facts(), _period()
    limit, offset = _page(_USUAL_LIMIT, _MOST_OF_PAGE)
    key, is_shown = own_key(), _filter()
    rows = _read(lambda: answers.endpoint_rows(facts, period, key=key, is_shown=is_shown))
    return jsonify({"object": "list", **_span(period), **answers.paged(rows, limit, offset)})


def own_key() -> str | None:
    """The key whose requests the client may see; None: those of all. Raises Refused."""
    if current_context().access.passthrough and not is_operator():
        raise Refused("Only this machine may read what all clients together did.")
    return None if g.key is None or is_admin() else g.key.name


def _filter() -> Callable[[str, str], bool]:
    """Which endpoints and models are counted: those of the query, within the key's scope."""
    endpoint, model = request.args.get("endpoint"), request.args.get("model")
    # Places bind what is sent. Old numbers of a place are sent nowhere.
    scope = g.scope.without_places()

    def is_shown(of_endpoint: str, of_model: str) -> bool:
        is_meant = endpoint in (None, of_endpoint) and model in (None, of_model)
        is_allowed = scope.allows_endpoint(of_endpoint, None) and scope.allows_model(of_model)
        return is_meant and is_allowed

    return is_shown


def _facts() -> HourlyFacts:
    facts = current_context().live.hourly
    if facts.database is None:
        raise NotHere("This proxy keeps no history: stats.history_days is 0.")
    return facts


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except DatabaseError as exc:
        raise Unavailable("The history cannot be read now.", code="store_failed") from exc


def _horde_name() -> str:
    return chosen_horde().upstream.name


def _kind() -> str:
    return choice("type", {kind: kind for kind in KINDS}) or "text"


def _period() -> Period:
    """The period of the query: `hours` or `days`, in steps of hours, or of days if it is long."""
    days = whole_number("days", 1, _MOST_DAYS)
    hours = whole_number("hours", 1, _MOST_DAYS * 24)
    if days is not None and hours is not None:
        raise unusable("hours", "give either hours or days")
    total = days * 24 if days else hours or _USUAL_HOURS
    step = choice("step", _STEPS) or (HOUR if total <= _MOST_HOURLY else DAY)
    if step == HOUR and total > _MOST_HOURLY:
        raise unusable("step", f"more than {_MOST_HOURLY // 24} days are told by the day only")
    return answers.period_of(current_context().now(), total, step)


def _span(period: Period) -> dict[str, Any]:
    step = next(name for name, seconds in _STEPS.items() if seconds == period.step)
    return {"from": period.first, "to": period.end, "step": step}


def _page(usual: int, most: int) -> tuple[int, int]:
    return whole_number("limit", 1, most) or usual, whole_number("offset", 0) or 0


def _check_parameters(*allowed: str) -> None:
    """Raises InvalidRequest for a parameter that the route does not have."""
    unknown = next((name for name in request.args if name not in allowed), None)
    if unknown is not None:
        raise InvalidRequest(
            f"This route has no parameter `{unknown[:80]}`. It has {', '.join(allowed)}.",
            param=unknown[:80],
            code="invalid_value",
        )
