"""GET /health/live and /health/ready, and /health/probe for looking through other proxies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, jsonify, request

from horde_proxy.api.auth import authenticate
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.front import EVENT_STREAM
from horde_proxy.api.received_call import client_socket
from horde_proxy.api.stream import HEADERS
from horde_proxy.errors import InvalidRequest, ProxyError
from horde_proxy.protocol import sse
from horde_proxy.protocol.models import is_available
from horde_proxy.upstreams.disconnects import ClientWatch

LONGEST_PROBE = 300.0
"""Seconds. Proxies that cut silent answers off do so within five minutes."""
_SLICE = 0.5
"""The shortest interval, and between two looks at the client (s)."""
_ALL_PAUSED = "Every endpoint is paused."
_MODELS_PAUSED = "Every model is at a paused endpoint."
_NO_WORKER = "No worker of the private horde is online."
blueprint = Blueprint("health", __name__)


@blueprint.get("/health/live")
def live() -> Response:
    """The process answers."""
    return jsonify({"status": "ok"})


@blueprint.get("/health/ready")
def ready() -> tuple[Response, int]:
    """200 when some model is available, or else 503 with the reason.

    `asleep` is the number of endpoints whose machines sleep: they are woken for a request. `paused`
    is how many the operator has paused; models of these alone are not available.

    A private horde without a model is ready: its workers come through the load balancer that asks.
    """
    ctx = current_context()
    try:
        available = [*filter(is_available, ctx.router.models())]
    except ProxyError as exc:
        return jsonify({"status": "unavailable", "models": 0, "reason": exc.message}), 503
    endpoints = ctx.router.endpoints
    at_rest = {
        "asleep": sum(not endpoint.is_awake for endpoint in endpoints),
        "paused": sum(endpoint.paused_at is not None for endpoint in endpoints),
    }
    in_use = {endpoint.name for endpoint in endpoints if endpoint.paused_at is None}
    models = sum(not in_use.isdisjoint(model["endpoints"]) for model in available)
    counts = {state: count for state, count in at_rest.items() if count}
    if models:
        return jsonify({"status": "ok", "models": models, **counts, **_penalties(ctx)}), 200
    is_paused = at_rest["paused"] and (available or not in_use)
    why = _MODELS_PAUSED if in_use else _ALL_PAUSED
    reason = {"reason": why, **counts} if is_paused else {}
    if ctx.serving.has_horde_pages:
        return jsonify({"status": "ok", "models": 0, "reason": _NO_WORKER, **reason}), 200
    return jsonify({"status": "unavailable", "models": 0, **reason}), 503


def _penalties(ctx: AppContext) -> dict[str, Any]:
    """What hordes have forbidden this proxy for a time, by endpoint, if anything."""
    penalties = {endpoint.name: endpoint.penalties() for endpoint in ctx.router.endpoints}
    listed = {name: [*of_endpoint] for name, of_endpoint in penalties.items() if of_endpoint}
    return {"penalties": listed} if listed else {}


@blueprint.get("/health/probe")
def probe() -> Response:
    """An event at once and one every `interval` seconds until `seconds`, in a slot of its own.

    It shows whether proxies in front of this one buffer streams or cut them off.
    """
    authenticate()
    ctx, seconds, interval = current_context(), _seconds("seconds"), _seconds("interval")
    free = ctx.live.slots.acquire()
    watch = ctx.live.disconnects.watch_client(client_socket())
    response = Response(_events(ctx, watch, seconds, interval), content_type=EVENT_STREAM)
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
