"""Which of several endpoints comes first: the one that has read the conversation, or the model."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from horde_proxy.errors import Unreachable
from horde_proxy.router import Router
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.line import EndpointLine, LineLimits
from horde_proxy.router.sticky import StickySessions
from horde_proxy.upstreams.base import Caller, Waiting
from horde_proxy.upstreams.proxying import ProxyResponse
from tests.support import Clock
from tests.test_router import CALL, CHAT, Proxying, endpoint, proxied


class Server(Proxying):
    """One that tells its slots and what it has in memory; None: it does not tell."""

    def __init__(self, name: str, *models: str, **extra: Any) -> None:
        super().__init__(name, *(models or ("m",)), **extra)
        self.loaded: dict[str, bool | None] = {}
        self.room: int | None = None

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        return tuple(models[:1])

    def slots(self, model: str) -> int | None:
        return self.room

    def is_loaded(self, model: str) -> bool | None:
        return self.loaded.get(model)


class Home:
    """Two servers with the model m; `first(session)` is the endpoint that a request goes to."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.one, self.two = Server("one", "m", "n"), Server("two", "m", "n")
        self.sessions = StickySessions(clock=self.clock)
        self.make(**settings)

    def make(self, *, sticky: bool = True, **places: Any) -> None:
        """The router, with these settings of endpoints by name."""
        self.endpoints = [
            Endpoint(
                upstream,
                CircuitBreaker(1, 60, self.clock),
                line=EndpointLine(limits=LineLimits(server_slots=upstream.slots), clock=self.clock),
                **places.get(upstream.name, {}),
            )
            for upstream in (self.one, self.two)
        ]
        self.router = Router(
            self.endpoints,
            chance=random.Random(7).random,
            sticky=self.sessions if sticky else None,
        )

    def order(self, session: str | None = None, model: str = "m") -> list[str]:
        """The endpoints in the order in which they would be tried."""
        candidates = self.router.candidates(model, session=session)
        return list(candidates.endpoint_names)

    def first(self, session: str | None = None, model: str = "m") -> str:
        """The endpoint that answers a request."""
        return proxied_with(self.router, model, session)

    def occupy(self, place: int, requests: int) -> None:
        """Let so many requests run at one endpoint."""
        for _ in range(requests):
            assert self.endpoints[place].health.try_acquire("n")
            assert self.endpoints[place].line.try_enter("n", Caller())


def proxied_with(router: Router, model: str, session: str | None) -> str:
    """The endpoint that answers a proxied call."""
    return answerer(router.proxy(CALL, router.candidates(model, session=session), Caller()))


