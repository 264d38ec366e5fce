"""GET /metrics: counters and gauges for Prometheus."""

from __future__ import annotations

from collections import Counter

from flask import Blueprint, Response

from horde_proxy.api.auth import authenticate, is_operator
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.received_call import route_family
from horde_proxy.api.this_request import current_request
from horde_proxy.errors import Refused
from horde_proxy.metrics import CONTENT_TYPE, OTHER, CurrentGauges, EndpointGauges
from horde_proxy.router.endpoint import Endpoint

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """All metrics in Prometheus' text format.

    With keys, only for an admin's key (`authorization` of the scrape); without, only for this
    machine. Raises InvalidApiKey or Refused.
    """
    authenticate()
    ctx = current_context()
    if not is_operator():
        if ctx.access.requires_key:
            raise Refused("Send the key of an admin to read the metrics.")
        raise Refused(
            'Only this machine may read the metrics. With access.mode = "keys" an admin\'s key '
            "may, from everywhere."
        )
    return Response(ctx.live.metrics.text(_current_gauges(ctx)), content_type=CONTENT_TYPE)


def route() -> str:
    """The route of the current request, without /v1; for a proxied one the family of its path."""
    rule = current_request().url_rule
    return rule.rule.removeprefix("/v1") if rule is not None else route_family() or OTHER


def _current_gauges(ctx: AppContext) -> CurrentGauges:
    return CurrentGauges(
        Counter(ctx.live.in_flight.wait_states()),
        ctx.live.slots.count,
        ctx.live.slots.taken,
        [_endpoint_gauges(endpoint) for endpoint in ctx.router.endpoints],
    )


def _endpoint_gauges(endpoint: Endpoint) -> EndpointGauges:
    """An endpoint is up when it is not cooling down and can be reached, or woken."""
    breaker = endpoint.breaker
    is_up = breaker.state()["state"] == "up" and endpoint.down() is None
    models = [*endpoint.last_models()]
    line = endpoint.line.state(endpoint.own_name(models[0]) if len(models) == 1 else "")
    return EndpointGauges(
        endpoint.name,
        is_up,
        breaker.running,
        breaker.cooldown_left(),
        is_asleep=not endpoint.is_awake,
        is_paused=endpoint.paused_at is not None,
        waiting=line.waiting,
        slots=line.slots,
    )
