"""Routes that the proxy knows and does not serve: what it says, and in which API's shape."""

from __future__ import annotations

from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from horde_proxy import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.errors import without_retry_triggers
from tests.support import World, known

HOME = "http://home.invalid:1"
ADD = (
    " To add it, put a server that has it under [[endpoints]] in the settings, with the type "
    "`openai`."
)
USE_CHATS = (
    " is not served here. Let the client use chat completions: POST /v1/chat/completions." + ADD
)
NOT_FROM_HORDES = " is not served here: hordes only write texts and make pictures." + ADD
CHOOSE_OPENAI = (
    " is not served here, and no setting adds it. Choose an OpenAI-compatible server in the "
    "client, with this address and /v1 as its base URL."
)


@pytest.fixture
def http(world: World) -> FlaskClient:
    """A client of a proxy that has a horde only."""
    return world.http()


def openai(message: str, code: str | None = "unsupported_endpoint") -> dict[str, Any]:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return {"error": error}


def anthropic(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "not_found_error", "message": message}}


def no_messages(path: str) -> dict[str, Any]:
    return anthropic(
        f"{path} is not served here. Of Anthropic's API there are POST /v1/messages, POST "
        "/v1/messages/count_tokens, /v1/messages/batches and GET /v1/models." + ADD
    )


def without_id(response: Any) -> Any:
    """The body of an error, without the request's id that Anthropic's shape has."""
    body = dict(response.json)
    if "request_id" in body:
        assert body.pop("request_id") == response.headers["request-id"]
    return body


def no_horde(path: str) -> dict[str, Any]:
    message = (
        f"AI-Horde's API is not served at {path}. The private horde serves it below /api/v2/ "
        "where private_horde.enabled = true; a change of this setting needs a restart."
    )
    return {"message": message, "rc": "NotFound"}


def no_kobold(path: str) -> dict[str, Any]:
    return {"detail": {"msg": f"This API ({path}){CHOOSE_OPENAI}", "type": "not_found"}}


NO_OLLAMA = (
    " is a route of Ollama's API that is not served here. Served are /api/chat, /api/generate, "
    "/api/embed, /api/tags, /api/show and /api/ps."
)
UNSERVED: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/assistants", openai("/v1/assistants" + USE_CHATS)),
    ("POST", "/v1/threads/t/runs", openai("/v1/threads/t/runs" + USE_CHATS)),
    ("POST", "/v1/messages/drafts", no_messages("/v1/messages/drafts")),
    ("GET", "/v1/messages/drafts?limit=20", no_messages("/v1/messages/drafts")),
    ("POST", "/v1/complete", no_messages("/v1/complete")),
    ("POST", "/v1/embeddings", openai("/v1/embeddings" + NOT_FROM_HORDES)),
    ("POST", "/v1/videos", openai("/v1/videos" + NOT_FROM_HORDES)),
    ("POST", "/v1/audio/speech", openai("/v1/audio/speech" + NOT_FROM_HORDES)),
    ("POST", "/v1/moderations", openai("/v1/moderations" + NOT_FROM_HORDES)),
    ("POST", "/v1/rerank", openai("/v1/rerank" + NOT_FROM_HORDES)),
    ("GET", "/v1/containers/c/files", openai("/v1/containers/c/files" + NOT_FROM_HORDES)),
    ("GET", "/v1/realtime?model=m", openai("/v1/realtime" + NOT_FROM_HORDES)),
    (
        "POST",
        "/v1/engines/davinci/completions",
        openai(
            "/v1/engines/davinci/completions is OpenAI's older way to choose a model, which is "
            "not served here. GET /v1/models lists the models; name one in the body of POST "
            "/v1/chat/completions or /v1/completions."
        ),
    ),
    (
        "POST",
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        openai(
            "Azure's routes (/openai/deployments/gpt-4o/chat/completions) are not served here, and "
            "no setting adds them. Use the client for OpenAI instead of the one for Azure, with "
            "this address and /v1 as its base URL, and name the deployment as the model."
        ),
    ),
    ("POST", "/api/me", {"error": "/api/me" + NO_OLLAMA}),
    ("POST", "/api/experimental/web_search", {"error": "/api/experimental/web_search" + NO_OLLAMA}),
    (
        "POST",
        "/v1/api/chat",
        {
            "error": "/v1/api/chat has /v1 before Ollama's /api. Remove /v1 from the base URL.",
        },
    ),
    ("POST", "/api/v1/generate", no_kobold("/api/v1/generate")),
    ("GET", "/api/v1/model", no_kobold("/api/v1/model")),
    ("GET", "/api/extra/version", no_kobold("/api/extra/version")),
    ("POST", "/api/v2/generate/text/async", no_horde("/api/v2/generate/text/async")),
    ("GET", "/api/v2/status/models", no_horde("/api/v2/status/models")),
    ("GET", "/v1/api/v2/status/heartbeat", no_horde("/v1/api/v2/status/heartbeat")),
    (
        "POST",
        "/v1beta/models/gemini:generateContent",
        {
            "error": {
                "code": 404,
                "message": "This API (/v1beta/models/gemini:generateContent)" + CHOOSE_OPENAI,
                "status": "NOT_FOUND",
            }
        },
    ),
]

