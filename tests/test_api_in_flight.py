"""Requests that come again, clients that leave, and what they may see of what runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from horde_proxy.api.in_flight import InFlight
from horde_proxy.api.shared_answer import RequestInfo
from horde_proxy.errors import ClientGone, UpstreamFailed
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.router import Router
from horde_proxy.upstreams.base import Accepted, Caller, Route, Sleeper, Spent, StreamItem, Waiting
from horde_proxy.worker.backends import BackendError
from tests.support import HORDE_URL, Clock, Scripted, World, known
from tests.test_router import Offering, endpoint

INFO = RequestInfo("id", "ann", "m", False, 0.0)
RETRY = replace(INFO, is_retry=True)


class Source:
    """An upstream's items, counted, with a clock that moves a second with each Waiting."""

    def __init__(self, clock: Clock, *items: StreamItem, waits: int = 0) -> None:
        self.clock, self.items, self.waits = clock, items, waits
        self.started = self.closed = 0

    def __call__(self) -> Iterator[StreamItem]:
        self.started += 1
        try:
            yield Accepted()
            for _ in range(self.waits):
                self.clock.seconds += 1
                yield Waiting("queued", 3, 20)
            yield from self.items
        finally:
            self.closed += 1


def text(content: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}}]}


def in_flight(clock: Clock) -> InFlight:
    return InFlight(grace=10, window=60, clock=clock)


def follow(
    running: InFlight, key: str, info: RequestInfo, start: Callable[[], Iterator[StreamItem]]
) -> Generator[StreamItem, None, None]:
    """What a client reads that sends the request `key`."""
    with running.join(key, info, start) as reader:
        while (item := reader.next()) is not None:
            yield item


def items_of(found: Iterator[StreamItem]) -> list[StreamItem]:
    return [item for item in found if not isinstance(item, Waiting)]


def test_a_retry_shares_the_answer_that_is_on_its_way() -> None:
    clock = Clock()
    source, running = Source(clock, text("a"), text("b"), waits=2), in_flight(Clock())
    first = follow(running, "key", INFO, source)
    assert [next(first), next(first)] == [Accepted(), Waiting("queued", 3, 20)]
    second = follow(running, "key", RETRY, source)
    assert items_of(second) == [Accepted(), text("a"), text("b")]
    assert items_of(first) == [text("a"), text("b")]
    assert source.started == 1


def test_another_request_gets_an_answer_of_its_own() -> None:
    source, running = Source(Clock()), in_flight(Clock())
    assert items_of(follow(running, "one", INFO, source)) == [Accepted()]
    assert items_of(follow(running, "two", INFO, source)) == [Accepted()]
    assert source.started == 2


def test_two_equal_requests_at_once_are_two() -> None:
    source, running = Source(Clock(), text("a")), in_flight(Clock())
    first, second = (follow(running, "key", INFO, source) for _ in range(2))
    assert next(first) == next(second) == Accepted()
    assert items_of(first) == items_of(second) == [text("a")]
    assert source.started == 2


@pytest.mark.parametrize(
    ("first", "second", "started"),
    [("one", "one", 1), ("one", "two", 2), (None, "one", 2), ("one", None, 2)],
)
def test_requests_with_the_same_idempotency_key_are_one(
    first: str | None, second: str | None, started: int
) -> None:
    source, running = Source(Clock(), text("a")), in_flight(Clock())
    readers = [
        follow(running, "key", replace(INFO, idempotency_key=key), source)
        for key in (first, second)
    ]
    assert [next(reader) for reader in readers] == [Accepted(), Accepted()]
    assert source.started == started
    for reader in readers:
        reader.close()


def test_a_retry_with_another_idempotency_key_is_another_request() -> None:
    source, running = Source(Clock(), text("a")), in_flight(Clock())
    first = follow(running, "key", replace(INFO, idempotency_key="one"), source)
    second = follow(running, "key", replace(RETRY, idempotency_key="two"), source)
    assert next(first) == next(second) == Accepted()
    assert source.started == 2
    first.close()
    second.close()


def test_a_left_answer_is_not_for_a_request_with_another_idempotency_key() -> None:
    clock = Clock()
    source, running = Source(clock, text("a"), waits=5), in_flight(clock)
    first = follow(running, "key", replace(INFO, idempotency_key="one"), source)
    next(first)
    first.close()
    list(follow(running, "key", replace(INFO, idempotency_key="two"), source))
    assert source.started == 2
    list(follow(running, "key", replace(INFO, idempotency_key="one"), source))
    assert source.started == 2


