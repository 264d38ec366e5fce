"""The same content through all fronts is the same job of the horde."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import Scripted, World

MODEL = "koboldcpp/Qwen3-8B"
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
LOOK = {"name": "look", "description": "Look at a file.", "parameters": SCHEMA}
CHAT_TOOLS = [{"type": "function", "function": LOOK}]
RESPONSE_TOOLS = [{"type": "function", "strict": False, **LOOK}]
MESSAGE_TOOLS = [{"name": "look", "description": "Look at a file.", "input_schema": SCHEMA}]
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
URL = f"data:image/png;base64,{PIXEL}"
USER = {"role": "user", "content": "Look"}
SYSTEM = {"role": "system", "content": "You are terse."}
SAMPLERS = {"temperature": 0.3, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "rep_pen": 1.2}
ARGUMENTS = '{"path": "a"}'

CONTENTS: dict[str, dict[str, dict[str, Any]]] = {
    "system, samplers, stops": {
        "/v1/chat/completions": {
            "messages": [SYSTEM, USER],
            **SAMPLERS,
            "stop": ["END", "x y"],
            "max_tokens": 77,
        },
        "/v1/responses": {
            "instructions": "You are terse.",
            "input": "Look",
            **SAMPLERS,
            "stop": ["END", "x y"],
            "max_output_tokens": 77,
        },
        "/v1/messages": {
            "system": [{"type": "text", "text": "You are terse."}],
            "messages": [USER],
            **SAMPLERS,
            "stop_sequences": ["END", "x y"],
            "max_tokens": 77,
        },
        "/api/chat": {
            "messages": [SYSTEM, USER],
            "options": {
                "temperature": 0.3,
                "top_p": 0.9,
                "top_k": 7,
                "min_p": 0.1,
                "repeat_penalty": 1.2,
                "stop": ["END", "x y"],
                "num_predict": 77,
            },
        },
    },
    "a schema": {
        "/v1/chat/completions": {
            "messages": [USER],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": SCHEMA, "strict": True},
            },
        },
        "/v1/responses": {
            "input": [USER],
            "text": {
                "format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True}
            },
        },
        "/v1/messages": {
            "messages": [USER],
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
        "/api/chat": {"messages": [USER], "format": SCHEMA},
    },
    "a forced call": {
        "/v1/chat/completions": {
            "messages": [USER],
            "tools": CHAT_TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "look"}},
        },
        "/v1/responses": {
            "input": "Look",
            "tools": RESPONSE_TOOLS,
            "tool_choice": {"type": "function", "name": "look"},
        },
        "/v1/messages": {
            "messages": [USER],
            "tools": MESSAGE_TOOLS,
            "tool_choice": {"type": "tool", "name": "look"},
        },
    },
    "a call that failed, with thoughts": {
        "/v1/chat/completions": {
            "tools": CHAT_TOOLS,
            "messages": [
                SYSTEM,
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "I look.",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "look", "arguments": ARGUMENTS},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "Error: gone"},
                USER,
            ],
        },
        "/v1/responses": {
            "tools": RESPONSE_TOOLS,
            "input": [
                {"role": "developer", "content": "You are terse."},
                USER,
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I look."}]},
                {
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": "look",
                    "arguments": ARGUMENTS,
                },
                {"type": "function_call_output", "call_id": "call_1", "output": "Error: gone"},
                USER,
            ],
        },
        "/v1/messages": {
            "tools": MESSAGE_TOOLS,
            "system": "You are terse.",
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "I look.", "signature": "x"},
                        {
                            "type": "tool_use",
                            "id": "call_1",
                            "name": "look",
                            "input": {"path": "a"},
                        },
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "call_1",
                            "content": "gone",
                            "is_error": True,
                        },
                        {"type": "text", "text": "Look"},
                    ],
                },
            ],
        },
        "/api/chat": {
            "tools": CHAT_TOOLS,
            "messages": [
                SYSTEM,
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "thinking": "I look.",
                    "tool_calls": [{"function": {"name": "look", "arguments": {"path": "a"}}}],
                },
                {"role": "tool", "tool_name": "look", "content": "Error: gone"},
                USER,
            ],
        },
    },
    "a picture": {
        "/v1/chat/completions": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {"type": "image_url", "image_url": {"url": URL}},
                    ],
                }
            ]
        },
        "/v1/responses": {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What?"},
                        {"type": "input_image", "image_url": URL},
                    ],
                }
            ]
        },
        "/v1/messages": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                        },
                    ],
                }
            ]
        },
        "/api/chat": {"messages": [{"role": "user", "content": "What?", "images": [PIXEL]}]},
    },
    "the beginning of the answer": {
        path: {name: [USER, {"role": "assistant", "content": "Well, I"}]}
        for path, name in (
            ("/v1/chat/completions", "messages"),
            ("/v1/responses", "input"),
            ("/v1/messages", "messages"),
            ("/api/chat", "messages"),
        )
    },
}
LONGEST: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"max_tokens": 77},
    "/v1/responses": {"max_output_tokens": 77},
    "/v1/messages": {"max_tokens": 77},
    "/api/chat": {"options": {"num_predict": 77}},
}


def job_of(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The last payload that a worker gets for a request."""
    world = World()
    worker = world.employ(Scripted("Hello.", name=MODEL))
    whole = {**LONGEST[path], **body, "model": MODEL, "stream": False}
    # What the worker writes is no answer to each of them; that is another test's matter.
    assert world.http().post(path, json=whole).status_code in (200, 400, 500)
    payload: dict[str, Any] = worker.payloads[0]
    return payload


@pytest.mark.parametrize("content", CONTENTS)
def test_the_same_content_is_the_same_job_through_all_fronts(content: str) -> None:
    jobs = {path: job_of(path, body) for path, body in CONTENTS[content].items()}
    first = jobs["/v1/chat/completions"]
    assert {path for path, job in jobs.items() if job != first} == set()
