"""Answers that are fetched later: responses, conversations and chats, of two owners.

Each `http()` of a world is a new app on the same database: a proxy that was restarted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import httpx2
import openai
import pytest
from flask import Flask, jsonify, request
from flask import Response as FlaskResponse
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response

from horde_proxy.app.factory import composition_of
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.legal_responses import check_response, check_stream, parsed
from tests.support import PieceByPiece, Scripted, World, known

ROSES = {"model": "test/model", "input": "A poem about roses."}
CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}


def two_owners(**sections: Any) -> World:
    """A world with the keys of ann and bob, and a worker."""
    world = World(**known(ann="key-of-ann-longer", bob="key-of-bob-longer"), **sections)
    world.employ(Scripted("Roses are red."))
    return world


class Client:
    """The calls of one client."""

    def __init__(self, http: FlaskClient, name: str = "ann") -> None:
        self._http, self._headers = http, {"Authorization": f"Bearer key-of-{name}-longer"}

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> TestResponse:
        return self._http.open(
            f"/v1/{path}", method=method, json=body, headers={**self._headers, **(headers or {})}
        )

    def must(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer that is no error."""
        with self.call(method, path, body) as response:
            assert response.status_code == 200, response.data
            return response.json

    def error(self, method: str, path: str, body: Any = None) -> tuple[int, str | None, str | None]:
        """(status, code, param) of an error."""
        with self.call(method, path, body) as response:
            error = (response.json or {})["error"]
        return response.status_code, error["code"], error["param"]

    def respond(self, **body: Any) -> dict[str, Any]:
        return dict(self.must("POST", "responses", {**ROSES, **body}))

    def stream(self, path: str = "responses", **body: Any) -> bytes:
        with self.call("POST", path, {**ROSES, "stream": True, **body}) as response:
            assert response.status_code == 200
            return bytes(response.data)


def clients(world: World) -> tuple[Client, Client]:
    http = world.http()
    return Client(http, "ann"), Client(http, "bob")


def events_of(stream: bytes) -> bytes:
    """The events of a stream, without its comments."""
    blocks = [block for block in stream.split(b"\n\n") if block and not block.startswith(b":")]
    return b"".join(block + b"\n\n" for block in blocks)


# Responses


def test_a_response_is_fetched_as_it_was_answered_also_after_a_restart() -> None:
    world = two_owners()
    response = Client(world.http()).respond(metadata={"topic": "flowers"})
    check_response(response)
    assert response["store"] is True
    for http in (world.http(), world.http()):
        assert Client(http).must("GET", f"responses/{response['id']}") == response


