"""A server answers where a horde could not: what its client, the log and the usage get."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient

from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.support import Scripted, World, known

SERVER = "http://server.invalid"
CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hello there."}]}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
STREAM = (
    b'data: {"id": "x", "created": 5, "model": "big", "choices": [{"delta": {"content": "Hi"}}]}'
    b"\n\n"
    b'data: {"choices": [{"delta": {}, "finish_reason": "eos"}], "usage": {"prompt_tokens": 7,'
    b' "completion_tokens": 5}}\n\ndata: [DONE]\n\n'
)


class Faulty(Scripted):
    """A backend whose jobs all fail."""

    def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
        super().generate(payload, cancelled)
        raise RuntimeError("out of memory")


class Server:
    """A server in this process; `bodies` are the requests that it got."""

    def __init__(self, body: bytes = STREAM, content_type: str = "text/event-stream") -> None:
        self.body, self.content_type = body, content_type
        self.bodies: list[dict[str, Any]] = []
        self.app = Flask("server")
        self.app.get("/v1/models")(lambda: {"data": [{"id": "test/model"}]})
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            self.app.post(path, endpoint=path)(self._answer)

    def _answer(self) -> Response:
        self.bodies.append(request.get_json())
        return Response(self.body, content_type=self.content_type)


def proxy_before(server: Server, *, jobs_fail: bool = False, **settings: Any) -> World:
    """A proxy whose horde is in maintenance, or fails all jobs, and that has a server behind it."""
    endpoints = [{"type": "horde"}, {"url": SERVER, "name": "server", "priority": 1}]
    world = World(**{"endpoints": endpoints, **settings})
    world.session.mount(SERVER, WSGIAdapter(server.app))
    if jobs_fail:
        world.employ(Faulty("x"))
    else:
        world.bridge(Scripted("x")).step(world.session)
        world.horde.maintenance = True
    return world


# Who answered

KEYS = known(ann="key-of-ann-longer")
ANN = {"Authorization": "Bearer key-of-ann-longer"}


def fields_of(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The fields of the only line in the log of requests."""
    [record] = [record for record in caplog.records if record.name == "horde_proxy.requests"]
    fields: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    return fields