TWICE = (
    " has /v1 twice: the client adds it to its base URL, which ends in /v1 already. Remove /v1 "
    "from the base URL."
)
CHAT_TWICE = (
    " has /chat/completions twice: the client adds it to its base URL. Set the base URL to this "
    "address and /v1."
)
SLASHES = " has two slashes in a row. Remove the slash at the end of the base URL."
OTHER_BASE = " does not exist here. Set the client's base URL to this address and /v1, so that it "
NO_ROUTE = (
    " is the base URL of OpenAI's API here, and no route. Clients add /chat/completions to it; "
    "GET /v1/models lists the models."
)
WRONG_BASE_URLS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", path, openai(path + sentence))
    for path, sentence in {
        "/v1/v1/chat/completions": TWICE,
        "/v1/v1/models": TWICE,
        "/v1/v1/embeddings": TWICE,
        "/v1/v1": TWICE,
        "/chat/completions/chat/completions": CHAT_TWICE,
        "/v1/chat/completions/chat/completions": CHAT_TWICE,
        "/v1/chat/completions/v1/chat/completions": CHAT_TWICE,
        "/v1//chat/completions": SLASHES,
        "/api/v1/chat/completions": OTHER_BASE + "calls /v1/chat/completions.",
        "/api/chat/completions": OTHER_BASE + "calls /v1/chat/completions.",
        "/openai/v1/chat/completions": OTHER_BASE + "calls /v1/chat/completions.",
        "/v1beta/openai/completions": OTHER_BASE + "calls /v1/completions.",
        "/openai/v1/models": OTHER_BASE + "calls /v1/models.",
        "/v1": NO_ROUTE,
        "/v1/": NO_ROUTE,
    }.items()
]
WRONG_BASE_URLS.append(("POST", "/v1/v1/messages", anthropic("/v1/v1/messages" + TWICE)))


@pytest.mark.parametrize(("method", "path", "body"), UNSERVED + WRONG_BASE_URLS)
def test_a_known_route_says_what_to_do_in_the_shape_of_its_api(
    http: FlaskClient, method: str, path: str, body: dict[str, Any]
) -> None:
    response = http.open(path, method=method, json={"model": "m"} if method == "POST" else None)
    assert (response.status_code, without_id(response)) == (404, body)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.content_type == "application/json"


@pytest.mark.parametrize(("method", "path", "body"), UNSERVED + WRONG_BASE_URLS)
def test_no_such_sentence_makes_a_client_try_again(
    method: str, path: str, body: dict[str, Any]
) -> None:
    for text in _texts(body):
        assert without_retry_triggers(text) == text


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for member in value.values() for text in _texts(member)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("path", ["/v1/foo", "/foo", "/v1/completions/x", "/apiary", "/v1/message"])
def test_an_unknown_route_is_still_an_invalid_url(http: FlaskClient, path: str) -> None:
    body = openai(f"Invalid URL (POST {path})", code=None)
    assert http.post(path, json={}).json == body


