"""Several models in one request: who answers, in every API, and what the key allows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import responses

from horde_proxy.ledger import ClientKey
from tests.support import Scripted, World, known
from tests.test_api_proxying import ANN, CLOUD, COMPLETION, HOME, STREAM, made
from tests.test_api_proxying import servers as servers

MESSAGES = [{"role": "user", "content": "Hi"}]
EMBEDDINGS = {"object": "list", "data": [], "usage": {"prompt_tokens": 1, "total_tokens": 1}}
# Each API: what it is sent besides the models, and where its calls are proxied to.
RELAYED: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"messages": MESSAGES}, "chat/completions"),
    "/v1/completions": ({"prompt": "Hi"}, "completions"),
    "/v1/responses": ({"input": "Hi"}, "responses"),
    "/v1/messages": ({"messages": MESSAGES, "max_tokens": 9}, "messages"),
    "/v1/embeddings": ({"input": "Hi"}, "embeddings"),
}
# The same for the horde, which has no embeddings.
TRANSLATED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/api/generate": {"prompt": "Hi", "stream": False},
}


@pytest.mark.parametrize("path", RELAYED)
def test_a_server_gets_the_one_model_that_it_serves(
    servers: responses.RequestsMock, path: str
) -> None:
    fields, route = RELAYED[path]
    home = servers.post(f"{HOME}/v1/{route}", status=503)
    cloud = servers.post(f"{CLOUD}/v1/{route}", json={**COMPLETION, **EMBEDDINGS})
    body = {"models": ["home-only", "cloud-only"], **fields}
    answer = made().test_client().post(path, json=body)
    assert answer.status_code == 200
    assert answer.headers["X-Endpoint"] == "cloud"
    assert answer.headers["X-Horde-Model"] == "cloud-only"
    assert json.loads(home.calls[0].request.body or "") == {**fields, "model": "home-only"}
    assert json.loads(cloud.calls[0].request.body or "") == {**fields, "model": "cloud-only"}


def test_ollamas_embeddings_take_several_models(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/embeddings", status=503)
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    sent = servers.post(f"{CLOUD}/v1/embeddings", json={**EMBEDDINGS, "data": [vector]})
    body = {"model": "home-only", "models": ["cloud-only"], "input": "Hi"}
    answer = made().test_client().post("/api/embed", json=body)
    assert answer.json is not None
    assert answer.json["embeddings"] == [[0.5]]
    assert json.loads(sent.calls[0].request.body or "")["model"] == "cloud-only"


def test_pictures_take_several_models(servers: responses.RequestsMock) -> None:
    image = {"type": "image", "architecture": {"output_modalities": ["image"]}}
    for server, name in ((HOME, "draws"), (CLOUD, "paints")):
        servers.replace("GET", f"{server}/v1/models", json={"data": [{"id": name, **image}]})
    servers.post(f"{HOME}/v1/images/generations", status=503)
    sent = servers.post(f"{CLOUD}/v1/images/generations", json={"created": 1, "data": []})
    body = {"models": ["draws", "paints"], "prompt": "A cat"}
    answer = made().test_client().post("/v1/images/generations", json=body)
    assert (answer.status_code, answer.headers["X-Horde-Model"]) == (200, "paints")
    assert json.loads(sent.calls[0].request.body or "") == {"model": "paints", "prompt": "A cat"}


@pytest.mark.parametrize("path", TRANSLATED)
def test_a_horde_answers_with_the_next_model_where_the_first_is_gone(
    world: World, path: str
) -> None:
    world.employ(Scripted("Hello.", "org/alive"))
    body = {"models": ["org/gone", "org/alive"], **TRANSLATED[path]}
    answer = world.http().post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    assert answer.headers["X-Horde-Model"] == "org/alive"
    # Ollama's and Anthropic's APIs repeat the name that the client wrote.
    repeats = path.startswith("/api/") or path == "/v1/messages"
    assert answer.json["model"] == ("org/gone" if repeats else "org/alive")
    warning = "models: 'org/gone' is not offered to this request now, and was left out"
    assert answer.headers["X-Horde-Warnings"] == warning


def test_the_horde_answers_where_the_server_fails(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/chat/completions", status=503)
    sent = servers.post(
        f"{CLOUD}/v1/chat/completions", body=STREAM, content_type="text/event-stream"
    )
    body = {
        "model": "home-only",
        "fallbacks": [{"model": "cloud-only"}],
        "messages": MESSAGES,
        "stream": True,
    }
    answer = made().test_client().post("/v1/chat/completions", json=body)
    assert answer.data == STREAM
    assert "fallbacks" not in json.loads(sent.calls[0].request.body or "")


def test_no_model_of_a_list_is_a_404(servers: responses.RequestsMock) -> None:
    body = {"models": ["gone", "lost"], "messages": MESSAGES}
    answer = made().test_client().post("/v1/chat/completions", json=body)
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "model_not_found")
    assert "`gone`" in answer.json["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
@pytest.mark.parametrize("names", [["home-only", "cloud-only"], ["cloud-only", "home-only"]])
@pytest.mark.parametrize("hidden", ["cloud-only", "not-there"])
def test_each_model_must_be_one_that_the_key_may_use(
    servers: responses.RequestsMock, path: str, names: list[str], hidden: str
) -> None:
    app = made(**known(ann=ClientKey("ann", models=("home-*",))))
    names = [hidden if name == "cloud-only" else name for name in names]
    body = {"models": names, "messages": MESSAGES, "input": "Hi"}
    headers = {"Authorization": "Bearer key-of-ann-longer"}
    answer = app.test_client().post(path, json=body, headers=headers)
    assert answer.json is not None
    # Whether a model exists that the key may not use is not told.
    is_first = names[0] == hidden
    expected = (404, "model_not_found") if is_first else (403, "forbidden")
    assert (answer.status_code, answer.json["error"]["code"]) == expected


def test_a_limited_key_may_name_several_of_its_models(servers: responses.RequestsMock) -> None:
    servers.post(f"{HOME}/v1/chat/completions", json=COMPLETION)
    app = made(**known(ann=ClientKey("ann", models=("home-*",))))
    body = {"models": ["home-gone", "home-only"], "messages": MESSAGES}
    headers = {"Authorization": "Bearer key-of-ann-longer"}
    answer = app.test_client().post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.headers["X-Horde-Model"]) == (200, "home-only")


def test_a_background_response_keeps_its_further_models(world: World) -> None:
    world.employ(Scripted("Hello.", "org/alive"))
    http = world.http()
    body = {"models": ["org/gone", "org/alive"], "input": "Hi", "background": True}
    begun = http.post("/v1/responses", json=body).json
    assert begun is not None, ANN
    assert begun["status"] in ("queued", "in_progress", "completed")


def test_a_list_that_is_none_is_a_400_in_the_shape_of_its_api(world: World) -> None:
    world.employ(Scripted("Hello."))
    http = world.http()
    for path, fields in TRANSLATED.items():
        answer = http.post(path, json={"models": "test/model", **fields})
        assert answer.status_code == 400
        assert "`models` is wrong: it must be a list of models' names." in answer.text