def test_another_owner_finds_an_unknown_response() -> None:
    ann, bob = clients(two_owners())
    known_id, unknown_id = ann.respond()["id"], "resp_" + "0" * 48
    for path, method in (
        ("", "GET"),
        ("", "DELETE"),
        ("/input_items", "GET"),
        ("?stream=true", "GET"),
    ):
        answers = [
            bob.call(method, f"responses/{identity}{path}") for identity in (known_id, unknown_id)
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        first, second = (answer.text.replace(known_id, unknown_id) for answer in answers)
        assert first == second
    assert bob.error("POST", "responses", {**ROSES, "previous_response_id": known_id}) == (
        404,
        "previous_response_not_found",
        "previous_response_id",
    )
    item = ann.must("GET", f"responses/{known_id}")["output"][0]["id"]
    reference = [{"type": "item_reference", "id": item}]
    assert bob.error("POST", "responses", {**ROSES, "input": reference})[0] == 404
    assert ann.must("GET", f"responses/{known_id}")["id"] == known_id


def test_nothing_is_kept_where_the_client_says_so() -> None:
    ann, _ = clients(two_owners())
    response = ann.respond(store=False)
    assert response["store"] is False
    assert ann.error("GET", f"responses/{response['id']}")[0] == 404
    item = response["output"][0]["id"]
    reference = [{"type": "item_reference", "id": item}]
    assert ann.error("POST", "responses", {**ROSES, "input": reference})[0] == 404


@pytest.mark.parametrize("streams", [False, True])
def test_the_next_turn_has_the_items_of_the_last_one(streams: bool) -> None:
    world = two_owners()
    backend = world.employ(Scripted("Violets are blue.", name="other/model"), "worker-2")
    ann, _ = clients(world)
    if streams:
        first = check_stream(parsed(ann.stream(instructions="Rhyme.").decode()))
    else:
        first = ann.respond(instructions="Rhyme.")
    second = ann.respond(
        model="other/model", input="Go on.", previous_response_id=first["id"], store=False
    )
    prompt = backend.payloads[0]["prompt"]
    assert prompt.index("A poem about roses.") < prompt.index("Roses are red.")
    assert prompt.index("Roses are red.") < prompt.index("Go on.")
    # Instructions are not inherited.
    assert "Rhyme." not in prompt
    assert second["previous_response_id"] == first["id"]


def test_an_item_is_referred_to_instead_of_being_sent() -> None:
    world = two_owners()
    backend = world.employ(Scripted("Violets are blue.", name="other/model"), "worker-2")
    ann, _ = clients(world)
    item = ann.respond()["output"][0]["id"]
    # The AI SDK leaves the type out.
    for reference in ({"type": "item_reference", "id": item}, {"id": item}):
        told = [ROSES["input"], "Go on."]
        turns = [{"role": "user", "content": text} for text in told]
        ann.respond(model="other/model", input=[turns[0], reference, turns[1]])
        assert "Roses are red." in backend.payloads[-1]["prompt"]


def test_input_items_come_in_pages_the_newest_first() -> None:
    ann, _ = clients(two_owners())
    turns = [{"role": "user", "content": f"text {number}"} for number in range(5)]
    path = f"responses/{ann.respond(input=turns)['id']}/input_items"
    page = ann.must("GET", f"{path}?limit=2")
    texts = [item["content"][0]["text"] for item in page["data"]]
    assert (texts, page["has_more"], page["object"]) == (["text 4", "text 3"], True, "list")
    assert (page["first_id"], page["last_id"]) == tuple(item["id"] for item in page["data"])
    rest = ann.must("GET", f"{path}?after={page['last_id']}")
    assert [item["content"][0]["text"] for item in rest["data"]] == ["text 2", "text 1", "text 0"]
    assert rest["has_more"] is False
    oldest = ann.must("GET", f"{path}?order=asc&limit=1")["data"]
    assert oldest[0]["content"][0]["text"] == "text 0"
    assert oldest[0]["status"] == "completed"
    assert ann.error("GET", f"{path}?limit=101") == (400, "invalid_value", "limit")
    assert ann.error("GET", f"{path}?order=up") == (400, "invalid_value", "order")
    assert ann.error("GET", f"{path}?after=msg_x") == (400, "invalid_value", "after")


def test_a_deleted_response_is_gone_with_its_items() -> None:
    ann, _ = clients(two_owners())
    response = ann.respond()
    path = f"responses/{response['id']}"
    assert ann.must("DELETE", path) == {"id": response["id"], "object": "response", "deleted": True}
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        assert ann.error(method, path + rest)[0] == 404
    reference = [{"type": "item_reference", "id": response["output"][0]["id"]}]
    assert ann.error("POST", "responses", {**ROSES, "input": reference})[0] == 404
    previous = {**ROSES, "previous_response_id": response["id"]}
    assert ann.error("POST", "responses", previous)[1] == "previous_response_not_found"


# Streams


def test_a_stream_is_replayed_byte_for_byte_from_any_event() -> None:
    world = two_owners()
    stream = Client(world.http()).stream()
    events = [event + b"\n\n" for event in events_of(stream).split(b"\n\n") if event]
    response = check_stream(parsed(stream.decode()))
    ann = Client(world.http())
    for after in range(-1, len(events) + 1):
        query = "" if after < 0 else f"&starting_after={after}"
        replay = ann.call("GET", f"responses/{response['id']}?stream=true{query}")
        assert replay.content_type == "text/event-stream; charset=utf-8"
        assert replay.data == b"".join(events[after + 1 :])
    assert ann.must("GET", f"responses/{response['id']}") == response


def test_keep_alives_are_events_of_the_replay() -> None:
    world = two_owners(server={"keepalive_interval": 1})
    world.clock.every_sleep.clear()
    seconds = world.clock()

    def work_late() -> None:
        if world.clock() > seconds + 30:
            bridge.step(world.session)

    bridge = world.bridge(Scripted("Roses are red."))
    bridge.step(world.session)
    world.clock.every_sleep.append(work_late)
    stream = Client(world.http()).stream()
    response = check_stream(parsed(stream.decode()))
    assert stream.count(b"event: response.in_progress") > 5
    replay = Client(world.http()).call("GET", f"responses/{response['id']}?stream=true")
    assert replay.data == events_of(stream)


def test_what_was_no_stream_has_no_events() -> None:
    ann, _ = clients(two_owners())
    path = f"responses/{ann.respond()['id']}?stream=true"
    assert ann.error("GET", path) == (400, "invalid_value", "stream")


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
def test_a_repeated_stream_goes_on_after_the_last_event(path: str) -> None:
    world = two_owners()
    ann = Client(world.http())
    body = {**(ROSES if path == "responses" else CHAT), "stream": True}
    with ann.call("POST", path, body, {"Last-Event-ID": "start"}) as response:
        blocks = read_blocks(response, 3)
    ids = [block.partition(b"\n")[0] for block in blocks if not block.startswith(b":")]
    assert ids == [b"id: %d" % number for number in range(len(ids))]
    last = ids[-1].removeprefix(b"id: ").decode()
    with ann.call("POST", path, body, {"Last-Event-ID": last}) as response:
        rest = events_of(response.data)
    assert rest.startswith(b"id: %d\n" % (int(last) + 1))
    if path == "responses":
        check_stream(parsed(without_ids(events_of(b"".join(blocks)) + rest).decode()))
    else:
        assert rest.endswith(b"data: [DONE]\n\n")
        chunks = [line[6:] for line in (b"".join(blocks) + rest).split(b"\n") if b"data: {" in line]
        deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("content", "") for delta in deltas) == "Roses are red."


def test_events_have_no_ids_unless_a_client_wants_them() -> None:
    ann, _ = clients(two_owners())
    assert b"id: " not in ann.stream()
    assert b"id: " not in ann.stream("chat/completions", **CHAT)