def test_a_very_long_path_is_not_repeated_whole(http: FlaskClient) -> None:
    response = http.post("/v1/evals/" + "x" * 5000)
    assert response.json == openai("/v1/evals/" + "x" * 190 + NOT_FROM_HORDES)


WRONG_METHODS = [
    ("GET", "/v1/completions", "It takes POST with a JSON body; a browser sends GET."),
    ("GET", "/completions", "It takes POST with a JSON body; a browser sends GET."),
    ("POST", "/v1/models", "It takes GET."),
    ("DELETE", "/v1/models/m", "It takes GET."),
    ("POST", "/", "It takes GET."),
]


@pytest.mark.parametrize(("method", "path", "sentence"), WRONG_METHODS)
def test_a_wrong_method_says_which_one_is_right(
    http: FlaskClient, method: str, path: str, sentence: str
) -> None:
    response = http.open(path, method=method)
    message = f"Not allowed to {method} on {path}. {sentence}"
    assert (response.status_code, response.json) == (405, openai(message, "method_not_supported"))


# Beside an endpoint that can proxy


def beside_a_server(**settings: Any) -> FlaskClient:
    endpoints = [{"url": HOME, "name": "home"}, {"type": "horde", "url": "http://horde.invalid"}]
    flags = {"endpoints": endpoints, "stats": {"hydrate": False}, **settings}
    return create_app(load(environ={}, flags=flags), Runtime(run=inline)).test_client()


@pytest.fixture
def servers() -> Any:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{HOME}/v1/models", json={"data": [{"id": "m"}]})
        mock.get("http://horde.invalid/api/v2/status/models", json=[{"name": "h", "count": 1}])
        mock.get("http://horde.invalid/api/v2/workers", json=[])
        yield mock


def needs_other_model(path: str) -> str:
    return (
        f"The endpoint of this model answers chats and completions only. For {path}, use a model "
        "of an endpoint that has it, of the type `openai`: GET /v1/models lists the `endpoints` "
        "of each model."
    )


def test_embeddings_of_a_hordes_model_say_which_models_have_them(servers: Any) -> None:
    response = beside_a_server().post("/v1/embeddings", json={"model": "h", "input": "x"})
    body = openai(needs_other_model("/v1/embeddings"))
    assert (response.status_code, response.json) == (404, body)


def test_messages_of_a_hordes_model_are_refused_in_anthropics_shape(servers: Any) -> None:
    response = beside_a_server().post("/v1/messages/drafts", json={"model": "h"})
    assert (response.status_code, without_id(response)) == (
        404,
        anthropic(needs_other_model("/v1/messages/drafts")),
    )


@pytest.mark.parametrize("path", ["responses", "messages", "embeddings", "foo"])
def test_a_servers_model_is_proxied_on_every_path(servers: Any, path: str) -> None:
    servers.post(f"{HOME}/v1/{path}", json={"id": "1"})
    response = beside_a_server().post(f"/v1/{path}", json={"model": "m"})
    assert (response.status_code, response.json) == (200, {"id": "1"})


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/v1/chat/completions", TWICE),
        ("/v1/chat/completions/chat/completions", CHAT_TWICE),
        ("/chat/completions/chat/completions", CHAT_TWICE),
    ],
)
def test_a_wrong_base_url_is_not_proxied(servers: Any, path: str, sentence: str) -> None:
    response = beside_a_server().post(path, json={"model": "m"})
    assert (response.status_code, response.json) == (404, openai(path + sentence))


def test_a_missing_key_is_refused_in_the_shape_of_the_path(servers: Any) -> None:
    http = beside_a_server(**known(ann="key-of-ann-longer"))
    message = "You didn't provide an API key. Send it as Authorization: Bearer YOUR_KEY."
    error = {"type": "authentication_error", "message": message}
    response = http.post("/v1/messages", json={"model": "m"})
    assert (response.status_code, without_id(response)) == (401, {"type": "error", "error": error})
    assert response.headers["x-should-retry"] == "false"
    assert http.post("/v1/embeddings", json={"model": "m"}).json == openai(
        message, "invalid_api_key"
    )
