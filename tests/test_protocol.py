"""Reading chat requests and building OpenAI's answers."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol import chunks, sse
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import (
    Head,
    chunk,
    fold,
    is_complete,
    role_chunk,
    usage_chunk,
    words,
)
from horde_proxy.protocol.generation_request import GenerationRequest, Message, ToolCall
from horde_proxy.protocol.usage import estimate_prompt
from horde_proxy.protocol.usage_reader import UsageReader

HEAD = Head("chatcmpl-1", 1700000000, "some/model")


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}


def problem(found: Any) -> dict[str, Any]:
    with pytest.raises(InvalidRequest) as raised:
        read_chat(found)
    error: dict[str, Any] = raised.value.envelope()["error"]
    assert error.pop("type") == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    "told,known",
    [
        (b'{"prompt_tokens": 7, "completion_tokens": 5}', (7, 5)),
        (b'{"input_tokens": 7, "output_tokens": 5}', (7, 5)),
        (b'{"prompt_tokens": 1%s, "completion_tokens": 5}' % (b"0" * 400), (0, 5)),
        (b'{"prompt_tokens": "7", "completion_tokens": -5}', None),
        (b'{"prompt_tokens": true, "completion_tokens": 5.0}', (0, 5)),
    ],
)
def test_what_an_answer_used_is_taken_where_it_can_be(
    told: bytes, known: tuple[int, int] | None
) -> None:
    reader = UsageReader("application/json")
    reader.feed(b'{"choices": [], "usage": %s}' % told)
    reader.end()
    assert (reader.tokens(0) if reader.has_usage else None) == known


def test_the_smallest_request_has_openais_defaults() -> None:
    assert read_chat(body()) == GenerationRequest(model="m", messages=(Message("user", "Hi"),))


NULLABLE = (
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "user",
    "metadata",
    "store",
    "service_tier",
    "modalities",
    "audio",
    "top_k",
    "min_p",
    "rep_pen",
    "horde",
    "web_search_options",
    "reasoning_effort",
    "parallel_tool_calls",
)


@pytest.mark.parametrize("name", NULLABLE)
def test_null_means_absent(name: str) -> None:
    assert read_chat(body(**{name: None})) == read_chat(body())


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u"},
        {"store": True},
        {"service_tier": "auto"},
        {"metadata": {"a": "b"}},
        {"reasoning_effort": "high"},
        {"verbosity": "low"},
        {"prediction": {}},
        {"foo": "bar"},
        {"logit_bias": {}},
        {"logprobs": False},
        {"modalities": ["text"]},
        {"tools": []},
        {"response_format": {"type": "text"}},
        {"stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_changes_nothing_is_accepted_silently(fields: dict[str, Any]) -> None:
    assert read_chat(body(**fields)) == read_chat(body())


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"logit_bias": {"1": 2}},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"web_search_options": {"a": 1}},
    ],
)
def test_what_cannot_be_honoured_is_named(fields: dict[str, Any]) -> None:
    assert read_chat(body(**fields)).warnings == tuple(f"{name}: not supported" for name in fields)


def test_strict_refuses_what_cannot_be_honoured() -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_chat(body(seed=1), strict=True)
    assert raised.value.code == "unsupported_parameter"
    assert raised.value.param == "seed"


def test_max_completion_tokens_wins() -> None:
    assert read_chat(body(max_tokens=5, max_completion_tokens=7)).max_tokens == 7
    assert read_chat(body(max_tokens=5, max_completion_tokens=None)).max_tokens == 5


def test_a_whole_number_with_a_point_is_an_integer() -> None:
    assert read_chat(body(max_tokens=80.0)).max_tokens == 80


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("END", ("END",)),
        (["a", "b", "a"], ("a", "b")),
        ([], ()),
        ("", ()),
        (["1", "2", "3", "4", "5"], ("1", "2", "3", "4", "5")),
    ],
)
def test_stop_is_a_string_or_a_list(stop: Any, expected: tuple[str, ...]) -> None:
    assert read_chat(body(stop=stop)).stop == expected


def test_extension_parameters_come_under_one_name() -> None:
    found = read_chat(body(top_k=40, min_p=0.05, repetition_penalty=1.1, typical_p=0.9)).sampling
    assert found == {"top_k": 40, "min_p": 0.05, "rep_pen": 1.1, "typical": 0.9}


def test_the_horde_object_is_read() -> None:
    found = read_chat(body(horde={"workers": ["a"], "worker_blacklist": True})).horde
    assert found == {"workers": ["a"], "worker_blacklist": True}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            Message("user", "a\nb"),
        ),
        ({"role": "developer", "content": "d"}, Message("system", "d")),
        ({"role": "user", "name": "Ann", "content": "Hi"}, Message("user", "Ann: Hi")),
        ({"role": "assistant", "content": None}, Message("assistant", "")),
        ({"role": "assistant"}, Message("assistant", "")),
        ({"role": "user", "content": None}, Message("user", "")),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            Message("assistant", "no"),
        ),
        (
            {"role": "assistant", "content": "A", "reasoning_content": "hm"},
            Message("assistant", "A"),
        ),
        (
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            Message("assistant", "", (ToolCall("c1", "f", "{}"),)),
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "f", "arguments": "{}"},
            },
            Message("assistant", "", (ToolCall("f", "f", "{}"),)),
        ),
        (
            {"role": "tool", "tool_call_id": "c1", "content": "R"},
            Message("tool", "R", tool_call_id="c1"),
        ),
        ({"role": "function", "name": "f", "content": "R"}, Message("tool", "R", tool_call_id="f")),
    ],
)
def test_a_message_is_read(message: dict[str, Any], expected: Message) -> None:
    assert read_chat(body(messages=[message])).messages == (expected,)


PROBLEMS: list[tuple[Any, str | None, str | None]] = [
    ([], None, None),
    ("text", None, None),
    (body(messages=[]), "messages", "empty_value"),
    ({"model": "m"}, "messages", "missing_required_parameter"),
    (body(model=None), "model", "missing_required_parameter"),
    (body(model=""), "model", "empty_value"),
    (body(model=1), "model", "invalid_type"),
    (body(messages=None), "messages", "missing_required_parameter"),
    (body(messages="Hi"), "messages", "invalid_type"),
    (body(messages=[3]), "messages.[0]", "invalid_type"),
    (body(messages=[{"content": "x"}]), "messages.[0].role", "missing_required_parameter"),
    (body(messages=[{"role": "bot", "content": "x"}]), "messages.[0].role", "invalid_value"),
    (body(messages=[{"role": "user"}]), "messages.[0].content", "missing_required_parameter"),
    (body(messages=[{"role": "user", "content": 3}]), "messages.[0].content", "invalid_type"),
    (body(messages=[{"role": "user", "content": [3]}]), "messages.[0].content.[0]", "invalid_type"),
    (
        body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        "messages.[0].content",
        "unsupported_content",
    ),
    (
        body(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]),
        "messages.[0].content",
        "unsupported_content",
    ),
    (body(max_tokens="80"), "max_tokens", "invalid_type"),
    (body(max_tokens=80.5), "max_tokens", "invalid_type"),
    (body(max_tokens=True), "max_tokens", "invalid_type"),
    (body(n=5), "n", "integer_above_max_value"),
    (body(temperature="hot"), "temperature", "invalid_type"),
    (body(temperature=5.1), "temperature", "decimal_above_max_value"),
    (body(temperature=-1), "temperature", "decimal_below_min_value"),
    (body(top_p=2), "top_p", "decimal_above_max_value"),
    (body(frequency_penalty=-3), "frequency_penalty", "decimal_below_min_value"),
    (body(stop=3), "stop", "invalid_type"),
    (body(stop=[3]), "stop.[0]", "invalid_type"),
    (body(stream="yes"), "stream", "invalid_type"),
    (body(horde={"worker": "x"}), "horde.worker", "unknown_parameter"),
    (body(modalities=["text", "audio"]), "modalities", "unsupported_value"),
    (body(audio={"voice": "x"}), "audio", "unsupported_value"),
]


@pytest.mark.parametrize(("found", "param", "code"), PROBLEMS)
def test_a_wrong_request_is_refused_with_its_param_and_code(
    found: Any, param: str | None, code: str | None
) -> None:
    error = problem(found)
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    "found",
    [
        body(messages=[1] * 3_000_000),
        body(stop=[1] * 3_000_000),
        body(messages=[{"role": "user", "content": [1] * 3_000_000}]),
    ],
)
def test_millions_of_faults_cost_no_more_than_one(found: dict[str, Any]) -> None:
    tracemalloc.start()
    try:
        problem(found)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("found", "param"),
    [
        (body(messages=[{"role": "user", "content": "x"}] * 20_001), "messages"),
        (body(stop=["x"] * 1001), "stop"),
        (body(stop=["x" * 5_000, "y" * 5_001]), "stop"),
        (body(stop="x" * 10_001), "stop"),
    ],
)
def test_a_list_beyond_all_measure_is_refused(found: dict[str, Any], param: str) -> None:
    assert problem(found)["param"] == param


def test_stops_of_ten_thousand_characters_are_taken() -> None:
    stops = ("x" * 5_000, "y" * 5_000)
    assert read_chat(body(stop=list(stops))).stop == stops


def test_the_wording_is_openais() -> None:
    assert problem({"model": "m"})["message"] == "Missing required parameter: 'messages'."
    assert problem(body(max_tokens="80"))["message"] == (
        "Invalid type for 'max_tokens': expected an integer, but got a string instead."
    )


def test_a_fault_far_down_a_list_is_named_by_its_true_place() -> None:
    error = problem(body(messages=[{"role": "user", "content": "x"}] * 500 + [3]))
    assert error["param"] == "messages.[500]"
    assert "'messages.[500]'" in error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from([*NULLABLE, "messages", "model", "sampler_order"])


@given(st.dictionaries(FIELDS, JSON), st.booleans())
def test_no_body_makes_reading_fail_otherwise_than_with_a_clear_error(
    fields: dict[str, Any], complete: bool
) -> None:
    try:
        read_chat({**body(), **fields} if complete else fields)
    except InvalidRequest as exc:
        assert exc.message


def test_chunks_are_what_the_openai_package_expects() -> None:
    for each in [
        role_chunk(HEAD),
        chunk(HEAD, {"content": "x"}),
        chunk(HEAD, {}, finish_reason="length"),
        usage_chunk(HEAD, chunks.usage(1, 2), {"kudos": 1.0}),
    ]:
        ChatCompletionChunk.model_validate(each, strict=True)


def test_a_chunk_has_openais_fields() -> None:
    assert chunk(HEAD, {"content": "x"}, index=1) == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "some/model",
        "choices": [
            {"index": 1, "delta": {"content": "x"}, "logprobs": None, "finish_reason": None}
        ],
    }


def test_the_first_chunk_has_the_role() -> None:
    delta = role_chunk(HEAD)["choices"][0]["delta"]
    assert delta == {"role": "assistant", "content": "", "refusal": None}


def test_chunks_fold_into_a_completion() -> None:
    folded = fold(
        [
            role_chunk(HEAD, 0),
            role_chunk(HEAD, 1),
            chunk(HEAD, {"content": "b"}, index=1),
            chunk(HEAD, {"reasoning_content": "hm"}),
            chunk(HEAD, {"content": "a "}),
            chunk(HEAD, {"content": "b"}),
            chunk(HEAD, {}, finish_reason="length"),
            chunk(HEAD, {}, index=1, finish_reason="stop"),
            usage_chunk(HEAD, chunks.usage(3, 4), {"kudos": 1.0}),
        ]
    )
    ChatCompletion.model_validate(folded)
    first, second = folded["choices"]
    assert first["message"] == {
        "role": "assistant",
        "content": "a b",
        "refusal": None,
        "annotations": [],
        "reasoning_content": "hm",
    }
    assert (first["finish_reason"], second["finish_reason"]) == ("length", "stop")
    assert second["message"]["content"] == "b"
    assert folded["usage"]["total_tokens"] == 7
    assert folded["horde"] == {"kudos": 1.0}
    assert folded["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([], False),
        ([usage_chunk(HEAD, chunks.usage(1, 2), {})], False),
        ([role_chunk(HEAD)], False),
        ([role_chunk(HEAD), chunk(HEAD, {}, finish_reason="stop")], True),
        ([role_chunk(HEAD), role_chunk(HEAD, 1), chunk(HEAD, {}, finish_reason="stop")], False),
    ],
)
def test_an_answer_is_complete_when_each_choice_has_ended(
    answer: list[Any], expected: bool
) -> None:
    assert is_complete(answer) is expected


@given(st.text())
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text


def test_words_keep_the_space_before_them() -> None:
    assert list(words("one  two\n\nthree \n")) == ["one", "  two", "\n\nthree", " \n"]


def test_an_event_is_one_line_and_a_blank_one() -> None:
    assert sse.event({"a": "b\nü"}) == 'data: {"a":"b\\nü"}\n\n'.encode()


def test_an_event_is_one_line_for_clients_that_split_at_unicode_line_breaks() -> None:
    text = "a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"
    event = sse.event({"a": text}, name="b")
    # httpx and requests decode first, and split lines as Python does.
    first, second, third = event.decode().splitlines()
    assert (first, third) == ("event: b", "")
    assert second == r'data: {"a":"a\u000b\f\u001c\u001d\u001e\u0085\u2028\u2029b"}'
    assert json.loads(second.removeprefix("data: ")) == {"a": text}


def test_half_a_character_is_still_json() -> None:
    event = sse.event({"a": "\ud800"})
    assert json.loads(event.removeprefix(b"data: ")) == {"a": "\ud800"}


# What was asked, where nobody counts


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"messages": [{"role": "user", "content": "x" * 401}]}, 104),
        (
            {
                "messages": [
                    {
                        "content": [
                            {"type": "text", "text": "x" * 400},
                            {
                                "type": "image_url",
                                "image_url": {"url": "data:image/png;base64," + "A" * 9999},
                            },
                        ]
                    }
                ]
            },
            110,
        ),
        ({"prompt": ["x" * 40, "y" * 40], "suffix": "z" * 400}, 20),
        ({"input": "x" * 40, "instructions": "y" * 40}, 20),
        ({"prompt": [[1, 2, 3]]}, 0),
        ({"messages": [], "tools": [{"type": "function", "function": {"name": "x" * 80}}]}, 26),
        ({"messages": None}, 0),
        ({}, 0),
        ([], 0),
        (None, 0),
    ],
)
def test_a_prompts_tokens_are_estimated_from_its_texts(document: Any, expected: int) -> None:
    assert estimate_prompt(document) == expected
