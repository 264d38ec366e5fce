"""An answer that was cut off by a restart goes on: its requests are taken up, not made again."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from typing import Any

import pytest

from horde_proxy.prompts.tokens import truncate
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.upstreams.base import Accepted, Caller, Route, StreamItem
from horde_proxy.upstreams.horde.upstream import HordeUpstream
from horde_proxy.upstreams.request_journal import RequestJournal
from tests.support import PieceByPiece, Scripted, World

POST = "POST generate/text/async"
LONG = " ".join(f"word{number}" for number in range(60)) + "."


def chat(**fields: Any) -> GenerationRequest:
    messages = (Message("user", "Recite."),)
    return GenerationRequest(**{"model": "test/model", "messages": messages, **fields})


class Restarts:
    """Proxies of one world, one after the other, that serve the same answer."""

    def __init__(self, world: World) -> None:
        self.world, self.cable = world, world.cable()
        self.is_killed = False
        self.kept: dict[str, Any] | None = None
        self.upstream: HordeUpstream

    def items(self, request: GenerationRequest) -> Generator[StreamItem, None, None]:
        """What a new proxy gives; the journal is kept at each submit and after each item."""
        self.is_killed = False
        journal = RequestJournal(
            on_submit=lambda: self.keep(journal), is_left_running=lambda: self.is_killed
        )
        if self.kept is not None:
            journal.read(json.loads(json.dumps(self.kept)))
        self.upstream = self.world.upstream()
        # The new proxy does not know the pace that the old one kept.
        self.world.clock.seconds += 2
        route = Route(self.upstream, (request.model,))
        with closing(self.upstream.stream(request, route, Caller(journal=journal))) as items:
            for item in items:
                self.keep(journal)
                yield item

    def keep(self, journal: RequestJournal) -> None:
        self.kept = journal.as_json()

    def killed_after(self, request: GenerationRequest, count: int) -> list[StreamItem]:
        """The items until the proxy is killed."""
        items: list[StreamItem] = []
        with closing(self.items(request)) as left:
            for item in left:
                items.append(item)
                if len(items) == count:
                    self.is_killed = True
                    return items
        raise AssertionError("it has ended before")

    def whole(self, request: GenerationRequest) -> dict[str, Any]:
        return fold(item for item in self.items(request) if isinstance(item, dict))

    @property
    def submits(self) -> int:
        return self.cable.calls.count(POST)


def rest(payload: Any) -> str:
    """The rest of LONG after what the prompt has of it."""
    begun = payload["prompt"].rpartition("assistant\n")[2]
    assert LONG.startswith(begun)
    return LONG[len(begun) :]


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("killed_after", [1, 2, 4])
def test_a_request_that_runs_is_taken_up(world: World, killed_after: int) -> None:
    late = world.bridge(Scripted("Hello there."))
    late.step(world.session)
    restarts = Restarts(world)
    restarts.killed_after(chat(), killed_after)
    world.clock.every_sleep.append(lambda: late.step(world.session))
    assert text(restarts.whole(chat())) == "Hello there."
    assert restarts.submits == 1
    assert not [call for call in restarts.cable.calls if call.startswith("DELETE")]


def test_the_id_of_the_request_is_that_of_before(world: World) -> None:
    world.employ(Scripted("Hello there."))
    restarts = Restarts(world)
    [first, *_] = restarts.killed_after(chat(), 2)
    again = next(iter(restarts.items(chat())))
    assert isinstance(first, Accepted)
    assert isinstance(again, Accepted)
    assert first.headers["X-Horde-Request-Id"] == again.headers["X-Horde-Request-Id"]


def test_a_request_that_ended_meanwhile_is_read(world: World) -> None:
    worker = world.employ(Scripted("Hello there."))
    restarts = Restarts(world)
    restarts.killed_after(chat(), 2)
    for _ in range(30):
        world.clock.sleep(1)
    assert len(worker.payloads) == 1
    assert text(restarts.whole(chat())) == "Hello there."
    assert (restarts.submits, len(worker.payloads)) == (1, 1)


def test_a_request_that_the_horde_has_forgotten_is_submitted_again(world: World) -> None:
    world.employ(Scripted("Hello there."))
    restarts = Restarts(world)
    restarts.killed_after(chat(), 2)
    assert restarts.kept is not None
    restarts.kept["entries"][0]["request_id"] = "00000000-0000-0000-0000-000000000000"
    assert text(restarts.whole(chat())) == "Hello there."
    assert restarts.submits == 2


class Reciter(Scripted):
    """Recites its text from where the answer stands, up to max_length."""

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        begun = payload["prompt"].rpartition("assistant\n")[2]
        assert self.text.startswith(begun)
        return truncate(self.text[len(begun) :], payload["max_length"])


def test_segments_that_were_finished_are_not_made_again(world: World) -> None:
    reciter = world.employ(Reciter(LONG, max_length=64))
    request = chat(max_tokens=400)
    restarts = Restarts(world)
    with closing(restarts.items(request)) as items:
        for _ in items:
            restarts.is_killed = restarts.submits == 2
            if restarts.is_killed:
                break
    assert text(restarts.whole(request)) == LONG
    assert restarts.submits == len(reciter.payloads)
    assert len({payload["prompt"] for payload in reciter.payloads}) == len(reciter.payloads)


def test_all_choices_of_a_request_are_taken_up(world: World) -> None:
    world.employ(Scripted("Hello there."))
    restarts = Restarts(world)
    restarts.killed_after(chat(n=3), 4)
    answer = restarts.whole(chat(n=3))
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello there."] * 3
    assert restarts.submits == 1


def test_a_growing_text_goes_on_where_it_was(world: World) -> None:
    streaming = World(streams=True)
    worker = PieceByPiece(streaming.session, rest, 20)
    worker.step()
    streaming.clock.every_sleep.append(worker.step)
    restarts = Restarts(streaming)
    request = chat(stream=True, max_tokens=400)
    seen = ""
    with closing(restarts.items(request)) as items:
        for item in items:
            if isinstance(item, dict) and item["choices"]:
                seen += item["choices"][0]["delta"].get("content") or ""
            restarts.is_killed = len(seen) > 100
            if restarts.is_killed:
                break
    assert LONG.startswith(seen)
    assert text(restarts.whole(request)) == LONG
    assert restarts.submits == len(worker.payloads)


def test_a_growing_text_that_was_lost_is_continued(world: World) -> None:
    streaming = World(streams=True)
    worker = PieceByPiece(streaming.session, rest, 20)
    worker.step()
    streaming.clock.every_sleep.append(worker.step)
    restarts = Restarts(streaming)
    request = chat(stream=True, max_tokens=400)
    seen = ""
    with closing(restarts.items(request)) as items:
        for item in items:
            if isinstance(item, dict) and item["choices"]:
                seen += item["choices"][0]["delta"].get("content") or ""
            restarts.is_killed = len(seen) > 100
            if restarts.is_killed:
                break
    assert restarts.kept is not None
    [entry] = restarts.kept["entries"]
    entry["request_id"] = "00000000-0000-0000-0000-000000000000"
    assert text(restarts.whole(request)) == LONG
    assert restarts.submits == 2
    assert worker.payloads[-1]["prompt"].endswith(entry["text"])


def test_an_answer_of_a_form_is_not_asked_for_twice(world: World) -> None:
    worker = world.employ(Scripted('{"name": "Ada"}'))
    body = {
        "model": "test/model",
        "messages": [{"role": "user", "content": "Who?"}],
        "response_format": {"type": "json_object"},
    }
    restarts = Restarts(world)
    restarts.killed_after(read_chat(body), 2)
    assert json.loads(text(restarts.whole(read_chat(body)))) == {"name": "Ada"}
    assert (restarts.submits, len(worker.payloads)) == (1, 1)


def test_what_was_submitted_elsewhere_is_forgotten(world: World) -> None:
    world.employ(Scripted("Hello there."))
    restarts = Restarts(world)
    restarts.killed_after(chat(), 2)
    assert restarts.kept is not None
    restarts.kept["endpoint"] = "another horde"
    assert text(restarts.whole(chat())) == "Hello there."
    assert restarts.submits == 2


def test_an_answer_that_nobody_goes_on_with_is_cancelled(world: World) -> None:
    world.bridge(Scripted("Hello there.")).step(world.session)
    cable, upstream = world.cable(), world.upstream()
    caller = Caller(journal=RequestJournal())
    items = upstream.stream(chat(), Route(upstream, ("test/model",)), caller)
    next(items)
    items.close()
    assert cable.calls[-1].startswith("DELETE generate/text/status/")