def test_an_answer_that_was_received_is_not_given_again() -> None:
    source, running = Source(Clock()), in_flight(Clock())
    list(follow(running, "key", INFO, source))
    list(follow(running, "key", INFO, source))
    assert source.started == 2


def test_what_a_client_left_is_cancelled_after_the_grace() -> None:
    clock = Clock()
    source, running = Source(clock, waits=100), in_flight(clock)
    first = follow(running, "key", INFO, source)
    next(first)
    first.close()
    assert source.closed == 1
    assert clock.seconds == 1000 + 10
    list(follow(running, "key", INFO, source))
    assert source.started == 2


def test_an_answer_that_came_after_its_client_left_is_kept_for_a_minute() -> None:
    clock = Clock()
    source, running = Source(clock, text("a"), waits=5), in_flight(clock)
    first = follow(running, "key", INFO, source)
    next(first)
    first.close()
    clock.seconds += 50
    assert items_of(follow(running, "key", INFO, source)) == [Accepted(), text("a")]
    assert source.started == 1
    clock.seconds += 60
    list(follow(running, "key", INFO, source))
    assert source.started == 2


def test_a_kept_answer_is_forgotten_in_time_without_another_request() -> None:
    clock, timers = Clock(), []
    running = InFlight(
        grace=10, window=60, clock=clock, call_later=lambda *timer: timers.append(timer)
    )
    for key in ("one", "two"):
        reader = follow(running, key, INFO, Source(clock, text("a"), waits=5))
        next(reader)
        reader.close()
        clock.seconds += 20
    [(seconds, sweep)] = timers
    assert seconds == 60
    clock.seconds += 60 - 45 + 5
    sweep()
    assert [*running._answers] == ["two"]
    _, (seconds, sweep) = timers
    clock.seconds += seconds
    sweep()
    assert not running._answers
    assert len(timers) == 2


def test_a_client_that_comes_back_within_the_grace_finds_its_request_running() -> None:
    clock = Clock()
    running, came_back = in_flight(clock), threading.Event()
    got: list[StreamItem] = []

    class Slow(Source):
        def __call__(self) -> Iterator[StreamItem]:
            self.started += 1
            yield Accepted()
            assert came_back.wait(60)
            yield text("a")

    source = Slow(clock)
    first = follow(running, "key", INFO, source)
    next(first)
    leaving = threading.Thread(target=first.close)
    leaving.start()
    second = follow(running, "key", RETRY, source)
    came_back.set()
    got = items_of(second)
    leaving.join()
    assert got == [Accepted(), text("a")]
    assert source.started == 1


def test_a_failure_reaches_all_and_a_later_request_begins_anew() -> None:
    class Failing(Source):
        def __call__(self) -> Iterator[StreamItem]:
            self.started += 1
            yield Accepted()
            raise UpstreamFailed("no")

    source, running = Failing(Clock()), in_flight(Clock())
    first, second = (follow(running, "key", info, source) for info in (INFO, RETRY))
    assert next(first) == next(second) == Accepted()
    for follower in (first, second):
        with pytest.raises(UpstreamFailed):
            list(follower)
    with pytest.raises(UpstreamFailed):
        list(follow(running, "key", INFO, source))
    assert source.started == 2


def test_a_cancelled_answer_ends_for_a_reader_that_still_has_it() -> None:
    clock = Clock()
    source, running = Source(clock, waits=100), in_flight(clock)
    first = follow(running, "key", INFO, source)
    next(first)
    [held] = running._answers["key"]
    first.close()
    assert isinstance(held.error, ClientGone)