def read_blocks(response: Response, count: int) -> list[bytes]:
    """The first blocks of a stream, whose client then goes."""
    iterator = cast(Iterator[bytes], iter(response.response))
    return [next(iterator) for _ in range(count)]


def without_ids(stream: bytes) -> bytes:
    lines = stream.split(b"\n")
    return b"\n".join(line for line in lines if not line.startswith(b"id: "))


# Clients that leave


def slow_world(**sections: Any) -> World:
    """A world with a worker that sends a piece of its text at each sleep."""
    keys = known(ann="key-of-ann-longer", bob="key-of-bob-longer")
    world = World(streams=True, **keys, **sections)
    worker = PieceByPiece(world.session, lambda payload: "Roses are red, as they are.", 4)
    worker.step()
    world.clock.every_sleep.append(worker.step)
    return world


def left_after(client: Client, path: str, body: Any, events: int = 3) -> list[dict[str, Any]]:
    """The first events of a stream whose client leaves after them."""
    response = client.call("POST", path, {**body, "stream": True})
    blocks = read_blocks(response, events)
    response.close()
    return [json.loads(block.partition(b"data: ")[2]) for block in blocks if b"data: {" in block]


def test_what_was_asked_to_be_stored_is_finished_without_its_client() -> None:
    world = slow_world(server={"cancel_grace": 0})
    first = left_after(Client(world.http()), "responses", {**ROSES, "store": True})
    response = Client(world.http()).must("GET", f"responses/{first[0]['response']['id']}")
    assert response["status"] == "completed"
    [item] = response["output"]
    assert item["content"][0]["text"] == "Roses are red, as they are."


def test_what_is_stored_by_default_is_cancelled_when_its_client_leaves() -> None:
    world = slow_world(server={"cancel_grace": 0})
    first = left_after(Client(world.http()), "responses", ROSES)
    path = f"responses/{first[0]['response']['id']}"
    assert Client(world.http()).error("GET", path)[0] == 404


def test_a_chat_is_fetched_by_the_id_of_its_first_event() -> None:
    world = slow_world(server={"cancel_grace": 60})
    http = world.http()
    ann, bob = Client(http), Client(http, "bob")
    first = left_after(ann, "chat/completions", CHAT)
    path = f"chat/completions/{first[0]['id']}"
    assert bob.error("GET", path)[0] == 404
    completion = ann.must("GET", path)
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == "Roses are red, as they are."
    assert completion["usage"]["completion_tokens"] > 0
    # Also once more, and then no longer.
    world.clock.seconds += 59
    assert ann.must("GET", path) == completion
    world.clock.seconds += 2
    assert ann.error("GET", path)[0] == 404


def test_a_chat_that_was_read_to_its_end_is_fetched_as_well() -> None:
    world = two_owners()
    ann, bob = clients(world)
    with ann.call("POST", "chat/completions", {**CHAT, "stream": True}) as response:
        chunk = json.loads(response.data.partition(b"data: ")[2].partition(b"\n")[0])
    path = f"chat/completions/{chunk['id']}"
    assert bob.error("GET", path)[0] == 404
    assert ann.must("GET", path)["choices"][0]["message"]["content"] == "Roses are red."
    world.clock.seconds += 61
    assert ann.error("GET", path) == (404, "not_found", None)


def test_a_retry_gets_the_same_response_as_the_request_that_it_repeats() -> None:
    world = slow_world(server={"cancel_grace": 60})
    ann = Client(world.http())
    [first, *_] = left_after(ann, "responses", ROSES)
    response = check_stream(parsed(ann.stream().decode()))
    assert response["id"] == first["response"]["id"]
    assert ann.must("GET", f"responses/{response['id']}") == response


def test_a_response_is_fetched_and_followed_while_it_is_made() -> None:
    world = slow_world()
    http = world.http()
    ann, bob = Client(http), Client(http, "bob")
    with ann.call("POST", "responses", {**ROSES, "stream": True}) as response:
        begin = read_blocks(response, 4)
        first = json.loads(begin[0].partition(b"data: ")[2])["response"]
        path = f"responses/{first['id']}"
        running = ann.must("GET", path)
        assert (running["status"], running["id"]) == ("in_progress", first["id"])
        assert len(ann.must("GET", f"{path}/input_items")["data"]) == 1
        assert bob.error("GET", path)[0] == 404
        assert bob.error("GET", f"{path}?stream=true")[0] == 404
        previous = {**ROSES, "previous_response_id": first["id"]}
        assert ann.error("POST", "responses", previous) == (
            400,
            "previous_response_not_complete",
            "previous_response_id",
        )
        assert bob.error("POST", "responses", previous)[1] == "previous_response_not_found"
        with ann.call("GET", f"{path}?stream=true&starting_after=1") as follower:
            followed = read_blocks(follower, 1)
            rest = response.data
            followed.append(follower.data)
    stream = events_of(b"".join(begin) + rest)
    events = [event + b"\n\n" for event in stream.split(b"\n\n") if event]
    assert b"".join(followed) == b"".join(events[2:])
    assert ann.must("GET", path)["status"] == "completed"


