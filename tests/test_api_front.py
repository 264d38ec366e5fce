"""A front of another API, in one module: named events, no [DONE], an error shape of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import responses
from flask import Blueprint, Response
from flask.testing import FlaskClient

from horde_proxy import create_app
from horde_proxy.api.context import ServingOptions
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.errors import ProxyError
from horde_proxy.protocol import sse
from horde_proxy.protocol.chunks import Chunk, fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from tests.support import Scripted, World, known


@dataclass(frozen=True)
class Poem:
    """What the front reads: a theme, for one request."""

    requests: tuple[GenerationRequest]


class PoemEvents:
    """Writes {"line": ...} as events with names."""

    shows_progress = False

    def __init__(self, poem: Poem) -> None:
        self.is_open = self.is_complete = False

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        for choice in chunk["choices"]:
            self.is_complete = bool(choice["finish_reason"])
            self.is_open = not self.is_complete
            if choice["delta"].get("content"):
                yield sse.event({"line": choice["delta"]["content"]}, "line")

    def begin(self) -> Iterator[bytes]:
        return iter(())

    def comment(self, text: str) -> bytes:
        return sse.comment(text)

    def keep_alive(self) -> bytes:
        return b""

    def progress(self, text: str) -> bytes:
        raise AssertionError("shows_progress is false")

    def error(self, error: ProxyError) -> bytes:
        return sse.event({"sorry": error.code}, "sorry")

    def end(self) -> bytes:
        return b""


def read(body: Any, serving: ServingOptions) -> Poem:
    message = Message("user", f"A poem about {body['theme']}.")
    stream = bool(body.get("stream"))
    return Poem((GenerationRequest("test/model", (message,), stream=stream),))


def fold_poem(poem: Poem, chunks: Sequence[Chunk]) -> dict[str, Any]:
    return {"poem": fold(chunks)["choices"][0]["message"]["content"]}


FRONT = Front(read, fold_poem, PoemEvents)
blueprint = Blueprint("poems", __name__)


OPTIONAL = replace(FRONT, proxied_to="poems", is_optional=True)


@blueprint.post("/poems")
def poems() -> Response:
    return run_generation(FRONT)


@blueprint.post("/optional-poems")
def optional_poems() -> Response:
    return run_generation(OPTIONAL)


def client(world: World) -> FlaskClient:
    app = world.app()
    app.register_blueprint(blueprint, url_prefix="/v1")
    return app.test_client()


def test_a_front_answers_in_its_own_shape(world: World) -> None:
    backend = world.employ(Scripted("Roses are red."))
    response = client(world).post("/v1/poems", json={"theme": "roses"})
    assert response.json == {"poem": "Roses are red."}
    assert response.headers["X-Horde-Model"] == "test/model"
    assert "A poem about roses." in backend.payloads[0]["prompt"]


def test_a_front_names_its_events_and_ends_as_it_likes(world: World) -> None:
    world.employ(Scripted("Roses are red."))
    response = client(world).post("/v1/poems", json={"theme": "roses", "stream": True})
    assert response.content_type == "text/event-stream; charset=utf-8"
    events = [event.split("\n") for event in response.text.split("\n\n") if event]
    assert [name for name, _ in events] == ["event: line"] * 3
    lines = [json.loads(data.removeprefix("data: "))["line"] for _, data in events]
    assert "".join(lines) == "Roses are red."


def test_a_front_writes_its_own_errors_into_a_stream(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(server={"stream_timeout": 30})
    response = client(world).post("/v1/poems", json={"theme": "roses", "stream": True})
    *comments, last = [event for event in response.text.split("\n\n") if event]
    assert last == 'event: sorry\ndata: {"sorry":"timeout"}'
    assert all(comment.startswith(": queued") for comment in comments)


def test_a_new_front_gets_keys_streams_and_usage_from_the_pipeline(world: World) -> None:
    world.employ(Scripted("Roses are red."))
    world.configure(**known(ann="key-of-ann-longer"))
    http = client(world)
    assert http.post("/v1/poems", json={"theme": "roses"}).status_code == 401
    headers = {"Authorization": "Bearer key-of-ann-longer"}
    with http.post("/v1/poems", json={"theme": "roses"}, headers=headers) as response:
        assert response.status_code == 200
    [row] = http.get("/v1/usage", headers=headers).get_json()["data"]
    assert (row["key"], row["requests"], row["completion_tokens"] > 0) == ("ann", 1, True)


# Fronts before a server of OpenAI's API.

SERVER = "http://server.invalid:1/v1"
STREAM = (
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "Roses are red."}}]}\n\n'
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
POEM = {"model": "test/model", "theme": "roses"}
CHAT = {
    "model": "test/model",
    "messages": [{"role": "user", "content": "A poem about roses."}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        mock.get(f"{SERVER}/models", json={"data": [{"id": "test/model"}]})
        yield mock


def before_server(prefix: str = "/v1") -> FlaskClient:
    endpoints = [{"url": SERVER, "name": "server"}]
    settings = load(environ={}, flags={"endpoints": endpoints, "stats": {"hydrate": False}})
    app = create_app(settings, Runtime(run=inline))
    app.register_blueprint(blueprint, url_prefix=prefix)
    return app.test_client()


@pytest.mark.parametrize("prefix", ["/v1", "/"])
def test_a_server_gets_a_chat_and_not_a_body_that_it_cannot_read(
    server: responses.RequestsMock, prefix: str
) -> None:
    sent = server.post(f"{SERVER}/chat/completions", body=STREAM, content_type="text/event-stream")
    response = before_server(prefix).post(f"{prefix.rstrip('/')}/poems", json=POEM)
    assert response.json == {"poem": "Roses are red."}
    assert response.headers["X-Endpoint"] == "server"
    assert json.loads(sent.calls[0].request.body) == CHAT


@pytest.mark.parametrize("prefix", ["/v1", "/"])
def test_a_server_that_has_the_front_s_path_gets_the_body_unchanged(
    server: responses.RequestsMock, prefix: str
) -> None:
    sent = server.post(f"{SERVER}/poems", json={"verse": "Violets are blue."})
    response = before_server(prefix).post(f"{prefix.rstrip('/')}/optional-poems", json=POEM)
    assert response.json == {"verse": "Violets are blue."}
    assert json.loads(sent.calls[0].request.body) == POEM


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_lacks_the_front_s_path_gets_a_chat(
    server: responses.RequestsMock, status: int
) -> None:
    server.post(f"{SERVER}/poems", status=status)
    sent = server.post(f"{SERVER}/chat/completions", body=STREAM, content_type="text/event-stream")
    response = before_server().post("/v1/optional-poems", json=POEM)
    assert response.json == {"poem": "Roses are red."}
    assert json.loads(sent.calls[0].request.body) == CHAT


def test_a_refusal_at_the_front_s_path_goes_to_the_client(server: responses.RequestsMock) -> None:
    server.post(f"{SERVER}/poems", status=400, json={"error": "no rhymes"})
    response = before_server().post("/v1/optional-poems", json=POEM)
    assert (response.status_code, response.json) == (400, {"error": "no rhymes"})