def answerer(steps: Generator[Waiting, None, ProxyResponse | None]) -> str:
    """The endpoint that answers the call that these are the steps of."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            stop.value.close()
            return str(dict(stop.value.headers)["X-Endpoint"])


def test_a_session_stays_where_it_was_answered() -> None:
    home = Home()
    places = {str(session): home.first(str(session)) for session in range(10)}
    assert set(places.values()) == {"one", "two"}
    for _ in range(5):
        assert {session: home.first(session) for session in places} == places


def test_without_the_setting_or_a_session_requests_are_spread() -> None:
    for home, session in ((Home(sticky=False), "s"), (Home(), None)):
        assert {home.first(session) for _ in range(20)} == {"one", "two"}


def test_a_session_is_one_of_a_model() -> None:
    home = Home()
    for number in range(20):
        home.first(f"{number}", "m")
    places = [
        (home.order(f"{number}", "m")[0], home.first(f"{number}", "n")) for number in range(20)
    ]
    assert {one == other for one, other in places} == {True, False}


def test_two_requests_that_begin_a_session_go_to_one_endpoint() -> None:
    home = Home()
    for number in range(10):
        session = str(number)
        running = iter(home.router.candidates("m", session=session))
        candidate, attempt = next(running)
        assert home.first(session) == candidate.endpoint.name
        attempt.end()


def test_a_session_leaves_an_endpoint_that_is_much_busier() -> None:
    home = Home()
    place = ["one", "two"].index(home.first("s"))
    other = ["two", "one"][place]
    home.occupy(place, 2)
    assert home.order("s")[0] != other
    home.occupy(place, 1)
    assert home.order("s") == [other, ["one", "two"][place]]
    # It stays where it is read anew.
    assert home.first("s") == other
    home.occupy(1 - place, 3)
    assert home.first("s") == other


def test_busy_is_counted_for_each_unit_of_weight() -> None:
    home = Home(one={"weight": 3.0})
    home.sessions.remember(home.sessions.session("m", "s")._key, "one", None)
    home.occupy(0, 4)
    assert home.order("s") == ["one", "two"]
    home.occupy(0, 1)
    assert home.order("s") == ["two", "one"]


def test_a_session_stays_while_a_slot_is_free() -> None:
    home = Home()
    home.one.room = home.two.room = 4
    place = ["one", "two"].index(home.first("s"))
    home.occupy(place, 3)
    assert home.order("s")[0] == ["one", "two"][place]
    home.occupy(place, 1)
    assert home.order("s")[0] == ["two", "one"][place]


def test_a_session_waits_ten_seconds_for_a_slot_and_goes_to_the_first_that_is_free() -> None:
    home = Home()
    home.one.room = home.two.room = 1
    place = ["one", "two"].index(home.first("s"))
    slot = home.endpoints[place].line.try_enter("m", Caller())
    assert slot is not None
    here, elsewhere = ["one", "two"][place], ["two", "one"][place]
    steps = home.router.proxy(CALL, home.router.candidates("m", session="s"), Caller())
    assert next(steps).queue_position == 1
    # The slot comes soon enough.
    slot.free()
    assert answerer(steps) == here
    slot = home.endpoints[place].line.try_enter("m", Caller())
    steps = home.router.proxy(CALL, home.router.candidates("m", session="s"), Caller())
    next(steps)
    home.clock.seconds += 10
    assert answerer(steps) == elsewhere
    # That one has read the conversation last.
    assert home.order("s")[0] == elsewhere
    # A new conversation does not wait.
    assert {home.first(name) for name in "abcdef"} == {elsewhere}


def test_an_endpoint_that_cools_down_is_not_the_least_busy_one() -> None:
    home = Home()
    home.two.answers = [Unreachable("refused")] * 2
    home.two.cooldown_errors = (Unreachable,)
    for session in ("a", "b"):
        assert home.first(session) == "one"
    assert home.endpoints[1].health.cooldown_left("m") > 0
    home.occupy(0, 5)
    assert home.order("a")[0] == "one"


def test_a_priority_goes_before_a_session() -> None:
    home = Home(two={"priority": 1})
    home.one.answers = [Unreachable("refused")]
    home.one.cooldown_errors = (Unreachable,)
    assert home.first("s") == "two"
    home.clock.seconds += 2
    assert home.order("s") == ["one", "two"]
    assert home.first("s") == "one"


def test_a_cooldown_goes_before_a_session() -> None:
    home = Home()
    place = ["one", "two"].index(home.first("s"))
    server, other = [(home.one, "two"), (home.two, "one")][place]
    server.answers = [Unreachable("refused")]
    server.cooldown_errors = (Unreachable,)
    # It moves to the one that answers, and stays there.
    assert home.first("s") == other
    home.clock.seconds += 100
    assert {home.first("s") for _ in range(5)} == {other}


def test_a_session_is_forgotten_after_an_hour() -> None:
    home = Home()
    key = home.sessions.session("m", "s")._key
    home.sessions.remember(key, "one", None)
    home.clock.seconds += 3599
    assert home.sessions.endpoint(key) == "one"
    home.clock.seconds += 2
    assert home.sessions.endpoint(key) is None


def test_sessions_are_bounded_and_the_least_recently_used_one_goes() -> None:
    sessions = StickySessions(clock=Clock())
    for number in range(10_000):
        sessions.remember(str(number), "one", None)
    assert sessions.endpoint("0") == "one"
    sessions.remember("more", "one", None)
    assert (sessions.endpoint("0"), sessions.endpoint("1")) == ("one", None)


def test_an_identity_is_kept_as_a_digest_only() -> None:
    sessions = StickySessions(clock=Clock())
    assert "secret" not in repr(vars(sessions.session("m", "secret")))
    assert sessions.session("m", "a")._key == sessions.session("M", "a")._key


class Shared:
    """What several processes share; `is_up` says whether it answers."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.is_up = True

    def get(self, key: str) -> tuple[bool, str | None]:
        return (True, self.texts.get(key)) if self.is_up else (False, None)

    def put(self, key: str, text: str) -> None:
        if self.is_up:
            self.texts[key] = text