def test_a_response_that_is_deleted_while_it_is_made_is_not_stored() -> None:
    world = slow_world()
    ann, _ = clients(world)
    with ann.call("POST", "responses", {**ROSES, "stream": True, "store": True}) as response:
        [block, *_] = read_blocks(response, 2)
        path = f"responses/{json.loads(block.partition(b'data: ')[2])['response']['id']}"
        assert ann.must("DELETE", path)["deleted"] is True
        assert response.data.endswith(b"\n\n")
    assert ann.error("GET", path)[0] == 404
    assert Client(world.http()).error("GET", path)[0] == 404


def test_an_answer_is_given_though_it_cannot_be_stored(caplog: pytest.LogCaptureFixture) -> None:
    world = two_owners()
    world.store_url = "sqlite:////proc/no/such/folder/store.db"
    ann, _ = clients(world)
    for body in (ROSES, {**ROSES, "stream": True}):
        with ann.call("POST", "responses", body) as response:
            assert response.status_code == 200
            assert b"Roses are red." in response.data
        warning = "store: the answer could not be stored, and cannot be fetched or continued"
        assert response.headers.get("X-Horde-Warnings") == (None if "stream" in body else warning)
    with ann.call("POST", "chat/completions", {**CHAT, "store": True}) as response:
        assert (response.json or {})["choices"][0]["message"]["content"] == "Roses are red."
        assert response.headers["X-Horde-Warnings"].endswith(warning)
    assert "could not be stored" in caplog.text
    assert ann.error("GET", "responses/resp_1") == (503, "store_failed", None)
    turn = {**ROSES, "previous_response_id": "resp_1"}
    assert ann.error("POST", "responses", turn)[0] == 503


# Conversations


def test_a_conversation_is_made_changed_and_deleted() -> None:
    ann, bob = clients(two_owners())
    body = {"items": [{"role": "user", "content": "Hi"}], "metadata": {"topic": "x"}}
    made = ann.must("POST", "conversations", body)
    assert made == {
        "id": made["id"],
        "object": "conversation",
        "created_at": 1000,
        "metadata": {"topic": "x"},
    }
    assert made["id"].startswith("conv_")
    path = f"conversations/{made['id']}"
    assert ann.must("GET", path) == made
    changed = ann.must("POST", path, {"metadata": {"topic": "y"}})
    assert changed == {**made, "metadata": {"topic": "y"}}
    [item] = ann.must("GET", f"{path}/items")["data"]
    assert (item["role"], item["status"], item["content"]) == (
        "user",
        "completed",
        [{"type": "input_text", "text": "Hi"}],
    )
    assert ann.must("GET", f"{path}/items/{item['id']}") == item
    added = ann.must("POST", f"{path}/items", {"items": [{"role": "user", "content": "Ho"}]})
    assert [entry["content"][0]["text"] for entry in added["data"]] == ["Ho"]
    assert ann.must("DELETE", f"{path}/items/{item['id']}") == changed
    assert ann.must("GET", f"{path}/items")["data"] == added["data"]
    calls = (("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/items"), ("POST", "/items"))
    for method, rest in calls:
        body = {"items": [{"role": "user", "content": "Ha"}]}
        assert bob.error(method, path + rest, body)[:2] == (404, "conversation_not_found")
    for method in ("GET", "DELETE"):
        assert bob.error(method, f"{path}/items/{item['id']}")[0] == 404
    assert ann.must("DELETE", path) == {
        "id": made["id"],
        "object": "conversation.deleted",
        "deleted": True,
    }
    assert ann.error("GET", path) == (404, "conversation_not_found", "conversation")


def test_responses_continue_a_conversation() -> None:
    world = two_owners()
    backend = world.employ(Scripted("Violets are blue.", name="other/model"), "worker-2")
    ann, bob = clients(world)
    conversation = ann.must("POST", "conversations", {})["id"]
    first = ann.respond(conversation=conversation)
    assert first["conversation"] == {"id": conversation}
    ann.stream(conversation={"id": conversation}, model="other/model", input="Go on.")
    prompt = backend.payloads[0]["prompt"]
    assert prompt.index("A poem about roses.") < prompt.index("Roses are red.")
    items = ann.must("GET", f"conversations/{conversation}/items?order=asc")["data"]
    assert [item["content"][0]["text"] for item in items] == [
        "A poem about roses.",
        "Roses are red.",
        "Go on.",
        "Violets are blue.",
    ]
    wrong = {**ROSES, "conversation": conversation}
    assert bob.error("POST", "responses", wrong) == (404, "conversation_not_found", "conversation")
    both = {**wrong, "previous_response_id": first["id"]}
    assert ann.error("POST", "responses", both)[0] == 400


def test_two_responses_at_once_in_one_conversation_are_a_conflict() -> None:
    world = slow_world(server={"cancel_grace": 0})
    ann, _ = clients(world)
    conversation = ann.must("POST", "conversations", {})["id"]
    body = {**ROSES, "conversation": conversation, "stream": True}
    running = ann.call("POST", "responses", body)
    read_blocks(running, 3)
    other = {**ROSES, "conversation": conversation, "input": "Another."}
    response = ann.call("POST", "responses", other)
    assert (response.status_code, (response.json or {})["error"]["code"]) == (
        409,
        "conversation_locked",
    )
    assert response.headers["Retry-After"] == "2"
    items = {"items": [{"role": "user", "content": "Ho"}]}
    path = f"conversations/{conversation}/items"
    assert ann.error("POST", path, items)[:2] == (409, "conversation_locked")
    assert running.data
    running.close()
    assert ann.must("POST", "responses", other)["status"] == "completed"
    assert len(ann.must("GET", path)["data"]) == 4


