"""The same trouble behind all fronts: what each client sees of it, and whether it tries again.

Codex repeats a request 30 times after a 5xx, and Claude Code 10 times, unless the answer says that
this is in vain. Each of these may be paid.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from flask import Flask, Response

from horde_proxy.errors import TimedOut
from horde_proxy.protocol.responses.failures import failure
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.legal_by_path import check_answer
from tests.legal_messages import checked_stream
from tests.support import OWNER_KEY, Scripted, World

SERVERS = ("http://first.invalid", "http://second.invalid")
MESSAGES = [{"role": "user", "content": "Hello there."}]
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}}
LOOK = {"name": "look", "description": "Look at a file.", "parameters": PARAMETERS}
CHAT, RESPONSES, MESSAGES_API = "/v1/chat/completions", "/v1/responses", "/v1/messages"
OLLAMA = "/api/chat"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": LOOK}],
        "stream_options": {"include_usage": True},
    },
    RESPONSES: {"input": "Hello there.", "tools": [{"type": "function", "strict": False, **LOOK}]},
    MESSAGES_API: {
        "messages": MESSAGES,
        "max_tokens": 100,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"name": "look", "description": "Look.", "input_schema": PARAMETERS}],
    },
    OLLAMA: {"messages": MESSAGES, "tools": [{"type": "function", "function": LOOK}]},
}
# Chats go to such a server unchanged, and so does what it answers.
GENERATED = (RESPONSES, MESSAGES_API, OLLAMA)


def body_of(path: str, *, stream: bool = True) -> dict[str, Any]:
    body = {"model": "test/model", "stream": stream, **BODIES[path]}
    if not stream:
        body.pop("stream_options", None)
    return body


def server(body: str, status: int = 200, kind: str = "text/event-stream") -> Flask:
    """A server that has chat completions only."""
    app = Flask("server")
    models = {"data": [{"id": "test/model"}]}
    app.get("/v1/models", endpoint="models")(lambda: models)

    @app.post("/v1/chat/completions")
    def answer() -> Response:
        return Response(body, status=status, content_type=kind)

    return app


def world_before(*servers: Flask, **settings: Any) -> World:
    """A proxy in front of these servers."""
    urls = SERVERS[: len(servers)]
    endpoints = [
        {"url": url, "name": url[7:-8], "priority": number} for number, url in enumerate(urls)
    ]
    world = World(endpoints=endpoints, **settings)
    for url, app in zip(urls, servers, strict=True):
        world.session.mount(url, WSGIAdapter(app))
    return world


# What does not mend by itself

REFUSAL = '{"error": {"message": "no", "type": "x"}}'
NO_MODEL = '{"error": {"message": "model \'test/model\' not found, try pulling it first"}}'
LASTING = [
    (402, REFUSAL, "it wants to be paid (status 402): no"),
    (404, REFUSAL, "it answered with status 404: no"),
    (405, REFUSAL, "it answered with status 405: no"),
    (501, REFUSAL, "it answered with status 501: no"),
    (404, NO_MODEL, "it lists the model, but does not have it"),
    (200, "<html><title>Welcome</title></html>", "it sent a web page instead of an answer"),
]


@pytest.mark.parametrize("path", GENERATED)
@pytest.mark.parametrize(("status", "body", "reason"), LASTING)
@pytest.mark.parametrize("count", [1, 2])
def test_what_only_the_owner_can_mend_is_not_asked_for_again(
    count: int, status: int, body: str, reason: str, path: str
) -> None:
    world = world_before(*[server(body, status, "application/json")] * count)
    response = world.http().post(path, json=body_of(path))
    several = 529 if path == MESSAGES_API else 503
    assert response.status_code == (400 if path == RESPONSES else 502 if count == 1 else several)
    assert response.headers["x-should-retry"] == "false"
    assert reason in response.text


@pytest.mark.parametrize("path", GENERATED)
def test_while_one_of_two_endpoints_may_recover_clients_may_try_again(path: str) -> None:
    servers = server(REFUSAL, 404, "application/json"), server(REFUSAL, 500, "application/json")
    response = world_before(*servers).http().post(path, json=body_of(path))
    assert response.status_code == (529 if path == MESSAGES_API else 503)
    assert response.headers["Retry-After"] == "5"
    assert "x-should-retry" not in response.headers


# What happens within an answer


def events(*chunks: dict[str, Any], ends: bool = True) -> str:
    texts = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join(texts) + ("data: [DONE]\n\n" if ends else "")


def part(delta: dict[str, Any], reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choices = [{"index": index, "delta": delta, "finish_reason": reason}]
    return {"id": "x", "created": 5, "model": "big", "choices": choices}


def call(index: int, arguments: str, *, begins: bool = True) -> dict[str, Any]:
    named = {"id": f"call_{index}", "type": "function"} if begins else {}
    name = {"name": "look"} if begins else {}
    function = {**name, "arguments": arguments}
    return {"tool_calls": [{"index": index, **named, "function": function}]}


def end(reason: str) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return {**part({}, reason), "usage": usage}


WHOLE = '{"path":"a"}'


class Ending(NamedTuple):
    """How an answer ends in each API: kinds of items, then the reason."""

    responses: tuple[tuple[str, ...], str]
    messages: tuple[tuple[str, ...], str]
    ollama: str


TEXT, CALL = ("message",), ("function_call",)
ENDINGS = {
    "a text": (
        events(part({"content": "Hi"}), end("stop")),
        Ending((TEXT, "completed"), (("text",), "end_turn"), "stop"),
    ),
    "two choices": (
        events(part({"content": "A"}), part({"content": "B"}, "stop", 1), end("stop")),
        Ending((TEXT, "completed"), (("text",), "end_turn"), "stop"),
    ),
    "no reason": (
        events(part({"content": "Hi"})),
        Ending((TEXT, "completed"), (("text",), "end_turn"), "stop"),
    ),
    "no text": (events(end("stop")), Ending((TEXT, "completed"), (("text",), "end_turn"), "stop")),
    "thoughts only": (
        events(part({"reasoning_content": "Hm"}), end("stop")),
        Ending((("reasoning", *TEXT), "completed"), (("thinking",), "end_turn"), "stop"),
    ),
    "thoughts and a call": (
        events(part({"reasoning_content": "Hm"}), part(call(0, WHOLE)), end("tool_calls")),
        Ending((("reasoning", *CALL), "completed"), (("thinking", "tool_use"), "tool_use"), "stop"),
    ),
    "parallel calls": (
        events(part(call(0, WHOLE)), part(call(1, WHOLE)), end("stop")),
        Ending((CALL * 2, "completed"), (("tool_use",) * 2, "tool_use"), "stop"),
    ),
    "calls in turns": (
        events(
            part(call(0, '{"path":')),
            part(call(1, '{"path":')),
            part(call(0, '"a"}', begins=False)),
            part(call(1, '"b"}', begins=False)),
            end("tool_calls"),
        ),
        Ending((CALL * 2, "completed"), (("tool_use",) * 2, "tool_use"), "stop"),
    ),
    "an older call": (
        events(part({"function_call": {"name": "look", "arguments": WHOLE}}), end("stop")),
        Ending((CALL, "completed"), (("tool_use",), "tool_use"), "stop"),
    ),
    "a refusal": (
        events(part({"refusal": "No."}), end("stop")),
        Ending((TEXT, "completed"), (("text",), "refusal"), "stop"),
    ),
    "a filter": (
        events(part({"content": "He"}), end("content_filter")),
        Ending((TEXT, "content_filter"), (("text",), "refusal"), "stop"),
    ),
    "a limit": (
        events(part({"content": "He"}), end("length")),
        Ending((TEXT, "max_output_tokens"), (("text",), "max_tokens"), "length"),
    ),
    "a limit within thoughts": (
        events(part({"reasoning_content": "Hm"}), end("length")),
        Ending(
            (("reasoning", *TEXT), "max_output_tokens"), (("thinking",), "max_tokens"), "length"
        ),
    ),
    "no usage": (
        events(part({"content": "Hi"}), part({}, "stop")),
        Ending((TEXT, "completed"), (("text",), "end_turn"), "stop"),
    ),
}


def response_ending(text: str, *, stream: bool) -> tuple[tuple[str, ...], str]:
    last = text.strip().split("\n\n")[-1].partition("data: ")[2]
    answer = json.loads(last)["response"] if stream else json.loads(text)
    details = answer["incomplete_details"]
    kinds = tuple(item["type"] for item in answer["output"])
    return kinds, details["reason"] if details else answer["status"]


def message_ending(text: str, *, stream: bool) -> tuple[tuple[str, ...], str]:
    answer = checked_stream(text) if stream else json.loads(text)
    assert answer is not None
    return tuple(block["type"] for block in answer["content"]), answer["stop_reason"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("trouble", ENDINGS)
@pytest.mark.parametrize("path", GENERATED)
def test_each_front_ends_an_answer_in_its_own_words(path: str, trouble: str, stream: bool) -> None:
    written, ending = ENDINGS[trouble]
    response = world_before(server(written)).http().post(path, json=body_of(path, stream=stream))
    assert response.status_code == 200
    check_answer(path, body_of(path, stream=stream), response.text)
    if path == RESPONSES:
        assert response_ending(response.text, stream=stream) == ending.responses
    elif path == MESSAGES_API:
        assert message_ending(response.text, stream=stream) == ending.messages
    else:
        assert json.loads(response.text.splitlines()[-1])["done_reason"] == ending.ollama


BEGUN = {
    "text": part({"content": "Hi"}),
    "thought": part({"reasoning_content": "Hm"}),
    "half a call": part(call(0, '{"path": "a')),
}
BREAKS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no end": ([], ""),
    "an error": ([{"error": {"message": "boom", "type": "server_error"}}], ": boom"),
}
BROKEN = "The endpoint 'first' failed: it broke the answer off"


@pytest.mark.parametrize("trouble", BREAKS)
@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("path", GENERATED)
def test_an_answer_that_breaks_off_says_which_endpoint_did_so(
    path: str, begun: str, trouble: str
) -> None:
    rest, words = BREAKS[trouble]
    app = server(events(BEGUN[begun], *rest, ends=False))
    response = world_before(app).http().post(path, json=body_of(path))
    assert response.status_code == 200
    if path == RESPONSES:
        last = json.loads(response.text.strip().split("\n\n")[-1].partition("data: ")[2])
        assert last["type"] == "response.failed"
        error = {"code": "server_error", "message": BROKEN + words}
        assert last["response"]["error"] == error
    elif path == MESSAGES_API:
        last = json.loads(response.text.strip().rpartition("data: ")[2])
        assert last == {"type": "error", "error": {"type": "api_error", "message": BROKEN + words}}
    else:
        assert json.loads(response.text.splitlines()[-1]) == {"error": BROKEN + words}
    whole = world_before(app).http().post(path, json=body_of(path, stream=False))
    assert whole.status_code == 502
    assert BROKEN + words in whole.text


# What happens at a horde

TIMED_OUT = "The answer did not come within the time that this proxy waits for one."
FAULTED = "The horde's workers failed on this request."


def faulted(world: World) -> None:
    world.employ_faulty()


def maintained(world: World) -> None:
    waiting(world)
    world.horde.maintenance = True


def censored(world: World) -> None:
    """Workers that give nothing but the horde's mark of its filter."""
    waiting(world)
    offer = {
        "name": "worker-1",
        "models": ["test/model"],
        "bridge_agent": "AI Horde Worker:1:x",
        "max_length": 512,
        "max_context_length": 8192,
    }

    def submit() -> None:
        job = world.horde.pop(OWNER_KEY, offer)
        if job["id"]:
            result = {"id": job["id"], "generation": "csam", "state": "csam"}
            world.horde.submit_generation(OWNER_KEY, result)

    world.clock.every_sleep.append(submit)


