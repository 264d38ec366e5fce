"""What an outage of the horde does to the chats that wait: nothing, while their clients wait."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import requests
import responses

from horde_proxy.errors import TimedOut, Unreachable, UpstreamFailed
from horde_proxy.protocol.chunks import Head, chunk, fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.router import Router
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.upstreams.base import Accepted, Caller, Route, StreamItem, Waiting
from horde_proxy.upstreams.horde.client import HordeClient, NotTaken
from horde_proxy.upstreams.horde.text import TEXT
from horde_proxy.upstreams.interleave import take_turns
from horde_proxy.worker.bridge import Bridge
from tests.support import HORDE_URL, Clock, Scripted, World
from tests.test_router import Offering

CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
REQUEST = GenerationRequest("test/model", (Message("user", "Hi"),))
OTHER = {"type": "horde", "name": "other", "url": "http://other.invalid", "priority": 1}


def worker(world: World, text: str = "Hello.", after: float = 0.0) -> Bridge:
    """A worker that serves from so many seconds on, and goes on after an outage."""
    bridge, begin = world.bridge(Scripted(text)), world.clock() + after
    bridge.step(world.session)

    def step() -> None:
        if world.clock() >= begin:
            with suppress(Exception):
                bridge.step(world.session)

    world.clock.every_sleep.append(step)
    return bridge


def items(world: World, caller: Caller, request: GenerationRequest = REQUEST) -> Iterator[Any]:
    upstream = world.upstream()
    upstream.models()
    return upstream.stream(request, Route(upstream, ("test/model",)), caller)


def until(world: World, seconds: float, may_fail_over: bool = False) -> Caller:
    """A caller who waits so long."""
    return Caller(deadline=world.clock() + seconds, may_fail_over=lambda: may_fail_over)


def text_of(answer: list[StreamItem]) -> str:
    message = fold(item for item in answer if isinstance(item, dict))["choices"][0]["message"]
    return str(message["content"])


def test_a_waiting_chat_survives_an_outage_of_150_seconds(world: World) -> None:
    worker(world, after=160)
    caller = until(world, 280)
    answer = list(items(world, caller)) if world.cut_between(5, 155) else []
    states = [item.state for item in answer if isinstance(item, Waiting)]
    assert text_of(answer) == "Hello."
    assert list(dict.fromkeys(states)) == ["queued", "horde unreachable"]
    assert caller.submits.used == 1


def test_an_outage_loses_none_of_fifty_chats_that_wait(world: World) -> None:
    world.configure(horde={"address_limits": [], "key_limits": []})
    worker(world, after=160)
    upstream = world.upstream()
    upstream.models()
    route = Route(upstream, ("test/model",))
    # Thirty are submitted before it, as many as the account may have; the others wait for a turn.
    # Each sleeps in its turn, and moves the clock of all.
    caller = until(world, 10_000)
    chats = [upstream.stream(REQUEST, route, replace(caller)) for _ in range(50)]
    world.cut_between(0.1, 150)
    answers: dict[int, list[StreamItem]] = {}
    for position, item in take_turns(chats, 50):
        answers.setdefault(position, []).append(item)
    assert [text_of(answers[position]) for position in range(50)] == ["Hello."] * 50


def test_a_new_chat_waits_for_the_horde_and_its_stream_begins(world: World) -> None:
    worker(world)
    caller, begin = until(world, 280), world.clock()
    stream = items(world, caller)
    cable = world.cut_between(0, 150)
    early, role, waiting = (next(stream) for _ in range(3))
    assert early.is_early
    assert world.clock() - begin == pytest.approx(2.7)
    assert waiting == Waiting("horde unreachable")
    answer = [early, role, waiting, *stream]
    accepted = [item for item in answer if isinstance(item, Accepted)]
    assert text_of(answer) == "Hello."
    assert [item.is_early for item in accepted] == [True, False]
    assert len(accepted[1].headers["X-Horde-Request-Id"]) == 36
    # A try each five seconds; those that did not reach the horde count for nothing.
    assert 25 <= cable.calls.count("POST generate/text/async") <= 32
    assert caller.submits.used == 1


def test_an_outage_in_the_middle_of_an_answer_is_waited_for(world: World) -> None:
    worker(world, "word " * 64)
    request = replace(REQUEST, max_tokens=300, stream=True)
    stream = items(world, until(world, 1000), request)
    cable, answer = world.cable(), []
    for item in stream:
        answer.append(item)
        if isinstance(item, dict) and "word" in str(item) and not cable.is_cut:
            begin, cable.is_cut = world.clock(), True
            break
    for item in stream:
        answer.append(item)
        cable.is_cut = world.clock() - begin < 150
    folded = fold(item for item in answer if isinstance(item, dict))
    assert "cut_off_by" not in folded["horde"]
    assert len(folded["horde"]["request_ids"]) > 1


def test_an_outage_that_outlasts_the_client_is_named(world: World) -> None:
    worker(world)
    stream = items(world, until(world, 100))
    world.cut_between(0, 10_000)
    begin = world.clock()
    with pytest.raises(Unreachable, match="The horde at horde.invalid cannot be reached."):
        list(stream)
    assert 85 < world.clock() - begin < 100


def test_a_waiting_chat_ends_with_its_clients_time(world: World) -> None:
    worker(world, after=10_000)
    stream = items(world, until(world, 200))
    world.cut_between(5, 10_000)
    begin = world.clock()
    with pytest.raises((TimedOut, Unreachable)):
        list(stream)
    assert 197 < world.clock() - begin <= 200


def test_what_may_have_arrived_is_not_submitted_again(world: World) -> None:
    worker(world)
    stream = items(world, until(world, 280))
    cable = world.cable()
    cable.is_mute = True
    with pytest.raises(Unreachable, match="did not answer in time"):
        list(stream)
    assert cable.calls.count("POST generate/text/async") == 1


@pytest.mark.parametrize(
    ("trouble", "may_be_sent_again"),
    [
        (requests.ConnectTimeout(), True),
        (requests.ReadTimeout(), False),
        (requests.ConnectionError("Connection aborted."), False),
        (requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"), False),
        (503, True),
        (502, False),
        (500, False),
    ],
)
@responses.activate
def test_only_what_was_never_taken_may_be_sent_again(
    trouble: int | Exception, may_be_sent_again: bool
) -> None:
    client = HordeClient(HORDE_URL, requests.Session(), contact="test", timeout=(1, 1))
    answer = {"status": trouble} if isinstance(trouble, int) else {"body": trouble}
    responses.post(f"{HORDE_URL}/api/v2/generate/text/async", **answer)
    with pytest.raises(UpstreamFailed) as failure:
        client.submit(TEXT, {}, "key")
    assert isinstance(failure.value, NotTaken) is may_be_sent_again


def test_where_another_endpoint_may_answer_a_new_chat_does_not_wait(world: World) -> None:
    worker(world)
    stream = items(world, until(world, 280, may_fail_over=True))
    begin = world.clock()
    world.cut_between(0, 150)
    with pytest.raises(Unreachable):
        list(stream)
    assert world.clock() == begin


def test_where_another_endpoint_may_answer_a_waiting_chat_waits_a_minute(world: World) -> None:
    worker(world, after=10_000)
    stream = items(world, until(world, 280, may_fail_over=True))
    begin = world.clock()
    world.cut_between(0.1, 10_000)
    with pytest.raises(UpstreamFailed):
        list(stream)
    assert 60 < world.clock() - begin < 65


def test_a_horde_that_came_back_has_a_moment_until_its_workers_are_back(world: World) -> None:
    bridge = world.bridge(Scripted("Hello."))
    bridge.step(world.session)
    stream = items(world, until(world, 1000))
    begin = world.clock()
    [known] = world.horde.fleet.workers("text", None)
    world.cut_between(50, 200)
    next(stream)
    # Before the outage no worker could take it for 45 s, and again for 30 s after it.
    world.horde.fleet.change_worker("owner-key-of-the-tests", known["id"], {"maintenance": True})
    while world.clock() - begin <= 230:
        next(stream)
    world.horde.fleet.change_worker("owner-key-of-the-tests", known["id"], {"maintenance": False})
    world.clock.every_sleep.append(lambda: bridge.step(world.session))
    assert text_of([next(stream), *stream][-4:]) == "Hello."


def test_keep_alives_say_that_the_horde_cannot_be_reached(world: World) -> None:
    worker(world)
    http = world.http()
    http.get("/v1/models")
    world.cut_between(0, 100)
    response = http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert response.status_code == 200
    lines = response.text.split("\n")
    assert ": horde unreachable" in lines
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert "data: [DONE]" in lines


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_each_front_waits_for_the_horde(world: World, path: str, is_stream: bool) -> None:
    worker(world)
    http = world.http()
    http.get("/v1/models")
    world.cut_between(0, 150)
    body = {"model": "test/model", "stream": is_stream, "max_tokens": 50}
    body |= {"prompt": "Hi"} if path == "completions" else {"messages": CHAT["messages"]}
    response = http.post(f"/v1/{path}", json=body)
    assert (response.status_code, "Hello" in response.text) == (200, True)


def test_an_answer_in_one_piece_tells_that_the_horde_cannot_be_reached(world: World) -> None:
    worker(world)
    http = world.http()
    http.get("/v1/models")
    world.cut_between(0, 10_000)
    response = http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 502
    assert (
        response.get_json()["error"]["message"] == "The horde at horde.invalid cannot be reached."
    )


def test_another_endpoint_answers_new_chats_during_an_outage(world: World) -> None:
    other = World()
    world.session.mount("http://other.invalid", other.session.get_adapter(HORDE_URL))
    world.configure(endpoints=[{"type": "horde"}, OTHER])
    worker(world, "From the first.")
    other.clock = world.clock
    other.employ(Scripted("From the other."))
    http = world.http()
    http.get("/v1/models")
    world.cut_between(0, 10_000)
    begin = world.clock()
    answer = http.post("/v1/chat/completions", json=CHAT).get_json()
    assert answer["choices"][0]["message"]["content"] == "From the other."
    assert world.clock() - begin < 10


def test_a_lone_horde_that_refuses_connections_is_down_and_up_again(world: World) -> None:
    worker(world)
    http = world.http()

    def state() -> tuple[str, str | None]:
        [endpoint] = http.get("/v1/endpoints").get_json()["data"]
        return endpoint["state"], endpoint["last_error"]

    assert state() == ("up", None)
    cable = world.cable()
    cable.is_cut = True
    world.clock.seconds += 60
    assert state() == ("down", "The horde at horde.invalid cannot be reached.")
    assert 'horde_proxy_endpoint_up{upstream="horde"} 0.0' in http.get("/metrics").text
    cable.is_cut = False
    world.clock.seconds += 60
    assert state() == ("up", None)


def test_a_stream_that_begins_without_an_answer_says_nothing_good_of_its_endpoint() -> None:
    class Early(Offering):
        def stream(
            self, request: GenerationRequest, route: Route, caller: Caller
        ) -> Generator[StreamItem, None, None]:
            yield Accepted({}, self.name, is_early=True)
            yield Waiting("horde unreachable")
            yield Accepted({}, self.name)

    clock = Clock()
    one = Endpoint(Early("one", "m"), CircuitBreaker(1, 60, clock))
    attempt = one.breaker.try_acquire()
    assert attempt is not None
    attempt.failed("gone")
    attempt.end()
    clock.seconds += 1
    router = Router([one])
    items = router.stream(REQUEST, router.candidates("m"), Caller())
    states = [one.breaker.state()["state"] for _ in items]
    assert states == ["probing", "probing", "up"]


def test_only_an_endpoint_that_is_not_cooling_may_answer_instead() -> None:
    asked: list[bool] = []

    class Asking(Offering):
        def stream(
            self, request: GenerationRequest, route: Route, caller: Caller
        ) -> Generator[StreamItem, None, None]:
            asked.append(caller.may_fail_over())
            yield Accepted({}, self.name)
            yield chunk(Head("id", 1, "m"), {"content": "x"})
            asked.append(caller.may_fail_over())

    clock = Clock()
    one = Endpoint(Asking("one", "m"), CircuitBreaker(1, 60, clock))
    two = Endpoint(Asking("two", "m"), CircuitBreaker(1, 60, clock), priority=1)
    router = Router([one, two])
    list(router.stream(REQUEST, router.candidates("m"), Caller()))
    # Once the client has seen content, no other endpoint may answer.
    assert asked == [True, False]
    attempt = two.breaker.try_acquire()
    assert attempt is not None
    attempt.failed("gone")
    attempt.end()
    list(router.stream(REQUEST, router.candidates("m"), Caller()))
    assert asked[2:] == [False, False]
