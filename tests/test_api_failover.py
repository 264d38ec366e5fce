"""Two endpoints, one of which misbehaves: the other one answers, and other models are untouched."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
import responses
from flask.testing import FlaskClient

from horde_proxy.caching.background import inline
from horde_proxy.protocol.chunks import fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.router import Endpoint, Router
from horde_proxy.upstreams.base import Accepted, Caller
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.openai.upstream import OpenAIUpstream
from tests.test_api_proxying import CLOUD, COMPLETION, ENDPOINTS, HOME, STREAM, chat, made
from tests.test_api_proxying import servers as servers

CHAT = "/v1/chat/completions"
EVENTS = {"content_type": "text/event-stream"}
PAGE = b"<!DOCTYPE html><html><title>Log in</title></html>"
TOO_LONG = {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too "
            "large for model with 32768 maximum context length", "type": "invalid_request_error",
            "code": "3051"}  # fmt: skip


def error(message: str = "Broken", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def event(data: Any, begin: bytes = b"") -> dict[str, Any]:
    """The answer of a stream whose first event has these data."""
    return {"body": begin + b"data: " + json.dumps(data).encode() + b"\n\n", **EVENTS}


# How an endpoint misbehaves, whether the answer is streamed or whole.
ALWAYS: dict[str, dict[str, Any]] = {
    "refuses connections": {"body": requests.ConnectionError("Connection refused")},
    "accepts no connection": {"body": requests.ConnectTimeout()},
    "does not answer in time": {"body": requests.ReadTimeout()},
    "401": {"status": 401, "json": error("Incorrect API key provided: home-secret")},
    "401 without a body": {"status": 401},
    "402": {"status": 402, "json": error("Insufficient Balance")},
    "403": {"status": 403, "json": error("Country, region, or territory not supported")},
    "404 of a listed model": {"status": 404, "json": error("model 'm' not found")},
    "404 of a listed model, flat": {
        "status": 404,
        "json": {"object": "error", "message": "The model `m` does not exist.", "code": 404},
    },
    "404 of the path": {"status": 404, "json": {"detail": "Not Found"}},
    "408": {"status": 408},
    "429": {"status": 429, "headers": {"Retry-After": "3600"}},
    "429 of the account": {
        "status": 429,
        "json": error("You exceeded your current quota.", code="insufficient_quota"),
    },
    "400 of the key": {
        "status": 400,
        "json": [error("API key not valid. Please pass a valid API key.", code=400)],
    },
    "400 of the account": {
        "status": 400,
        "json": error("Your credit balance is too low to access the Anthropic API."),
    },
    "500": {"status": 500, "json": error("CUDA out of memory")},
    "502 with a page": {"status": 502, "body": PAGE, "content_type": "text/html"},
    "503": {"status": 503, "headers": {"Retry-After": "600"}, "json": error("Loading model")},
    "529": {"status": 529, "json": error("Overloaded", type="overloaded_error")},
    "200 with a page": {"body": PAGE, "content_type": "text/html; charset=utf-8"},
    "200 with a page called JSON": {"body": PAGE, "content_type": "application/json"},
    "200 with a text": {"body": b"ERROR: failed to dial", "content_type": "text/plain"},
    "200 with an error": {"json": error()},
    "200 with an error text": {"json": {"error": "Broken"}},
    "200 with a flat error": {"json": {"object": "error", "message": "Broken", "code": 500}},
    "200 with an error list": {"json": [error()]},
    "200 with FastAPI's detail": {"json": {"detail": "Backend is down"}},
    "200 with nothing": {"body": b"", "content_type": "application/json"},
    "200 with blank lines": {"body": b"\n\n\n", "content_type": "application/json"},
}
STREAMED: dict[str, dict[str, Any]] = {
    "error as first event": event(error()),
    "error after comments": event(error(), b": PROCESSING\n\n: PROCESSING\n\n"),
    "error text as first event": event({"error": "Broken"}),
    "flat error as first event": event({"object": "error", "message": "Broken", "code": 500}),
    "event called error": event({"message": "Broken"}, b"event: error\n"),
    "error with CRLF": {"body": b': x\r\n\r\ndata: {"error": "x"}\r\n\r\n', **EVENTS},
    "error without an end": {"body": b'data: {"error": "x"}', **EVENTS},
    "error beside an empty delta": event(
        {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}], **error()}
    ),
    "rate limit as first event": event(error("Slow down", code=429)),
    "nothing": {"body": b"", **EVENTS},
    "comments alone": {"body": b": PROCESSING\n\n", **EVENTS},
    "[DONE] alone": {"body": b"data: [DONE]\n\n", **EVENTS},
    "[DONE] after comments": {"body": b": x\n\ndata:[DONE]\n\n", **EVENTS},
    "JSON error called a stream": {"body": b'{"error": "Broken"}', **EVENTS},
    "page called a stream": {"body": PAGE, **EVENTS},
}
UNREACHABLE = {"refuses connections", "accepts no connection"}
WAYS = [
    *((name, stream) for name in ALWAYS for stream in (False, True)),
    *((name, True) for name in STREAMED),
]


def good(stream: bool) -> dict[str, Any]:
    return {"body": STREAM, **EVENTS} if stream else {"json": COMPLETION}


def ask(http: FlaskClient, model: str, stream: bool) -> tuple[int, str | None, Any]:
    found = chat(http, model, stream=stream)
    answer = found.data if stream else found.json
    return found.status_code, found.headers.get("X-Endpoint"), answer


@pytest.mark.parametrize(("way", "stream"), WAYS)
def test_however_an_endpoint_misbehaves_the_other_one_answers(
    servers: responses.RequestsMock, way: str, stream: bool
) -> None:
    bad = servers.post(f"{HOME}{CHAT}", **(ALWAYS | STREAMED)[way])
    servers.post(f"{CLOUD}{CHAT}", **good(stream))
    http, answer = made().test_client(), STREAM if stream else COMPLETION
    assert ask(http, "m", stream) == (200, "cloud", answer)
    assert bad.call_count == 1
    if way not in UNREACHABLE:
        servers.remove(bad)
        sent = servers.post(f"{HOME}{CHAT}", **good(stream))
        # A request for another model is still sent there.
        assert ask(http, "home-only", stream) == (200, "home", answer)
        assert json.loads(sent.calls[0].request.body)["model"] == "home-only"


@pytest.mark.parametrize(("way", "stream"), WAYS)
def test_a_fault_of_the_only_endpoint_is_not_reported_as_the_clients(
    servers: responses.RequestsMock, way: str, stream: bool
) -> None:
    servers.post(f"{HOME}{CHAT}", **(ALWAYS | STREAMED)[way])
    found = chat(made([ENDPOINTS[0]]).test_client(), stream=stream)
    assert "secret" not in found.text
    if way == "404 of the path":
        assert (found.status_code, found.json) == (404, {"detail": "Not Found"})
    else:
        assert found.status_code in (429, 500, 502, 503, 504, 529)


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (
            ALWAYS["401"],
            502,
            "The endpoint 'home' failed: it refuses the api_key that is configured for it (status "
            "401): Incorrect API key provided: ***********. The owner of this proxy should set a "
            "valid api_key",
        ),
        (
            ALWAYS["402"],
            502,
            "The endpoint 'home' failed: it wants to be paid (status 402): Insufficient Balance. "
            "The owner of this proxy should look at the endpoint's account",
        ),
        (
            ALWAYS["404 of a listed model"],
            502,
            "The endpoint 'home' failed: it lists the model, but does not have it: model 'm' not "
            "found. The owner of this proxy should install it there",
        ),
        (
            ALWAYS["200 with an error"],
            502,
            "The endpoint 'home' failed: it answered with an error: Broken",
        ),
        (
            STREAMED["rate limit as first event"],
            429,
            "The endpoint 'home' failed: it allows no more requests now: Slow down",
        ),
        (
            STREAMED["[DONE] alone"],
            502,
            "The endpoint 'home' failed: it ended the stream without an answer",
        ),
    ],
)
def test_the_error_of_the_only_endpoint_names_it_and_says_what_happened(
    servers: responses.RequestsMock, answer: dict[str, Any], status: int, message: str
) -> None:
    servers.post(f"{HOME}{CHAT}", **answer)
    found = chat(made([ENDPOINTS[0]]).test_client())
    assert (found.status_code, found.json["error"]["message"]) == (status, message)


def test_the_error_of_two_endpoints_names_both_and_shows_no_key(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}{CHAT}", **ALWAYS["401"])
    servers.post(f"{CLOUD}{CHAT}", status=403, json=error("cloud-secret may not use m"))
    http = made().test_client()
    found = chat(http)
    assert (found.status_code, found.json["error"]["message"]) == (
        503,
        "No endpoint answers for `m` now. home: it refuses the api_key that is configured for it "
        "(status 401): Incorrect API key provided: ***********. The owner of this proxy should set "
        "a valid api_key; cloud: it denies its account the access (status 403): ************ may "
        "not use m. The owner of this proxy should look at the endpoint's account.",
    )
    shown = http.get("/v1/endpoints").text
    assert "it refuses the api_key" in shown
    assert "-secret" not in shown


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        {"status": 400, "json": error("Unknown role")},
        {"status": 413, "json": error("Request too large")},
        {"status": 422, "json": {"detail": [{"msg": "field required"}]}},
        {
            "status": 403,
            "json": error("Your chosen model requires moderation and your input was flagged"),
        },
    ],
)
def test_a_fault_of_the_client_stays_its_own_and_is_sent_to_one_endpoint_only(
    servers: responses.RequestsMock, answer: dict[str, Any], stream: bool
) -> None:
    servers.post(f"{HOME}{CHAT}", **answer)
    http = made().test_client()
    for _ in range(2):
        found = chat(http, stream=stream)
        assert (found.status_code, found.json) == (answer["status"], answer["json"])
        assert found.headers["X-Endpoint"] == "home"


@pytest.mark.parametrize("endpoints", [ENDPOINTS[:1], ENDPOINTS])
def test_a_fault_of_the_client_that_comes_as_an_event_is_a_400(
    servers: responses.RequestsMock, endpoints: list[dict[str, Any]]
) -> None:
    servers.post(f"{HOME}{CHAT}", **event(error("Unknown role", type="invalid_request_error")))
    found = chat(made(endpoints).test_client(), stream=True)
    assert (found.status_code, found.json["error"]) == (
        400,
        {
            "message": "Unknown role",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
    )


@pytest.mark.parametrize(
    ("answer", "stream"),
    [
        ({"status": 400, "json": TOO_LONG}, False),
        ({"status": 400, "json": TOO_LONG}, True),
        ({"json": TOO_LONG}, False),
        (event(TOO_LONG), True),
    ],
)
def test_a_fallback_answers_a_chat_that_is_too_long_however_the_server_says_so(
    servers: responses.RequestsMock, answer: dict[str, Any], stream: bool
) -> None:
    servers.post(f"{HOME}{CHAT}", **answer)
    sent = servers.post(f"{CLOUD}{CHAT}", **good(stream))
    http = made(fallbacks={"home-only": ["cloud-only"]}).test_client()
    assert ask(http, "home-only", stream) == (200, "cloud", STREAM if stream else COMPLETION)
    assert json.loads(sent.calls[0].request.body)["model"] == "cloud-only"


def test_without_a_fallback_a_chat_that_is_too_long_is_a_400_that_clients_understand(
    servers: responses.RequestsMock,
) -> None:
    servers.post(f"{HOME}{CHAT}", **event(TOO_LONG))
    found = chat(made().test_client(), stream=True)
    assert (found.status_code, found.json["error"]["code"]) == (400, "context_length_exceeded")
    assert found.json["error"]["message"] == TOO_LONG["message"]


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("audio/speech", "audio/mpeg", b""),
        ("audio/transcriptions", "text/plain", b"ERROR: said the speaker"),
        ("images/edits", "image/png", b"<html>"),
        ("what/ever", "application/octet-stream", b'{"error": "x"}'),
    ],
)
def test_other_answers_than_json_and_events_are_not_touched(
    servers: responses.RequestsMock, path: str, kind: str, body: bytes
) -> None:
    servers.post(f"{HOME}/v1/{path}", body=body, content_type=kind)
    found = made().test_client().post(f"/v1/{path}", json={"model": "m"})
    assert (found.headers["X-Endpoint"], found.data) == ("home", body)


def test_a_file_may_hold_anything(servers: responses.RequestsMock) -> None:
    servers.get(f"{HOME}/v1/files/1/content", body=PAGE, content_type="text/html")
    found = made().test_client().get("/v1/files/1/content")
    assert (found.headers["X-Endpoint"], found.data) == ("home", PAGE)


WHOLE_STREAM = (
    b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
    b'[{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": null}]}\n\n'
    b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
    b'[{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


def upstream(name: str, url: str) -> OpenAIUpstream:
    return OpenAIUpstream(
        name, url, requests.Session(), DisconnectMonitor(), api_key=f"{name}-secret", run=inline
    )


def generated(router: Router, model: str) -> tuple[list[str | None], str]:
    """Who accepted a chat that is generated from chunks, as after a horde, and its text."""
    chat = GenerationRequest(model, (Message("user", "Hi"),))
    items = list(router.stream(chat, router.candidates(model), Caller()))
    chunks = [item for item in items if isinstance(item, dict)]
    accepted = [item.upstream for item in items if isinstance(item, Accepted)]
    return accepted, fold(chunks)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("way", [*ALWAYS, *STREAMED])
def test_a_generated_answer_comes_from_the_other_endpoint_as_well(
    servers: responses.RequestsMock, way: str
) -> None:
    bad = servers.post(f"{HOME}{CHAT}", **(ALWAYS | STREAMED)[way])
    servers.post(f"{CLOUD}{CHAT}", body=WHOLE_STREAM, **EVENTS)
    home, cloud = upstream("home", HOME), upstream("cloud", CLOUD)
    router = Router([Endpoint(home), Endpoint(cloud, priority=1)])
    assert generated(router, "m") == (["cloud"], "Hi")
    assert bad.call_count == 1
    if way not in UNREACHABLE:
        servers.remove(bad)
        servers.post(f"{HOME}{CHAT}", body=WHOLE_STREAM, **EVENTS)
        assert generated(router, "home-only") == (["home"], "Hi")


@pytest.mark.parametrize(
    "answer", [{"status": 400, "json": TOO_LONG}, event(TOO_LONG), {"json": TOO_LONG}]
)
def test_a_fallback_answers_a_generated_chat_that_is_too_long(
    servers: responses.RequestsMock, answer: dict[str, Any]
) -> None:
    servers.post(f"{HOME}{CHAT}", **answer)
    servers.post(f"{CLOUD}{CHAT}", body=WHOLE_STREAM, **EVENTS)
    endpoints = [Endpoint(upstream("home", HOME)), Endpoint(upstream("cloud", CLOUD), priority=1)]
    router = Router(endpoints, fallbacks={"home-only": ["cloud-only"]})
    assert generated(router, "home-only") == (["cloud"], "Hi")
