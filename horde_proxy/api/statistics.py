"""GET /horde/models, /horde/statistics and /horde/deletion-risk: live data of the horde."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from flask import Blueprint, Response, request

from horde_proxy.api.auth import authenticate
from horde_proxy.api.context import current_context
from horde_proxy.api.horde import chosen_horde
from horde_proxy.api.query import choice, unusable, whole_number
from horde_proxy.stats.audit import PRESETS
from horde_proxy.stats.listing import SORTS
from horde_proxy.stats.model_filter import ModelFilter
from horde_proxy.stats.service import Query, StatsAnswer, StatsService

# What Python, JavaScript and forms write for a boolean.
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_KINDS = {"text": "text", "image": "image"}
_FILTERS = ("name", "tags", "backend")
_COMMON = ("type", "limit", "offset", *_FILTERS)
_MODELS = (
    *_COMMON,
    "include_workers",
    "include_backend_variations",
    "min_worker_count",
    "sort_by",
    "sort_desc",
)
_ONE = ("type", "include_workers", "include_backend_variations")
_STATISTICS = (*_COMMON, "group")
_AUDIT = (*_COMMON, "group", "preset", "include_backend_variations")
_LONGEST_FILTER = 200
"""Characters of a filter. Each answer is cached with its filters, so that they need a bound."""
_RENAMED = {
    # RFC 9745: since when the old name is deprecated, 2026-11-30 in Unix time.
    "Deprecation": "@1795996800",
    # RFC 5829: what came in its place.
    "Link": '</v1/horde/deletion-risk>; rel="successor-version"',
}

blueprint = Blueprint("statistics", __name__)
blueprint.before_request(authenticate)


@blueprint.get("/horde/models")
def models() -> Response:
    """The horde's models with their workers, queue, speed and usage."""
    return _sent(_statistics().models(_query(_MODELS)))


@blueprint.get("/horde/models/<path:name>")
def model(name: str) -> Response:
    """One model by any of its names, with its workers."""
    query = _query(_ONE)
    if "include_workers" not in request.args:
        query = replace(query, include_workers=True)
    return _sent(_statistics().model(name, query))


@blueprint.get("/horde/statistics")
def statistics() -> Response:
    """Counts over the models: sizes, tags, styles, baselines."""
    return _sent(_statistics().statistics(_query(_STATISTICS)))


@blueprint.get("/horde/deletion-risk")
def deletion_risk() -> Response:
    """The models that are hardly used, hardly served or not described."""
    return _sent(_statistics().audit(_query(_AUDIT)))


@blueprint.get("/horde/audit")
def audit() -> Response:
    """The same by the name that horde-model-reference gave it until its version 4."""
    response = deletion_risk()
    response.headers.update(_RENAMED)
    return response


def keep_warm() -> None:
    """Have the first request start what keeps the first horde's data warm, and the history."""
    current_context().live.hourly.ensure_started()
    for horde in islice(current_context().hordes.values(), 1):
        horde.statistics.hydrator.start()


def _statistics() -> StatsService:
    """The statistics of the chosen horde, which are kept warm from now on."""
    statistics = chosen_horde().statistics
    statistics.hydrator.start()
    return statistics


def _sent(answer: StatsAnswer) -> Response:
    """The response, or a 304 for a client that has it already."""
    response = Response(answer.body, mimetype="application/json")
    response.set_etag(answer.etag)
    response.cache_control.private = True
    response.cache_control.max_age = answer.max_age
    response.make_conditional(request)
    return response


def _query(allowed: tuple[str, ...]) -> Query:
    """The parameters of the request. Raises InvalidRequest with param."""
    for name in {*_MODELS, *_AUDIT} - {*allowed}:
        if name in request.args:
            raise unusable(name, "this route has no such parameter")
    return Query(
        kind=choice("type", _KINDS) or "text",
        include_workers=choice("include_workers", _BOOLEANS) or False,
        include_backend_variations=choice("include_backend_variations", _BOOLEANS) or False,
        group=choice("group", _BOOLEANS) or False,
        preset=_name_of("preset", PRESETS),
        min_worker_count=whole_number("min_worker_count", 0),
        sort_by=_name_of("sort_by", SORTS),
        sort_desc=choice("sort_desc", _BOOLEANS) is not False,
        limit=whole_number("limit", 1),
        offset=whole_number("offset", 0) or 0,
        filter=ModelFilter(
            name=_text_of("name"),
            tags=tuple(filter(None, (tag.strip() for tag in _text_of("tags").split(",")))),
            backend=_text_of("backend") or None,
        ),
    )


def _text_of(name: str) -> str:
    """The text of a filter, "" without it. Raises InvalidRequest for one without content."""
    text = request.args.get(name)
    if text is None:
        return ""
    if not text.strip(" ,") or len(text) > _LONGEST_FILTER:
        raise unusable(name, f"it must have 1 to {_LONGEST_FILTER} characters")
    return text.strip()


def _name_of(name: str, choices: Mapping[str, object]) -> str | None:
    """The value of a parameter itself, which must be one of the choices."""
    return choice(name, {key: key for key in choices})
