"""The state of an endpoint as JSON, for `GET /v1/endpoints`, the page and `check`. No secrets.

It only reads what the endpoint's parts say of themselves: circuit breakers, line, power, penalties,
pauses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.scope import Scope


def endpoint_state(endpoint: Endpoint, scope: Scope) -> dict[str, Any]:
    """The state of an endpoint and of the models there that the scope allows, as JSON."""
    models = sorted(
        name
        for name in endpoint.models()
        if scope.allows_model(name) and endpoint.is_open_to(scope, endpoint.own_name(name))
    )
    state = endpoint.breaker.state()
    # A machine that sleeps is not down. One that did not boot cools down as any other.
    if not endpoint.is_awake and endpoint.power and state["state"] in ("up", "down"):
        state = {**state, "state": endpoint.power.state.value}
    # The circuit breaker knows of failed chats only, not of a list that cannot be loaded, nor of
    # chats that wait for a horde that does not answer.
    error = endpoint.down()
    penalties = endpoint.penalties()
    lasting = next((penalty["message"] for penalty in penalties if not penalty["kinds"]), None)
    if (error or lasting) and state["state"] == "up":
        state = {**state, "state": "down", "last_error": lasting or str(error)}
    paused_at = endpoint.paused_at
    if paused_at is not None:
        state = {**state, "state": "paused", "retry_in": None}
    return {
        "name": endpoint.name,
        "type": endpoint.upstream.kind,
        "url": endpoint.upstream.url,
        "place": endpoint.place,
        "priority": endpoint.priority,
        "weight": endpoint.weight,
        "models": models,
        **state,
        **_line_state(endpoint, models),
        "failing_models": _failing_models(endpoint, scope),
        **({"penalties": [*penalties]} if penalties else {}),
        **({"paused_at": int(paused_at)} if paused_at is not None else {}),
    }


def _line_state(endpoint: Endpoint, models: Sequence[str]) -> dict[str, Any]:
    """The requests in line, how many may run, and the seconds that one more would wait."""
    # A server may tell its slots of each model alone.
    model = endpoint.own_name(models[0]) if len(models) == 1 else ""
    line = endpoint.line.state(model)
    seconds = None if line.seconds is None else round(line.seconds, 1)
    return {"waiting": line.waiting, "max_concurrent": line.slots, "expected_wait": seconds}


def _failing_models(endpoint: Endpoint, scope: Scope) -> dict[str, Any]:
    """The states of the models whose last request failed, by the names that clients see."""
    failing = {
        endpoint.prefix + model: breaker for model, breaker in endpoint.health.failing().items()
    }
    states = {
        name: breaker.state() for name, breaker in failing.items() if scope.allows_model(name)
    }
    fields = ("state", "retry_in", "last_error")
    return {name: {field: state[field] for field in fields} for name, state in states.items()}
