"""GET /health/live and /health/ready, and /health/probe for looking through other proxies."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import authenticate
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.proxying import client_socket
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS
from horde_proxy.errors import InvalidRequest, ProxyError
from horde_proxy.protocol import sse
from horde_proxy.protocol.models import is_available
from horde_proxy.upstreams.disconnects import ClientWatch

LONGEST_PROBE = 300.0
"""Seconds. Proxies that cut silent answers off do so within five minutes."""
_SLICE = 0.5
"""The shortest interval, and between two looks at the client (s)."""
_NO_WORKER = "No worker of the private horde is online."
blueprint = Blueprint("health", __name__)


@blueprint.get("/health/live")
def live() -> Response:
    """The process answers."""
    return jsonify({"status": "ok"})


@blueprint.get("/health/ready")
def ready() -> tuple[Response, int]:
    """200 when some model is available, or else 503 with the reason.

    A private horde without a model is ready: its workers come through the load balancer that asks.
    """
    ctx = current_context()
    try:
        models = sum(map(is_available, ctx.router.models()))
    except ProxyError as exc:
        return jsonify({"status": "unavailable", "models": 0, "reason": exc.message}), 503
    if models:
        return jsonify({"status": "ok", "models": models}), 200
    if ctx.serving.has_horde_pages:
        return jsonify({"status": "ok", "models": 0, "reason": _NO_WORKER}), 200
    return jsonify({"status": "unavailable", "models": 0}), 503


@blueprint.get("/health/probe")
def probe() -> Response:
    """An event at once and one every `interval` seconds until `seconds`, in a slot of its own.

    It shows whether proxies in front of this one buffer streams or cut them off.
    """
    authenticate()
    ctx, seconds, interval = current_context(), _seconds("seconds"), _seconds("interval")
    free = ctx.live.slots.acquire()
    watch = ctx.live.disconnects.watch_client(client_socket())
    response = Response(_events(ctx, watch, seconds, interval), content_type=CONTENT_TYPE)
    response.headers.update(HEADERS)
    response.call_on_close(free)
    response.call_on_close(watch.close)
    return response


def _seconds(name: str) -> float:
    value = request.args.get(name, 1.0, type=float)
    if not _SLICE <= value <= LONGEST_PROBE:
        raise InvalidRequest(f"'{name}' must be from {_SLICE} to {LONGEST_PROBE:.0f}.", param=name)
    return value


def _events(
    ctx: AppContext, watch: ClientWatch, seconds: float, interval: float
) -> Iterator[bytes]:
    begin = ctx.clock()
    due = begin + interval
    yield sse.event({"seconds": 0.0})
    try:
        while (left := begin + seconds - ctx.clock()) > 0:
            ctx.live.shutdown.sleep(min(left, _SLICE))
            watch.check()
            if ctx.clock() >= due and ctx.clock() < begin + seconds:
                due += interval
                yield sse.event({"seconds": round(ctx.clock() - begin, 1)})
        yield sse.event({"seconds": round(ctx.clock() - begin, 1)})
    except ProxyError as exc:
        yield sse.event(exc.envelope())
