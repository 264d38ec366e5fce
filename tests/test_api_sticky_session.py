"""A conversation goes to one of two equal servers, through every front, relayed or translated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from tests.support import known
from tests.test_api_proxying import ANN, CLOUD, HOME, ROOT, made

SERVERS = {"home": HOME, "cloud": CLOUD}
EQUALS = [{"url": url, "name": name} for name, url in SERVERS.items()]
WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}
CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
}
STREAM = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"


def answer(request: Any) -> tuple[int, dict[str, str], str]:
    if json.loads(request.body).get("stream"):
        return 200, {"Content-Type": "text/event-stream"}, STREAM
    return 200, {"Content-Type": "application/json"}, json.dumps(WHOLE)


@pytest.fixture
def servers() -> Iterator[responses.RequestsMock]:
    """Two servers with chats alone: the other APIs are translated for them."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for url in SERVERS.values():
            mock.get(f"{url}/v1/models", json={"data": [{"id": "m"}]})
            for path in ("chat/completions", "completions"):
                mock.add_callback("POST", f"{url}/v1/{path}", answer, content_type=None)
            for path in ("messages", "responses"):
                mock.post(f"{url}/v1/{path}", status=404)
        yield mock


Body = Callable[[str, int], dict[str, Any]]


def _turns(text: str, turn: int) -> list[dict[str, str]]:
    """The messages of a turn: the first one, and those that came since."""
    first = [{"role": "user", "content": text}]
    more = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "And?"}]
    return first + more * turn


def _chat(text: str, turn: int) -> dict[str, Any]:
    system = {"role": "system", "content": "Be brief."}
    return {"model": "m", "messages": [system, *_turns(text, turn)]}


def _messages(text: str, turn: int) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "system": "Be brief.", "messages": _turns(text, turn)}


def _responses(text: str, turn: int) -> dict[str, Any]:
    return {"model": "m", "store": False, "instructions": "Be brief.", "input": _turns(text, turn)}


def _completion(text: str, turn: int) -> dict[str, Any]:
    return {"model": "m", "prompt": f"{text:512}" + "more " * turn}


def _generate(text: str, turn: int) -> dict[str, Any]:
    return {"model": "m", "prompt": f"{text:512}" + "more " * turn, "stream": False}


FRONTS: dict[str, Body] = {
    "/v1/chat/completions": _chat,
    "/v1/messages": _messages,
    "/v1/responses": _responses,
    "/v1/completions": _completion,
    "/api/chat": lambda text, turn: {**_chat(text, turn), "stream": False},
    "/api/generate": _generate,
}


def place(http: FlaskClient, path: str, body: dict[str, Any], key: str = "", **headers: str) -> str:
    """The endpoint that answers."""
    if key:
        headers["Authorization"] = f"Bearer {key}"
    found = http.post(path, json=body, headers=headers, buffered=True)
    assert found.status_code == 200, found.text
    return found.headers["X-Endpoint"]


@pytest.mark.parametrize("path", FRONTS)
def test_a_conversation_stays_at_one_endpoint(servers: responses.RequestsMock, path: str) -> None:
    http, body = made(EQUALS).test_client(), FRONTS[path]
    names = [f"Tell me of {number}" for number in range(12)]
    first = {name: place(http, path, body(name, 0)) for name in names}
    assert set(first.values()) == set(SERVERS)
    for turn in (1, 2, 3):
        assert {name: place(http, path, body(name, turn)) for name in names} == first


@pytest.mark.parametrize("path", FRONTS)
def test_without_the_setting_its_turns_are_spread(
    servers: responses.RequestsMock, path: str
) -> None:
    http = made(EQUALS, routing={"sticky": False}).test_client()
    assert {place(http, path, FRONTS[path]("Hello", turn)) for turn in range(40)} == set(SERVERS)


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"X-Session-Affinity": "ses_1"}, {}),
        ({"Session-Id": "019a"}, {}),
        ({}, {"prompt_cache_key": "019a"}),
        ({}, {"user": "ann"}),
    ],
)
def test_what_a_client_tells_counts_instead_of_the_beginning(
    servers: responses.RequestsMock, headers: dict[str, str], fields: dict[str, str]
) -> None:
    http = made(EQUALS).test_client()
    path = "/v1/chat/completions"
    bodies = [{**_chat(f"Other {number}", 0), **fields} for number in range(30)]
    assert len({place(http, path, body, **headers) for body in bodies}) == 1


def test_no_client_moves_the_conversation_of_another(servers: responses.RequestsMock) -> None:
    keys = known(ann=ANN, root=ROOT)
    http = made(EQUALS, **keys).test_client()
    path, body = "/v1/chat/completions", _chat("Hello", 0)
    pairs = [
        (
            place(http, path, body, ANN, **{"X-Session-Id": str(number)}),
            place(http, path, body, ROOT, **{"X-Session-Id": str(number)}),
        )
        for number in range(30)
    ]
    assert {one == other for one, other in pairs} == {True, False}


def test_a_response_that_goes_on_with_a_stored_one_goes_to_its_endpoint(
    servers: responses.RequestsMock,
) -> None:
    http = made(EQUALS).test_client()
    for number in range(6):
        body: dict[str, Any] = {"model": "m", "input": f"Tell me of {number}"}
        found = http.post("/v1/responses", json=body, buffered=True)
        for _ in range(4):
            previous = found.json["id"]  # type: ignore[index]
            body = {"model": "m", "input": "And?", "previous_response_id": previous}
            later = http.post("/v1/responses", json=body, buffered=True)
            assert later.headers["X-Endpoint"] == found.headers["X-Endpoint"]
            found = later


def test_sessions_outlive_a_reload(servers: responses.RequestsMock) -> None:
    from horde_proxy.app.factory import reconfigure
    from horde_proxy.config import load

    app = made(EQUALS)
    http, path = app.test_client(), "/v1/chat/completions"
    names = [f"Tell me of {number}" for number in range(12)]
    first = {name: place(http, path, _chat(name, 0)) for name in names}
    flags = {"endpoints": EQUALS, "stats": {"hydrate": False}, "aliases": {"other": "m"}}
    reconfigure(app, load(environ={}, flags=flags))
    assert {name: place(http, path, _chat(name, 1)) for name in names} == first
