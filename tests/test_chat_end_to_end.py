"""Chats from end to end: HTTP client, proxy, private horde, worker, and a server like llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from horde_proxy.protocol import sse
from tests.scripted_server import ScriptedServer, openai
from tests.support import Scripted, World

DONE = "data: [DONE]\n\n"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def event(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> str:
    """One event of llama.cpp's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n"


COUNTS = {"prompt_tokens": 31, "completion_tokens": 7}
USAGE = f"data: {json.dumps({'choices': [], 'usage': COUNTS})}\n\n"
RAIN = (
    event({"role": "assistant", "content": None})
    + event({"reasoning_content": "Look."})
    + event({"content": "It "})
    + event({"content": "rains."})
    + event({}, "stop")
    + USAGE
    + DONE
)
CALL = (
    event({"role": "assistant", "content": None})
    + event(
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "fc_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": ""},
                }
            ]
        }
    )
    + event({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]})
    + event({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]})
    + event({}, "tool_calls")
    + USAGE
    + DONE
)


@pytest.fixture
def world() -> World:
    return World(chats=True)


def serve(
    world: World,
    server: ScriptedServer,
    name: str = "llama",
    is_on: Callable[[], bool] = lambda: True,
) -> ScriptedServer:
    """A worker for a server; it has popped twice, so that the horde knows what it can do.

    It pops on while `is_on`.
    """
    bridge = world.bridge(openai(server, "llama.cpp"), name)
    bridge.step(world.session)
    bridge.step(world.session)
    world.clock.every_sleep.append(lambda: bridge.step(world.session) if is_on() else None)
    return server


def post(world: World, **fields: Any) -> Any:
    body = {
        "model": "some-8b",
        "messages": [{"role": "user", "content": "How is Oslo?"}],
        **fields,
    }
    return world.http().post("/v1/chat/completions", json=body)


def chunks(response: Any) -> list[dict[str, Any]]:
    lines = [line for line in response.get_data(as_text=True).split("\n") if line]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [json.loads(text) for text in data]


def test_a_whole_answer_is_the_servers(world: World) -> None:
    server = serve(world, ScriptedServer(RAIN))
    response = post(world)
    whole = response.get_json()
    assert response.headers["X-Horde-Format"] == "chat"
    [choice] = whole["choices"]
    assert choice["message"]["content"] == "It rains."
    assert choice["message"]["reasoning_content"] == "Look."
    assert choice["finish_reason"] == "stop"
    assert (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == (31, 7)
    path, body = server.calls[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "How is Oslo?"}]


def test_a_stream_has_the_servers_own_pieces(world: World) -> None:
    serve(world, ScriptedServer(RAIN))
    response = post(world, stream=True, stream_options={"include_usage": True})
    found = chunks(response)
    deltas = [choice["delta"] for chunk in found for choice in chunk["choices"]]
    assert [delta["content"] for delta in deltas if delta.get("content")] == ["It ", "rains."]
    assert [choice["finish_reason"] for chunk in found for choice in chunk["choices"]][-1] == "stop"
    assert found[-1]["usage"]["completion_tokens"] == 7
    assert response.get_data(as_text=True).endswith(sse.DONE.decode())


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_tool_call_has_the_servers_id(world: World, is_streamed: bool) -> None:
    server = serve(world, ScriptedServer(CALL))
    response = post(world, tools=[TOOL], stream=is_streamed)
    if is_streamed:
        deltas = [choice["delta"] for chunk in chunks(response) for choice in chunk["choices"]]
        parts = [part for delta in deltas for part in delta.get("tool_calls", ())]
        arguments = "".join(part["function"]["arguments"] for part in parts)
        call_id = parts[0]["id"]
    else:
        [call] = response.get_json()["choices"][0]["message"]["tool_calls"]
        arguments, call_id = call["function"]["arguments"], call["id"]
    assert (call_id, json.loads(arguments)) == ("fc_1", {"city": "Oslo"})
    assert server.calls[0][1]["tools"][0]["function"]["name"] == "weather"


def test_a_schema_reaches_the_servers_grammar(world: World) -> None:
    text = event({"content": '{"city": "Oslo"}'}) + event({}, "stop") + USAGE + DONE
    server = serve(world, ScriptedServer(text))
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    message = post(world, response_format=form).get_json()["choices"][0]["message"]
    assert message["content"] == '{"city": "Oslo"}'
    assert server.calls[0][1]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_server_that_is_lost_midway_is_followed_by_another(world: World) -> None:
    broken = event({"content": "It rains "}) + event({"content": "in "})
    rest = event({"content": "Oslo."}) + event({}, "stop") + USAGE + DONE
    first = serve(world, ScriptedServer(broken))

    def lose() -> None:
        if first.calls:
            raise ConnectionResetError("gone")

    first.end = lose
    second = serve(world, ScriptedServer(rest), "second", is_on=lambda: bool(first.calls))
    response = post(world, stream=True)
    deltas = [choice["delta"] for chunk in chunks(response) for choice in chunk["choices"]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    # The last piece of the first one may be lost with it.
    begun = second.calls[0][1]["messages"][-1]
    assert begun["role"] == "assistant"
    assert begun["content"].startswith("It rains ")
    assert text == begun["content"] + "Oslo."


def test_a_plain_worker_beside_it_gets_completions_only(world: World) -> None:
    server = serve(world, ScriptedServer(RAIN))
    plain = world.employ(Scripted("Hello.", name="some-8b"), "plain")
    for _ in range(3):
        assert post(world).headers["X-Horde-Format"] == "chat"
    assert (len(server.calls), plain.payloads) == (3, [])


def test_a_chat_too_long_for_the_server_is_a_400_of_openais_code(world: World) -> None:
    refusal = json.dumps(
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size",
                "type": "exceed_context_size_error",
            }
        }
    )
    server = serve(world, ScriptedServer(refusal, 400))
    response = post(world)
    assert response.status_code == 400
    assert response.get_json()["error"]["code"] == "context_length_exceeded"
    assert len(server.calls) == 1


def test_a_client_that_leaves_ends_the_job(world: World) -> None:
    serve(world, ScriptedServer(RAIN))
    response = post(world, stream=True)
    response.close()
    assert world.horde.open_requests() == []


def test_the_pieces_of_a_very_long_answer_are_sent_together(world: World) -> None:
    """Each is compared with all that was sent: 50,000 pieces after 2 MB took minutes."""
    long = [f"It {number} " for number in range(20_000)]
    events = [event({"content": piece}) for piece in ("a" * 100_000, *long)]
    serve(world, ScriptedServer("".join(events) + RAIN))
    response = post(world, stream=True)
    deltas = [choice["delta"] for chunk in chunks(response) for choice in chunk["choices"]]
    texts = [delta["content"] for delta in deltas if delta.get("content")]
    assert "".join(texts) == "a" * 100_000 + "".join(long) + "It rains."
    assert len(texts) < 100
