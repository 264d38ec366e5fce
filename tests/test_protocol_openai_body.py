"""Requests written in OpenAI's shape, for servers that did not get the client's own body."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.completions import read_completion
from horde_proxy.protocol.generation_request import (
    GenerationRequest,
    JsonFormat,
    Message,
    Tool,
    ToolCall,
)
from horde_proxy.protocol.openai_body import fields_left_out, openai_body

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def test_pictures_are_parts_at_their_places() -> None:
    parts = [
        {"type": "text", "text": "a\n"},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}},
        {"type": "text", "text": "\nb"},
    ]
    body = {"model": "m", "messages": [{"role": "user", "name": "Ann", "content": parts}]}
    request = replace(read_chat(body, keeps_pictures=True), source={})
    assert openai_body(request)["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Ann: a\n"},
                {"type": "image_url", "image_url": {"url": PICTURE}},
                {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}},
                {"type": "text", "text": "\nb"},
            ],
        }
    ]


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = ToolCall("call-1", "weather", '{"city": "Oslo"}')
CHAT = GenerationRequest(
    "m",
    (
        Message("system", "Be brief."),
        Message("user", "Is it cold?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "-3", tool_call_id="call-1"),
    ),
    max_tokens=100,
    n=2,
    stop=("END",),
    sampling={"temperature": 0.5, "top_k": 40},
    tools=(Tool("weather", "The weather.", WEATHER, strict=True), Tool("time", "", WEATHER)),
    tool_choice="weather",
    parallel_tool_calls=False,
    json_format=JsonFormat({"type": "object"}, strict=True),
)
BODY = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it cold?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call-1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "content": "-3", "tool_call_id": "call-1"},
    ],
    "max_tokens": 100,
    "n": 2,
    "stop": ["END"],
    "temperature": 0.5,
    "top_k": 40,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather.",
                "parameters": WEATHER,
                "strict": True,
            },
        },
        {
            "type": "function",
            "function": {"name": "time", "description": "", "parameters": WEATHER},
        },
    ],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    },
}


def test_a_chat_is_written_with_all_that_it_asks_for() -> None:
    assert openai_body(CHAT) == BODY


def test_a_small_chat_has_nothing_but_its_messages() -> None:
    request = GenerationRequest("m", (Message("user", "Hi"),))
    assert openai_body(request) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_any_object_is_openai_s_json_object() -> None:
    request = GenerationRequest("m", (Message("user", "Hi"),), json_format=JsonFormat())
    assert openai_body(request)["response_format"] == {"type": "json_object"}


def test_a_raw_prompt_is_written_as_a_completion() -> None:
    request = GenerationRequest("m", (Message("assistant", "Once"),), max_tokens=9, raw=True)
    assert openai_body(request) == {"model": "m", "prompt": "Once", "max_tokens": 9}


HORDE_ONLY = {
    "horde": {"trusted_workers": True},
    "rep_pen": 1.1,
    "rep_pen_range": 512,
    "rep_pen_slope": 0.7,
    "top_a": 0.1,
    "tfs": 0.9,
    "typical": 0.9,
    "smoothing_factor": 0.2,
    "dynatemp_range": 0.5,
    "dynatemp_exponent": 1.0,
    "sampler_order": [6, 0, 1],
}
OPEN = {
    "top_k": 40,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
}
HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "seed": 1}


def test_what_is_meant_for_a_horde_is_left_out_and_named() -> None:
    chat = read_chat({**HI, **HORDE_ONLY, **OPEN})
    assert openai_body(chat) == {**HI, **OPEN}
    assert fields_left_out(chat) == tuple(sorted(HORDE_ONLY.keys() - {"horde"}))


def test_a_strict_server_gets_only_what_openai_knows() -> None:
    chat = read_chat({**HI, **HORDE_ONLY, **OPEN, "top_p": 0.5})
    assert openai_body(chat, is_strict=True) == {**HI, "top_p": 0.5}
    names = sorted({*HORDE_ONLY, *OPEN} - {"horde"})
    assert fields_left_out(chat, is_strict=True) == tuple(names)


def test_a_chat_of_another_front_has_no_samplers_of_the_horde_either() -> None:
    sampling = {"temperature": 0.5, "rep_pen": 1.1, "top_k": 40}
    request = replace(CHAT, sampling=sampling, horde={"slow_workers": True})
    body = openai_body(request)
    assert (body["temperature"], body["top_k"]) == (0.5, 40)
    assert body.keys().isdisjoint(HORDE_ONLY)
    assert fields_left_out(request) == ("rep_pen",)


def test_the_thoughts_before_calls_go_back_until_the_user_says_something() -> None:
    # Models that think between their calls go on from these; older thoughts are refused by some.
    called = replace(CHAT.messages[2], reasoning="I look.")
    old = [Message("user", "Hi"), replace(called, text="A"), *CHAT.messages[3:]]
    request = replace(CHAT, messages=(*old, *CHAT.messages[1:2], called, CHAT.messages[3]))

    def thoughts(is_strict: bool) -> list[Any]:
        body = openai_body(request, is_strict=is_strict)
        return [message.get("reasoning_content") for message in body["messages"]]

    assert thoughts(is_strict=False) == [None, None, None, None, "I look.", None]
    assert thoughts(is_strict=True) == [None] * 6


def test_nulls_are_no_parameters() -> None:
    assert fields_left_out(read_chat({**HI, "rep_pen": None, "tfs": None})) == ()


def test_a_completion_is_not_echoed_twice_and_streams_only_one_choice() -> None:
    body = {"model": "m", "prompt": "Once", "max_tokens": 5, "echo": True, "best_of": 3}
    [request] = read_completion(body, default_tokens=9).requests
    assert openai_body(request) == {"model": "m", "prompt": "Once", "max_tokens": 5}
    assert fields_left_out(request) == ("best_of",)


def test_a_body_that_was_openai_s_stays_as_it_came() -> None:
    assert openai_body(replace(CHAT, source={"model": "m", "x": 1})) == {"model": "m", "x": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"json_format": JsonFormat(), "tool_choice": "required", "parallel_tool_calls": True},
        {"json_format": None, "tools": (), "tool_choice": "none", "parallel_tool_calls": True},
        {"n": 1, "stop": (), "sampling": {}, "max_tokens": None},
    ],
)
def test_a_written_chat_is_read_as_the_same_request(changes: dict[str, Any]) -> None:
    chat = replace(CHAT, **changes)
    assert read_chat(openai_body(chat)) == chat


def test_a_written_completion_is_read_as_the_same_request() -> None:
    body: Any = {"model": "m", "prompt": "Once", "max_tokens": 9, "n": 3, "temperature": 1}
    [request] = read_completion(body, default_tokens=5).requests
    assert openai_body(replace(request, source={})) == body
