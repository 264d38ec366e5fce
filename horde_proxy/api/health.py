"""GET /health/live and /health/ready, and /health/probe for looking through other proxies."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import guard
from horde_proxy.api.connection import is_open, watched
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS
from horde_proxy.errors import InvalidRequest, ProxyError, TimedOut
from horde_proxy.protocol import sse
from horde_proxy.upstreams.base import StreamItem, Waiting

LONGEST_PROBE = 300.0
_SLICE = 0.5
blueprint = Blueprint("health", __name__)


@blueprint.get("/health/live")
def live() -> Response:
    """The process answers."""
    return jsonify({"status": "ok"})


@blueprint.get("/health/ready")
def ready() -> tuple[Response, int]:
    """Some model can be had (200), or why not (503)."""
    try:
        models = len(current_context().router.models())
    except ProxyError as exc:
        return jsonify({"status": "unavailable", "models": 0, "reason": exc.message}), 503
    status = "ok" if models else "unavailable"
    return jsonify({"status": status, "models": models}), 200 if models else 503


@blueprint.get("/health/probe")
def probe() -> Response:
    """An event at once and one every `interval` seconds until `seconds`, in a place of its own."""
    guard()
    ctx, seconds = current_context(), _seconds("seconds")
    sock = request.environ.get("gunicorn.socket")
    items = watched(
        ctx.live.slots.occupied(_waiting(ctx, seconds)),
        is_open=lambda: is_open(sock),
        deadline=ctx.clock() + seconds + 1,
        clock=ctx.clock,
        late=TimedOut("Late."),
    )
    next(items)
    events = _events(ctx, items, _seconds("interval"))
    return Response(events, content_type=CONTENT_TYPE, headers=HEADERS)


def _seconds(name: str) -> float:
    value = request.args.get(name, 1.0, type=float)
    if not _SLICE <= value <= LONGEST_PROBE:
        raise InvalidRequest(f"'{name}' must be from {_SLICE} to {LONGEST_PROBE:.0f}.", param=name)
    return value


def _waiting(ctx: AppContext, seconds: float) -> Iterator[StreamItem]:
    until = ctx.clock() + seconds
    while (left := until - ctx.clock()) > 0:
        yield Waiting("probing")
        ctx.live.shutdown.sleep(min(left, _SLICE))


def _events(ctx: AppContext, items: Iterator[StreamItem], interval: float) -> Iterator[bytes]:
    begin = ctx.clock()
    due = begin + interval
    yield sse.event({"seconds": 0.0})
    try:
        for _ in items:
            if ctx.clock() >= due:
                due += interval
                yield sse.event({"seconds": round(ctx.clock() - begin, 1)})
        yield sse.event({"seconds": round(ctx.clock() - begin, 1)})
    except ProxyError as exc:
        yield sse.event(exc.envelope())
