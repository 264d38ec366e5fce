"""Which requests a failure keeps away: those for one model, or all of an endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.errors import (
    AllEndpointsFailed,
    InMaintenance,
    ProxyError,
    RateLimited,
    TimedOut,
    Unreachable,
    UpstreamFailed,
    UpstreamRefused,
)
from horde_proxy.ledger import ClientKey
from horde_proxy.router import Router
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.health import EndpointAttempt, EndpointHealth
from horde_proxy.upstreams.proxying import NO_BODY, ProxyRequest
from tests.support import Clock
from tests.test_router import Proxying, answered_by, endpoint, proxied


def health(clock: Clock, count: int = 9, cooldown: float = 1) -> EndpointHealth:
    return EndpointHealth(CircuitBreaker(cooldown, 60, clock), lambda: count)


def acquired(of: EndpointHealth, model: str) -> EndpointAttempt:
    attempt = of.try_acquire(model)
    assert attempt is not None
    return attempt


def fail(of: EndpointHealth, model: str, seconds: float | None = None, **scope: Any) -> None:
    attempt = acquired(of, model)
    attempt.failed("out of memory", seconds, **scope)
    attempt.end()


def answer(of: EndpointHealth, model: str) -> None:
    attempt = acquired(of, model)
    attempt.answered()
    attempt.end()


def is_refused(of: EndpointHealth, model: str) -> bool:
    attempt = of.try_acquire(model)
    if attempt is not None:
        attempt.end()
    return attempt is None


def test_a_model_that_fails_leaves_the_others_alone() -> None:
    clock = Clock()
    one = health(clock)
    fail(one, "x", 30)
    assert [is_refused(one, model) for model in ("x", "y", "")] == [True, False, False]
    assert (one.cooldown_left("x"), one.cooldown_left("y")) == (30, 0)
    assert one.reason("x") == "cooling down for 30 s after: out of memory"
    assert (one.own.state()["state"], one.own.running) == ("up", 0)
    clock.seconds += 30
    assert not is_refused(one, "x")


def test_an_endpoint_that_fails_refuses_all_models() -> None:
    one = health(Clock())
    fail(one, "x", 30, is_whole=True)
    assert [is_refused(one, model) for model in ("x", "y", "")] == [True, True, True]
    assert one.reason("y") == "cooling down for 30 s after: out of memory"


def test_a_failure_without_a_model_is_the_endpoints() -> None:
    one = health(Clock())
    fail(one, "")
    assert is_refused(one, "x")


def test_the_third_model_that_fails_opens_the_endpoints_breaker() -> None:
    clock = Clock()
    one = health(clock)
    fail(one, "x", 50)
    fail(one, "y", 20)
    assert not is_refused(one, "other")
    fail(one, "z", 40)
    assert (is_refused(one, "other"), one.cooldown_left("other")) == (True, 20)
    clock.seconds += 20
    answer(one, "other")
    assert (one.own.state()["state"], one.cooldown_left("x")) == ("up", 30)


def test_the_only_model_that_fails_is_all_of_the_endpoint() -> None:
    one = health(Clock(), count=1)
    fail(one, "x", 30)
    assert (is_refused(one, ""), one.own.cooldown_left()) == (True, 30)


def test_the_endpoints_cooldown_is_exactly_that_of_its_model() -> None:
    clock = Clock()
    one = EndpointHealth(CircuitBreaker(0.125, 60, clock), lambda: 1)
    fail(one, "x")
    assert one.own.seconds_left() == 0.125


def test_models_that_failed_long_ago_do_not_count() -> None:
    clock = Clock()
    one = health(clock)
    fail(one, "x")
    fail(one, "y")
    clock.seconds += 61
    fail(one, "z")
    assert not is_refused(one, "other")


def test_one_request_probes_a_model_and_its_answer_lets_all_others_follow() -> None:
    clock = Clock()
    one = health(clock)
    fail(one, "x")
    clock.seconds += 1
    probe = acquired(one, "x")
    assert (is_refused(one, "x"), one.reason("x")) == (
        True,
        "being tried again after: out of memory",
    )
    probe.answered()
    assert not is_refused(one, "x")


def test_a_models_cooldown_doubles_by_itself() -> None:
    clock = Clock()
    one = health(clock)
    pauses = []
    for _ in range(4):
        fail(one, "x")
        pauses.append(one.cooldown_left("x"))
        clock.seconds += one.cooldown_left("x")
        answer(one, "y")
    assert pauses == [1, 2, 4, 8]


def test_models_that_are_up_are_not_remembered_and_the_others_are_bounded() -> None:
    one = health(Clock())
    answer(one, "x")
    assert one._models == {}
    for number in range(1200):
        attempt = EndpointHealth.try_acquire(one, f"m{number}")
        if attempt is not None:
            assert attempt._of_model is not None
            attempt._of_model.failed("no")
            attempt.end()
    assert len(one._models) == 1000


def test_without_a_cooldown_nothing_is_refused() -> None:
    one = health(Clock(), cooldown=0)
    for model in ("x", "y", "z", "x"):
        fail(one, model, 30)
    assert (is_refused(one, "x"), one.failing()) == (False, {})


def test_the_endpoint_still_shows_the_last_error_of_a_model() -> None:
    one = health(Clock())
    fail(one, "x")
    assert (one.own.state()["state"], one.own.state()["last_error"]) == ("up", "out of memory")


def call(model: str | None) -> ProxyRequest:
    return ProxyRequest("POST", "chat/completions", {}, NO_BODY, model)


@pytest.mark.parametrize(
    "failure",
    [
        RateLimited("busy", retry_after=30),
        UpstreamFailed("out of memory"),
        UpstreamRefused("not for this key"),
        TimedOut("slow"),
        500,
        429,
        401,
        402,
        403,
        408,
    ],
)
def test_another_model_of_an_endpoint_whose_model_fails_is_not_touched(
    failure: int | ProxyError,
) -> None:
    one, two = Proxying("one", "x", "y", "z"), Proxying("two", "x", "z")
    one.answers = [failure]
    router = Router([endpoint(one), endpoint(two, priority=1)])
    assert answered_by(proxied(router, call("x"), "x")) == "two"
    assert answered_by(proxied(router, call("y"), "y")) == "one"
    assert answered_by(proxied(router, call("x"), "x")) == "two"
    assert answered_by(proxied(router, call(None), None)) == "one"
    assert one.asked == ["x", "y", None]


def test_an_endpoint_that_cannot_be_reached_cools_down_as_a_whole() -> None:
    one, two = Proxying("one", "x", "y", "z"), Proxying("two", "x", "z")
    one.answers = [Unreachable("gone")]
    router = Router([endpoint(one), endpoint(two, priority=1)])
    assert answered_by(proxied(router, call("x"), "x")) == "two"
    assert answered_by(proxied(router, call("z"), "z")) == "two"
    with pytest.raises(AllEndpointsFailed, match="one: cooling down for 1 s after: gone") as raised:
        proxied(router, call("y"), "y")
    assert raised.value.retry_after == 1


def test_a_key_that_is_refused_for_all_models_cools_the_endpoint_down_for_a_minute() -> None:
    one, two = Proxying("one", "x", "y", "z", "other"), Proxying("two", "x", "y", "z", "other")
    one.answers = [401, 401, 401]
    router = Router([endpoint(one), endpoint(two, priority=1)])
    for model in ("x", "y", "z", "other"):
        assert answered_by(proxied(router, call(model), model)) == "two"
    assert one.asked == ["x", "y", "z"]
    assert router.endpoints[0].breaker.cooldown_left() == 60


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refusal_without_a_model_is_tried_elsewhere_and_cools_nothing_down(status: int) -> None:
    one, two = Proxying("one", "x"), Proxying("two", "x")
    one.answers = [status]
    router = Router([endpoint(one), endpoint(two, priority=1)])
    assert answered_by(proxied(router, call(None), None)) == "two"
    assert answered_by(proxied(router, call("x"), "x")) == "one"


def test_a_horde_in_maintenance_cools_down_as_a_whole() -> None:
    one = Proxying("one", "x", "y", "z")
    one.cooldown_errors = (Unreachable, InMaintenance)
    one.answers = [InMaintenance("maintenance")]
    router = Router([endpoint(one), endpoint(Proxying("two", "x"), priority=1)])
    assert answered_by(proxied(router, call("x"), "x")) == "two"
    with pytest.raises(AllEndpointsFailed, match="one: cooling down for 60 s after: maintenance"):
        proxied(router, call("y"), "y")


def test_the_state_of_an_endpoint_names_the_models_that_fail_to_who_may_use_them() -> None:
    one = Proxying("one", "x", "y", "z")
    one.answers = [RateLimited("busy", retry_after=30)]
    router = Router([endpoint(one, prefix="p/"), endpoint(Proxying("two"))])
    with pytest.raises(RateLimited):
        proxied(router, call("p/x"), "p/x")
    [state, _] = router.states()
    assert (state["state"], state["retry_in"], state["last_error"]) == ("up", None, "busy")
    assert state["failing_models"] == {
        "p/x": {"state": "cooling", "retry_in": 30, "last_error": "busy"}
    }
    [other, _] = router.states(ClientKey("k", models=("p/y",)))
    assert other["failing_models"] == {}
