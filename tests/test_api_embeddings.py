"""Embeddings: relayed to the endpoints that have them, and refused in each front's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import responses
from flask.testing import FlaskClient

from horde_proxy import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.ledger import ClientKey
from tests.support import Scripted, World, known

SERVER, HORDE = "http://server.invalid:1", "http://horde.invalid"
ANSWER: dict[str, Any] = {
    "object": "list",
    "model": "nomic-embed-text",
    "data": [
        {"object": "embedding", "index": 1, "embedding": [0.3, 0.4]},
        {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]},
    ],
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
}
ONE = {**ANSWER, "data": ANSWER["data"][1:]}
MISSING = (
    "The model `text-embedding-3-small` does not exist or you do not have access to it. "
    "Available: `nomic-embed-text`, `llama3.2:1b`."
)
NOT_FROM_HORDES = (
    " is not served here: hordes only write texts and make pictures. To add it, "
    "put a server that has it under [[endpoints]] in the settings, with the type `openai`."
)


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(
            f"{SERVER}/v1/models",
            json={"data": [{"id": "nomic-embed-text"}, {"id": "llama3.2:1b"}]},
        )
        mock.get(f"{HORDE}/api/v2/status/models", json=[{"name": "h", "count": 1}])
        mock.get(f"{HORDE}/api/v2/workers", json=[])
        yield mock


def proxy(*, has_horde: bool = False, **sections: Any) -> FlaskClient:
    endpoints = [{"url": SERVER, "name": "server"}]
    endpoints += [{"type": "horde", "url": HORDE}] if has_horde else []
    flags = {"endpoints": endpoints, "stats": {"hydrate": False}, **sections}
    settings = load(environ={}, flags=flags)
    runtime = Runtime(run=inline, open_ledger=lambda url: None)
    return create_app(settings, runtime).test_client()


def sent(call: responses.BaseResponse) -> Any:
    return json.loads(call.calls[0].request.body or "")


# By the name in the request, and the settings: which model the server is asked for.
NAMES = [
    ("nomic-embed-text", {}),
    ("nomic-embed-text:latest", {}),
    ("text-embedding-3-small", {"routing": {"default_embedding": "nomic-embed-text"}}),
    ("text-embedding-3-small", {"aliases": {"text-embedding-3-small": "nomic-embed-text"}}),
    ("text-embedding-3-small", {"fallbacks": {"text-embedding-3-small": ["nomic-embed-text"]}}),
    ("text-embedding-3-small", {"fallbacks": {"*": ["nomic-embed-text"]}}),
    (
        "text-embedding-3-small",
        {
            "fallbacks": {"*": ["llama3.2:1b"]},
            "routing": {"default_embedding": "nomic-embed-text"},
        },
    ),
]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
@pytest.mark.parametrize(("name", "settings"), NAMES)
def test_an_openai_client_gets_the_servers_answer(
    server: responses.RequestsMock, path: str, name: str, settings: dict[str, Any]
) -> None:
    call = server.post(f"{SERVER}/v1/embeddings", json=ANSWER)
    response = proxy(**settings).post(path, json={"model": name, "input": ["x", "y"]})
    assert (response.status_code, response.json) == (200, ANSWER)
    assert sent(call) == {"model": "nomic-embed-text", "input": ["x", "y"]}
    assert response.headers["X-Endpoint"] == "server"


@pytest.mark.parametrize(("name", "settings"), NAMES)
def test_an_ollama_client_gets_vectors(
    server: responses.RequestsMock, name: str, settings: dict[str, Any]
) -> None:
    call = server.post(f"{SERVER}/v1/embeddings", json=ANSWER)
    http = proxy(**settings)
    response = http.post("/api/embed", json={"model": name, "input": ["x", "y"], "truncate": True})
    answer: Any = response.json
    assert answer["embeddings"] == [[0.1, 0.2], [0.3, 0.4]]
    assert (answer["model"], answer["prompt_eval_count"]) == (name, 5)
    assert answer["total_duration"] >= 1
    assert sent(call) == {
        "model": "nomic-embed-text",
        "input": ["x", "y"],
        "encoding_format": "float",
    }
    assert response.headers["X-Endpoint"] == "server"
    assert response.content_type == "application/json"


def test_a_request_without_a_model_gets_the_default_one(server: responses.RequestsMock) -> None:
    call = server.post(f"{SERVER}/v1/embeddings", json=ONE)
    http = proxy(routing={"default_embedding": "nomic-embed-text"})
    assert http.post("/v1/embeddings", json={"input": "x"}).json == ONE
    assert sent(call) == {"model": "nomic-embed-text", "input": "x"}


def test_the_older_route_of_ollama_has_one_vector(server: responses.RequestsMock) -> None:
    call = server.post(f"{SERVER}/v1/embeddings", json=ONE)
    http = proxy()
    body = {"model": "nomic-embed-text", "prompt": "x"}
    assert http.post("/api/embeddings", json=body).json == {"embedding": [0.1, 0.2]}
    assert sent(call)["input"] == ["x"]


def test_no_text_has_no_vector(server: responses.RequestsMock) -> None:
    http, model = proxy(), {"model": "nomic-embed-text"}
    embedded: Any = http.post("/api/embed", json={**model, "input": []}).json
    assert embedded["embeddings"] == []
    assert http.post("/api/embeddings", json={**model, "prompt": ""}).json == {"embedding": []}


def test_an_unknown_model_is_named_with_near_ones(server: responses.RequestsMock) -> None:
    http, body = proxy(), {"model": "text-embedding-3-small", "input": "x"}
    refused: Any = http.post("/v1/embeddings", json=body)
    assert (refused.status_code, refused.json["error"]["message"]) == (404, MISSING)
    refused = http.post("/api/embed", json=body)
    message = "model 'text-embedding-3-small' not found; available: nomic-embed-text, llama3.2:1b"
    assert (refused.status_code, refused.json) == (404, {"error": message})


def test_a_default_that_is_missing_too_does_not_hide_the_clients_name(
    server: responses.RequestsMock,
) -> None:
    http = proxy(routing={"default_embedding": "gone"})
    refused: Any = http.post(
        "/v1/embeddings", json={"model": "text-embedding-3-small", "input": "x"}
    )
    assert refused.json["error"]["message"] == MISSING


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_a_model_of_a_horde_embeds_nothing(server: responses.RequestsMock, path: str) -> None:
    refused: Any = proxy(has_horde=True).post(path, json={"model": "h", "input": "x"})
    error = refused.json["error"]
    assert refused.status_code == 404
    assert (error if path == "/api/embed" else error["message"]) == (
        f"The endpoint of this model answers chats and completions only. For {path}, use a model "
        "of an endpoint that has it, of the type `openai`: GET /v1/models lists the `endpoints` "
        "of each model."
    )


def test_a_horde_alone_says_what_to_do_in_each_shape(world: World) -> None:
    world.employ(Scripted("x"))
    http = world.http()
    body = {"model": "test/model", "input": "x", "prompt": "x"}
    refused: Any = http.post("/v1/embeddings", json=body)
    assert (refused.status_code, refused.json["error"]) == (
        404,
        {
            "message": "/v1/embeddings" + NOT_FROM_HORDES,
            "type": "invalid_request_error",
            "param": None,
            "code": "unsupported_endpoint",
        },
    )
    for path in ("/api/embed", "/api/embeddings"):
        refused = http.post(path, json=body)
        assert (refused.status_code, refused.json) == (404, {"error": path + NOT_FROM_HORDES})


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ({"status": 400, "json": {"error": {"message": "too long"}}}, 400, "too long"),
        ({"status": 400, "json": {"error": "too long"}}, 400, "too long"),
        ({"status": 400, "json": {"detail": "x"}}, 400, "The endpoint refused the texts."),
        ({"status": 429, "json": {"error": {"message": "slow down"}}}, 429, "slow down"),
        ({"status": 503, "json": {"error": {"message": "it loads"}}}, 503, "it loads"),
        ({"json": {"data": []}}, 502, "The endpoint did not send an embedding for each text."),
        ({"body": b"[1, 2"}, 502, "The endpoint sent no readable embeddings."),
        ({"body": b"<html>"}, 502, "it sent a web page instead of an answer"),
        (
            {"body": requests.ConnectionError("Connection refused")},
            502,
            "server.invalid:1 cannot be reached: connection refused",
        ),
    ],
)
def test_a_servers_fault_is_told_to_ollamas_clients(
    server: responses.RequestsMock, answer: dict[str, Any], status: int, message: str
) -> None:
    server.post(f"{SERVER}/v1/embeddings", **answer)
    body = {"model": "nomic-embed-text", "input": "x"}
    response: Any = proxy().post("/api/embed", json=body)
    assert (response.status_code, list(response.json)) == (status, ["error"])
    assert message in response.json["error"]


def test_a_key_embeds_with_its_own_models_only(server: responses.RequestsMock) -> None:
    server.post(f"{SERVER}/v1/embeddings", json=ONE)
    http = proxy(
        **known(
            ann=ClientKey("ann", models=("nomic-*",)),
            bob=ClientKey("bob", models=("other",)),
        ),
        routing={"default_embedding": "nomic-embed-text"},
    )
    for path, body in (
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"}),
        ("/api/embed", {"model": "text-embedding-3-small", "input": "x"}),
    ):
        statuses = []
        for name in ("ann", "bob"):
            bearer = {"Authorization": f"Bearer key-of-{name}-longer"}
            with http.post(path, json=body, headers=bearer) as response:
                statuses.append(response.status_code)
        assert statuses == [200, 404]
    bearer = {"Authorization": "Bearer key-of-ann-longer"}
    [row] = http.get("/v1/usage", headers=bearer).get_json()["data"]
    assert (row["requests"], row["prompt_tokens"]) == (2, 10)
