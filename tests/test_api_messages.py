"""POST /v1/messages through the whole proxy: hordes, endpoints, errors, keys, counts, models."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from horde_proxy import create_app
from horde_proxy.api.stream import EventStream, KeepAliveOptions
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.protocol import chunks
from horde_proxy.protocol.messages import MessageEvents, read_messages_request
from horde_proxy.upstreams.base import StreamItem
from tests.legal_messages import check_message, checked_stream, events_of
from tests.support import Clock, Scripted, World, known

BODY: dict[str, Any] = {
    "model": "test/model",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}
TOOLS = [
    {
        "name": "weather",
        "description": "The weather at a place",
        "input_schema": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
        },
    }
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome"}}\n</tool_call>'


def post(world: World, text: str = "Hi.", **fields: Any) -> Any:
    world.employ(Scripted(text))
    return world.http().post("/v1/messages?beta=true", json={**BODY, **fields})


def message(response: Any) -> dict[str, Any]:
    """The checked message of a response, whole or streamed."""
    assert response.status_code == 200, response.text
    if response.mimetype == "application/json":
        check_message(response.json)
        return dict(response.json)
    streamed = checked_stream(response.text)
    assert streamed is not None
    return streamed


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_of_a_horde_answers(world: World, stream: bool) -> None:
    response = post(world, "Hi there.", stream=stream)
    answer = message(response)
    assert answer["content"] == [{"type": "text", "text": "Hi there."}]
    assert (answer["model"], answer["stop_reason"]) == ("test/model", "end_turn")
    assert answer["usage"]["input_tokens"] > 5 and answer["usage"]["output_tokens"] > 0
    assert response.headers["X-Horde-Model"] == "test/model"
    assert response.headers["request-id"] == f"req_{response.headers['X-Request-Id']}"


def test_a_stream_tells_the_input_at_its_start(world: World) -> None:
    name, data = events_of(post(world, stream=True).text)[0]
    assert (name, data["message"]["usage"]["input_tokens"] > 5) == ("message_start", True)


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_that_was_hit_is_told(world: World, stream: bool) -> None:
    answer = message(post(world, "One two END", stop_sequences=["THE", "END"], stream=stream))
    assert answer["content"] == [{"type": "text", "text": "One two "}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")
    # The same where tools are offered.
    answer = message(post(world, "One two END", stop_sequences=["END"], stream=stream, tools=TOOLS))
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize("stream", [False, True])
def test_the_beginning_of_an_answer_goes_on_and_is_not_repeated(world: World, stream: bool) -> None:
    backend = world.employ(Scripted(" = 4."))
    messages = [*BODY["messages"], {"role": "assistant", "content": "2 + 2"}]
    body = {**BODY, "messages": messages, "stream": stream}
    answer = message(world.http().post("/v1/messages", json=body))
    assert answer["content"] == [{"type": "text", "text": " = 4."}]
    assert backend.payloads[0]["prompt"].endswith("2 + 2")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "any"}, None])
def test_a_tool_is_called(world: World, stream: bool, choice: Any) -> None:
    answer = message(post(world, CALL, tools=TOOLS, tool_choice=choice, stream=stream))
    [block] = answer["content"]
    assert (block["type"], block["name"], block["input"]) == (
        "tool_use",
        "weather",
        {"place": "Rome"},
    )
    assert block["id"].startswith("toolu_")
    assert answer["stop_reason"] == "tool_use"


def test_a_tool_s_result_is_answered(world: World) -> None:
    backend = world.employ(Scripted("Sunny."))
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"place": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun", "is_error": False}
    messages = [
        *BODY["messages"],
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    body = {**BODY, "tools": TOOLS, "messages": messages}
    answer = message(world.http().post("/v1/messages", json=body))
    assert answer["content"] == [{"type": "text", "text": "Sunny."}]
    assert "<tool_response>\nsun\n</tool_response>" in backend.payloads[0]["prompt"]


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_blocks_where_they_are_wanted(world: World, stream: bool) -> None:
    text = "<think>A greeting.</think>Hello."
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = message(post(world, text, thinking=thinking, stream=stream))
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]
    assert answer["content"][0]["thinking"] == "A greeting."
    assert answer["content"][0]["signature"]
    answer = message(post(world, text, stream=stream))
    assert answer["content"] == [{"type": "text", "text": "Hello."}]


def test_a_format_is_the_json_that_is_answered(world: World) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }
    config = {"effort": "high", "format": {"type": "json_schema", "schema": schema}}
    answer = message(post(world, '{"title": "A greeting"}', output_config=config))
    [block] = answer["content"]
    assert json.loads(block["text"]) == {"title": "A greeting"}


@pytest.mark.parametrize("stream", [False, True])
def test_no_token_is_no_request_to_the_horde(world: World, stream: bool) -> None:
    backend = world.employ(Scripted("Hi."))
    body = {**BODY, "max_tokens": 0, "stream": stream}
    answer = message(world.http().post("/v1/messages", json=body))
    assert (answer["content"], answer["stop_reason"]) == (
        [{"type": "text", "text": ""}],
        "max_tokens",
    )
    assert answer["usage"]["output_tokens"] == 0 and backend.payloads == []
    wrong = world.http().post("/v1/messages", json={**body, "model": "nothing"})
    assert wrong.status_code == 404


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("claude-haiku-4-5-20251001", "fast"),
        ("claude-opus-5", "auto"),
        ("anthropic/claude-sonnet-4.5", "auto"),
    ],
)
def test_models_of_anthropic_have_stand_ins(world: World, model: str, word: str) -> None:
    response = post(world, model=model)
    assert message(response)["model"] == model
    assert response.headers["X-Horde-Model"] == "test/model"
    warning = f"model: not served here, so '{word}' answers"
    assert response.headers["X-Horde-Warnings"] == warning


def test_an_alias_goes_before_a_stand_in(world: World) -> None:
    world.configure(aliases={"claude-opus-5": "test/model"})
    assert "X-Horde-Warnings" not in post(world, model="claude-opus-5").headers


def test_other_fronts_have_no_stand_ins(world: World) -> None:
    world.employ(Scripted("Hi."))
    body = {**BODY, "model": "claude-opus-5"}
    assert world.http().post("/v1/chat/completions", json=body).status_code == 404


def test_what_was_left_out_is_named(world: World) -> None:
    tools = [*TOOLS, {"type": "web_search_20250305", "name": "web_search"}]
    response = post(world, tools=tools)
    assert response.headers["X-Horde-Warnings"] == "tools: type 'web_search_20250305' left out"


# Errors


def error(response: Any) -> tuple[int, str, str, str | None]:
    """(status, type, message, x-should-retry) of an error in Anthropic's shape."""
    body = response.json
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    retry = response.headers.get("x-should-retry")
    return response.status_code, body["error"]["type"], body["error"]["message"], retry