def test_many_readers_get_the_same_items() -> None:
    clock = Clock()
    chunks = [text(str(number)) for number in range(200)]
    source, running = Source(clock, *chunks), in_flight(clock)
    first = follow(running, "key", INFO, source)
    next(first)
    got: list[list[StreamItem]] = []
    threads = [
        threading.Thread(target=lambda: got.append(items_of(follow(running, "key", RETRY, source))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    rest = items_of(first)
    for thread in threads:
        thread.join()
    assert got == [[Accepted(), *chunks]] * 8
    assert rest == chunks


CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
KEYS = known(ann="key-of-ann-longer", bob="key-of-bob-longer")


def asked(world: World, admins: Sequence[str] = ()) -> tuple[World, Any]:
    world.configure(**KEYS).configure(access={"admins": list(admins)})
    return world, world.http()


def headers(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key-of-{name}-longer"}


def test_a_client_sees_its_own_requests_and_an_admin_all(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world, http = asked(world, admins=["bob"])
    stream = http.post(
        "/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers("ann")
    )
    next(iter(stream.response))
    [mine] = http.get("/v1/horde/requests", headers=headers("ann")).json["data"]
    assert (mine["model"], mine["stream"], mine["has_text"]) == ("test/model", True, False)
    assert len(http.get("/v1/horde/requests", headers=headers("bob")).json["data"]) == 1
    stream.close()
    assert http.get("/v1/horde/requests", headers=headers("ann")).json["data"] == []


@pytest.mark.parametrize(
    ("extra", "submitted"),
    [
        ({}, 2),
        ({"X-Stainless-Retry-Count": "0"}, 2),
        ({"X-Stainless-Retry-Count": "1"}, 1),
        ({"X-Stainless-Retry-Count": "many"}, 2),
        ({"Idempotency-Key": "one"}, 1),
        ({"Idempotency-Key": "two"}, 2),
    ],
)
def test_an_equal_request_shares_an_answer_only_as_a_declared_retry(
    world: World, extra: dict[str, str], submitted: int
) -> None:
    world.bridge(Scripted("x")).step(world.session)
    http = world.http()
    asks = {**CHAT, "stream": True}
    first = http.post("/v1/chat/completions", json=asks, headers={"Idempotency-Key": "one"})
    second = http.post("/v1/chat/completions", json=asks, headers=extra)
    assert len(world.horde.open_requests()) == submitted
    first.close()
    second.close()


def used(http: Any, name: str) -> list[tuple[int, int, int]]:
    rows = http.get("/v1/usage", headers=headers(name)).json["data"]
    return [(each["requests"], each["prompt_tokens"], each["completion_tokens"]) for each in rows]


@pytest.mark.parametrize(
    "path,body",
    [
        ("chat/completions", CHAT),
        (
            "chat/completions",
            {
                **CHAT,
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "look", "parameters": {"type": "object"}},
                    },
                ],
            },
        ),
        ("completions", {"model": "test/model", "prompt": ["Hi", "Ho"]}),
    ],
)
def test_a_client_that_leaves_early_pays_for_what_was_generated(
    world: World, path: str, body: dict[str, Any]
) -> None:
    world.employ(Scripted("One two three four five."))
    world, http = asked(world)
    whole = http.post(f"/v1/{path}", json=body, headers=headers("bob")).json["usage"]
    stream = http.post(f"/v1/{path}", json={**body, "stream": True}, headers=headers("ann"))
    assert any("two" in piece.decode() for piece in stream.response)
    stream.close()
    assert used(http, "ann") == [(1, whole["prompt_tokens"], whole["completion_tokens"])]
    rows = http.get("/v1/usage", headers=headers("ann")).json["data"]
    assert rows[0]["kudos"] > 0


def test_a_client_that_leaves_before_any_text_pays_nothing(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world, http = asked(world)
    stream = http.post(
        "/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers("ann")
    )
    next(iter(stream.response))
    stream.close()
    assert used(http, "ann") == [(1, 0, 0)]


def test_the_last_reader_of_a_shared_answer_pays_for_it() -> None:
    def source() -> Iterator[StreamItem]:
        yield Accepted(spent=lambda: Spent(7, 5, 3.0))
        yield text("a")
        yield text("b")

    running = in_flight(Clock())
    first = follow(running, "key", INFO, source)
    accepted = next(first)
    second = follow(running, "key", RETRY, source)
    next(second)
    first.close()
    assert isinstance(accepted, Accepted)
    assert accepted.spent() == Spent()
    second.close()
    assert accepted.spent() == Spent(7, 5, 3.0)


def test_a_client_that_comes_back_does_not_pay_twice(world: World) -> None:
    world.employ(Scripted("One two three four five."))
    world, http = asked(world)
    whole = http.post("/v1/chat/completions", json=CHAT, headers=headers("bob")).json["usage"]
    asks = {"json": {**CHAT, "stream": True}, "headers": headers("ann")}
    stream = http.post("/v1/chat/completions", **asks)
    assert any("two" in piece.decode() for piece in stream.response)
    stream.close()
    with http.post("/v1/chat/completions", **asks) as again:
        assert "five." in again.text
    assert used(http, "ann") == [(2, whole["prompt_tokens"], whole["completion_tokens"])]


def test_a_client_that_left_pays_nothing_once_another_has_read_all() -> None:
    def source() -> Iterator[StreamItem]:
        yield Accepted(spent=lambda: Spent(7, 5, 3.0))
        yield text("a")

    running = in_flight(Clock())
    first = follow(running, "key", INFO, source)
    accepted = next(first)
    second = follow(running, "key", RETRY, source)
    first.close()
    assert items_of(second) == [Accepted(), text("a")]
    assert isinstance(accepted, Accepted)
    assert accepted.spent() == Spent()


def test_a_client_does_not_see_the_requests_of_others(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world, http = asked(world)
    stream = http.post(
        "/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers("ann")
    )
    assert http.get("/v1/horde/requests", headers=headers("bob")).json["data"] == []
    assert http.get("/v1/horde/requests").status_code == 401
    stream.close()


def test_the_account_is_shown_without_its_key(world: World) -> None:
    found = world.http().get("/v1/horde/account")
    assert found.json == {
        "object": "horde.account",
        "name": "client#2",
        "kudos": 10000.0,
        "concurrency": 30,
        "trusted": False,
        "workers": 0,
        "running": [],
    }


def test_progress_comes_as_reasoning_when_requested(world: World) -> None:
    world.employ(Scripted("Hello."))
    world.clock.every_sleep.pop()
    world.configure(server={"stream_timeout": 30})
    response = world.http().post(
        "/v1/chat/completions",
        json={
            **CHAT,
            "stream": True,
            "horde": {"progress": "reasoning"},
        },
    )
    events = [
        json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")
    ]
    told = [
        each["choices"][0]["delta"]["reasoning_content"]
        for each in events
        if each.get("choices") and "reasoning_content" in each["choices"][0]["delta"]
    ]
    assert told[0].startswith("queued, about ")
    assert told[1].startswith("queued, position 1, about ")


def test_a_pushed_result_is_fetched_at_once(world: World) -> None:
    secrets = iter(["one", "two"])
    world.runtime = replace(world.runtime, new_secret=lambda: next(secrets))
    world.configure(horde={"webhook_url": "https://proxy.invalid"})
    bridge = world.bridge(Scripted("Hello."))
    bridge.step(world.session)
    http = world.http()
    box: list[Any] = []

    def push() -> None:
        if not box and world.horde.open_requests():
            box.append(world.horde.open_requests()[0].id)
            bridge.step(world.session)
            forged = http.post("/horde/webhook/guess", json={"id": "j", "request": box[0]})
            wrong = http.post("/horde/webhook/one", json={"id": "j", "request": "other"})
            right = http.post("/horde/webhook/one", json={"id": "j", "request": box[0]})
            again = http.post("/horde/webhook/one", json={"id": "j", "request": box[0]})
            box.extend(
                [forged.status_code, wrong.status_code, right.status_code, again.status_code]
            )

    world.clock.every_sleep.append(push)
    began = world.clock()
    answer = http.post("/v1/chat/completions", json=CHAT).get_json()
    assert answer["choices"][0]["message"]["content"] == "Hello."
    assert box[1:] == [404, 404, 204, 404]
    assert world.clock() - began <= 2
    assert http.post("/horde/webhook/one", json={"id": "k", "request": box[0]}).status_code == 404


def test_without_a_webhook_nothing_is_delivered(world: World) -> None:
    assert world.http().post("/horde/webhook/x", json={"id": "j"}).status_code == 404


def test_the_served_models_real_name_is_in_the_answer(world: World) -> None:
    world.employ(Scripted("Hello.", name="koboldcpp/Big-12B"))
    world.configure(aliases={"gpt-4o-mini": "big-12b"})
    answer = world.http().post("/v1/chat/completions", json={**CHAT, "model": "gpt-4o-mini"})
    assert answer.json is not None
    assert answer.json["model"] == "koboldcpp/Big-12B"


def test_the_second_of_a_list_answers_when_the_first_cannot(world: World) -> None:
    world.employ(Scripted("Hello.", name="good"))
    world.employ_faulty("faulty", "faulty")
    chat = {**CHAT, "model": "gone, faulty, good"}
    answer = world.http().post("/v1/chat/completions", json=chat).get_json()
    assert answer["model"] == "good"
    assert answer["choices"][0]["message"]["content"] == "Hello."


def test_models_of_one_format_share_a_request(world: World) -> None:
    world.employ(Scripted("Hello.", name="koboldcpp/A-8B"), "one")
    world.bridge(Scripted("x", name="koboldcpp/B-8B"), "two").step(world.session)
    submitted: list[Any] = []
    adapter = world.session.get_adapter(HORDE_URL)
    send = adapter.send

    def noted(request: Any, **kwargs: Any) -> Any:
        if request.url.endswith("/async"):
            submitted.append(json.loads(request.body))
        return send(request, **kwargs)

    adapter.send = noted  # type: ignore[assignment]
    answer = (
        world.http().post("/v1/chat/completions", json={**CHAT, "model": "koboldcpp/*"}).get_json()
    )
    assert sorted(submitted[0]["models"]) == ["koboldcpp/A-8B", "koboldcpp/B-8B"]
    assert answer["model"] == "koboldcpp/A-8B"


# What a client that has left still costs: nothing new

SUBMIT = "POST generate/text/async"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Failing(Scripted):
    """A backend that fails on each job."""

    def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
        super().generate(payload, cancelled)
        raise BackendError("no")


@pytest.mark.parametrize(
    ("backend", "path", "body"),
    [
        # A full segment is followed by another one; with a full stop at its end, by a probe.
        (Scripted("word " * 200), "chat/completions", {**CHAT, "max_tokens": 2000}),
        (Scripted("word " * 127 + "end."), "chat/completions", {**CHAT, "max_tokens": 2000}),
        (Failing(""), "chat/completions", CHAT),
        (Scripted(""), "chat/completions", CHAT),
        (
            Scripted("No call."),
            "chat/completions",
            {**CHAT, "tools": [WEATHER], "tool_choice": "required"},
        ),
        (
            Scripted("No JSON."),
            "chat/completions",
            {**CHAT, "response_format": {"type": "json_object"}},
        ),
        (Scripted("x"), "completions", {"model": "test/model", "prompt": [*"abcdefgh"]}),
    ],
    ids=["segment", "probe", "fault", "bad text", "call", "json", "prompts"],
)
def test_for_a_client_that_has_left_nothing_new_is_submitted(
    world: World, backend: Scripted, path: str, body: dict[str, Any]
) -> None:
    bridge = world.bridge(backend)
    bridge.step(world.session)
    http, cable = world.http(), world.cable()
    stream = http.post(f"/v1/{path}", json={**body, "stream": True})
    next(iter(stream.response))
    # The worker does what was submitted before, and all that follows, while nobody reads.
    world.clock.every_sleep.append(lambda: bridge.step(world.session))
    before, began = cable.calls.count(SUBMIT), world.clock()
    stream.close()
    assert cable.calls.count(SUBMIT) == before
    assert world.clock() - began >= 10
    assert world.horde.open_requests() == []


def test_a_client_that_comes_back_gets_the_rest(world: World) -> None:
    clock, went_on = Clock(), threading.Event()
    sleeper = Sleeper(sleep=lambda seconds: went_on.wait(0.01))
    caller, running = Caller(sleeper=sleeper), in_flight(clock)

    def source() -> Iterator[StreamItem]:
        yield Accepted()
        for waiting in caller.wait_for_client():
            went_on.set()
            yield waiting
        yield text("a")

    first = running.join("key", INFO, source, sleeper)
    with first:
        assert first.next() == Accepted()
        leaving = threading.Thread(target=first.__exit__, args=(None, None, None))
        leaving.start()
        assert went_on.wait(60)
        with running.join("key", RETRY, source, sleeper) as second:
            assert second.next() == Accepted()
            while isinstance(item := second.next(), Waiting):
                pass
            assert item == text("a")
        leaving.join()


def test_no_other_endpoint_is_tried_for_a_client_that_has_left() -> None:
    tried: list[str] = []
    sleeper = Sleeper(sleep=lambda seconds: None)

    class Failing(Offering):
        def stream(
            self, request: GenerationRequest, route: Route, caller: Caller
        ) -> Generator[StreamItem, None, None]:
            tried.append(self.name)
            yield Accepted({}, self.name)
            yield Waiting("queued")
            raise UpstreamFailed("no")

    router = Router([endpoint(Failing("one", "m")), endpoint(Failing("two", "m"))])
    request = GenerationRequest("m", (Message("user", "Hi"),))
    items = router.stream(request, router.candidates("m"), Caller(sleeper=sleeper))
    assert [type(next(items)) for _ in range(2)] == [Accepted, Waiting]
    sleeper.has_client = False
    assert [next(items) for _ in range(5)] == [Waiting("held back")] * 5
    assert len(tried) == 1
    sleeper.has_client = True
    assert isinstance(next(items), Accepted)
    assert len(tried) == 2
    items.close()