def test_the_next_turn_of_a_conversation_may_come_before_the_last_one_is_closed() -> None:
    ann, _ = clients(two_owners())
    conversation = ann.must("POST", "conversations", {})["id"]
    for turn in range(3):
        body = {**ROSES, "input": f"Turn {turn}.", "conversation": conversation}
        assert ann.call("POST", "responses", body).status_code == 200


def test_a_long_answer_keeps_its_conversation_for_itself() -> None:
    world = slow_world(server={"cancel_grace": 0})
    world.clock.every_sleep.append(lambda: setattr(world.clock, "seconds", world.clock() + 15))
    ann, _ = clients(world)
    conversation = ann.must("POST", "conversations", {})["id"]
    body = {**ROSES, "conversation": conversation}
    begun = world.clock()
    with ann.call("POST", "responses", {**body, "stream": True}) as response:
        blocks = iter(response.response)
        while world.clock() < begun + 90:
            next(blocks)
        other = {**body, "input": "Another."}
        assert ann.error("POST", "responses", other)[:2] == (409, "conversation_locked")


def test_a_request_that_fails_leaves_its_conversation_free() -> None:
    world = two_owners()
    ann, _ = clients(world)
    conversation = ann.must("POST", "conversations", {})["id"]
    body = {**ROSES, "conversation": conversation}
    assert ann.error("POST", "responses", {**body, "model": "no/such"})[0] == 404
    ann.must("POST", "responses", body)
    assert len(ann.must("GET", f"conversations/{conversation}/items")["data"]) == 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"items": [{"role": "user", "content": "x"}] * 21},
            (400, "invalid_value", "items"),
        ),
        ({"items": "x"}, (400, "invalid_type", "items")),
        ({"items": [3]}, (400, "invalid_type", "items.[0]")),
        ({"metadata": {"a": 3}}, (400, "invalid_type", "metadata.a")),
        ({"metadata": {"a" * 65: "x"}}, (400, "invalid_value", "metadata")),
        (
            {"metadata": {str(number): "x" for number in range(17)}},
            (400, "invalid_value", "metadata"),
        ),
    ],
)
def test_a_broken_conversation_is_refused(body: Any, expected: tuple[int, str, str]) -> None:
    ann, _ = clients(two_owners())
    assert ann.error("POST", "conversations", body) == expected


# Chats


def test_a_stored_chat_is_listed_changed_and_deleted() -> None:
    world = two_owners()
    ann, bob = clients(world)
    body = {**CHAT, "store": True, "metadata": {"topic": "flowers"}}
    made = ann.must("POST", "chat/completions", body)
    ann, bob = clients(world)
    path = f"chat/completions/{made['id']}"
    stored = ann.must("GET", path)
    assert stored == {**made, "metadata": {"topic": "flowers"}}
    assert ann.must("GET", "chat/completions")["data"] == [stored]
    assert ann.must("GET", "chat/completions?metadata[topic]=flowers")["data"] == [stored]
    assert ann.must("GET", "chat/completions?metadata[topic]=trees")["data"] == []
    assert ann.must("GET", "chat/completions?model=other")["data"] == []
    assert bob.must("GET", "chat/completions") == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    messages = ann.must("GET", f"{path}/messages")
    assert messages["data"] == [
        {"role": "user", "content": "Hi", "id": f"{made['id']}-0", "content_parts": None}
    ]
    for method, rest in (("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/messages")):
        assert bob.error(method, path + rest, {"metadata": {}})[0] == 404
    assert ann.must("POST", path, {"metadata": {"a": "b"}}) == {**made, "metadata": {"a": "b"}}
    assert ann.must("DELETE", path) == {
        "id": made["id"],
        "object": "chat.completion.deleted",
        "deleted": True,
    }
    assert ann.error("DELETE", path)[0] == 404


def test_a_chat_is_stored_only_where_its_client_asks_for_that() -> None:
    world = two_owners()
    ann, _ = clients(world)
    ann.must("POST", "chat/completions", CHAT)
    assert ann.must("GET", "chat/completions")["data"] == []


def test_a_streamed_chat_is_stored_though_its_client_leaves() -> None:
    world = slow_world(server={"cancel_grace": 0})
    body = {**CHAT, "store": True}
    [first, *_] = left_after(Client(world.http()), "chat/completions", body)
    stored = Client(world.http()).must("GET", f"chat/completions/{first['id']}")
    assert stored["choices"][0]["message"]["content"] == "Roses are red, as they are."
    assert stored["usage"]["completion_tokens"] > 0


# Input tokens and compaction