def test_errors_have_anthropics_shape(world: World) -> None:
    assert error(post(world, messages=[])) == (
        400,
        "invalid_request_error",
        "Invalid 'messages': empty. Expected a minimum length of 1.",
        None,
    )
    assert error(post(world, model="nothing")) == (
        404,
        "not_found_error",
        "The model `nothing` does not exist or you do not have access to it. Available: "
        "`test/model`.",
        None,
    )
    broken = world.http().post("/v1/messages", data="{")
    assert error(broken)[:2] == (400, "invalid_request_error")
    assert error(world.http().get("/v1/messages")) == (
        405,
        "invalid_request_error",
        "Not allowed to GET on /v1/messages. It takes POST with a JSON body; a browser sends GET.",
        None,
    )


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_claude_code_reads(
    world: World,
) -> None:
    world.employ(Scripted("Hi.", context=512))
    body = {**BODY, "messages": [{"role": "user", "content": "word " * 2000}]}
    status, kind, text, _ = error(world.http().post("/v1/messages", json=body))
    assert (status, kind) == (400, "invalid_request_error")
    words = text.split()
    assert words[:4] == ["prompt", "is", "too", "long:"]
    assert words[5:] == ["tokens", ">", "512", "maximum"]


def test_no_worker_is_an_overload_that_may_be_tried_again(world: World) -> None:
    response = world.http().post("/v1/messages", json=BODY)
    assert error(response)[:2] == (529, "overloaded_error")
    assert response.headers["Retry-After"] == "5"