def waiting(world: World) -> None:
    """A worker that checks in, and takes no job."""
    world.bridge(Scripted("x")).step(world.session)


def error_in(path: str, text: str) -> tuple[str | None, str]:
    """(code or type, message) of an error that is the answer, or that ends its stream."""
    if path == OLLAMA:
        return None, json.loads(text.splitlines()[-1])["error"]
    events = [line for line in text.splitlines() if line.startswith("data: {")]
    document = json.loads(events[-1][6:] if events else text)
    error = document.get("response", document)["error"]
    return error.get("code") or error["type"], error["message"]


class Trouble(NamedTuple):
    """What befalls a horde: the status of a stream and of a whole answer, codes, the message."""

    befall: Callable[[World], None]
    stream: dict[str, int]
    whole: dict[str, int]
    codes: dict[str, str | None]
    message: str


def by_front(chat: Any, responses: Any, messages: Any, ollama: Any) -> dict[str, Any]:
    return {CHAT: chat, RESPONSES: responses, MESSAGES_API: messages, OLLAMA: ollama}


BEGUN_WELL = by_front(200, 200, 200, 200)
TROUBLES = {
    "faulted": Trouble(
        faulted,
        BEGUN_WELL,
        by_front(502, 502, 502, 502),
        by_front("upstream_error", "server_error", "api_error", None),
        FAULTED,
    ),
    "a deadline": Trouble(
        waiting,
        BEGUN_WELL,
        by_front(504, 400, 504, 504),
        by_front("timeout", "invalid_prompt", "timeout_error", None),
        TIMED_OUT,
    ),
    "maintenance": Trouble(
        maintained,
        by_front(503, 400, 529, 503),
        by_front(503, 400, 529, 503),
        by_front("maintenance", "maintenance", "overloaded_error", None),
        "The horde is in maintenance.",
    ),
    "no worker": Trouble(
        lambda world: None,
        by_front(503, 503, 529, 503),
        by_front(503, 503, 529, 503),
        by_front("no_workers", "no_workers", "overloaded_error", None),
        "No models are available right now.",
    ),
}
PLAIN = {
    path: {name: value for name, value in body.items() if name != "tools"}
    for path, body in BODIES.items()
}