def usage_of(http: FlaskClient) -> list[tuple[Any, ...]]:
    """Model, endpoint and tokens of each row of the client's usage."""
    rows = http.get("/v1/usage", headers=ANN).get_json()["data"]
    names = ("model", "endpoint", "prompt_tokens", "completion_tokens")
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("jobs_fail", [True, False])
def test_a_whole_answer_names_the_server_that_took_over(
    jobs_fail: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    http = proxy_before(Server(), jobs_fail=jobs_fail, **KEYS).http()
    with http.post("/v1/chat/completions", json={**CHAT, "seed": 7}, headers=ANN) as response:
        assert response.get_json()["model"] == "big"
    assert response.headers["X-Endpoint"] == "server"
    assert [name for name, _ in response.headers if name.startswith("X-Horde")] == []
    fields = fields_of(caplog)
    assert (fields["upstream"], fields["model"]) == ("server", "test/model")
    assert "horde_request" not in fields
    assert usage_of(http) == [("test/model", "server", 7, 5)]


@pytest.mark.parametrize("jobs_fail", [True, False])
def test_a_stream_names_the_server_that_took_over_where_it_still_can(
    jobs_fail: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.requests")
    http = proxy_before(Server(), jobs_fail=jobs_fail, **KEYS).http()
    body = {**CHAT, "stream": True}
    with http.post("/v1/chat/completions", json=body, headers=ANN) as response:
        chunks = chunks_of(response.get_data(as_text=True))
    # The headers were sent when the horde had accepted the request.
    assert response.headers["X-Endpoint"] == ("horde" if jobs_fail else "server")
    models = [chunk["model"] for chunk in chunks]
    assert models == ["test/model" if jobs_fail else "big", "big", "big"]
    fields = fields_of(caplog)
    assert (fields["upstream"], fields["model"]) == ("server", "test/model")
    assert "horde_request" not in fields
    assert usage_of(http) == [("test/model", "server", 7, 5)]


def test_a_retry_of_a_stream_names_the_server_that_took_over() -> None:
    world = proxy_before(Server(), jobs_fail=True)
    http = world.http()
    body = {**CHAT, "stream": True}
    first = http.post("/v1/chat/completions", json=body, buffered=False)
    assert first.headers["X-Endpoint"] == "horde"
    # The server has taken over when its first text comes.
    next(chunk for chunk in first.response if b'"content":"H' in chunk)
    first.close()
    retry = http.post("/v1/chat/completions", json=body)
    assert retry.headers["X-Endpoint"] == "server"
    assert "X-Horde-Request-Id" not in retry.headers
    assert "".join(content_of(retry.text)) == "Hi"


def test_prompts_of_one_completion_name_the_server_that_took_over() -> None:
    stream = sse_of({"choices": [{"text": "Hi", "finish_reason": "eos"}], "usage": USAGE})
    http = proxy_before(Server(stream), jobs_fail=True).http()
    body = {"model": "test/model", "prompt": ["Once", "Twice"]}
    response = http.post("/v1/completions", json=body)
    assert [choice["text"] for choice in response.get_json()["choices"]] == ["Hi", "Hi"]
    assert response.get_json()["usage"] == {
        "prompt_tokens": 14,
        "completion_tokens": 10,
        "total_tokens": 24,
    }
    assert response.headers["X-Endpoint"] == "server"
    assert "X-Horde-Request-Id" not in response.headers


def test_tokens_are_estimated_where_the_server_counts_none() -> None:
    stream = sse_of({"choices": [{"delta": {"content": "x" * 40}, "finish_reason": "stop"}]})
    http = proxy_before(Server(stream), **KEYS).http()
    with http.post("/v1/chat/completions", json=CHAT, headers=ANN) as response:
        usage = response.get_json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (6, 10)
    assert usage_of(http) == [("test/model", "server", 6, 10)]


def test_a_client_that_leaves_pays_for_what_came() -> None:
    stream = sse_of(
        {"choices": [{"delta": {"content": "x" * 40}}]},
        {"choices": [{"delta": {"content": "y"}, "finish_reason": "stop"}]},
    )
    http = proxy_before(Server(stream), **KEYS).http()
    body = {**CHAT, "stream": True}
    response = http.post("/v1/chat/completions", json=body, headers=ANN, buffered=False)
    pieces = iter(response.response)
    next(pieces)
    next(pieces)
    response.close()
    [(_, _, prompt, completion)] = usage_of(http)
    assert (prompt, completion) in [(6, 10), (6, 11)]


# What the server gets

HORDE_ONLY = {"horde": {"slow_workers": True}, "rep_pen": 1.1, "top_a": 0.1, "tfs": 0.9}
SENT = {**CHAT, "top_k": 40, "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_gets_nothing_that_is_meant_for_a_horde(stream: bool) -> None:
    server = Server()
    body = {**CHAT, **HORDE_ONLY, "top_k": 40, "stream": stream}
    response = proxy_before(server).http().post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert server.bodies == [SENT]
    warnings = response.headers["X-Horde-Warnings"]
    assert warnings == "rep_pen: not sent; tfs: not sent; top_a: not sent"


def test_openai_itself_gets_no_foreign_sampler() -> None:
    server = Server()
    endpoints = [
        {"type": "horde"},
        {"url": "https://api.openai.com/v1", "name": "server", "priority": 1},
    ]
    world = proxy_before(server, endpoints=endpoints)
    world.session.mount("https://api.openai.com", WSGIAdapter(server.app))
    response = world.http().post("/v1/chat/completions", json={**CHAT, "top_k": 40})
    assert response.status_code == 200
    assert "top_k" not in server.bodies[0]
    assert response.headers["X-Horde-Warnings"] == "top_k: not sent"


def test_a_prompt_is_echoed_once() -> None:
    server = Server(sse_of({"choices": [{"text": " more", "finish_reason": "eos"}]}))
    body = {"model": "test/model", "prompt": "Once", "echo": True, "best_of": 2}
    response = proxy_before(server).http().post("/v1/completions", json=body)
    assert response.get_json()["choices"][0]["text"] == "Once more"
    assert server.bodies[0].keys().isdisjoint({"echo", "best_of"})


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
@pytest.mark.parametrize("stream", [False, True])
def test_our_own_object_is_not_proxied(path: str, stream: bool) -> None:
    server = Server()
    endpoints = [{"url": SERVER, "name": "server"}]
    body = {"model": "test/model", "stream": stream, "top_a": 0.1, "rep_pen": 1.1}
    http = proxy_before(server, endpoints=endpoints).http()
    http.post(f"/v1/{path}", json={**body, "horde": {"slow_workers": True}})
    assert server.bodies == [body]


# What a cut answer is


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: [DONE]\n\n",
        b": wait\n\n",
        b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\ndata: {"choices": [{"del',
        b'{"choices": []}',
        b"<html>Log in</html>",
    ],
)
def test_a_cut_or_empty_answer_is_a_502_or_an_error_event(body: bytes) -> None:
    whole = proxy_before(Server(body)).http().post("/v1/chat/completions", json=CHAT)
    assert whole.status_code in (502, 503)
    assert whole.get_json()["error"]["type"] == "server_error"
    http = proxy_before(Server(body)).http()
    response = http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    if response.status_code == 200:
        *_, error, done = response.text.rstrip().split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] in (
            "upstream_error",
            "no_endpoint",
        )
        assert done == "data: [DONE]"
    else:
        assert response.status_code in (502, 503)


def test_choices_that_only_the_horde_began_are_not_given_as_complete() -> None:
    body = {**CHAT, "n": 2}
    whole = proxy_before(Server(), jobs_fail=True).http().post("/v1/chat/completions", json=body)
    assert (whole.status_code, whole.get_json()["error"]["message"]) == (
        502,
        "The answer broke off.",
    )
    http = proxy_before(Server(), jobs_fail=True).http()
    streamed = http.post("/v1/chat/completions", json={**body, "stream": True})
    assert '"message":"The answer broke off."' in streamed.text


def sse_of(*events: Mapping[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream that ends as it should; keep-alive comments are skipped."""
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def content_of(text: str) -> Iterable[str]:
    for chunk in chunks_of(text):
        for choice in chunk["choices"]:
            yield choice["delta"].get("content") or ""