def test_a_failure_that_would_repeat_itself_says_so(world: World) -> None:
    world.configure(server={"timeout": 20})
    world.bridge(Scripted("x")).step(world.session)
    response = world.http().post("/v1/messages", json=BODY)
    assert error(response)[::3] == (504, "false")
    world.employ_faulty()
    status, kind, _, retry = error(world.http().post("/v1/messages", json=BODY))
    assert (status >= 500, retry) == (True, "false")
    assert kind in ("api_error", "timeout_error")


def test_a_wait_is_kept_alive_by_pings_and_ends_with_an_error_event(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(server={"stream_timeout": 60})
    response = world.http().post("/v1/messages", json={**BODY, "stream": True})
    assert checked_stream(response.text) is None
    names = [name for name, _ in events_of(response.text)]
    assert names == ["message_start", *["ping"] * (len(names) - 2), "error"]
    # Every ten seconds at most.
    assert len(names) - 2 >= 5


def test_a_call_that_no_model_made_is_not_asked_for_again(world: World) -> None:
    # Claude Code would send a 400 five more times.
    world.configure(horde={"tool_retries": 0, "guided_leaves": 0})
    choice = {"type": "tool", "name": "weather"}
    status, kind, text, retry = error(post(world, "No.", tools=TOOLS, tool_choice=choice))
    assert (status, kind, retry) == (502, "api_error", "false")
    assert text.startswith("The model did not make the function call.")


def test_a_thought_that_is_not_shown_is_kept_alive_by_pings() -> None:
    clock, head = Clock(), chunks.Head("1", 1, "m")

    def items() -> Generator[StreamItem, None, None]:
        for _ in range(7):
            clock.sleep(5)
            yield chunks.chunk(head, {"reasoning_content": "Hm."})
        yield chunks.chunk(head, {"content": "Hi"}, finish_reason="stop")

    posed = read_messages_request(BODY, id="msg_1")
    stream = EventStream(items(), MessageEvents(posed), KeepAliveOptions("chunk", 10.0, clock))
    names = [name for name, _ in events_of(b"".join(stream).decode())]
    assert names[:5] == ["message_start", *["ping"] * 3, "content_block_start"]


@pytest.mark.parametrize(
    "headers", [{"x-api-key": "key-of-ann-longer"}, {"Authorization": "Bearer key-of-ann-longer"}]
)
def test_a_key_may_come_in_two_ways(world: World, headers: dict[str, str]) -> None:
    world.employ(Scripted("Hi."))
    world.configure(**known(ann="key-of-ann-longer"))
    http = world.http()
    with http.post("/v1/messages", json=BODY, headers=headers) as response:
        assert response.status_code == 200
    assert error(http.post("/v1/messages", json=BODY)) == (
        401,
        "authentication_error",
        "You didn't provide an API key. Send it as Authorization: Bearer YOUR_KEY.",
        "false",
    )
    [row] = http.get("/v1/usage", headers=headers).get_json()["data"]
    assert (row["key"], row["requests"]) == ("ann", 1)


def test_what_clients_call_at_their_start_needs_no_key(world: World) -> None:
    world.configure(**known(ann="key-of-ann-longer"))
    http = world.http()
    for path in ("/", "/api/hello", "/v1/api/hello"):
        assert http.head(path).status_code == 200
    assert http.get("/api/hello").status_code == 200


def test_scripts_of_web_pages_may_send_anthropics_headers(world: World) -> None:
    wanted = "x-api-key,anthropic-version,anthropic-dangerous-direct-browser-access"
    headers = {"Access-Control-Request-Headers": wanted}
    response = world.http().options("/v1/messages", headers=headers)
    assert (response.status_code, response.headers["Access-Control-Allow-Headers"]) == (204, wanted)
    assert "request-id" in response.headers["Access-Control-Expose-Headers"]


# count_tokens


def count(http: FlaskClient, path: str = "/v1/messages/count_tokens", **fields: Any) -> Any:
    body = {name: value for name, value in {**BODY, **fields}.items() if name != "max_tokens"}
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json


def test_tokens_are_counted_without_a_horde(world: World) -> None:
    http = world.http()
    assert count(http) == {"input_tokens": 21}
    assert count(http, "/v1/messages/count_tokens?beta=true") == {
        "input_tokens": 21,
        "context_management": {"original_input_tokens": 21},
    }


def test_a_tool_costs_tokens_however_it_is_counted(world: World) -> None:
    # Claude Code counts "foo" with and without each tool, and subtracts.
    http = world.http()
    messages = [{"role": "user", "content": "foo"}]
    bare = count(http, messages=messages)["input_tokens"]
    one = count(http, messages=messages, tools=TOOLS)["input_tokens"]
    two = count(http, messages=messages, tools=[*TOOLS, {**TOOLS[0], "name": "rain"}])
    assert bare < one < two["input_tokens"]
    assert count(http, messages=messages, system="Be brief.")["input_tokens"] > bare


def test_counting_needs_a_key_and_counts_against_no_limit(world: World) -> None:
    keys: Any = {"ann": {"key": "key-of-ann-longer", "requests_per_minute": 1}}
    world.configure(access={"mode": "keys", "keys": keys})
    http = world.http()
    path, headers = "/v1/messages/count_tokens", {"x-api-key": "key-of-ann-longer"}
    assert http.post(path, json=BODY).status_code == 401
    statuses = [http.post(path, json=BODY, headers=headers).status_code for _ in range(25)]
    assert statuses == [200] * 25


# Models


def test_the_list_of_models_has_anthropics_fields_for_its_clients(world: World) -> None:
    world.employ(Scripted("Hi."))
    http, headers = world.http(), {"anthropic-version": "2026-10-21"}
    listed: Any = http.get("/v1/models?limit=1000", headers=headers).json
    [model] = listed["data"]
    assert {name: listed[name] for name in ("object", "has_more", "first_id", "last_id")} == {
        "object": "list",
        "has_more": False,
        "first_id": "test/model",
        "last_id": "test/model",
    }
    expected = {
        "type": "model",
        "id": "test/model",
        "object": "model",
        "display_name": "test/model",
        "created_at": "1970-01-01T00:16:40Z",
        "lifecycle": "active",
        "max_input_tokens": 8192,
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
    }
    assert {name: model[name] for name in expected} == expected
    assert model["capabilities"]["image_input"] == {"supported": False}
    assert model["capabilities"]["batch"] == {"supported": True}
    for path in ("/v1/models/test/model", "/v1/models/test%2Fmodel"):
        assert http.get(path, headers=headers).json == model


def test_without_the_header_the_list_is_openais(world: World) -> None:
    world.employ(Scripted("Hi."))
    listed: Any = world.http().get("/v1/models").json
    assert listed.keys() == {"object", "data"}
    assert "lifecycle" not in listed["data"][0]


def test_an_unknown_model_is_told_in_the_shape_of_the_client(world: World) -> None:
    world.employ(Scripted("Hi."))
    http = world.http()
    path, headers = "/v1/models/nothing", {"anthropic-version": "2023-06-01"}
    assert error(http.get(path, headers=headers))[:2] == (404, "not_found_error")
    assert http.get(path).get_json()["error"]["code"] == "model_not_found"


def test_pages_of_models_are_read_to_their_end(world: World) -> None:
    for name in ("m-a", "m-b", "m-c", "m-d", "m-e"):
        world.employ(Scripted("Hi.", name=name), name)
    http, headers = world.http(), {"anthropic-version": "2023-06-01"}
    names: list[str] = []
    after = ""
    for _ in range(9):
        page: Any = http.get(f"/v1/models?limit=2{after}", headers=headers).json
        names += [model["id"] for model in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after_id={page['last_id']}"
    assert names == ["m-a", "m-b", "m-c", "m-d", "m-e"]
    before: Any = http.get("/v1/models?limit=2&before_id=m-e", headers=headers).json
    assert ([model["id"] for model in before["data"]], before["has_more"]) == (["m-c", "m-d"], True)
    gone: Any = http.get("/v1/models?after_id=m-z", headers=headers).json
    assert (gone["data"], gone["has_more"]) == ([], False)
    assert error(http.get("/v1/models?limit=0", headers=headers))[:2] == (
        400,
        "invalid_request_error",
    )


# In front of other servers

SERVER, ANTHROPIC = "http://server.invalid:1/v1", "https://api.anthropic.com"
ANSWER = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 7, "output_tokens": 5},
}
STREAM = (
    b"event: message_start\n"
    b'data: {"type":"message_start","message":{"id":"msg_01","usage":{"input_tokens":7}}}\n\n'
    b"event: message_delta\n"
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":5}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
CHUNKS = (
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop",'
    b'"stop_reason":"END"}]}\n\ndata: [DONE]\n\n'
)


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for url in (SERVER, f"{ANTHROPIC}/v1"):
            mock.get(f"{url}/models", json={"data": [{"id": "m"}]})
        yield mock


def before(url: str = SERVER, **settings: Any) -> FlaskClient:
    endpoints = [{"url": url, "name": "server", "api_key": "server-secret"}]
    flags = {"endpoints": endpoints, "stats": {"hydrate": False}, **settings}
    return create_app(load(environ={}, flags=flags), Runtime(run=inline)).test_client()


def test_a_server_that_serves_messages_gets_the_body_unchanged(
    server: responses.RequestsMock,
) -> None:
    sent = server.post(f"{SERVER}/messages", json=ANSWER, headers={"request-id": "req_server"})
    body = b'{"model": "m", "max_tokens": 9, "messages": [], "new_field": {"a": 1}}'
    headers = {
        "x-api-key": "mine",
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a,b",
        "Content-Type": "application/json",
    }
    response = before().post("/v1/messages?beta=true", data=body, headers=headers)
    assert (response.status_code, response.json) == (200, ANSWER)
    assert response.headers["request-id"] == "req_server"
    assert response.headers["X-Endpoint"] == "server"
    [call] = sent.calls
    assert (call.request.body, call.request.url) == (body, f"{SERVER}/messages?beta=true")
    passed = {name: call.request.headers[name] for name in ("anthropic-version", "anthropic-beta")}
    assert passed == {"anthropic-version": "2026-10-21", "anthropic-beta": "a,b"}
    # Some servers read the one, some the other.
    assert call.request.headers["Authorization"] == "Bearer server-secret"
    assert call.request.headers["x-api-key"] == "server-secret"


def test_anthropics_own_server_gets_its_key_where_it_looks_for_it(
    server: responses.RequestsMock,
) -> None:
    sent = server.post(f"{ANTHROPIC}/v1/messages", json=ANSWER)
    http = before(ANTHROPIC)
    assert http.post("/v1/messages", json={**BODY, "model": "m"}).json == ANSWER
    headers = sent.calls[0].request.headers
    assert headers["x-api-key"] == "server-secret"
    assert "Authorization" not in headers
    assert headers["anthropic-version"] == "2023-06-01"
    [listed] = [call for call in server.calls if str(call.request.url).endswith("/models")]
    assert listed.request.headers["x-api-key"] == "server-secret"


def test_other_paths_send_the_key_as_before(server: responses.RequestsMock) -> None:
    sent = server.post(f"{SERVER}/embeddings", json={"data": []})
    before().post("/v1/embeddings", json={"model": "m", "input": "x"})
    headers = sent.calls[0].request.headers
    assert headers["Authorization"] == "Bearer server-secret"
    assert {"x-api-key", "anthropic-version"}.isdisjoint(headers)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_messages_gets_a_chat(server: responses.RequestsMock, status: int) -> None:
    server.post(f"{SERVER}/messages", status=status, json={"detail": "Not Found"})
    sent = server.post(f"{SERVER}/chat/completions", body=CHUNKS, content_type="text/event-stream")
    body = {**BODY, "model": "m", "system": "Be brief.", "stop_sequences": ["END"]}
    answer = message(before().post("/v1/messages", json=body))
    assert answer["content"] == [{"type": "text", "text": "Hi"}]
    # vLLM's own field tells the stop.
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")
    assert json.loads(sent.calls[0].request.body) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "max_tokens": 100,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("owner", "flags"),
    [
        ("vllm", {"continue_final_message": True, "add_generation_prompt": False}),
        ("llamacpp", {"continue_final_message": True, "add_generation_prompt": False}),
        ("openai", {}),
    ],
)
def test_a_server_is_told_to_go_on_with_the_beginning_of_the_answer(
    server: responses.RequestsMock, owner: str, flags: Any
) -> None:
    server.replace("GET", f"{SERVER}/models", json={"data": [{"id": "m", "owned_by": owner}]})
    server.post(f"{SERVER}/messages", status=404)
    sent = server.post(f"{SERVER}/chat/completions", body=CHUNKS, content_type="text/event-stream")
    begun = [*BODY["messages"], {"role": "assistant", "content": "2 + 2"}]
    http = before()
    message(http.post("/v1/messages", json={**BODY, "model": "m", "messages": begun}))
    message(http.post("/v1/messages", json={**BODY, "model": "m"}))
    bodies = [json.loads(call.request.body) for call in sent.calls]
    names = ("continue_final_message", "add_generation_prompt")
    assert [{name: body[name] for name in names if name in body} for body in bodies] == [flags, {}]


def test_a_refusal_of_the_server_passes_unchanged(server: responses.RequestsMock) -> None:
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    server.post(f"{SERVER}/messages", status=400, json=refusal)
    response = before().post("/v1/messages", json={**BODY, "model": "m"})
    assert (response.status_code, response.json) == (400, refusal)


def test_a_stream_of_the_server_passes_byte_by_byte(server: responses.RequestsMock) -> None:
    server.post(f"{SERVER}/messages", body=STREAM, content_type="text/event-stream")
    body = {**BODY, "model": "m", "stream": True}
    assert before().post("/v1/messages", json=body).data == STREAM


def test_a_stream_of_the_server_that_breaks_off_ends_with_anthropics_error(
    server: responses.RequestsMock,
) -> None:
    # Anthropic's SDK for Python would take what is there for the whole message.
    begun = STREAM.partition(b"event: message_delta")[0]
    server.post(f"{SERVER}/messages", body=begun, content_type="text/event-stream")
    body = {**BODY, "model": "m", "stream": True}
    ending = before().post("/v1/messages", json=body).data.removeprefix(begun)
    assert ending == (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
        b'"message":"The answer broke off."}}\n\n'
    )


def test_a_server_counts_tokens_where_it_can(server: responses.RequestsMock) -> None:
    sent = server.post(f"{SERVER}/messages/count_tokens", json={"input_tokens": 42})
    http, body = before(), {"model": "m", "messages": BODY["messages"]}
    assert http.post("/v1/messages/count_tokens", json=body).json == {"input_tokens": 42}
    assert json.loads(sent.calls[0].request.body) == body
    server.replace("POST", f"{SERVER}/messages/count_tokens", status=404)
    assert http.post("/v1/messages/count_tokens", json=body).json == {"input_tokens": 21}
    server.replace("POST", f"{SERVER}/messages/count_tokens", status=500)
    assert http.post("/v1/messages/count_tokens", json=body).json == {"input_tokens": 21}