def test_processes_share_sessions_and_go_on_alone_without_redis() -> None:
    shared = Shared()
    one, two = (StickySessions(shared, Clock()) for _ in range(2))
    one.session("m", "s").move_to("home")
    assert two.session("m", "s").endpoint == "home"
    two.session("m", "s").move_to("cloud")
    assert one.session("m", "s").endpoint == "cloud"
    shared.is_up = False
    assert (one.session("m", "s").endpoint, two.session("m", "s").endpoint) == ("home", "cloud")


def test_an_endpoint_with_the_model_in_memory_comes_first() -> None:
    home = Home()
    home.one.loaded, home.two.loaded = {"m": False}, {"m": True}
    assert {home.order()[0] for _ in range(10)} == {"two"}
    home.occupy(1, 2)
    assert home.order()[0] == "two"
    home.occupy(1, 1)
    assert home.order()[0] == "one"


def test_a_server_that_does_not_tell_is_as_good_as_one_with_the_model_in_memory() -> None:
    home = Home()
    home.one.loaded = {"m": False}
    assert {home.order()[0] for _ in range(10)} == {"two"}
    home.two.loaded = {"m": False}
    assert {home.order()[0] for _ in range(10)} == {"one", "two"}


def test_a_model_that_has_just_answered_is_in_memory() -> None:
    home = Home()
    home.one.loaded = home.two.loaded = {"m": False}
    first = home.first()
    assert {home.first() for _ in range(10)} == {first}
    home.clock.seconds += 31
    assert {home.order()[0] for _ in range(10)} == {"one", "two"}


def test_a_model_that_is_being_loaded_for_a_request_counts_as_in_memory() -> None:
    home = Home()
    home.one.loaded = home.two.loaded = {"m": False}
    attempt = home.endpoints[1].health.try_acquire("m")
    assert attempt is not None
    assert {home.order()[0] for _ in range(10)} == {"two"}
    attempt.end()


def test_a_session_leaves_a_server_that_has_unloaded_the_model() -> None:
    home = Home()
    place = ["one", "two"].index(home.first("s"))
    home.clock.seconds += 31
    server, other = ((home.one, home.two), (home.two, home.one))[place]
    server.loaded, other.loaded = {"m": False}, {"m": True}
    assert home.order("s")[0] == other.name
    other.loaded = {"m": False}
    assert {home.order("s")[0] for _ in range(10)} == {server.name}


def test_of_a_groups_models_the_one_in_memory_is_tried_first() -> None:
    server = Server("one", "llama-a", "llama-b")
    server.loaded = {"llama-a": False, "llama-b": True}
    router = Router([endpoint(server)])
    assert [candidate.models for candidate, _ in router.candidates("llama-*")] == [
        ("llama-b",),
        ("llama-a",),
    ]


def test_the_priority_goes_before_what_is_in_memory() -> None:
    home = Home(two={"priority": 1})
    home.one.loaded, home.two.loaded = {"m": False}, {"m": True}
    assert home.order() == ["one", "two"]


@pytest.mark.parametrize("name", ["stream", "proxy"])
def test_streams_and_proxied_calls_move_a_session(name: str) -> None:
    home = Home()
    for session in "abc":
        candidates = home.router.candidates("m", session=session)
        chosen = candidates.endpoint_names[0]
        if name == "stream":
            list(home.router.stream(CHAT, candidates, Caller()))
        else:
            assert proxied(home.router) is not None
            assert proxied_with(home.router, "m", session)
        assert home.sessions.session("m", session).endpoint in {chosen, "one", "two"}
        assert home.order(session)[0] == home.sessions.session("m", session).endpoint
