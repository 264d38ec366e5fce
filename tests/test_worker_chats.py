"""Chats: what each kind of server gets of a job, and the transcript of what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from horde_proxy.aihorde.transcript import fold, read
from horde_proxy.worker.backends import (
    BackendDown,
    BackendError,
    ChatUnsupported,
    JobRefused,
    calls,
)
from horde_proxy.worker.backends.base import ContextExceeded
from horde_proxy.worker.backends.chat_server import ChatServer
from tests.scripted_server import URL, ScriptedServer, koboldcpp, ollama, openai
from tests.support import Clock

MESSAGES = [{"role": "user", "content": "Hi"}]
PAYLOAD: dict[str, Any] = {
    "prompt": "",
    "chat": {"messages": MESSAGES},
    "max_length": 80,
    "max_context_length": 4096,
}
CHAT_PATH = "/v1/chat/completions"
DONE = "data: [DONE]\n\n"


def never() -> bool:
    return False


def event(**fields: Any) -> str:
    """One event of a stream of chat completion chunks."""
    return f"data: {json.dumps(fields)}\n\n"


def delta(finish_reason: str | None = None, **fields: Any) -> str:
    """The event of one delta."""
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}])


def chat(backend: ChatServer, payload: dict[str, Any] = PAYLOAD) -> list[Any]:
    """The lines of the transcript."""
    text = "".join(backend.chat(payload, never))
    assert text.endswith("\n")
    read(text)
    return [json.loads(line) for line in text.splitlines()]


HELLO = delta(content="Hello") + delta("stop") + DONE

# llama-server, build of 2026: role first, reasoning apart, timings and usage in the last event.
LLAMA_CPP = (
    'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant",'
    '"content":null}}],"created":1,"id":"chatcmpl-a","model":"m","system_fingerprint":"b1","object":'
    '"chat.completion.chunk"}\n\n'
    'data: {"choices":[{"finish_reason":null,"index":0,"delta":'
    '{"reasoning_content":"The user"}}]}\n\n'
    'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Héllo"}}]}\n\n'
    'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}]}\n\n'
    'data: {"choices":[],"usage":{"completion_tokens":9,"prompt_tokens":12,"total_tokens":21},'
    '"timings":{"cache_n":7,"prompt_n":5}}\n\n' + DONE
)
# vLLM: `reasoning`, usage null until its own event, calls in pieces.
VLLM = (
    'data: {"id":"chatcmpl-b","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    '[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
    '"prompt_token_ids":null}\n\n'
    'data: {"choices":[{"index":0,"delta":{"reasoning":"Look","reasoning_content":"Look"},'
    '"logprobs":null,"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"id":"chatcmpl-tool-1","type":"function",'
    '"index":0,"function":{"name":"weather","arguments":""}}]},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":'
    '"{\\"city\\": "}}]},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":'
    '"\\"Oslo\\"}"}}]},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"tool_calls",'
    '"stop_reason":null}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":30,"total_tokens":51,"completion_tokens":21,'
    '"prompt_tokens_details":{"cached_tokens":16}}}\n\n' + DONE
)
# TabbyAPI: pings between the events.
TABBY = (
    ": ping - 2026-08-21\r\n\r\n"
    'data: {"id":"chatcmpl-c","choices":[{"index":0,"finish_reason":null,"delta":'
    '{"role":"assistant","content":"Hel"}}],"created":1,"object":"chat.completion.chunk"}\r\n\r\n'
    'data: {"choices":[{"index":0,"finish_reason":null,"delta":{"content":"lo"}}]}\r\n\r\n'
    'data: {"choices":[{"index":0,"finish_reason":"length","delta":{}}]}\r\n\r\n'
    'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\r\n\r\n'
    "data: [DONE]\r\n\r\n"
)
# LM Studio.
LM_STUDIO = (
    'data: {"id":"chatcmpl-d","object":"chat.completion.chunk","created":1,"model":"m",'
    '"system_fingerprint":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},'
    '"logprobs":null,"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":40,"total_tokens":49,'
    '"completion_tokens_details":{"reasoning_tokens":37}}}\n\n' + DONE
)
# A server that does not stream, and makes neither ids nor indexes of calls.
WHOLE = json.dumps(
    {
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "a", "function": {"name": "weather", "arguments": {"city": "Oslo"}}},
                        {"id": "b", "function": {"name": "time", "arguments": "{}"}},
                    ],
                },
                "finish_reason": "stop",
            }
        ]
    }
)
KOBOLDCPP = (
    'data: {"id": "koboldcpp", "object": "chat.completion.chunk", "created": 1, "model": "m", '
    '"choices": [{"index": 0, "finish_reason": null, "delta": {"role": "assistant", "content": '
    '"Hi"}}]}\n\n'
    'data: {"id": "koboldcpp", "object": "chat.completion.chunk", "created": 1, "model": "m", '
    '"choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": ""}}]}\n\n' + DONE
)
OLLAMA = (
    '{"model":"m","created_at":"2026-08-21T10:00:00.1Z","message":{"role":"assistant","content":"",'
    '"thinking":"Look"},"done":false}\n'
    '{"model":"m","created_at":"2026-08-21T10:00:00.2Z","message":{"role":"assistant","content":'
    '"It is "},"done":false}\n'
    '{"model":"m","created_at":"2026-08-21T10:00:00.3Z","message":{"role":"assistant","content":"",'
    '"tool_calls":[{"id":"call_1","function":{"index":0,"name":"time","arguments":{}}},'
    '{"id":"call_2","function":{"index":1,"name":"time","arguments":{"zone":"Å"}}}]},"done":false}\n'
    '{"model":"m","created_at":"2026-08-21T10:00:00.4Z","message":{"role":"assistant","content":""},'
    '"done":true,"done_reason":"stop","total_duration":9,"load_duration":1,"prompt_eval_count":26,'
    '"prompt_eval_duration":1,"eval_count":31,"eval_duration":5}\n'
)
OLLAMA_LINE = OLLAMA.splitlines(keepends=True)[0]


def call(index: int, **fields: Any) -> dict[str, Any]:
    return {"delta": {"tool_calls": [{"index": index, **fields}]}}


def begun(index: int, call_id: str, name: str) -> dict[str, Any]:
    return call(index, id=call_id, type="function", function={"name": name, "arguments": ""})


def arguments(index: int, text: str) -> dict[str, Any]:
    return call(index, function={"arguments": text})


@pytest.mark.parametrize("size", [1, 5, 65_536])
@pytest.mark.parametrize(
    ("opened", "body", "lines"),
    [
        (
            openai,
            LLAMA_CPP,
            [
                {"delta": {"reasoning_content": "The user"}},
                {"delta": {"content": "Héllo"}},
                {
                    "finish_reason": "stop",
                    "usage": {"prompt_tokens": 12, "completion_tokens": 9, "cached_tokens": 7},
                },
            ],
        ),
        (
            openai,
            VLLM,
            [
                {"delta": {"reasoning_content": "Look"}},
                begun(0, "chatcmpl-tool-1", "weather"),
                arguments(0, '{"city": '),
                arguments(0, '"Oslo"}'),
                {
                    "finish_reason": "tool_calls",
                    "usage": {"prompt_tokens": 30, "completion_tokens": 21, "cached_tokens": 16},
                },
            ],
        ),
        (
            openai,
            TABBY,
            [
                {"delta": {"content": "Hel"}},
                {"delta": {"content": "lo"}},
                {
                    "finish_reason": "length",
                    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
                },
            ],
        ),
        (
            openai,
            LM_STUDIO,
            [
                {"delta": {"content": "Hi"}},
                {
                    "finish_reason": "stop",
                    "usage": {"prompt_tokens": 9, "completion_tokens": 40, "reasoning_tokens": 37},
                },
            ],
        ),
        (
            openai,
            WHOLE,
            [
                begun(0, "a", "weather"),
                arguments(0, '{"city": "Oslo"}'),
                begun(1, "b", "time"),
                arguments(1, "{}"),
                {"finish_reason": "tool_calls"},
            ],
        ),
        (koboldcpp, KOBOLDCPP, [{"delta": {"content": "Hi"}}, {"finish_reason": "stop"}]),
        (
            ollama,
            OLLAMA,
            [
                {"delta": {"reasoning_content": "Look"}},
                {"delta": {"content": "It is "}},
                begun(0, "call_1", "time"),
                arguments(0, "{}"),
                begun(1, "call_2", "time"),
                arguments(1, '{"zone": "Å"}'),
                {
                    "finish_reason": "tool_calls",
                    "usage": {"prompt_tokens": 26, "completion_tokens": 31},
                },
            ],
        ),
    ],
    ids=["llama.cpp", "vLLM", "TabbyAPI", "LM Studio", "not streamed", "KoboldCpp", "Ollama"],
)
def test_what_a_server_writes_becomes_a_transcript(
    opened: Callable[..., ChatServer],
    body: str,
    lines: list[Any],
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "_PIECE", size)
    assert chat(opened(ScriptedServer(body), chat=True)) == lines


def test_a_call_without_an_id_gets_one() -> None:
    body = delta("tool_calls", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    result = fold(read("".join(openai(ScriptedServer(body)).chat(PAYLOAD, never))))
    [made] = result.calls.values()
    assert (made.id[:5], made.name, made.arguments) == ("call_", "f", "{}")


def test_log_probabilities_and_refusals_are_passed_on() -> None:
    hi, no = {"token": "Hi", "logprob": -0.1}, {"token": "!", "logprob": -0.2}
    choices = [
        {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [hi]}},
        {"index": 0, "delta": {"refusal": "No."}, "logprobs": {"content": [no]}},
    ]
    body = "".join(event(choices=[choice]) for choice in choices) + delta("content_filter") + DONE
    assert chat(openai(ScriptedServer(body))) == [
        {"delta": {"content": "Hi"}, "logprobs": {"content": [hi]}},
        {"delta": {"refusal": "No."}, "logprobs": {"content": [no]}},
        {"finish_reason": "content_filter"},
    ]


@pytest.mark.parametrize(
    ("theirs", "finish_reason"),
    [("eos", "stop"), ("max_tokens", "length"), ("STOP", "stop"), ("safety", "content_filter")],
)
def test_finish_reasons_become_openais(theirs: str, finish_reason: str) -> None:
    assert chat(openai(ScriptedServer(delta(content="x") + delta(theirs) + DONE)))[-1] == {
        "finish_reason": finish_reason
    }


def test_a_nul_in_an_answer_is_left_out() -> None:
    body = delta(content="a\0b\\u0000") + delta("stop") + DONE
    assert chat(openai(ScriptedServer(body)))[0] == {"delta": {"content": "ab\\u0000"}}


@pytest.mark.parametrize(
    ("opened", "body", "message"),
    [
        (openai, LLAMA_CPP[:460], "it broke the answer off"),
        (openai, LLAMA_CPP[:430], "it broke the answer off in the middle of an event"),
        (openai, delta(content="x"), "it broke the answer off"),
        (openai, delta(content="x") + 'data: {"error":{"message":"boom","code":500}}\n\n', "boom"),
        # SGLang and vLLM when a request is ended from outside.
        (openai, delta(content="x") + delta("abort") + DONE, "it broke the answer off: abort"),
        (openai, "", "its answer is empty"),
        (ollama, OLLAMA_LINE, "it broke the answer off"),
        (ollama, OLLAMA_LINE[:100], "a line that is not JSON, or broke it off"),
        (ollama, OLLAMA_LINE + '{"error":"model runner has stopped"}\n', "model runner has stop"),
    ],
)
def test_an_answer_that_breaks_off_gives_the_job_back(
    opened: Callable[..., ChatServer], body: str, message: str
) -> None:
    with pytest.raises(BackendError, match=message) as raised:
        list(opened(ScriptedServer(body), chat=True).chat(PAYLOAD, never))
    assert (raised.value.reason, opened(ScriptedServer("")).can_chat) == (
        "the backend failed",
        True,
    )


def test_an_answer_whose_connection_is_lost_gives_what_came_first() -> None:
    server = ScriptedServer(delta(content="x"), end=ConnectionResetError("reset"))
    lines = openai(server).chat(PAYLOAD, never)
    assert next(lines) == '{"delta": {"content": "x"}}\n'
    with pytest.raises(BackendDown):
        next(lines)


@pytest.mark.parametrize(
    ("opened", "start"),
    [(openai, delta(content="x")), (koboldcpp, delta(content="x")), (ollama, OLLAMA_LINE)],
)
def test_a_slow_server_hears_of_a_cancelled_chat(
    opened: Callable[..., ChatServer], start: str
) -> None:
    server = ScriptedServer(start)
    server.end = server.wait_for_hang_up
    cancelled: list[bool] = []
    lines = opened(server, chat=True).chat(PAYLOAD, lambda: bool(cancelled))
    next(lines)
    cancelled.append(True)
    with pytest.raises(BackendError, match="cancelled"):
        list(lines)
    if opened is koboldcpp:
        [(_, sent), (path, abort)] = server.calls
        assert (path, abort) == ("/api/extra/abort", {"genkey": sent["genkey"]})


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
SAMPLING = {"top_k": 40, "min_p": 0.0, "rep_pen": 1.1, "temperature": 0.5, "stop_sequence": []}


@pytest.mark.parametrize(
    ("kind", "samplers"),
    [
        ("llama.cpp", {"top_k": 40, "min_p": 0.0, "repeat_penalty": 1.1}),
        ("vLLM", {"top_k": 40, "min_p": 0.0, "repetition_penalty": 1.1}),
        ("TabbyAPI", {"top_k": 40, "min_p": 0.0, "repetition_penalty": 1.1}),
        ("LM Studio", {"top_k": 40, "repeat_penalty": 1.1}),
        ("", {"top_k": 40, "min_p": 0.0, "repeat_penalty": 1.1, "repetition_penalty": 1.1}),
    ],
)
def test_a_server_gets_the_chat_as_it_is_and_the_hordes_sampling_in_its_words(
    kind: str, samplers: dict[str, Any]
) -> None:
    server = ScriptedServer(HELLO)
    fields = {
        "messages": MESSAGES,
        "tools": TOOLS,
        "tool_choice": "required",
        "response_format": {"type": "json_object"},
        "temperature": 0.9,
        "top_p": None,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    chat(openai(server, kind), {**PAYLOAD, **SAMPLING, "chat": fields})
    assert server.calls == [
        (
            CHAT_PATH,
            {
                **samplers,
                "messages": MESSAGES,
                "tools": TOOLS,
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
                "temperature": 0.9,
                "chat_template_kwargs": {"enable_thinking": False},
                "model": "some-8b",
                "stream": True,
                "stream_options": {"include_usage": True},
                "max_tokens": 80,
            },
        )
    ]


def test_a_koboldcpp_gets_its_own_samplers_and_a_key_to_abort_it() -> None:
    server = ScriptedServer(HELLO)
    chat(koboldcpp(server, chat=True), {**PAYLOAD, **SAMPLING, "rep_pen_range": 320})
    [(path, sent)] = server.calls
    assert (path, sent.pop("genkey")[:4]) == (CHAT_PATH, "KCPP")
    assert sent == {
        "top_k": 40,
        "min_p": 0.0,
        "rep_pen": 1.1,
        "rep_pen_range": 320,
        "temperature": 0.5,
        "messages": MESSAGES,
        # Else KoboldCpp would take "{{[INPUT]}}" in a message for the beginning of a turn.
        "replace_instruct_placeholders": False,
        "model": "koboldcpp/Some-8B",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 80,
    }


def test_an_ollama_gets_a_chat_in_the_words_of_its_own_api(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = ScriptedServer(OLLAMA)
    backend = ollama(server, chat=True)
    fields = {
        "messages": [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Oslo?"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Look",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
        "temperature": 0.9,
        "seed": 7,
        "stop": "END",
        "presence_penalty": 0.5,
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "none",
        "logit_bias": {"5": 1},
        "parallel_tool_calls": False,
    }
    for _ in range(2):
        chat(backend, {**PAYLOAD, **SAMPLING, "chat": fields})
    assert server.calls[0] == (
        "/api/chat",
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "Oslo?"},
                {
                    "role": "assistant",
                    "content": "",
                    "thinking": "Look",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "function": {"name": "weather", "arguments": {"city": "Oslo"}},
                        }
                    ],
                },
                {
                    "role": "tool",
                    "content": "rain",
                    "tool_name": "weather",
                    "tool_call_id": "call_1",
                },
            ],
            "tools": TOOLS,
            "format": {"type": "object"},
            "logprobs": True,
            "top_logprobs": 2,
            "think": False,
            "model": "llama3.2:1b",
            "stream": True,
            "truncate": False,
            "options": {
                "top_k": 40,
                "min_p": 0.0,
                "repeat_penalty": 1.1,
                "temperature": 0.9,
                "stop": ["END"],
                "num_predict": 80,
                "num_ctx": 4096,
                "seed": 7,
                "presence_penalty": 0.5,
            },
        },
    )
    assert sorted(caplog.messages) == [
        f"the backend at {URL} does not know {name}: it is left out"
        for name in ("logit_bias", "parallel_tool_calls")
    ]


NAMED = {"type": "function", "function": {"name": "weather"}}
MORE_TOOLS = [*TOOLS, {"type": "function", "function": {"name": "time"}}]


@pytest.mark.parametrize(
    ("opened", "options", "body", "tools", "choice"),
    [
        (openai, {"kind": "llama.cpp"}, HELLO, TOOLS, "required"),
        (openai, {"kind": "LM Studio"}, HELLO, TOOLS, "required"),
        (openai, {"kind": "vLLM"}, HELLO, MORE_TOOLS, NAMED),
        (ollama, {"chat": True}, OLLAMA, TOOLS, None),
    ],
)
def test_a_server_that_reads_no_named_tool_gets_it_as_the_only_one(
    opened: Callable[..., ChatServer], options: Any, body: str, tools: Any, choice: Any
) -> None:
    server = ScriptedServer(body)
    fields = {"messages": MESSAGES, "tools": MORE_TOOLS, "tool_choice": NAMED}
    chat(opened(server, **options), {**PAYLOAD, "chat": fields})
    sent = server.calls[0][1]
    assert (sent["tools"], sent.get("tool_choice")) == (tools, choice)


def test_an_ollamas_log_probabilities_are_as_openais() -> None:
    token = {"token": "Hi", "logprob": -0.1, "top_logprobs": []}
    line = {
        "message": {"content": "Hi"},
        "logprobs": [token],
        "done": True,
        "done_reason": "length",
    }
    assert chat(ollama(ScriptedServer(json.dumps(line) + "\n"), chat=True)) == [
        {"delta": {"content": "Hi"}, "logprobs": {"content": [token]}},
        {"finish_reason": "length"},
    ]


def test_an_ollama_gets_no_calls_that_are_no_list_and_gives_none() -> None:
    """Neither a horde nor a server is trusted to send what it should."""
    line = {"message": {"content": "Hi", "tool_calls": 5}, "done": True, "done_reason": "stop"}
    server = ScriptedServer(json.dumps(line) + "\n")
    message = {"role": "assistant", "content": "x", "tool_calls": 5}
    written = chat(ollama(server, chat=True), {**PAYLOAD, "chat": {"messages": [message]}})
    assert written == [{"delta": {"content": "Hi"}}, {"finish_reason": "stop"}]
    assert server.calls[-1][1]["messages"] == [{"role": "assistant", "content": "x"}]


def test_an_ollama_refuses_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    payload = {**PAYLOAD, "chat": {"messages": [{"role": "user", "content": [image]}]}}
    with pytest.raises(JobRefused) as raised:
        chat(ollama(ScriptedServer(OLLAMA), chat=True), payload)
    assert raised.value.reason == "this worker reads no images or files"


def continued(
    reasoning: str = "", content: str = "Hel", *, is_clients: bool = False
) -> dict[str, Any]:
    last = {"role": "assistant", "content": content}
    last = {**last, "reasoning_content": reasoning} if reasoning else last
    fields: dict[str, Any] = {"messages": [*MESSAGES, last]}
    if is_clients:
        return {**PAYLOAD, "chat": {**fields, "continue": True}}
    return {**PAYLOAD, "chat": fields, "continue": True}


LAST = {"role": "assistant", "content": "Hel"}
FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
THOUGHT = {"role": "assistant", "content": "Hel", "reasoning_content": "The"}


@pytest.mark.parametrize(
    ("kind", "payload", "sent"),
    [
        ("llama.cpp", continued(), {"messages": [*MESSAGES, LAST], **FLAGS}),
        (
            "vLLM",
            continued("The"),
            {
                "messages": [*MESSAGES, {**THOUGHT, "reasoning": "The"}],
                **FLAGS,
            },
        ),
        ("TabbyAPI", continued(), {"messages": MESSAGES, "response_prefix": "Hel"}),
        # A client continues an answer.
        ("llama.cpp", continued(is_clients=True), {"messages": [*MESSAGES, LAST], **FLAGS}),
    ],
)
def test_a_begun_answer_is_continued(
    kind: str, payload: dict[str, Any], sent: dict[str, Any]
) -> None:
    server = ScriptedServer(delta(content="lo") + delta("stop") + DONE)
    assert chat(openai(server, kind), payload) == [
        {"delta": {"content": "lo"}},
        {"finish_reason": "stop"},
    ]
    common = ("model", "stream", "stream_options", "max_tokens")
    body = {name: value for name, value in server.calls[0][1].items() if name not in common}
    assert body == sent


def test_an_ollama_continues_an_answer_with_its_thoughts() -> None:
    server = ScriptedServer(OLLAMA)
    chat(ollama(server, chat=True), continued("The"))
    assert server.calls[0][1]["messages"][-1] == {
        "role": "assistant",
        "content": "Hel",
        "thinking": "The",
    }


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("LM Studio", continued()),
        ("", continued()),
        ("TabbyAPI", continued("The")),
        ("vLLM", continued("The", "")),
    ],
)
def test_an_answer_that_cannot_be_continued_begins_anew(kind: str, payload: dict[str, Any]) -> None:
    server = ScriptedServer(HELLO)
    assert chat(openai(server, kind), payload) == [
        {"again": True},
        {"delta": {"content": "Hello"}},
        {"finish_reason": "stop"},
    ]
    assert server.calls[0][1]["messages"] == MESSAGES


CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("content", "prompt"),
    [("", CHATML + "<think>\nThe user"), ("Hel", CHATML + "<think>\nThe user\n</think>\n\nHel")],
)
def test_a_llama_cpp_continues_reasoning_that_its_template_keeps(content: str, prompt: str) -> None:
    # As llama.cpp b11549 answered.
    server = ScriptedServer(json.dumps({"prompt": prompt})).then(HELLO)
    assert chat(openai(server, "llama.cpp"), continued("The user", content))[0] == {
        "delta": {"content": "Hello"}
    }
    [(path, asked), (_, sent)] = server.calls
    assert (path, asked) == ("/apply-template", sent)
    assert sent["continue_final_message"] is True


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {"prompt": CHATML}),
        (200, {"prompt": CHATML + "<think>\nHel"}),
        (200, {"prompt": CHATML + "<think>\nThe user\n</think>\n\nHel<|im_end|>"}),
        (400, {"error": "Assistant response prefill is incompatible with enable_thinking."}),
        (404, {}),
    ],
)
def test_a_llama_cpp_that_loses_the_reasoning_begins_anew(status: int, answer: Any) -> None:
    server = ScriptedServer(json.dumps(answer), status).then(HELLO)
    assert chat(openai(server, "llama.cpp"), continued("The user"))[0] == {"again": True}
    assert server.calls[1][1]["messages"] == MESSAGES


@pytest.mark.parametrize(
    ("max_length", "written", "expected"),
    [(80, "Hel", 100), (40, "x" * 160, 80), (500, "x" * 400, 512), (600, "Hel", 600)],
)
def test_an_answer_that_begins_anew_has_its_whole_length(
    max_length: int, written: str, expected: int
) -> None:
    server = ScriptedServer(HELLO)
    chat(openai(server), {**continued(content=written), "max_length": max_length})
    assert server.calls[0][1]["max_tokens"] == expected


def test_an_answer_that_the_server_refuses_to_continue_begins_anew() -> None:
    refusal = {"message": "Assistant response prefill is incompatible with enable_thinking."}
    server = ScriptedServer(json.dumps({"error": {"code": 400, **refusal}}), 400).then(HELLO)
    assert chat(openai(server, "llama.cpp"), continued())[0] == {"again": True}
    assert [body["messages"] for _, body in server.calls] == [[*MESSAGES, LAST], MESSAGES]


def test_an_answer_of_a_client_that_cannot_be_continued_is_refused() -> None:
    with pytest.raises(JobRefused) as raised:
        chat(openai(ScriptedServer(HELLO)), continued(is_clients=True))
    assert raised.value.reason == "the backend cannot continue an answer"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, '{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', ""),
        (404, '{"detail":"Not Found"}', ""),
        (404, "404 page not found", ""),
        (405, '{"detail":"Method Not Allowed"}', ""),
        (501, '{"error":{"message":"not implemented"}}', ""),
        # LM Studio.
        (200, '{"error":"Unexpected endpoint or method. (POST /v1/chat/completions)"}', ""),
        (
            400,
            '{"object":"error","message":"As of transformers v4.44, default chat template is no '
            "longer allowed, so you must provide a chat template if the tokenizer does not define "
            'one.","type":"BadRequestError","param":null,"code":400}',
            "the backend has no chat template",
        ),
        (
            422,
            '{"detail":{"error":{"message":"Chat completions are disabled because a prompt '
            'template is not set."}}}',
            "the backend has no chat template",
        ),
        (
            400,
            '{"error":"\\"all-minilm\\" does not support chat"}',
            "the backend has no chat template",
        ),
        (
            500,
            '{"error":{"code":500,"message":"tools param requires --jinja flag"}}',
            "the backend cannot call tools",
        ),
        (
            400,
            '{"error":{"message":"\\"auto\\" tool choice requires --enable-auto-tool-choice and '
            '--tool-call-parser to be set"}}',
            "the backend cannot call tools",
        ),
        (
            400,
            '{"error":"registry.ollama.ai/library/gemma:2b does not support tools"}',
            "the backend cannot call tools",
        ),
    ],
)
def test_a_server_that_cannot_chat_is_learned_and_logged_once(
    status: int, body: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = openai(ScriptedServer(body, status))
    assert backend.can_chat
    for _ in range(2):
        with pytest.raises(ChatUnsupported) as raised:
            list(backend.chat(PAYLOAD, never))
    reason = reason or "the backend has no chats"
    assert (raised.value.reason, backend.can_chat) == (reason, False)
    assert caplog.messages == [
        f"the backend at {URL} gets no chats for 60 minutes, each time: {reason}"
    ]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, '{"error":"model \\"m\\" not found, try pulling it first"}', BackendDown),
        (404, '{"message":"The model `m` does not exist.","type":"NotFoundError"}', BackendDown),
        (503, '{"error":{"message":"Loading model"}}', BackendDown),
        (
            400,
            '{"error":{"message":"Conversation roles must alternate user/assistant"}}',
            JobRefused,
        ),
        (400, '{"error":{"message":"Unsupported parameter: \'tools\'"}}', JobRefused),
        (500, "Internal Server Error", BackendError),
    ],
)
def test_other_failures_do_not_end_the_chats(
    status: int, body: str, kind: type[BackendError]
) -> None:
    backend = openai(ScriptedServer(body, status))
    with pytest.raises(BackendError) as raised:
        list(backend.chat({**PAYLOAD, "chat": {"messages": MESSAGES, "tools": TOOLS}}, never))
    assert isinstance(raised.value, kind) and not isinstance(raised.value, ChatUnsupported)
    assert backend.can_chat


@pytest.mark.parametrize(
    ("opened", "status", "body"),
    [
        (
            openai,
            400,
            '{"error":{"code":400,"message":"request (9001 tokens) exceeds the available context '
            'size (4096 tokens), try increasing it","type":"exceed_context_size_error"}}',
        ),
        (openai, 400, '{"message":"This model\'s maximum context length is 4096 tokens."}'),
        (ollama, 400, '{"error":"the input length exceeds the context length"}'),
        (
            openai,
            200,
            'event: error\ndata: {"error":{"message":"The number of tokens to keep from the '
            'initial prompt is greater than the context length."}}\n\n',
        ),
    ],
)
def test_a_chat_that_is_too_long_says_so(
    opened: Callable[..., ChatServer], status: int, body: str
) -> None:
    with pytest.raises(ContextExceeded) as raised:
        list(opened(ScriptedServer(body, status), chat=True).chat(PAYLOAD, never))
    assert raised.value.reason == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        '{"detail":[{"type":"extra_forbidden","loc":["body","min_p"],"msg":"Extra inputs are not '
        'permitted","input":0.1}]}',
        '{"error":{"message":"Unrecognized request argument supplied: min_p"}}',
        '{"error":{"message":"property \'min_p\' is unsupported"}}',
    ],
)
def test_a_field_that_a_server_refuses_is_left_out_from_then_on(
    body: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedServer(body, 400).then(HELLO)
    backend = openai(server)
    payload = {**PAYLOAD, "chat": {"messages": MESSAGES, "min_p": 0.1, "seed": 1}}
    for _ in range(2):
        assert chat(backend, payload)[0] == {"delta": {"content": "Hello"}}
    fields = [{"min_p", "seed"} & sent.keys() for _, sent in server.calls]
    assert fields == [{"min_p", "seed"}, {"seed"}, {"seed"}]
    assert caplog.messages == [f"the backend at {URL} refuses min_p: it is left out"]


def test_a_server_that_refuses_chat_after_chat_gets_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = '{"error":{"message":"System role not supported"}}'
    server = ScriptedServer(refusal, 400).then(refusal, 400).then(HELLO).then(refusal, 400)
    backend, clock = openai(server), Clock()
    backend.clock = clock
    can_chat = []
    for _ in range(6):
        with suppress(JobRefused):
            list(backend.chat(PAYLOAD, never))
        can_chat.append(backend.can_chat)
    assert can_chat == [True, True, True, True, True, False]
    assert caplog.messages == [
        f"the backend at {URL} gets no chats for 10 minutes, each time: it refuses chat after chat"
    ]
    # After ten minutes it is tried with one.
    clock.sleep(600)
    assert backend.can_chat
    with suppress(JobRefused):
        list(backend.chat(PAYLOAD, never))
    assert not backend.can_chat


def test_a_refusal_that_repeats_a_clients_words_teaches_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = "invalid tool name: \"unknown parameter 'seed'\""
    server = ScriptedServer(json.dumps({"error": {"message": refusal}}), 400)
    backend = openai(server)
    payload = {**PAYLOAD, "chat": {"messages": MESSAGES, "seed": 1}}
    with pytest.raises(JobRefused):
        list(backend.chat(payload, never))
    server.from_now_on(HELLO)
    list(backend.chat(payload, never))
    assert (server.calls[-1][1]["seed"], caplog.messages) == (1, [])


def test_openais_newer_name_of_the_length_is_used_where_it_is_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server = ScriptedServer(json.dumps({"error": {"message": message}}), 400).then(HELLO)
    chat(openai(server))
    assert server.calls[1][1]["max_completion_tokens"] == 80
    assert "max_tokens" not in server.calls[1][1]
    assert caplog.messages == [
        f"the backend at {URL} refuses max_tokens: it is sent as max_completion_tokens"
    ]


def test_a_server_that_refuses_field_after_field_is_given_up() -> None:
    fields = dict.fromkeys(("a_1", "b_1", "c_1", "d_1", "e_1", "f_1"), 1)
    server = ScriptedServer('{"message":"unknown field a_1"}', 400)
    for name in list(fields)[1:]:
        server.then(f'{{"message":"unknown field {name}"}}', 400)
    with pytest.raises(JobRefused, match="field after field"):
        chat(openai(server), {**PAYLOAD, "chat": {"messages": MESSAGES, **fields}})
    assert len(server.calls) == 5


@pytest.mark.parametrize(
    ("shown", "can_chat"),
    [
        ({"template": "{{ .Prompt }}"}, False),
        ({"template": "{{ .Prompt }}", "renderer": "qwen3-coder"}, True),
        ({"template": "{{ .System }} {{ .Prompt }}"}, True),
        ({}, True),
    ],
)
def test_a_model_of_ollama_without_a_template_is_offered_for_no_chat(
    shown: dict[str, str], can_chat: bool
) -> None:
    server = ScriptedServer(json.dumps(shown))
    assert ollama(server).can_chat is can_chat
    assert server.calls == [("/api/show", {"model": "llama3.2:1b"})]
    assert ollama(server, chat=True).can_chat


def test_parts_of_an_answer_follow_each_other_and_those_of_a_user_are_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": parts}]
    server = ScriptedServer(OLLAMA)
    backend = ollama(server, chat=True)
    chat(backend, {**PAYLOAD, "chat": {"messages": messages, "continue": True}})
    assert [message["content"] for message in server.calls[0][1]["messages"]] == ["a\nb", "ab"]


def test_more_calls_than_a_transcript_may_have_are_an_error() -> None:
    calls = [{"index": n, "id": f"c{n}", "function": {"name": "f"}} for n in range(301)]
    server = ScriptedServer(delta("tool_calls", tool_calls=calls) + DONE)
    with pytest.raises(BackendError, match="more tool calls than a transcript may have"):
        list(openai(server).chat(PAYLOAD, never))


def test_a_koboldcpp_is_offered_for_chats_only_if_its_owner_says_so() -> None:
    server = ScriptedServer(HELLO)
    assert (koboldcpp(server).can_chat, koboldcpp(server, chat=True).can_chat) == (False, True)
    assert (openai(server).can_chat, openai(server, chat=False).can_chat) == (True, False)
    assert not ollama(server, chat=False).can_chat


@pytest.mark.parametrize(
    ("backend", "can_chat"),
    [
        (openai(ScriptedServer(HELLO), "llama.cpp", tools=False), False),
        (openai(ScriptedServer(HELLO), "llama.cpp", tools=True), True),
        (openai(ScriptedServer(HELLO), "llama.cpp"), True),
        (openai(ScriptedServer(HELLO), "llama.cpp", tools=False, chat=True), True),
        (ollama(ScriptedServer(OLLAMA), tools=False), False),
        # It describes the tools to a model without any.
        (openai(ScriptedServer(HELLO), "LM Studio", tools=False), True),
    ],
)
def test_a_model_that_cannot_call_tools_is_offered_for_chats_only_if_its_owner_says_so(
    backend: ChatServer, can_chat: bool
) -> None:
    assert backend.can_chat is can_chat


def test_a_llama_cpp_that_would_leave_tools_out_gives_the_chat_back() -> None:
    server = ScriptedServer(HELLO)
    backend = openai(server, "llama.cpp", tools=False, chat=True)
    uncalled = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "none"}
    assert chat(backend, {**PAYLOAD, "chat": uncalled})[0] == {"delta": {"content": "Hello"}}
    with pytest.raises(ChatUnsupported) as raised:
        list(backend.chat({**PAYLOAD, "chat": {"messages": MESSAGES, "tools": TOOLS}}, never))
    assert (raised.value.reason, len(server.calls)) == ("the backend cannot call tools", 1)


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (tool("b"), (["b"], "required")),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [tool("c"), tool("a")]},
            },
            (["a", "c"], "auto"),
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"tools": [tool("a")]}},
            (["a"], "auto"),
        ),
        ("required", (["a", "b", "c"], "required")),
    ],
)
def test_a_llama_cpp_gets_only_the_tools_that_may_be_called(
    choice: Any, sent: tuple[list[str], str]
) -> None:
    """Another choice than a word is "auto" for it."""
    server = ScriptedServer(HELLO)
    fields = {"messages": MESSAGES, "tools": [tool(name) for name in "abc"], "tool_choice": choice}
    chat(openai(server, "llama.cpp"), {**PAYLOAD, "chat": fields})
    body = server.calls[0][1]
    names = [each["function"]["name"] for each in body["tools"]]
    assert (names, body["tool_choice"]) == sent


def test_a_chat_sets_nothing_that_is_the_servers_owners() -> None:
    """A real llama.cpp wrote 60 tokens for "n_predict": 60 beside "max_tokens": 5."""
    server = ScriptedServer(HELLO)
    fields = {"n_predict": 9000, "n_cmpl": 8, "id_slot": 1, "kv_transfer_params": {"host": "a"}}
    chat(openai(server, "llama.cpp"), {**PAYLOAD, "chat": {"messages": MESSAGES, **fields}})
    body = server.calls[0][1]
    assert body["max_tokens"] == PAYLOAD["max_length"]
    assert not body.keys() & fields.keys()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://192.168.0.1/reboot"}},
        {"type": "image_url", "image_url": "file:///etc/passwd"},
        {"type": "video_url", "video_url": {"url": 5}},
    ],
)
def test_a_chat_makes_no_server_fetch_an_address(part: dict[str, Any]) -> None:
    server = ScriptedServer(HELLO)
    backend = openai(server)
    message = {"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}
    for _ in range(3):
        with pytest.raises(JobRefused) as raised:
            list(backend.chat({**PAYLOAD, "chat": {"messages": [message]}}, never))
    assert (raised.value.reason, server.calls) == ("this worker fetches no media", [])
    # It was not the server that refused them.
    assert backend.can_chat


def test_media_in_a_chat_itself_are_sent_to_the_server() -> None:
    server = ScriptedServer(HELLO)
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [part]}]
    chat(openai(server), {**PAYLOAD, "chat": {"messages": messages}})
    assert server.calls[0][1]["messages"] == messages


def test_names_of_fields_that_no_server_has_are_not_sent() -> None:
    """They are searched for in refusals, as regular expressions, and logged."""
    refusal = "Unrecognized request argument supplied: _(a+)+ top_k"
    server = ScriptedServer(refusal, 400).then(HELLO)
    fields = {"_(": 1, "(a+)+_": 1, "x\ny": 1, "": 1, "a" * 65: 1, "top_k": 5}
    backend = openai(server)
    chat(backend, {**PAYLOAD, "chat": {"messages": MESSAGES, **fields}})
    assert "top_k" in server.calls[0][1]
    assert "top_k" not in server.calls[1][1]
    assert not server.calls[0][1].keys() & fields.keys() - {"top_k"}


def test_only_so_many_names_of_fields_are_remembered(caplog: pytest.LogCaptureFixture) -> None:
    """Clients choose them, as many as they like."""
    server = ScriptedServer(OLLAMA)
    fields = {f"field_{number}": 1 for number in range(1000)}
    chat(ollama(server, chat=True), {**PAYLOAD, "chat": {"messages": MESSAGES, **fields}})
    assert sum("does not know field_" in record.message for record in caplog.records) <= 100
