"""From a model's name to the endpoints that are asked, and from one to the next."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest

from horde_proxy.errors import (
    AllEndpointsFailed,
    ContextLengthExceeded,
    InsufficientKudos,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    RateLimited,
    Refused,
    TimedOut,
    Unavailable,
    Unreachable,
    UpstreamFailed,
)
from horde_proxy.ledger import ClientKey
from horde_proxy.protocol.chunks import Head, chunk, role_chunk
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.router import EVERYTHING, Router
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.upstreams.base import Accepted, Caller, Route, Spent, StreamItem, Waiting
from horde_proxy.upstreams.proxying import NO_BODY, JsonBody, ProxyRequest, ProxyResponse
from tests.support import Clock

CALL = ProxyRequest("POST", "chat/completions", {}, NO_BODY, "m")
CHAT = GenerationRequest("m", (Message("user", "Hi"),))


class Offering:
    """An upstream that has models, and gives what it is told to."""

    kind, url = "horde", "http://offering.invalid"
    offers_any = False
    proxy: Any = None
    cooldown_errors: tuple[type[ProxyError], ...] = (Unreachable,)

    def __init__(self, name: str, *models: str, **extra: Any) -> None:
        self.name, self.extra = name, extra
        self.listed = [{"id": model, "owned_by": name, **extra} for model in models]
        self.failure: ProxyError | None = None
        self.lists_fail: ProxyError | None = None
        self.refreshed = 0

    def models(self) -> Sequence[dict[str, Any]]:
        if self.lists_fail:
            raise self.lists_fail
        return self.listed

    def refresh(self) -> None:
        self.refreshed += 1

    def error(self) -> ProxyError | None:
        return self.lists_fail

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        return tuple(model for model in models if model[0] == models[0][0])

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        head = Head(f"of-{self.name}", 1, route.model)
        if self.failure:
            raise self.failure
        yield Accepted({}, self.name)
        yield role_chunk(head)
        yield chunk(head, {"content": self.name})


class Proxying(Offering):
    """One that takes calls as they are; `answers` are statuses, or errors, one after another."""

    kind = "openai"
    cooldown_errors: tuple[type[ProxyError], ...] = (UpstreamFailed, TimedOut, RateLimited)

    def __init__(self, name: str, *models: str, **extra: Any) -> None:
        super().__init__(name, *models, **extra)
        self.answers: list[int | ProxyError] = []
        self.asked: list[str | None] = []
        self.closed = 0
        self.body = b'{"answer": "' + name.encode() + b'"}'

    def proxy(self, call: ProxyRequest, model: str | None, guard: Any = None, /) -> ProxyResponse:
        self.asked.append(model)
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, ProxyError):
            raise answer
        return ProxyResponse(answer, [], iter([self.body]), [self._close])

    def _close(self) -> None:
        self.closed += 1


def endpoint(upstream: Any, clock: Clock | None = None, **place: Any) -> Endpoint:
    return Endpoint(upstream, CircuitBreaker(1, 60, clock or Clock()), **place)


def tried_in_order(
    router: Router, name: str | None, **options: Any
) -> list[tuple[str, tuple[str, ...]]]:
    """(endpoint, its own names) of the candidates in the order in which they would be asked."""
    names = []
    for candidate, attempt in router.candidates(name, **options):
        names.append((candidate.endpoint.name, candidate.models))
        attempt.end()
    return names


def response_of(
    proxying: Generator[Waiting, None, ProxyResponse | None],
) -> ProxyResponse | None:
    """What a call returns that nothing is to wait for."""
    with pytest.raises(StopIteration) as end:
        next(proxying)
    response: ProxyResponse | None = end.value.value
    return response


def proxied(router: Router, call: ProxyRequest = CALL, name: str | None = "m") -> ProxyResponse:
    candidates = router.candidates(name)
    answer = response_of(router.proxy(call, candidates, Caller()))
    if answer is None:
        raise candidates.error()
    return answer


def answered_by(answer: ProxyResponse) -> str:
    name = answer.header("x-endpoint")
    answer.close()
    return name


def test_all_endpoints_that_offer_a_model_are_candidates() -> None:
    one, two = Offering("one", "a/Llama-3-8B", "b"), Offering("two", "b", "c")
    router = Router([endpoint(one), endpoint(two, priority=1)])
    assert tried_in_order(router, "b") == [("one", ("b",)), ("two", ("b",))]
    assert tried_in_order(router, "c") == [("two", ("c",))]


def test_a_model_that_two_offer_is_listed_once_with_both() -> None:
    one, two = Offering("one", "a", "b"), Offering("two", "b", "c")
    router = Router([endpoint(one, priority=2), endpoint(two, priority=1)])
    listed = [(model["id"], model["owned_by"], model["endpoints"]) for model in router.models()]
    assert listed == [
        ("b", "two", ["two", "one"]),
        ("c", "two", ["two"]),
        ("a", "one", ["one"]),
    ]


def test_the_error_of_an_unknown_model_names_similar_ones_after_a_refresh() -> None:
    one = Offering("one", "a/Llama-3-8B")
    router = Router([endpoint(one)])
    router.models()
    with pytest.raises(ModelNotFound, match="Available: `a/Llama-3-8B`."):
        router.candidates("a/Llama-3-7b")
    assert one.refreshed == 2


def test_a_model_that_has_just_come_is_found() -> None:
    one = Offering("one", "a")
    one.refresh = lambda: one.listed.append({"id": "new"})  # type: ignore[method-assign]
    plain = one.models
    one.models = lambda: list(plain())  # type: ignore[method-assign]
    assert tried_in_order(Router([endpoint(one)]), "new") == [("one", ("new",))]


def test_the_models_of_a_pattern_are_one_candidate_where_they_can_share_a_request() -> None:
    router = Router([endpoint(Offering("one", "a1", "b1", "a2"))])
    assert tried_in_order(router, "*[12]") == [("one", ("a1", "a2")), ("one", ("b1",))]


def test_each_element_of_a_list_is_a_candidate_of_its_own() -> None:
    router = Router([endpoint(Offering("one", "a1", "a2"))])
    assert tried_in_order(router, "gone,a2,a1") == [("one", ("a2",)), ("one", ("a1",))]


def test_an_alias_has_the_candidates_and_the_description_of_its_model() -> None:
    router = Router([endpoint(Offering("one", "a/Llama-3-8B"))], {"gpt-4o": "a/Llama-3-8B"})
    assert tried_in_order(router, "gpt-4o") == [("one", ("a/Llama-3-8B",))]
    assert router.model("gpt-4o")["id"] == "a/Llama-3-8B"


def test_a_prefix_is_for_clients_and_a_glob_for_the_upstreams_own_names() -> None:
    router = Router([endpoint(Proxying("one", "gpt-4", "o1"), prefix="x/", globs=["GPT-*"])])
    assert [model["id"] for model in router.models()] == ["x/gpt-4"]
    assert tried_in_order(router, "x/gpt-4") == [("one", ("gpt-4",))]


def test_the_lowest_priority_number_goes_first_however_busy_it_is() -> None:
    busy, idle = endpoint(Proxying("busy", "m")), endpoint(Proxying("idle", "m"), priority=1)
    for _ in range(5):
        busy.breaker.try_acquire()
    assert [name for name, _ in tried_in_order(Router([idle, busy]), "m")] == ["busy", "idle"]


def test_a_candidate_that_sees_goes_first_but_no_fallback_does() -> None:
    def seeing(*inputs: str) -> dict[str, Any]:
        return {"architecture": {"input_modalities": list(inputs)}}

    endpoints = [
        Endpoint(Offering("a", "m", architecture=None)),
        Endpoint(Offering("b", "m", architecture={"input_modalities": 1}), priority=1),
        Endpoint(Offering("c", "m", **seeing("text", "image")), priority=2),
        Endpoint(Offering("d", "other", **seeing("text", "image")), priority=0),
    ]
    router = Router(endpoints, fallbacks={"m": ["other"]}, chance=lambda: 0.0)
    candidates = router.candidates("m")
    candidates.prefer_seeing()
    assert [candidate.endpoint.name for candidate, _ in candidates] == ["c", "a", "b", "d"]


def test_within_a_priority_requests_are_shared_by_weight() -> None:
    one, two = endpoint(Proxying("one", "m")), endpoint(Proxying("two", "m"), weight=3)
    router = Router([one, two], chance=lambda: 0.5)
    counts = {"one": 0, "two": 0}
    for _ in range(40):
        first, _ = next(iter(router.candidates("m")))
        counts[first.endpoint.name] += 1
    assert counts == {"one": 10, "two": 30}


def test_chance_decides_among_equals() -> None:
    router = Router([endpoint(Proxying("one", "m")), endpoint(Proxying("two", "m"))])
    assert {tried_in_order(router, "m")[0][0] for _ in range(100)} == {"one", "two"}


@pytest.mark.parametrize(
    ("states", "loaded"),
    [
        ((True, False), True),
        ((False, True), True),
        ((False, False), False),
        ((None, False), False),
        ((None, True), True),
        ((None, None), None),
        (("yes", False), False),
    ],
)
def test_a_model_is_loaded_where_one_of_its_endpoints_has_it_in_memory(
    states: Sequence[Any], loaded: bool | None
) -> None:
    lists = [{} if state is None else {"loaded": state} for state in states]
    one, two = (Proxying(name, "m", **said) for name, said in zip("ab", lists, strict=True))
    [model] = Router([endpoint(one), endpoint(two)]).models()
    assert model.get("loaded") == loaded
    # The endpoint's own entry is not changed.
    assert [entry.listed[0].get("loaded") for entry in (one, two)] == list(states)


def test_without_a_model_the_first_endpoint_that_can_proxy_is_tried() -> None:
    router = Router(
        [
            endpoint(Offering("horde", "m")),
            endpoint(Proxying("one", "m")),
            endpoint(Proxying("two", "m"), priority=-1),
        ]
    )
    assert [name for name, _ in tried_in_order(router, None)] == ["two", "one"]


def test_a_client_may_name_the_endpoint() -> None:
    router = Router([endpoint(Proxying("one", "m")), endpoint(Proxying("two", "m"))])
    assert tried_in_order(router, "m", endpoint="two") == [("two", ("m",))]
    with pytest.raises(InvalidRequest, match="There is no endpoint 'three'"):
        router.candidates("m", endpoint="three")


def test_the_error_of_a_model_that_the_named_endpoint_lacks_is_about_that_endpoint() -> None:
    one, two, three = Proxying("one", "m"), Proxying("two", "n"), Proxying("three")
    three.lists_fail = Unreachable("three cannot be reached")
    router = Router([endpoint(one), endpoint(two), endpoint(three)])
    with pytest.raises(ModelNotFound, match="Available: `n`.") as caught:
        router.candidates("m", endpoint="two")
    assert "`m`." not in str(caught.value)
    with pytest.raises(Unreachable, match="three cannot be reached"):
        router.candidates("m", endpoint="three")
    with pytest.raises(AllEndpointsFailed):
        router.candidates("x")


def test_a_list_that_is_missing_where_a_key_may_not_go_makes_no_503_for_it() -> None:
    one, two = Proxying("one", "m"), Proxying("two")
    two.lists_fail = Unreachable("two cannot be reached")
    router = Router([endpoint(one), endpoint(two)])
    with pytest.raises(ModelNotFound, match="Available: `m`."):
        router.candidates("x", ClientKey("k", endpoints=("one",)))
    with pytest.raises(ModelNotFound, match="do not have access to it.$"):
        router.candidates("m", ClientKey("k", endpoints=("nowhere",)))


def test_a_key_sees_and_reaches_only_what_it_is_allowed() -> None:
    router = Router([endpoint(Proxying("one", "a", "b")), endpoint(Proxying("two", "a"))])
    scope = ClientKey("k", models=("a",), endpoints=("two",))
    assert [(model["id"], model["endpoints"]) for model in router.models(scope)] == [("a", ["two"])]
    assert tried_in_order(router, "a", scope=scope) == [("two", ("a",))]
    assert [state["name"] for state in router.states(scope)] == ["two"]
    with pytest.raises(ModelNotFound, match="Available: `a`."):
        router.candidates("b", scope)
    with pytest.raises(Refused):
        router.candidates(None, scope)


def test_a_server_that_lists_no_models_is_tried_for_any_that_is_allowed_there() -> None:
    one = Proxying("one")
    one.offers_any = True
    router = Router([endpoint(one, globs=["tts-*"])], {"voice": "tts-1"})
    assert tried_in_order(router, "tts-1") == [("one", ("tts-1",))]
    assert tried_in_order(router, "voice") == [("one", ("tts-1",))]
    assert tried_in_order(router, "VOICE") == [("one", ("tts-1",))]
    with pytest.raises(ModelNotFound):
        router.candidates("gpt-4")


def test_a_client_shall_try_again_while_there_are_no_models() -> None:
    router = Router([endpoint(Proxying("one"))])
    with pytest.raises(Unavailable, match="No models are available right now") as caught:
        router.candidates("m")
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (
        503,
        "no_workers",
        5,
    )


@pytest.mark.parametrize(
    "failure",
    [
        Unreachable("no"),
        UpstreamFailed("no"),
        TimedOut("no"),
        500,
        502,
        503,
        429,
    ],
)
def test_an_endpoint_that_fails_cools_down_and_another_one_answers(
    failure: int | ProxyError,
) -> None:
    one, two = Proxying("one", "m"), Proxying("two", "m")
    one.answers = [failure]
    router = Router([endpoint(one), endpoint(two, priority=1)])
    assert [answered_by(proxied(router)) for _ in range(3)] == ["two", "two", "two"]
    assert len(one.asked) == 1
    assert one.closed == int(isinstance(failure, int))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_answer_that_blames_the_request_goes_to_the_client(status: int) -> None:
    one, two = Proxying("one", "m"), Proxying("two", "m")
    one.answers = [status]
    router = Router([endpoint(one), endpoint(two, priority=1)])
    answer = proxied(router)
    assert (answer.status, answered_by(answer)) == (status, "one")
    assert answered_by(proxied(router)) == "one"


def test_after_its_cooldown_an_endpoint_is_probed_by_one_request() -> None:
    clock = Clock()
    one, two = Proxying("one", "m"), Proxying("two", "m")
    one.answers = [500]
    router = Router([endpoint(one, clock), endpoint(two, priority=1)])
    assert answered_by(proxied(router)) == "two"
    clock.seconds += 1
    probe = proxied(router)
    assert probe.header("x-endpoint") == "one"
    assert answered_by(proxied(router)) == "one"
    probe.close()


def test_a_busy_endpoint_cools_down_for_as_long_as_it_says() -> None:
    clock = Clock()
    one, two = Proxying("one", "m"), Proxying("two", "m")
    one.answers = [RateLimited("busy", retry_after=30)]
    router = Router([endpoint(one, clock), endpoint(two, priority=1)])
    assert answered_by(proxied(router)) == "two"
    clock.seconds += 29
    assert answered_by(proxied(router)) == "two"
    clock.seconds += 2
    assert answered_by(proxied(router)) == "one"


def test_when_all_fail_the_error_names_every_endpoint_with_its_reason() -> None:
    one, two, three = Proxying("one", "m"), Proxying("two", "m"), Proxying("three", "other")
    one.answers, two.answers = [Unreachable("one cannot be reached")], [503]
    router = Router([endpoint(one), endpoint(two, priority=1), endpoint(three)])
    with pytest.raises(AllEndpointsFailed) as raised:
        proxied(router)
    assert str(raised.value) == (
        "No endpoint answers for `m` now. one: one cannot be reached; "
        "two: it answered with status 503; three: does not offer it."
    )
    with pytest.raises(
        AllEndpointsFailed, match="one: cooling down for 1 s after: one cannot be reached"
    ):
        proxied(router)


def test_an_unknown_model_is_no_404_while_a_list_is_missing() -> None:
    one, two = Proxying("one", "m"), Proxying("two")
    two.lists_fail = Unreachable("two cannot be reached")
    with pytest.raises(
        AllEndpointsFailed, match="one: does not offer it; two: its model list is unavailable"
    ):
        Router([endpoint(one), endpoint(two)]).candidates("x")


def test_when_all_are_busy_the_answer_is_a_429_with_the_soonest_time() -> None:
    one, two = Proxying("one", "m"), Proxying("two", "m")
    one.answers = [RateLimited("busy", retry_after=30)]
    two.answers = [RateLimited("busy", retry_after=9)]
    with pytest.raises(RateLimited) as raised:
        proxied(Router([endpoint(one), endpoint(two)]))
    assert raised.value.retry_after == 9


def test_the_failed_response_of_the_only_endpoint_is_passed_on() -> None:
    one = Proxying("one", "m")
    one.answers, one.body = [500], b"my own words"
    answer = proxied(Router([Endpoint(one, CircuitBreaker(0))]))
    assert (answer.status, b"".join(answer)) == (500, b"my own words")
    answer.close()
    one.answers = [Unreachable("one cannot be reached")]
    with pytest.raises(Unreachable, match="one cannot be reached"):
        proxied(Router([Endpoint(one, CircuitBreaker(0))]))


def test_closing_a_response_ends_the_attempt() -> None:
    one = endpoint(Proxying("one", "m"))
    answer = proxied(Router([one]))
    assert one.breaker.running == 1
    answer.close()
    assert one.breaker.running == 0


def test_a_fallback_answers_when_the_model_is_unknown_or_fails() -> None:
    one, two = Proxying("one", "m"), Proxying("two", "n")
    one.answers = [500]
    router = Router([endpoint(one), endpoint(two)], fallbacks={"m": ["n"], "*": ["n"]})
    answer = proxied(router)
    assert (answered_by(answer), two.asked) == ("two", ["n"])
    assert tried_in_order(router, "unknown") == [("two", ("n",))]


def test_a_fallback_answers_when_the_context_overflows() -> None:
    one, two = Proxying("one", "m"), Proxying("two", "m")
    big = Proxying("big", "n")
    one.answers, two.answers = [400, 400], [400]
    one.body = b'{"error": {"message": "too long", "code": "context_length_exceeded"}}'
    router = Router(
        [endpoint(one), endpoint(two, priority=1), endpoint(big)], fallbacks={"m": ["n"]}
    )
    assert answered_by(proxied(router)) == "big"
    assert two.asked == []
    router = Router([endpoint(one)])
    assert response_of(router.proxy(CALL, router.candidates("m"), Caller())) is not None


def test_a_400_that_only_quotes_a_context_overflow_goes_to_the_client() -> None:
    one, big = Proxying("one", "m"), Proxying("big", "n")
    one.answers = [400]
    one.body = b'{"error": {"message": "no"}, "echo": "maximum context length"}'
    router = Router([endpoint(one), endpoint(big)], fallbacks={"m": ["n"]})
    assert answered_by(proxied(router)) == "one"


def test_a_model_whose_wait_is_too_long_comes_after_its_fallbacks() -> None:
    horde = Offering("horde", "m", horde={"expected_seconds": 300})
    cloud = Proxying("cloud", "n")
    endpoints = [endpoint(horde), endpoint(cloud)]
    slow = Router(endpoints, fallbacks={"m": ["n"]}, max_wait=120)
    assert [name for name, _ in tried_in_order(slow, "m")] == ["cloud", "horde"]
    patient = Router(endpoints, fallbacks={"m": ["n"]}, max_wait=301)
    assert [name for name, _ in tried_in_order(patient, "m")] == ["horde", "cloud"]


def test_an_endpoint_that_can_use_a_model_describes_it() -> None:
    excluding = Offering("one", "m", horde={"available": False})
    admitting = Offering("two", "m", horde={"available": True})
    [model] = Router([endpoint(excluding), endpoint(admitting, priority=1)]).models()
    assert (model["owned_by"], model["endpoints"]) == ("two", ["one", "two"])
    [model] = Router([endpoint(admitting), endpoint(excluding, priority=1)]).models()
    assert (model["owned_by"], model["endpoints"]) == ("two", ["two", "one"])


def streamed(router: Router, chat: GenerationRequest = CHAT) -> tuple[list[str], str]:
    """The upstreams that accepted, and the content."""
    items = list(router.stream(chat, router.candidates(chat.model), Caller()))
    accepted = [item.upstream or "" for item in items if isinstance(item, Accepted)]
    deltas = [item["choices"][0]["delta"] for item in items if isinstance(item, dict)]
    return accepted, "".join(delta.get("content", "") for delta in deltas)


def test_another_upstream_may_take_over_a_stream_before_its_first_content() -> None:
    one, two = Offering("one", "m"), Offering("two", "m")
    one.failure = UpstreamFailed("no")
    assert streamed(Router([endpoint(one), endpoint(two, priority=1)])) == (["two"], "two")


def test_the_cost_of_a_spliced_stream_is_that_of_the_last_upstream() -> None:
    class Breaking(Offering):
        def stream(
            self, request: GenerationRequest, route: Route, caller: Caller
        ) -> Generator[StreamItem, None, None]:
            yield Accepted({}, self.name, lambda: Spent(1, 1, 1.0))
            raise UpstreamFailed("no")

    class Costing(Offering):
        def stream(
            self, request: GenerationRequest, route: Route, caller: Caller
        ) -> Generator[StreamItem, None, None]:
            yield Accepted({}, self.name, lambda: Spent(7, 5, 3.0))
            yield chunk(Head("id", 1, "m"), {"content": "x"})

    router = Router([endpoint(Breaking("one", "m")), endpoint(Costing("two", "m"), priority=1)])
    _, accepted, _ = router.stream(CHAT, router.candidates("m"), Caller())
    assert isinstance(accepted, Accepted)
    assert accepted.spent() == Spent(7, 5, 3.0)


class Patient(Offering):
    """Waits without end; notes the functions of the router that wait with it."""

    is_closed = False
    waiting: Sequence[str] = ()

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        try:
            yield Accepted({}, self.name)
            frames = [frame for frame, _ in traceback.walk_stack(inspect.currentframe())]
            self.waiting = [
                frame.f_code.co_name
                for frame in frames
                if frame.f_globals["__name__"].startswith("horde_proxy.router")
            ]
            while True:
                yield Waiting("queued")
        finally:
            self.is_closed = True


def test_closing_a_stream_closes_the_upstream_and_ends_the_attempt() -> None:
    upstream = Patient("one", "m")
    router = Router([endpoint(upstream)])
    items = router.stream(CHAT, router.candidates("m"), Caller())
    next(items)
    assert (upstream.is_closed, router.endpoints[0].breaker.running) == (False, 1)
    items.close()
    assert (upstream.is_closed, router.endpoints[0].breaker.running) == (True, 0)


def test_one_frame_of_the_router_waits_with_the_upstream() -> None:
    upstream = Patient("one", "m")
    router = Router([endpoint(upstream)])
    items = router.stream(CHAT, router.candidates("m"), Caller())
    next(items)
    next(items)
    assert upstream.waiting == ["stream"]
    items.close()


def test_after_a_context_overflow_only_fallbacks_are_tried() -> None:
    one, two, big = Offering("one", "m"), Offering("two", "m"), Offering("big", "n")
    one.failure = ContextLengthExceeded(10, 20)
    endpoints = [endpoint(one), endpoint(two, priority=1), endpoint(big)]
    assert streamed(Router(endpoints, fallbacks={"m": ["n"]})) == (["big"], "big")
    with pytest.raises(ContextLengthExceeded):
        streamed(Router(endpoints))


def test_a_horde_cools_down_when_it_is_gone_but_not_for_a_faulted_request() -> None:
    horde, cloud = Offering("horde", "m"), Offering("cloud", "m")
    router = Router([endpoint(horde), endpoint(cloud, priority=1)])
    horde.failure = UpstreamFailed("faulted")
    streamed(router)
    horde.failure = None
    assert streamed(router)[0] == ["horde"]
    horde.failure = Unreachable("gone")
    streamed(router)
    horde.failure = None
    assert streamed(router)[0] == ["cloud"]


def test_proxying_stops_at_a_candidate_that_cannot_proxy() -> None:
    one, horde = Proxying("one", "m"), Offering("horde", "m")
    one.answers = [Unreachable("gone")]
    router = Router([endpoint(one), endpoint(horde, priority=1)])
    candidates = router.candidates("m")
    assert response_of(router.proxy(CALL, candidates, Caller())) is None
    assert [candidate.endpoint.name for candidate, _ in candidates] == ["horde"]


def test_states_hold_no_secret() -> None:
    one = endpoint(Proxying("one", "m", "a"))
    [state] = Router([one]).states()
    assert state == {
        "name": "one",
        "type": "openai",
        "url": "http://offering.invalid",
        "place": None,
        "priority": 0,
        "weight": 1.0,
        "models": ["a", "m"],
        "state": "up",
        "retry_in": None,
        "last_error": None,
        "running": 0,
        "waiting": 0,
        "max_concurrent": None,
        "expected_wait": 0.0,
        "latency": {"count": 0, "p50": None, "p95": None},
        "failing_models": {},
    }


def test_an_endpoint_whose_models_cannot_be_listed_is_down() -> None:
    one = Proxying("one")
    one.lists_fail = Unreachable("one cannot be reached")
    [state] = Router([endpoint(one)]).states()
    assert (state["state"], state["last_error"]) == ("down", "one cannot be reached")


def test_a_json_body_keeps_its_bytes_unless_the_model_has_another_name() -> None:
    body = JsonBody(b'{ "model":"m" }', {"model": "m"})
    assert body.with_model("m") == (b'{ "model":"m" }', 15)
    assert body.with_model(None) == (b'{ "model":"m" }', 15)
    assert body.with_model("n") == (b'{"model": "n"}', 14)


class Breaking(Proxying):
    """Its answers break off before their heads can be read; the first one is a failure."""

    def proxy(self, call: ProxyRequest, model: str | None, guard: Any = None, /) -> ProxyResponse:
        response = super().proxy(call, model)

        def broken() -> Iterator[bytes]:
            raise Unreachable("one broke the answer off")
            yield b""

        return ProxyResponse(response.status, [], broken(), [self._close])


def test_a_response_that_breaks_off_at_its_start_makes_another_endpoint_answer() -> None:
    clock = Clock()
    one, two = Breaking("one", "m"), Proxying("two", "m")
    one.answers = [400, 400]
    endpoints = [endpoint(one, clock), endpoint(two, priority=1), endpoint(Proxying("big", "n"))]
    router = Router(endpoints, fallbacks={"m": ["n"]})
    for _ in range(2):
        assert answered_by(proxied(router)) == "two"
        clock.seconds += 60
    assert (one.closed, endpoints[0].breaker.running) == (2, 0)
    one.answers = [200]
    assert answered_by(proxied(router)) == "two"


def test_a_fallback_counts_for_an_alias_and_other_spellings() -> None:
    one, two = Proxying("one", "a/Model-8B"), Proxying("two", "n")
    router = Router([endpoint(one), endpoint(two)], {"gpt": "a/Model-8B"}, {"a/Model-8B": ["n"]})
    for name in ("gpt", "model-8b", "A/MODEL-8B"):
        assert [name for name, _ in tried_in_order(router, name)] == ["one", "two"]


def test_the_fallbacks_of_an_aliass_target_count_however_the_alias_is_written() -> None:
    router = Router(
        [endpoint(Proxying("one", "a/X-8B")), endpoint(Proxying("two", "n"))],
        {"Gpt": "x-8b"},
        {"x-8b": ["n"]},
    )
    for name in ("Gpt", "gpt"):
        assert [name for name, _ in tried_in_order(router, name)] == ["one", "two"]


def test_an_unknown_fallback_refreshes_no_lists() -> None:
    one = Proxying("one", "m")
    router = Router([endpoint(one)], fallbacks={"m": ["gone"]})
    router.models()
    before = one.refreshed
    assert tried_in_order(router, "m") == [("one", ("m",))]
    assert one.refreshed == before


def test_the_overflow_is_the_error_when_no_fallback_answers() -> None:
    one, big = Proxying("one", "m"), Proxying("big", "n")
    one.answers, big.answers = [400], [503]
    one.body = b'{"error": {"message": "1000 tokens are too many", "type": "x", "code": '
    one.body += b'"context_length_exceeded"}}'
    with pytest.raises(ContextLengthExceeded, match="1000 tokens are too many"):
        proxied(Router([endpoint(one), endpoint(big)], fallbacks={"m": ["n"]}))


def test_a_503_may_say_how_long_it_lasts() -> None:
    clock = Clock()
    one, two = Proxying("one", "m"), Proxying("two", "m")
    plain = one.proxy
    one.answers = [503]

    def proxy(call: ProxyRequest, model: str | None, guard: Any = None, /) -> ProxyResponse:
        answer = plain(call, model)
        answer.headers.append(("Retry-After", "120"))
        return answer

    one.proxy = proxy  # type: ignore[method-assign]
    router = Router([endpoint(one, clock), endpoint(two, priority=1)])
    assert answered_by(proxied(router)) == "two"
    assert router.endpoints[0].breaker.cooldown_left() == 120


def test_very_long_names_are_not_remembered() -> None:
    router = Router([endpoint(Proxying("one", "m"))])
    with pytest.raises(ModelNotFound):
        router.candidates("x" * 10_000)
    assert router._index.visible_to(EVERYTHING)._resolved == {}


def test_the_fallback_example_of_the_docs_works_with_ollamas_names() -> None:
    ollama, cloud = Proxying("ollama", "llama3.2:latest"), Proxying("cloud", "gpt-4o-mini")
    router = Router(
        [endpoint(ollama), endpoint(cloud, prefix="cloud/", priority=1)],
        fallbacks={"llama3.2": ["cloud/gpt-4o-mini"]},
    )
    for name in ("llama3.2", "llama3.2:latest", "LLAMA3.2"):
        call = ProxyRequest("POST", "chat/completions", {}, NO_BODY, name)
        assert answered_by(proxied(router, call, name)) == "ollama"
    assert ollama.asked == ["llama3.2:latest"] * 3
    ollama.answers = [500]
    assert answered_by(proxied(router, CALL, "llama3.2:latest")) == "cloud"
    assert router.model("llama3.2")["id"] == "llama3.2:latest"


def test_endpoints_that_write_a_model_with_and_without_latest_stand_in_for_each_other() -> None:
    one, two = Proxying("one", "x"), Proxying("two", "x:latest")
    router = Router([endpoint(one), endpoint(two, priority=1)])
    assert tried_in_order(router, "x") == [("one", ("x",)), ("two", ("x:latest",))]


@pytest.mark.parametrize(
    ("glob", "name"), [("x", "x:latest"), ("x:latest", "x"), ("?", "x:latest")]
)
def test_globs_of_keys_and_endpoints_count_with_and_without_latest(glob: str, name: str) -> None:
    router = Router([endpoint(Proxying("one", name, "y2"), globs=[glob])])
    scope = ClientKey("k", models=(glob,))
    assert tried_in_order(router, "x", scope=scope) == [("one", (name,))]
    assert [model["id"] for model in router.models(scope)] == [name]


def test_a_key_for_tagged_models_is_not_one_for_all_without_a_tag() -> None:
    assert not ClientKey("k", models=("*:latest",)).allows_model("gpt-4")


def test_the_aliases_of_an_unlisted_model_are_followed_to_their_end() -> None:
    one = Proxying("one")
    one.offers_any = True
    aliases = {"a": "b", "b": "C", "c": "tts-1", "x": "y", "y": "x"}
    router = Router([endpoint(one)], aliases)
    assert tried_in_order(router, "a") == [("one", ("tts-1",))]
    with pytest.raises(ModelNotFound):
        router.candidates("x")


def test_another_endpoint_answers_where_the_proxys_account_has_too_few_kudos() -> None:
    horde, cloud = Offering("horde", "m"), Offering("cloud", "m")
    router = Router([endpoint(horde), endpoint(cloud, priority=1)])
    horde.failure = InsufficientKudos("too few")
    assert streamed(router) == (["cloud"], "cloud")
    horde.failure = None
    assert streamed(router) == (["horde"], "horde")


@pytest.mark.parametrize(
    ("caller", "error"),
    [
        (Caller(api_key="own"), InsufficientKudos("too few")),
        (Caller(), InsufficientKudos("too few", param="horde.max_kudos")),
        (Caller(api_key="own"), InvalidApiKey("unknown")),
    ],
)
def test_what_the_client_pays_or_limits_itself_is_not_paid_by_another_endpoint(
    caller: Caller, error: ProxyError
) -> None:
    horde, cloud = Offering("horde", "m"), Offering("cloud", "m")
    router = Router([endpoint(horde), endpoint(cloud, priority=1)])
    horde.failure = error
    with pytest.raises(type(error)):
        list(router.stream(CHAT, router.candidates("m"), caller))


def test_the_only_hordes_refusal_for_kudos_keeps_its_status() -> None:
    horde = Offering("horde", "m")
    horde.failure = InsufficientKudos("too few")
    with pytest.raises(InsufficientKudos, match="too few"):
        streamed(Router([endpoint(horde)]))


def test_the_requests_own_fallbacks_come_before_those_of_the_settings() -> None:
    one, two = Offering("one", "a", "b"), Offering("two", "c", "d")
    router = Router([endpoint(one), endpoint(two)], fallbacks={"a": ["d"]})
    order = tried_in_order(router, "a", further=("c", "b"))
    assert order == [("one", ("a",)), ("two", ("c",)), ("one", ("b",)), ("two", ("d",))]


def test_a_requests_models_that_nothing_offers_are_left_out() -> None:
    router = Router([endpoint(Offering("one", "a"))])
    candidates = router.candidates("gone", further=("lost", "a"))
    assert candidates.missing == ("gone", "lost")
    assert candidates.best == "a"


def test_a_request_may_name_no_model_beyond_its_scope() -> None:
    router = Router([endpoint(Offering("one", "a", "b"))])
    scope = ClientKey("ann", models=("a",))
    for hidden in ("b", "not-there"):
        with pytest.raises(Refused):
            router.candidates("a", scope, further=(hidden,))
        with pytest.raises(ModelNotFound, match=f"`{hidden}`"):
            router.candidates(hidden, scope, further=("a",))
