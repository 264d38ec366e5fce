"""A request enters the endpoint that has a slot first, and none for which others are meant."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from horde_proxy.errors import ProxyError, RateLimited, Unreachable, UpstreamFailed
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.router import Router
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.line import EndpointLine, HeldSlot, LineLimits
from horde_proxy.upstreams.base import Accepted, Caller, Route, Sleeper, StreamItem, Waiting
from horde_proxy.upstreams.proxying import ProxyRequest, ProxyResponse
from tests.support import Clock
from tests.test_router import CALL, CHAT, Offering, Proxying


class House:
    """Endpoints with one slot each, and how a request fares."""

    def __init__(self, longest: int = 100) -> None:
        self.clock, self.longest = Clock(), longest
        self.endpoints: list[Endpoint] = []

    def add(self, upstream: Any, slots: int | None = 1, **place: Any) -> Endpoint:
        line = EndpointLine(upstream.name, LineLimits(slots, {}, self.longest), clock=self.clock)
        breaker = CircuitBreaker(1, 60, self.clock)
        # By the order in which they were added, and not by chance.
        endpoint = Endpoint(upstream, breaker, line=line, **place)
        self.endpoints.append(endpoint)
        return endpoint

    def router(self, **options: Any) -> Router:
        return Router(self.endpoints, chance=lambda: 0.5, **options)

    def occupy(self, endpoint: Endpoint) -> HeldSlot:
        slot = endpoint.line.try_enter("m", Caller("somebody"))
        assert slot is not None
        return slot

    def states(self) -> list[tuple[int, int]]:
        """How many requests run and wait at each endpoint."""
        return [endpoint.line.state()[:2] for endpoint in self.endpoints]


def client(**options: Any) -> Caller:
    return Caller("ann", sleeper=Sleeper(sleep=lambda seconds: None), **options)


def ended(
    proxying: Generator[Waiting, None, ProxyResponse | None],
) -> ProxyResponse | None:
    with pytest.raises(StopIteration) as end:
        for _ in range(10):
            next(proxying)
    response: ProxyResponse | None = end.value.value
    return response


def name_of(response: ProxyResponse | None) -> str:
    assert response is not None
    name = response.header("x-endpoint")
    response.close()
    return name


def test_a_call_waits_for_a_slot_and_holds_it_until_its_response_is_closed() -> None:
    house = House()
    slot = house.occupy(house.add(Proxying("one", "m")))
    router = house.router()
    proxying = router.proxy(CALL, router.candidates("m"), client())
    assert next(proxying) == Waiting("in line", 1, None)
    assert (house.states(), house.endpoints[0].breaker.running) == ([(1, 1)], 0)
    slot.free()
    response = ended(proxying)
    assert (house.states(), house.endpoints[0].breaker.running) == ([(1, 0)], 1)
    assert name_of(response) == "one"
    assert (house.states(), house.endpoints[0].breaker.running) == ([(0, 0)], 0)


def test_a_stream_is_kept_alive_in_line_and_gives_its_slot_back() -> None:
    house = House()
    slot = house.occupy(house.add(Offering("one", "m")))
    router = house.router()
    stream = router.stream(CHAT, router.candidates("m"), client())
    items: list[StreamItem] = [next(stream) for _ in range(4)]
    assert [type(item).__name__ for item in items] == ["Waiting", "Waiting", "Accepted", "Waiting"]
    assert isinstance(items[2], Accepted) and items[2].is_early
    slot.free()
    rest = list(stream)
    accepted = [item for item in rest if isinstance(item, Accepted)]
    assert [(item.upstream, item.is_early) for item in accepted] == [("one", False)]
    assert house.states() == [(0, 0)]


def test_in_the_next_line_a_response_that_has_begun_keeps_the_cost_of_what_failed() -> None:
    class Failing(Offering):
        def stream(
            self, request: GenerationRequest, route: Route, caller: Caller
        ) -> Generator[StreamItem, None, None]:
            yield Accepted({}, self.name)
            raise UpstreamFailed("no")

    house = House()
    house.add(Failing("one", "m"))
    slot = house.occupy(house.add(Offering("two", "m"), weight=0.1))
    router = house.router()
    stream = router.stream(CHAT, router.candidates("m"), client())
    items = [next(stream) for _ in range(5)]
    assert isinstance(items[0], Accepted) and items[0].upstream == "one"
    assert items[1:] == [Waiting("in line", 1, None)] * 4
    slot.free()
    accepted = [item for item in stream if isinstance(item, Accepted)]
    assert [(item.upstream, item.is_early) for item in accepted] == [("two", False)]


def test_a_client_that_leaves_the_line_leaves_nothing_behind() -> None:
    house = House()
    house.occupy(house.add(Offering("one", "m")))
    router = house.router()
    stream = router.stream(CHAT, router.candidates("m"), client())
    next(stream)
    stream.close()
    assert house.states() == [(1, 0)]


def test_another_endpoint_for_the_model_with_a_free_slot_is_used_at_once() -> None:
    house = House()
    house.occupy(house.add(Proxying("one", "m")))
    house.add(Proxying("two", "m"), weight=0.1)
    router = house.router()
    response = ended(router.proxy(CALL, router.candidates("m"), client()))
    assert house.states() == [(1, 0), (1, 0)]
    assert name_of(response) == "two"
    assert house.endpoints[0].breaker.state()["state"] == "up"


def test_the_first_endpoint_to_have_a_slot_is_used() -> None:
    house = House()
    house.occupy(house.add(Proxying("one", "m")))
    slot = house.occupy(house.add(Proxying("two", "m"), weight=0.1))
    router = house.router()
    proxying = router.proxy(CALL, router.candidates("m"), client())
    next(proxying)
    assert house.states() == [(1, 1), (1, 1)]
    slot.free()
    assert name_of(ended(proxying)) == "two"
    assert house.states() == [(1, 0), (0, 0)]


def test_an_endpoint_that_was_not_waited_for_can_still_answer_when_the_other_fails() -> None:
    house = House()
    first = house.occupy(house.add(Proxying("one", "m")))
    two = Proxying("two", "m")
    two.answers = [Unreachable("gone")]
    slot = house.occupy(house.add(two, weight=0.1))
    router = house.router()
    proxying = router.proxy(CALL, router.candidates("m"), client())
    next(proxying)
    slot.free()
    assert next(proxying) == Waiting("in line", 1, None)
    assert house.states() == [(1, 1), (0, 0)]
    first.free()
    assert name_of(ended(proxying)) == "one"
    assert house.states() == [(0, 0), (0, 0)]


def test_a_lower_priority_is_used_only_when_the_line_is_full() -> None:
    house = House(longest=1)
    house.occupy(house.add(Proxying("home", "m")))
    house.add(Proxying("paid", "m"), priority=1)
    router = house.router()
    proxying = router.proxy(CALL, router.candidates("m"), client())
    assert next(proxying) == Waiting("in line", 1, None)
    assert house.states() == [(1, 1), (0, 0)]
    assert name_of(ended(router.proxy(CALL, router.candidates("m"), client()))) == "paid"
    assert house.endpoints[0].breaker.state()["state"] == "up"


def test_a_fallback_is_used_only_when_the_line_is_full() -> None:
    house = House(longest=0)
    house.occupy(house.add(Proxying("one", "m")))
    house.add(Proxying("two", "n"))
    router = house.router(fallbacks={"m": ["n"]})
    assert name_of(ended(router.proxy(CALL, router.candidates("m"), client()))) == "two"


def test_a_full_line_is_a_429_and_no_failure_of_the_endpoint() -> None:
    house = House(longest=0)
    house.occupy(house.add(Proxying("one", "m")))
    house.occupy(house.add(Proxying("two", "m")))
    router = house.router()
    for items in ("stream", "proxy"):
        candidates = router.candidates("m")
        with pytest.raises(RateLimited) as refused:
            if items == "stream":
                next(router.stream(CHAT, candidates, client()))
            elif ended(router.proxy(CALL, candidates, client())) is None:
                raise candidates.error()
        assert str(refused.value).startswith(
            "Every endpoint for `m` is busy. one: The line for the endpoint 'one' is full"
        )
        assert (refused.value.status, refused.value.retry_after) == (429, 5)
    states = [endpoint.breaker.state() for endpoint in house.endpoints]
    assert [(state["state"], state["running"]) for state in states] == [("up", 0)] * 2


def test_the_only_endpoints_full_line_is_named() -> None:
    house = House(longest=0)
    house.occupy(house.add(Proxying("one", "m")))
    router = house.router()
    candidates = router.candidates("m")
    with pytest.raises(ProxyError) as refused:
        next(router.stream(CHAT, candidates, client()))
    assert (refused.value.code, refused.value.status) == ("line_full", 429)
    # Nothing has ended there yet: nobody knows when a place is free.
    assert str(refused.value) == (
        "The line for the endpoint 'one' is full (longest_line = 0). Try again when one of its "
        "requests has ended."
    )


def test_an_endpoint_that_cools_down_when_its_slot_is_free_lets_the_next_one_answer() -> None:
    house = House()
    one = house.add(Proxying("one", "m"))
    slot = house.occupy(one)
    house.add(Proxying("two", "m"), priority=1)
    router = house.router()
    proxying = router.proxy(CALL, router.candidates("m"), client())
    next(proxying)
    attempt = one.health.try_acquire("m")
    assert attempt is not None
    attempt.failed("gone", is_whole=True)
    attempt.end()
    slot.free()
    assert name_of(ended(proxying)) == "two"
    assert house.states() == [(0, 0), (0, 0)]


def test_calls_that_name_no_model_need_no_slot() -> None:
    house = House()
    house.occupy(house.add(Proxying("one", "m")))
    router = house.router()
    call = ProxyRequest("GET", "files", {}, CALL.body)
    assert name_of(ended(router.proxy(call, router.candidates(None), client()))) == "one"


def test_a_gone_client_begins_nothing_and_holds_no_slot() -> None:
    house = House()
    house.add(Offering("one", "m"))
    router, who = house.router(), client()
    assert who.sleeper is not None
    who.sleeper.has_client = False
    stream = router.stream(CHAT, router.candidates("m"), who)
    assert next(stream) == Waiting("held back")
    assert house.states() == [(0, 0)]
    stream.close()
    assert house.endpoints[0].breaker.running == 0