def plain(path: str, *, stream: bool) -> dict[str, Any]:
    return {"model": "test/model", **PLAIN[path], "stream": stream}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_at_a_horde_has_the_status_and_the_code_of_each_front(
    name: str, path: str, stream: bool
) -> None:
    trouble = TROUBLES[name]
    world = World(server={"timeout": 60, "stream_timeout": 60})
    trouble.befall(world)
    response = world.http().post(path, json=plain(path, stream=stream))
    status = (trouble.stream if stream else trouble.whole)[path]
    assert response.status_code == status
    code, message = error_in(path, response.text)
    hint = " A response with `background: true` may take longer."
    is_timeout = path == RESPONSES and message.startswith(TIMED_OUT)
    assert message == trouble.message + (hint if is_timeout else "")
    if stream:
        assert code == trouble.codes[path]
    # Anthropic's clients take 529 and 429 for what another try may mend, and nothing else.
    if status >= 500 and path == MESSAGES_API:
        assert response.headers.get("x-should-retry") == (None if status == 529 else "false")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_what_a_filter_held_back_is_no_silent_answer(path: str, stream: bool) -> None:
    world = World()
    censored(world)
    response = world.http().post(path, json=plain(path, stream=stream))
    said = {
        CHAT: '"finish_reason":"content_filter"',
        RESPONSES: '"incomplete_details":{"reason":"content_filter"}',
        MESSAGES_API: '"explanation":"The text was held back by a filter of the horde or of the',
        OLLAMA: '{"error":"The text was held back by a filter of the horde or of the server that',
    }
    assert said[path] in response.text
    assert response.status_code == (400 if path == OLLAMA and not stream else 200)