def test_the_input_of_a_response_is_counted() -> None:
    ann, _ = clients(two_owners())
    short = ann.must("POST", "responses/input_tokens", {"model": "test/model", "input": "Hi"})
    assert short["object"] == "response.input_tokens"
    first = ann.respond()["id"]
    body = {"input": "Hi", "previous_response_id": first}
    longer = ann.must("POST", "responses/input_tokens", body)
    assert longer["input_tokens"] > short["input_tokens"] > 0
    assert ann.error("POST", "responses/input_tokens", {})[1] == "missing_required_parameter"


def test_a_compaction_stands_for_the_conversation() -> None:
    world = two_owners()
    summary = world.employ(Scripted("They spoke of roses.", name="summary/model"), "worker-3")
    backend = world.employ(Scripted("Violets are blue.", name="other/model"), "worker-2")
    ann, _ = clients(world)
    first = ann.respond()["id"]
    body = {"model": "summary/model", "input": "And blue?", "previous_response_id": first}
    compaction = ann.must("POST", "responses/compact", body)
    assert "Roses are red." in summary.payloads[0]["prompt"]
    assert "Summarise our conversation so far" in summary.payloads[0]["prompt"]
    assert compaction["object"] == "response.compaction"
    assert compaction["usage"]["output_tokens"] > 0
    *messages, item = compaction["output"]
    assert [message["content"][0]["text"] for message in messages] == [
        "A poem about roses.",
        "And blue?",
    ]
    assert item["type"] == "compaction"
    blob = base64.b64decode(item["encrypted_content"]).decode()
    assert blob.endswith("They spoke of roses.")
    go_on = [*compaction["output"], {"role": "user", "content": "Go on."}]
    ann.respond(model="other/model", input=go_on)
    assert "They spoke of roses." in backend.payloads[0]["prompt"]


# In the background


def test_a_background_response_joins_its_conversation_when_it_is_complete() -> None:
    world = two_owners()
    app = world.app()
    ann = Client(app.test_client())
    first = ann.respond(input="First.")
    conversation = ann.must("POST", "conversations", {})["id"]
    path = f"conversations/{conversation}/items?order=asc"
    queued = ann.respond(background=True, conversation=conversation)
    assert queued["status"] == "queued"
    chained = ann.respond(background=True, previous_response_id=first["id"], input="Go on.")
    assert ann.must("GET", path)["data"] == []
    assert composition_of(app).jobs.step() == 2
    for identity in (queued["id"], chained["id"]):
        assert ann.must("GET", f"responses/{identity}")["status"] == "completed"
    texts = [item["content"][0]["text"] for item in ann.must("GET", path)["data"]]
    assert texts == ["A poem about roses.", "Roses are red."]
    # The conversation is free again.
    ann.respond(conversation=conversation)


# With OpenAI's own client


def test_openais_client_finds_all_of_it() -> None:
    transport = httpx2.WSGITransport(app=two_owners().app())
    client = openai.OpenAI(
        api_key="key-of-ann-longer",
        base_url="http://proxy.invalid/v1",
        http_client=httpx2.Client(transport=transport),
        max_retries=0,
    )
    first = client.responses.create(model="test/model", input="Hi")
    assert client.responses.retrieve(first.id) == first
    with client.responses.stream(
        model="test/model", input="Hi", previous_response_id=first.id
    ) as stream:
        second = stream.until_done().get_final_response()
    events = client.responses.retrieve(second.id, stream=True, starting_after=3)
    assert next(iter(events)).sequence_number == 4
    assert len(list(client.responses.input_items.list(second.id, limit=1))) == 1
    client.responses.delete(first.id)
    conversation = client.conversations.create(metadata={"topic": "x"})
    client.responses.create(model="test/model", input="Hi", conversation=conversation.id)
    items = list(client.conversations.items.list(conversation.id, limit=1))
    assert [item.type for item in items] == ["message", "message"]
    assert client.conversations.delete(conversation.id).deleted is True
    message: Any = {"role": "user", "content": "Hi"}
    chat = client.chat.completions.create(
        model="test/model", messages=[message], store=True, metadata={"topic": "x"}
    )
    assert [stored.id for stored in client.chat.completions.list(limit=1)] == [chat.id]
    [kept] = client.chat.completions.messages.list(chat.id)
    assert (kept.role, kept.content) == ("user", "Hi")
    assert client.chat.completions.delete(chat.id).deleted is True


# Nothing is kept


def test_without_a_store_responses_are_answered_and_not_kept() -> None:
    ann, _ = clients(two_owners(store={"days": 0}))
    response = ann.respond()
    assert response["store"] is False
    check_stream(parsed(ann.stream().decode()))
    for path in (f"responses/{response['id']}", "conversations/conv_1", "chat/completions"):
        assert ann.error("GET", path)[:2] == (400, "nothing_is_stored")
    assert ann.error("POST", "conversations", {})[1] == "nothing_is_stored"
    previous = {**ROSES, "previous_response_id": response["id"]}
    assert ann.error("POST", "responses", previous)[1] == "previous_response_not_found"
    for path, body in (("responses", ROSES), ("chat/completions", CHAT)):
        with ann.call("POST", path, {**body, "store": True}) as answer:
            assert answer.status_code == 200
            assert answer.headers["X-Horde-Warnings"] == "store: nothing is stored here"


