"""GET /metrics: what the proxy counts and how it stands, for Prometheus."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, ip_address

from flask import Blueprint, Response, request

from horde_proxy.api.auth import authenticate, client_address, is_admin
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.proxying import route_family
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
    if ctx.access.requires_key and not is_admin():
        raise Refused("The metrics want the key of an admin.")
    if not ctx.access.requires_key and not _is_local():
        raise Refused(
            "The metrics are for this machine only, unless access.mode is keys: then an admin's "
            "key opens them from everywhere."
        )
    return Response(ctx.live.metrics.text(_now(ctx)), content_type=CONTENT_TYPE)


def route() -> str:
    """The rule that the request came by, without /v1, or the family of what is passed on."""
    rule = request.url_rule
    return rule.rule.removeprefix("/v1") if rule is not None else route_family() or OTHER


def _now(ctx: AppContext) -> CurrentGauges:
    return CurrentGauges(
        Counter(ctx.live.in_flight.wait_states()),
        ctx.live.slots.count,
        ctx.live.slots.taken,
        [_endpoint(each) for each in ctx.router.endpoints],
    )


def _endpoint(each: Endpoint) -> EndpointGauges:
    """It is up where it is asked, and where its models are known, however old."""
    health = each.breaker
    is_up = health.state()["state"] == "up" and each.error is None
    return EndpointGauges(each.name, is_up, health.running, health.cooldown_left())


def _is_local() -> bool:
    """Whether the client is on this machine, and no other proxy's client is taken for one."""
    address = client_address()
    if "X-Forwarded-For" in request.headers:
        return False
    try:
        found = ip_address(address)
    except ValueError:
        return not address
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback
