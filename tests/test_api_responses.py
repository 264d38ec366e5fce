"""POST /v1/responses, whole: from the body to the worker, and from its text to the events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from horde_proxy import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from tests.legal_responses import check_response, check_stream, parsed
from tests.support import Scripted, World

BODY = {"model": "test/model", "input": "A poem about roses."}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": None,
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def post(http: FlaskClient, body: Mapping[str, Any], path: str = "/v1/responses") -> Any:
    return http.post(path, json=body)


def stream(http: FlaskClient, **body: Any) -> dict[str, Any]:
    """The last object of a legal stream."""
    with post(http, {**BODY, "stream": True, **body}) as response:
        assert response.status_code == 200, response.text
        assert response.content_type == "text/event-stream; charset=utf-8"
        return check_stream(parsed(response.text))


def answer(http: FlaskClient, **body: Any) -> dict[str, Any]:
    """The response object to a body."""
    response = post(http, {**BODY, **body})
    assert response.status_code == 200, response.text
    check_response(response.json)
    return dict(response.json)


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
def test_a_text_is_answered(world: World, path: str) -> None:
    backend = world.employ(Scripted("Roses are red."))
    response = post(world.http(), BODY, path)
    check_response(response.json)
    [item] = response.json["output"]
    assert [part["text"] for part in item["content"]] == ["Roses are red."]
    assert response.headers["X-Horde-Model"] == "test/model"
    assert "A poem about roses." in backend.payloads[0]["prompt"]


def test_a_stream_has_the_same_answer(world: World) -> None:
    world.employ(Scripted("Roses are red."))
    final = stream(world.http())
    assert [part["text"] for part in final["output"][0]["content"]] == ["Roses are red."]
    assert final["usage"]["total_tokens"] > 0


def test_a_function_is_called(world: World) -> None:
    world.employ(Scripted(CALL))
    for final in (answer(world.http(), tools=[WEATHER]), stream(world.http(), tools=[WEATHER])):
        [item] = final["output"]
        assert (item["type"], item["name"]) == ("function_call", "weather")
        assert json.loads(item["arguments"]) == {"city": "Oslo"}
        assert final["tools"] == [WEATHER]


def test_a_turn_with_calls_comes_back(world: World) -> None:
    backend = world.employ(Scripted("It is cold."))
    http = world.http()
    items = [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city": "Oslo"}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "-5 degrees"},
    ]
    final = answer(http, input=items, tools=[WEATHER])
    assert final["output"][0]["content"][0]["text"] == "It is cold."
    prompt = backend.payloads[0]["prompt"]
    assert prompt.index('"city": "Oslo"') < prompt.index("-5 degrees")


def test_a_custom_tool_gets_raw_text(world: World) -> None:
    call = json.dumps({"name": "apply_patch", "arguments": {"input": "*** Begin Patch\n"}})
    world.employ(Scripted(f"<tool_call>\n{call}\n</tool_call>"))
    tool = {"type": "custom", "name": "apply_patch", "description": "Patches files."}
    [item] = stream(world.http(), tools=[tool])["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", "*** Begin Patch\n")


def test_a_json_schema_is_kept(world: World) -> None:
    world.employ(Scripted('{"city": "Oslo"}'))
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "name": "place", "schema": schema, "strict": True}
    final = answer(world.http(), text={"format": format, "verbosity": "low"})
    assert json.loads(final["output"][0]["content"][0]["text"]) == {"city": "Oslo"}
    assert final["text"] == {"format": format, "verbosity": "low"}


def test_what_is_cut_is_incomplete(world: World) -> None:
    world.employ(Scripted("Roses are red. " * 40, max_length=64))
    final = stream(world.http(), max_output_tokens=16)
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["max_output_tokens"] == 16


def test_a_wait_is_filled_with_events_that_count(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(server={"stream_timeout": 60, "keepalive_interval": 10})
    with post(world.http(), {**BODY, "stream": True}) as response:
        events = parsed(response.text)
    final = check_stream(events)
    kinds = [event["type"] for event in events]
    assert kinds[1:-1].count("response.in_progress") == len(kinds) - 2 >= 5
    assert final["status"] == "failed"
    # Codex would pay five more times for a server_error.
    assert final["error"]["code"] == "invalid_prompt"


def test_no_worker_is_a_400_that_nobody_repeats(world: World) -> None:
    world.employ(Scripted("x"))
    http = world.http()
    assert http.get("/v1/models").status_code == 200
    nobody = {"workers": ["00000000-0000-0000-0000-00000000000a"]}
    response = post(http, {**BODY, "horde": nobody})
    assert (response.status_code, response.json["error"]["code"]) == (400, "no_workers")
    assert response.headers["x-should-retry"] == "false"
    assert "Retry-After" not in response.headers


def test_a_chat_that_is_too_long_is_refused_unless_it_may_lose_its_beginning(world: World) -> None:
    world.employ(Scripted("Yes.", context=1024, max_length=128))
    http = world.http()
    items = [
        {"role": role, "content": f"{number} " + "word " * 200}
        for number in range(10)
        for role in ("user", "assistant")
    ]
    items.append({"role": "user", "content": "And now?"})
    response = post(http, {**BODY, "input": items})
    assert (response.status_code, response.json["error"]["param"]) == (400, "input")
    assert response.json["error"]["code"] == "context_length_exceeded"
    final = answer(http, input=items, truncation="auto")
    assert (final["truncation"], final["status"]) == ("auto", "completed")


def test_hosted_tools_are_left_out_with_a_warning(world: World) -> None:
    world.employ(Scripted("Yes."))
    tools = [WEATHER, {"type": "web_search"}, {"type": "mcp", "server_label": "x"}]
    response = post(world.http(), {**BODY, "tools": tools})
    assert response.status_code == 200
    assert response.headers["X-Horde-Warnings"] == (
        "tools: type 'web_search' left out; tools: type 'mcp' left out"
    )
    assert response.json["tools"] == tools


def test_a_hosted_tool_cannot_be_forced(world: World) -> None:
    world.employ(Scripted("Yes."))
    tools = [WEATHER, {"type": "web_search"}]
    for choice in ({"type": "web_search"}, {"type": "file_search"}):
        response = post(world.http(), {**BODY, "tools": tools, "tool_choice": choice})
        assert (response.status_code, response.json["error"]["param"]) == (400, "tool_choice")


def test_what_is_not_stored_is_a_404(world: World) -> None:
    world.employ(Scripted("Yes."))
    http = world.http()
    for body, code, param in (
        ({"previous_response_id": "resp_1"}, "previous_response_not_found", "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation_not_found", "conversation"),
        ({"input": [{"id": "msg_1"}]}, "item_not_found", "input"),
    ):
        response = post(http, {**BODY, **body})
        assert response.status_code == 404
        assert (response.json["error"]["code"], response.json["error"]["param"]) == (code, param)


# Before a server of OpenAI's API.

SERVER = "http://server.invalid:1/v1"
STREAM = (
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "Roses."}}]}\n\n'
    b'data: {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{SERVER}/models", json={"data": [{"id": "test/model"}]})
        yield mock


def before_server(**sections: Any) -> FlaskClient:
    flags = {"endpoints": [{"url": SERVER, "name": "server"}], "stats": {"hydrate": False}}
    settings = load(environ={}, flags=flags | sections)
    return create_app(settings, Runtime(run=inline)).test_client()


def test_a_server_that_has_responses_gets_the_body_unchanged(
    server: responses.RequestsMock,
) -> None:
    theirs = {"id": "resp_theirs", "object": "response"}
    sent = server.post(f"{SERVER}/responses", json=theirs)
    body = {**BODY, "prompt": {"id": "p"}}
    response = post(before_server(), body)
    assert (response.json, response.headers["X-Endpoint"]) == (theirs, "server")
    assert json.loads(sent.calls[0].request.body) == body


def test_a_server_without_responses_gets_a_chat(server: responses.RequestsMock) -> None:
    server.post(f"{SERVER}/responses", status=404)
    sent = server.post(f"{SERVER}/chat/completions", body=STREAM, content_type="text/event-stream")
    items = [
        {"role": "developer", "content": "Rhyme."},
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": "Roses"},
    ]
    body = {**BODY, "input": items, "tools": [WEATHER], "max_output_tokens": 99}
    response = post(before_server(), body)
    check_response(response.json)
    assert response.json["output"][0]["content"][0]["text"] == "Roses."
    written: Mapping[str, Any] = json.loads(sent.calls[0].request.body)
    assert written["messages"] == [
        {"role": "system", "content": "Rhyme.\n\nBe brief."},
        {"role": "user", "content": "Roses"},
    ]
    assert (written["max_tokens"], written["tool_choice"]) == (99, "auto")
    assert written["tools"][0]["function"]["name"] == "weather"


def test_a_server_without_responses_is_asked_once(server: responses.RequestsMock) -> None:
    tried = server.post(f"{SERVER}/responses", status=404)
    server.post(f"{SERVER}/chat/completions", body=STREAM, content_type="text/event-stream")
    http = before_server()
    for text in ("Roses", "Violets"):
        assert post(http, {**BODY, "input": text}).json["output"][0]["type"] == "message"
    assert tried.call_count == 1


def sent_events(*numbered: str) -> bytes:
    events = [
        {"type": f"response.{name}", "sequence_number": number, "response": {"id": "resp_theirs"}}
        for number, name in enumerate(numbered)
    ]
    return "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events).encode()


def test_a_proxied_stream_that_breaks_off_has_failed(server: responses.RequestsMock) -> None:
    begun = sent_events("created", "in_progress")
    server.post(f"{SERVER}/responses", body=begun, content_type="text/event-stream")
    text = post(before_server(), {**BODY, "stream": True}).text
    assert text == begun.decode() + (
        "event: response.failed\n"
        'data: {"type":"response.failed","sequence_number":2,"response":{"id":"resp_theirs",'
        '"status":"failed","error":{"code":"server_error","message":"The answer broke off."}}}\n\n'
    )


@pytest.mark.parametrize("last", ["completed", "incomplete", "failed"])
def test_a_proxied_stream_that_ends_passes_unchanged(
    server: responses.RequestsMock, last: str
) -> None:
    whole = sent_events("created", "in_progress", last)
    server.post(f"{SERVER}/responses", body=whole, content_type="text/event-stream")
    assert post(before_server(), {**BODY, "stream": True}).data == whole


def test_a_background_response_is_never_proxied(server: responses.RequestsMock) -> None:
    response = post(before_server(store={"days": 0}), {**BODY, "background": True})
    assert (response.status_code, response.json["error"]["param"]) == (400, "background")