def test_what_is_too_old_is_gone() -> None:
    world = two_owners(store={"days": 2})
    ann, _ = clients(world)
    first = ann.respond()["id"]
    world.clock.seconds += 2 * 24 * 3600 + 10
    world.employ(Scripted("Roses are red."))
    world.http()
    ann.respond(model="auto")
    assert ann.error("GET", f"responses/{first}")[0] == 404


@pytest.mark.parametrize("kind", ["response", "conversation", "chat", "batch", "record"])
def test_what_is_too_old_is_gone_from_a_proxy_that_nobody_uses(kind: str) -> None:
    world = two_owners(store={"days": 2})
    app = world.app()
    ann = Client(app.test_client())
    if kind == "response":
        path = f"responses/{ann.respond()['id']}"
    elif kind == "conversation":
        path = f"conversations/{ann.must('POST', 'conversations', {})['id']}"
    elif kind == "batch":
        line = {"custom_id": "a", "params": {**CHAT, "model": "unknown"}}
        path = "messages/batches"
        path += f"/{ann.must('POST', path, {'requests': [line]})['id']}"
        ann.must("POST", f"{path}/cancel")
    else:
        chat = ann.must("POST", "chat/completions", {**CHAT, "store": True})
        path = f"chat/completions/{chat['id']}"
        if kind == "record":
            path = f"generation?id={chat['id']}"
            composition_of(app).store.generations.flush()
    jobs = composition_of(app).jobs
    for _ in range(5):
        jobs.step()
    ann.must("GET", path)
    world.clock.seconds += 2 * 24 * 3600 + 10
    jobs.step()
    # What a process has in memory goes with that.
    with Client(world.http()).call("GET", path) as response:
        assert response.status_code == 404


# Endpoints that keep answers themselves


class KeepingServer:
    """A server with one model, which keeps all answers for whoever knows their ids."""

    def __init__(self, name: str) -> None:
        self.name, self.app = name, Flask(name)
        self.calls: list[str] = []
        self.app.add_url_rule("/v1/models", "models", lambda: jsonify(data=[{"id": "served"}]))
        methods = ["GET", "POST", "DELETE"]
        self.app.add_url_rule("/v1/<path:path>", "all", self.answer, methods=methods)

    def answer(self, path: str) -> Any:
        self.calls.append(f"{request.method} {path}")
        body = (request.get_json(silent=True) or {}) if request.method == "POST" else {}
        kind = "response" if path.startswith("responses") else "chat.completion"
        answer = {"id": f"{self.name}_1", "object": kind, "path": path, "usage": {}}
        if body.get("stream"):
            event = json.dumps({"type": "response.created", "response": answer})
            return FlaskResponse(f"data: {event}\n\n", content_type="text/event-stream")
        return jsonify(answer)


def beside_servers(**sections: Any) -> tuple[World, list[KeepingServer]]:
    """A world with two servers that have the same model."""
    servers = [KeepingServer("first"), KeepingServer("second")]
    endpoints: list[dict[str, Any]] = [{"type": "horde"}]
    for number, server in enumerate(servers):
        url = f"http://{server.name}.invalid"
        endpoints.append({"url": url, "name": server.name, "priority": number})
    world = two_owners(endpoints=endpoints, **sections)
    for server in servers:
        world.session.mount(f"http://{server.name}.invalid", WSGIAdapter(server.app))
    return world, servers


@pytest.mark.parametrize("streams", [False, True])
def test_what_an_endpoint_keeps_is_its_owners_alone(streams: bool) -> None:
    world, [server, _] = beside_servers()
    ann, bob = clients(world)
    with ann.call(
        "POST", "responses", {"model": "served", "input": "x", "stream": streams}
    ) as sent:
        assert b'"first_1"' in sent.data
    ann, bob = clients(world)
    for method, path in (
        ("GET", "responses/first_1"),
        ("GET", "responses/first_1/input_items"),
        ("POST", "responses/first_1/cancel"),
        ("DELETE", "responses/first_1"),
    ):
        count = len(server.calls)
        assert bob.error(method, path)[0] == 404
        assert bob.error(method, path.replace("first", "other"))[0] == 404
        assert len(server.calls) == count
        assert ann.must(method, path)["path"] == path
        assert server.calls[-1] == f"{method} {path}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "responses;x/first_1"),
        ("GET", "Responses/first_1"),
        ("GET", "responses/first_1/other"),
        ("POST", "responses/first_1"),
        ("PATCH", "conversations/conv_1"),
        ("PUT", "chat/completions/first_1"),
        ("GET", "chat/completions;x/first_1"),
        ("GET", "chat//completions/first_1"),
        ("DELETE", "chat//completions/first_1"),
        ("GET", "responses\\first_1"),
        ("GET", "responses%5Cfirst_1"),
        ("GET", "responses%00/first_1"),
        ("GET", "responses%20/first_1"),
        ("GET", "%09responses/first_1"),
        ("GET", "responses%3Fx/first_1"),
        ("GET", "responses%23/first_1"),
        ("GET", "%2572esponses/first_1"),
        ("GET", "rerank/%252e%252e/responses/first_1"),
    ],
)
def test_no_other_path_leads_to_what_an_endpoint_keeps(method: str, path: str) -> None:
    world, servers = beside_servers()
    ann, _ = clients(world)
    assert ann.error(method, path, {} if method != "GET" else None)[0] in (404, 405)
    assert [server.calls for server in servers] == [[], []]