def test_a_response_in_the_background_is_not_told_to_run_there() -> None:
    error = TimedOut(TIMED_OUT)
    assert failure(error, is_background=True)["message"] == TIMED_OUT


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_that_the_stop_of_the_proxy_ends_says_so(path: str) -> None:
    world = World()
    waiting(world)
    cable, app = world.cable(), world.app()
    response = app.test_client().post(path, json=plain(path, stream=True), buffered=False)
    begun = next(iter(response.response))
    app.extensions["composition"].begin_shutdown()
    app.extensions["horde_proxy"].live.shutdown.set()
    app.extensions["horde_proxy"].live.disconnects.hang_up_all()
    rest = b"".join(piece for piece in response.response if isinstance(piece, bytes))
    assert isinstance(begun, bytes)
    code, message = error_in(path, rest.decode())
    assert message == "The proxy is shutting down. Try again in a few seconds."
    assert code == by_front("shutting_down", "server_error", "overloaded_error", None)[path]
    assert cable.calls[-1].startswith("DELETE generate/text/status/")


@pytest.mark.parametrize("path", BODIES)
def test_the_request_of_a_client_that_leaves_is_cancelled_at_the_horde(path: str) -> None:
    world = World(server={"cancel_grace": 0})
    waiting(world)
    response = world.http().post(path, json=plain(path, stream=True), buffered=False)
    next(iter(response.response))
    assert len(world.horde.open_requests()) == 1
    response.close()
    assert world.horde.open_requests() == []


COMMENT = ": queued, position 1, about "
NEWS = by_front('"delta":{}', "event: response.in_progress", "event: ping", '"content":""')


@pytest.mark.parametrize(
    ("kind", "comments", "events"), [("chunk", 5, 5), ("comment", 5, 0), ("off", 0, 0)]
)
@pytest.mark.parametrize("path", BODIES)
def test_each_kind_of_keep_alive_is_kept_in_each_front(
    path: str, kind: str, comments: int, events: int
) -> None:
    world = World(server={"keepalive": kind, "stream_timeout": 60})
    waiting(world)
    text = world.http().post(path, json=plain(path, stream=True)).text
    if path == OLLAMA:
        # Lines of JSON have no comments, so that a line without text stands for both.
        comments, events = 0, comments
    # A stream of Ollama's begins with such a line, and one of responses with such an event.
    at_the_beginning = 1 if path in (RESPONSES, OLLAMA) else 0
    assert text.count(COMMENT) == comments
    assert text.count(NEWS[path]) == events + at_the_beginning


# What an endpoint gets

SEARCH = {"type": "web_search"}
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    RESPONSES: (
        {"tools": [SEARCH], "seed": 5},
        "tools: type 'web_search' left out; seed: not supported",
    ),
    MESSAGES_API: (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tools: type 'web_search_20250305' left out",
    ),
    OLLAMA: ({"options": {"mirostat": 2}}, "options: mirostat not supported"),
}


@pytest.mark.parametrize("path", GENERATED)
def test_what_a_front_leaves_out_is_named_also_where_a_server_answers(path: str) -> None:
    fields, warning = LEFT_OUT[path]
    written, _ = ENDINGS["a text"]
    http = world_before(server(written)).http()
    response = http.post(path, json={**plain(path, stream=True), **fields})
    assert response.status_code == 200
    assert warning in response.headers["X-Horde-Warnings"]