def test_a_response_is_continued_where_it_is_kept_and_by_its_owner_alone() -> None:
    world, [first, second] = beside_servers()
    ann, bob = clients(world)
    body = {"model": "served", "input": "x"}
    with ann.call("POST", "responses", body, {"X-Endpoint": "second"}) as response:
        assert response.status_code == 200
    turn = {**body, "previous_response_id": "second_1"}
    assert ann.must("POST", "responses", turn)["id"] == "second_1"
    assert (first.calls, second.calls) == ([], ["POST responses"] * 2)
    assert bob.error("POST", "responses", turn) == (
        404,
        "previous_response_not_found",
        "previous_response_id",
    )
    assert len(first.calls + second.calls) == 2


def test_what_an_endpoint_was_told_not_to_store_is_nobodys() -> None:
    world, _ = beside_servers()
    ann, _ = clients(world)
    ann.must("POST", "responses", {"model": "served", "input": "x", "store": False})
    assert ann.error("GET", "responses/first_1")[0] == 404
    ann.must("POST", "chat/completions", {**CHAT, "model": "served"})
    assert ann.error("GET", "chat/completions/first_1")[0] == 404


def test_a_chat_that_an_endpoint_stores_is_fetched_there() -> None:
    world, _ = beside_servers()
    ann, bob = clients(world)
    ann.must("POST", "chat/completions", {**CHAT, "model": "served", "store": True})
    path = "chat/completions/first_1"
    for method, rest in (("GET", ""), ("GET", "/messages"), ("POST", ""), ("DELETE", "")):
        assert bob.error(method, path + rest, {"metadata": {}})[0] == 404
        assert ann.must(method, path + rest, {"metadata": {}})["path"] == path + rest


def test_without_a_store_only_a_single_owner_reaches_what_endpoints_keep() -> None:
    world, [server, _] = beside_servers(store={"days": 0})
    ann, _ = clients(world)
    ann.must("POST", "responses", {"model": "served", "input": "x"})
    assert ann.error("GET", "responses/first_1")[:2] == (400, "nothing_is_stored")
    world.settings["access"] = {"mode": "open"}
    response = world.http().get("/v1/responses/first_1", buffered=True)
    assert (response.status_code, server.calls[-1]) == (200, "GET responses/first_1")


# Modes


def test_in_mode_open_all_clients_are_one_owner() -> None:
    world = World(access={"mode": "open"})
    world.employ(Scripted("Roses are red."))
    http = world.http()
    response = http.post("/v1/responses", json=ROSES, headers={"Authorization": "Bearer a-key"})
    path = f"/v1/responses/{(response.json or {})['id']}"
    away = {"REMOTE_ADDR": "203.0.113.9"}
    assert http.get(path, environ_base=away).status_code == 200


def test_in_mode_passthrough_the_hordes_key_is_the_owner() -> None:
    world = World(access={"mode": "passthrough"})
    world.employ(Scripted("Roses are red."))
    http = world.http()
    mine, other = (
        {"Authorization": f"Bearer {key}"} for key in ("client-key-of-the-tests", "x" * 22)
    )
    response = http.post("/v1/responses", json=ROSES, headers=mine)
    path = f"/v1/responses/{(response.json or {})['id']}"
    assert http.get(path, headers=mine).status_code == 200
    assert http.get(path, headers=other).status_code == 404


def test_the_anonymous_key_of_the_horde_is_no_owner() -> None:
    world = World(access={"mode": "passthrough"})
    world.employ(Scripted("Roses are red."))
    http = world.http()
    anonymous = {"Authorization": "Bearer 0000000000"}
    here, away = ({"REMOTE_ADDR": address} for address in ("203.0.113.9", "198.51.100.7"))
    response = http.post("/v1/responses", json=ROSES, headers=anonymous, environ_base=here)
    http.post(
        "/v1/chat/completions", json={**CHAT, "store": True}, headers=anonymous, environ_base=here
    )
    path = f"/v1/responses/{(response.json or {})['id']}"
    assert http.get(path, headers=anonymous, environ_base=here).status_code == 200
    assert http.get(path, environ_base=here).status_code == 200
    assert http.get(path, headers=anonymous, environ_base=away).status_code == 404
    for owner, count in ((here, 1), (away, 0)):
        chats = http.get("/v1/chat/completions", headers=anonymous, environ_base=owner)
        assert len((chats.json or {})["data"]) == count


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.sampled_from(
        [
            "conversations",
            "conversations/conv_1",
            "conversations/conv_1/items",
            "chat/completions/x",
            "responses/input_tokens",
            "responses/compact",
        ]
    ),
    JSON
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("items", "metadata", "input", "model", "conversation"), JSON),
    ),
)
def test_no_body_is_a_fault_of_ours(path: str, body: Any) -> None:
    response = FUZZED.call("POST", path, body)
    assert response.status_code < 500 or response.status_code == 503, response.text
    assert isinstance(response.json, dict)


FUZZED = Client(two_owners().http())
