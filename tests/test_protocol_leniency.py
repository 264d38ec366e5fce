"""Requests that hold something unusable: what becomes of it, and strict mode's refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.completions import read_completion
from horde_proxy.protocol.generation_request import (
    JsonFormat,
    Message,
    MessagePicture,
    Tool,
    ToolCall,
)
from horde_proxy.protocol.leniency import Leniency, plain_name, warnings_header
from tests.support import growth

ASKED = Message("user", "Go on.")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
WEATHER = Tool("weather", "", SCHEMA)
CUSTOM = {"type": "custom", "custom": {"name": "patch", "format": {"type": "text"}}}
SEARCH = {"type": "web_search"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}


def chat(*older: Mapping[str, Any]) -> dict[str, Any]:
    """A chat in which the user has gone on after these messages."""
    return body(messages=[*older, {"role": "user", "content": "Go on."}])


def refusal(document: Mapping[str, Any], *, strict: bool = False) -> tuple[str | None, str | None]:
    """(param, code) of the 400."""
    with pytest.raises(InvalidRequest) as raised:
        read_chat(document, strict=strict)
    assert raised.value.status == 400
    return raised.value.param, raised.value.code


# Shapes of messages that mean the same as OpenAI's: taken without a warning, in strict mode too.
TAKEN: list[tuple[Mapping[str, Any], tuple[Message, ...]]] = [
    (
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a"},
                {"type": "output_text", "text": "b", "annotations": []},
                {"type": "text", "text": {"value": "c", "annotations": []}},
            ],
        },
        (Message("user", "a\nb\nc"),),
    ),
    ({"role": "user", "content": ["a", {"text": "b"}]}, (Message("user", "a\nb"),)),
    ({"role": "user", "content": {"type": "text", "text": "a"}}, (Message("user", "a"),)),
    ({"role": "user", "content": [None, {"type": None, "text": "a"}]}, (Message("user", "a"),)),
    ({"role": "user", "content": []}, (Message("user", ""),)),
    ({"role": "assistant", "content": None, "refusal": "No."}, (Message("assistant", "No."),)),
    (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "reasoning", "summary": []},
                {"type": "reasoning", "text": "hm"},
                {"type": "text", "text": "A"},
            ],
        },
        (Message("assistant", "A"),),
    ),
    ({"role": "Assistant", "content": "A"}, (Message("assistant", "A"),)),
    ({"role": "model", "content": "A"}, (Message("assistant", "A"),)),
    ({"role": "ai", "content": "A"}, (Message("assistant", "A"),)),
    ({"role": "human", "content": "A"}, (Message("user", "A"),)),
    ({"role": "SYSTEM ", "content": "A"}, (Message("system", "A"),)),
    ({"role": "user", "name": "", "content": "A"}, (Message("user", "A"),)),
    (
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            ],
        },
        (Message("assistant", "Let me see.", (ToolCall("t1", "f", '{"a": 1}'),)),),
    ),
    (
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}],
            "tool_calls": [CALL],
        },
        (Message("assistant", "", (ToolCall("c1", "f", "{}"),)),),
    ),
    (
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And?"},
                {"type": "tool_result", "tool_use_id": "t1", "content": "R"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no file"}],
                },
                {"type": "tool_result", "tool_use_id": "t3"},
            ],
        },
        (
            Message("tool", "R", tool_call_id="t1"),
            Message("tool", "Error: no file", tool_call_id="t2"),
            Message("tool", "", tool_call_id="t3"),
            Message("user", "And?"),
        ),
    ),
    (
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "R"}]},
        (Message("tool", "R", tool_call_id="t"),),
    ),
    (
        {
            "role": "assistant",
            "tool_calls": [
                {"id": 7, "function": {"name": "f", "arguments": {"a": 1}}},
                {"call_id": "c", "id": "fc", "name": "g", "arguments": "{}"},
                {"name": "h"},
                {"id": "p", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}},
                {"id": "l", "function": {"name": "k", "arguments": [1]}},
            ],
        },
        (
            Message(
                "assistant",
                "",
                (
                    ToolCall("7", "f", '{"a": 1}'),
                    ToolCall("c", "g", "{}"),
                    ToolCall("h", "h", "{}"),
                    ToolCall("p", "patch", '{"input": "*** Begin"}'),
                    ToolCall("l", "k", "[1]"),
                ),
            ),
        ),
    ),
    (
        {"role": "assistant", "content": "A", "tool_calls": [CALL, CALL]},
        (Message("assistant", "A", (ToolCall("c1", "f", "{}"),) * 2),),
    ),
    ({"role": "assistant", "content": "A", "tool_calls": []}, (Message("assistant", "A"),)),
    ({"role": "assistant", "content": "A", "tool_calls": None}, (Message("assistant", "A"),)),
    ({"role": "tool", "content": "R"}, (Message("tool", "R"),)),
    ({"role": "tool", "tool_call_id": 7, "content": "R"}, (Message("tool", "R", (), "7"),)),
    ({"role": "tool", "tool_call_id": "x", "content": None}, (Message("tool", "", (), "x"),)),
    ({"role": "tool", "name": "f", "content": ["a", "b"]}, (Message("tool", "a\nb", (), "f"),)),
    (
        {"role": "tool", "tool_call_id": "c", "content": {"degrees": [3, 4]}},
        (Message("tool", '{"degrees": [3, 4]}', (), "c"),),
    ),
    ({"role": "tool", "tool_call_id": "c", "content": 42}, (Message("tool", "42", (), "c"),)),
    (
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "file", "name": "a.py"}]},
        (Message("tool", '[{"type": "file", "name": "a.py"}]', (), "c"),),
    ),
    (
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": "R"}],
        },
        (Message("tool", "R", (), "t"),),
    ),
]


@pytest.mark.parametrize(("message", "expected"), TAKEN)
@pytest.mark.parametrize("strict", [False, True])
def test_other_shapes_of_the_same_are_taken(
    message: Mapping[str, Any], expected: tuple[Message, ...], strict: bool
) -> None:
    request = read_chat(chat(message), strict=strict)
    assert request.messages == (*expected, ASKED)
    assert request.warnings == ()


def part(value: Mapping[str, Any], role: str = "user") -> Mapping[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": "See:"}, value]}


CONTENT, UNSUPPORTED = "messages.[0].content", "unsupported_content"
# What a message of the past holds, what it becomes, the warning, and strict mode's param and code.
LEFT_OUT: list[tuple[Mapping[str, Any], Message, str, tuple[str, str]]] = [
    *(
        (
            part({"type": type}, role),
            Message(role, f"See:\n[{kind} left out]"),
            f"messages: {kind} left out",
            (CONTENT, UNSUPPORTED),
        )
        for type, kind in [
            ("image_url", "image"),
            ("input_image", "image"),
            ("image", "image"),
            ("image_file", "image"),
            ("input_audio", "audio"),
            ("audio_url", "audio"),
            ("video_url", "video"),
            ("file", "file"),
            ("input_file", "file"),
            ("document", "file"),
        ]
        for role in ("user", "assistant", "system", "tool")
    ),
    (
        {"role": "user", "content": "See:", "images": ["AAAA"]},
        Message("user", "See:\n[image left out]"),
        "messages: image left out",
        ("messages.[0].content", UNSUPPORTED),
    ),
    (
        {"role": "assistant", "content": None, "audio": {"id": "audio_1"}},
        Message("assistant", "[audio left out]"),
        "messages: audio left out",
        (CONTENT, UNSUPPORTED),
    ),
    (
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}],
        },
        Message("tool", "[image left out]", tool_call_id="t"),
        "messages: image left out",
        ("messages.[0].content.[0].content", UNSUPPORTED),
    ),
    (
        {
            "role": "user",
            "content": [
                {
                    "type": "function_call_output",
                    "call_id": "t",
                    "output": [{"type": "input_image", "file_id": "file_1"}],
                }
            ],
        },
        Message("tool", "[image left out]", tool_call_id="t"),
        "messages: image left out",
        ("messages.[0].content.[0].output", UNSUPPORTED),
    ),
    (
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [
                        {"type": "text", "text": "R"},
                        {"type": "tool_result", "content": "inner"},
                    ],
                }
            ],
        },
        Message("tool", "R", tool_call_id="t"),
        "messages: content of type 'tool_result' left out",
        ("messages.[0].content.[0].content", UNSUPPORTED),
    ),
    (
        part({"type": "server_tool_use", "id": "s"}, "assistant"),
        Message("assistant", "See:"),
        "messages: content of type 'server_tool_use' left out",
        (CONTENT, UNSUPPORTED),
    ),
    (
        part({"type": "secret of the prompt\n", "x": 1}),
        Message("user", "See:"),
        "messages: content of type 'unknown' left out",
        (CONTENT, UNSUPPORTED),
    ),
    (
        part({"foo": 1}),
        Message("user", "See:"),
        "messages: content of type 'unknown' left out",
        (CONTENT, UNSUPPORTED),
    ),
    (
        part({"type": "tool_use", "name": "f"}),
        Message("user", "See:"),
        "messages: content of type 'tool_use' left out",
        (CONTENT, UNSUPPORTED),
    ),
    (
        part({"type": "markdown", "text": "# A"}),
        Message("user", "See:\n# A"),
        "messages: type 'markdown' read as text",
        (CONTENT, UNSUPPORTED),
    ),
    (
        {"role": "user", "name": 5, "content": "A"},
        Message("user", "A"),
        "messages: name that is no string left out",
        ("messages.[0].name", "invalid_type"),
    ),
    (
        {"role": "assistant", "content": "A", "tool_calls": [{"id": "c"}]},
        Message("assistant", "A"),
        "messages: tool call without a name left out",
        ("messages.[0].tool_calls.[0].function.name", "missing_required_parameter"),
    ),
    (
        {"role": "assistant", "content": "A", "function_call": {"name": ""}},
        Message("assistant", "A"),
        "messages: tool call without a name left out",
        ("messages.[0].function_call.function.name", "missing_required_parameter"),
    ),
    (
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t"}]},
        Message("assistant", ""),
        "messages: tool call without a name left out",
        ("messages.[0].content.[0].name", "missing_required_parameter"),
    ),
]


@pytest.mark.parametrize(("message", "expected", "warning", "strictly"), LEFT_OUT)
def test_what_cannot_be_read_of_the_past_is_left_out_with_a_warning(
    message: Mapping[str, Any], expected: Message, warning: str, strictly: tuple[str, str]
) -> None:
    request = read_chat(chat(message))
    assert request.messages == (expected, ASKED)
    assert request.warnings == (warning,)
    assert refusal(chat(message), strict=True) == strictly


PIXELS = {"type": "image-data", "data": "A" * 2000, "mediaType": "image/png"}


def test_a_picture_in_the_json_text_of_a_result_is_left_out() -> None:
    text = json.dumps([{"type": "text", "text": "R"}, PIXELS])
    request = read_chat(chat({"role": "tool", "tool_call_id": "c", "content": text}))
    assert request.messages[0] == Message("tool", "R\n[image left out]", tool_call_id="c")
    assert request.warnings == ("messages: image left out",)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"type": "text", "text": "R" * 2000}]),
        json.dumps([{"type": "image-data", "data": "A"}]),
        json.dumps([PIXELS, 5]),
        json.dumps([{"type": "file", "name": f"module_{number}.py"} for number in range(99)]),
        json.dumps([PIXELS])[:-1],
        "[{" * 100_000,
        json.dumps(PIXELS),
    ],
)
def test_other_json_text_of_a_result_stays_as_it_is(text: str) -> None:
    request = read_chat(chat({"role": "tool", "tool_call_id": "c", "content": text}))
    assert request.messages[0] == Message("tool", text, tool_call_id="c")
    assert request.warnings == ()


def test_a_warning_is_given_once_with_its_count() -> None:
    found = read_chat(chat(part(IMAGE), part(IMAGE, "assistant"), part({"type": "file"})))
    assert found.warnings == ("messages: image left out (2 times)", "messages: file left out")


BEFORE = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "A"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "R"}
PICTURE = {"role": "user", "content": [IMAGE]}


@pytest.mark.parametrize(
    ("messages", "index"),
    [
        ([PICTURE], 0),
        ([BEFORE, ANSWER, PICTURE], 2),
        ([PICTURE, {"role": "assistant", "content": "It shows"}], 0),
        ([PICTURE, {"role": "system", "content": "# Environment"}], 0),
        ([BEFORE, {"role": "user", "content": "What is it?", "images": ["AAAA"]}], 1),
        ([BEFORE, {"role": "user", "content": [{"type": "hologram"}]}], 1),
    ],
)
def test_what_the_answer_is_about_must_be_readable(messages: list[Any], index: int) -> None:
    document = body(messages=messages)
    assert refusal(document) == (f"messages.[{index}].content", "unsupported_content")


@pytest.mark.parametrize(
    "messages",
    [
        [PICTURE, ANSWER, BEFORE],
        # The user goes on after the refusal, and the client kept the picture.
        [PICTURE, BEFORE],
        # A model that can see called a tool, and this one goes on.
        [PICTURE, CALLS, RESULT],
        [PICTURE, CALLS],
        # opencode and Anthropic's clients put a tool's pictures behind its result.
        [BEFORE, CALLS, RESULT, PICTURE],
        [BEFORE, {"role": "user", "content": [{"type": "tool_result", "content": "R"}, IMAGE]}],
        [BEFORE, CALLS, {"role": "tool", "tool_call_id": "c1", "content": [IMAGE]}],
    ],
)
def test_a_picture_elsewhere_does_not_end_the_chat(messages: list[Any]) -> None:
    request = read_chat(body(messages=messages))
    assert request.warnings == ("messages: image left out",)
    assert "[image left out]" in [message.text for message in request.messages]


PNG_HEAD = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"
KEPT = {"type": "image_url", "image_url": {"url": PNG_HEAD}}
PART = st.sampled_from(
    [
        KEPT,
        IMAGE,
        {"type": "file", "file": {"file_data": PNG_HEAD}},
        {"type": "image_file", "image_file": {"file_id": "f"}},
        {"type": "image_url", "image_url": "file:///etc/passwd"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a"}},
        {"type": "text", "text": "[image left out]"},
        {"type": "tool_result", "is_error": True, "content": [{"type": "text", "text": "a"}, KEPT]},
        {"type": "thinking", "thinking": "hm"},
        "a\nb",
        "",
    ]
)
ROLE = st.sampled_from(["user", "assistant", "system", "tool"])


@given(st.lists(st.tuples(ROLE, st.sampled_from(["", "Ann"]), st.lists(PART, max_size=6))))
def test_each_picture_that_is_kept_has_its_place(
    messages: list[tuple[str, str, list[Any]]],
) -> None:
    document = chat(*({"role": role, "name": name, "content": c} for role, name, c in messages))
    request = read_chat(document, keeps_pictures=True)
    pictures = [
        (message.text[picture.start : picture.end], picture.url)
        for message in request.messages
        for picture in message.pictures
    ]
    kept = {
        f"data:image/png;base64,{PNG_HEAD}",
        "data:image/png;base64,AAAA",
        "https://example.com/a",
    }
    assert all(note == "[image left out]" and url in kept for note, url in pictures)
    written = sum(str(part).count(PNG_HEAD) for _, _, parts in messages for part in parts)
    assert sum(PNG_HEAD in url for _, url in pictures) <= written
    # Without what is kept, it reads as it always did, but that a file may be seen to be a picture.
    plain = [message.with_notes([None] * len(message.pictures)) for message in request.messages]
    assert [message.text for message in plain] == [
        message.text.replace("[file left out]", "[image left out]")
        for message in read_chat(document).messages
    ]


@pytest.mark.thorough
def test_many_pictures_of_one_message_are_put_into_words_in_linear_time() -> None:
    def work(size: int) -> None:
        pictures = tuple(MessagePicture(at, at + 1, "x") for at in range(0, size, 2))
        message = Message("user", "x" * size, pictures=pictures)
        assert len(message.with_notes(["ab"] * len(pictures)).text) >= size

    assert growth(work, 400_000) < 1.5


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_chat(body(messages=[PICTURE]))
    assert raised.value.message == (
        "Only text can be read here: content of type 'image_url' is not supported. Remove it from "
        "the message, or say in words what it shows."
    )


def test_another_upstream_gets_what_was_left_out() -> None:
    document = chat(part(IMAGE))
    assert read_chat(document).source is document


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([{"type": "tool_result", "content": ["x"] * 1001}], "invalid_value"),
        ([{"type": "text", "text": 5}], "invalid_type"),
        (5, "invalid_type"),
        (True, "invalid_type"),
    ],
)
def test_content_of_a_wrong_shape_stays_a_400(content: Any, code: str) -> None:
    assert refusal(body(messages=[{"role": "user", "content": content}]))[1] == code


# Tools

FLAT = {"type": "function", "name": "weather", "parameters": SCHEMA}
ANTHROPIC = {"name": "weather", "input_schema": SCHEMA}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "tool",
    [
        TOOL,
        FLAT,
        ANTHROPIC,
        {**ANTHROPIC, "type": "custom", "cache_control": {"type": "ephemeral"}},
        {"name": "weather", "parameters": SCHEMA},
        {"type": None, "function": TOOL["function"]},
        {"type": "function", "function": None, "name": "weather", "parameters": SCHEMA},
    ],
)
def test_a_function_has_several_shapes(tool: Any, strict: bool) -> None:
    request = read_chat(body(tools=[tool]), strict=strict)
    assert (request.tools, request.tool_choice, request.warnings) == ((WEATHER,), "auto", ())
    assert not request.legacy_functions


def test_arguments_that_may_be_null_are_an_object() -> None:
    tool = {"name": "weather", "parameters": {**SCHEMA, "type": ["object", "null"]}}
    assert read_chat(body(tools=[tool])).tools == (WEATHER,)


@pytest.mark.parametrize(
    ("tool", "shown"),
    [
        (CUSTOM, "custom"),
        ({"type": "custom", "name": "patch"}, "custom"),
        (SEARCH, "web_search"),
        ({"type": "web_search_20250305", "name": "web_search"}, "web_search_20250305"),
        ({"type": "mcp", "server_label": "x"}, "mcp"),
        ({"type": "text_editor_20250728", "name": "edit"}, "text_editor_20250728"),
        ({"type": "two\r\nlines"}, "unknown"),
        ({"type": 5}, "unknown"),
    ],
)
def test_a_tool_that_is_no_function_is_left_out(tool: Any, shown: str) -> None:
    request = read_chat(body(tools=[tool, TOOL]))
    assert request.tools == (WEATHER,)
    assert request.warnings == (f"tools: type '{shown}' left out",)
    assert refusal(body(tools=[TOOL, tool]), strict=True) == ("tools.[1].type", "unsupported_value")


def test_without_any_function_there_are_no_tools() -> None:
    request = read_chat(body(tools=[SEARCH], tool_choice="auto"))
    assert (request.tools, request.tool_choice) == ((), "none")
    assert request.warnings == ("tools: type 'web_search' left out",)


TIME = {"type": "function", "function": {"name": "time"}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("any", "required"),
        ("required", "required"),
        ("auto", "auto"),
        ("weather", "weather"),
        ("", "auto"),
        ({}, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, "weather"),
        ({"type": "function", "name": "weather"}, "weather"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
        ({"name": "weather"}, "weather"),
        ({"type": "allowed_tools", "mode": "any", "tools": [FLAT, SEARCH]}, "required"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [TOOL, CUSTOM]},
            },
            "auto",
        ),
    ],
)
def test_a_choice_has_several_shapes(choice: Any, expected: str) -> None:
    request = read_chat(body(tools=[TOOL, TIME, CUSTOM, SEARCH], tool_choice=choice))
    assert request.tool_choice == expected
    allows_all = not isinstance(choice, dict) or choice.get("type") != "allowed_tools"
    names = [] if expected == "none" else ["weather", "time"] if allows_all else ["weather"]
    assert [tool.name for tool in request.tools] == names


def test_a_choice_may_allow_one_call_only() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert read_chat(body(tools=[TOOL], tool_choice=choice)).parallel_tool_calls is False


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"type": "custom", "custom": {"name": "patch"}}, "'patch' is no function"),
        ({"type": "custom", "name": "patch"}, "'patch' is no function"),
        ({"type": "web_search"}, "'web_search' is no function"),
        ("patch", "'patch' is no function"),
        ("sometimes", "no tool named 'sometimes' is in 'tools'"),
        (5, "it must be 'none', 'auto', 'required' or an object"),
    ],
)
def test_a_choice_that_cannot_be_met_is_a_400(choice: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_chat(body(tools=[TOOL, CUSTOM, SEARCH], tool_choice=choice))
    assert (raised.value.param, raised.value.code) == ("tool_choice", "invalid_value")
    assert raised.value.message.startswith(f"Invalid value for 'tool_choice': {message}")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [CUSTOM], "tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [], "tool_choice": "any"}, "tool_choice", "invalid_value"),
        ({"tools": [{}]}, "tools.[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "function"}]}, "tools.[0].function", "missing_required_parameter"),
        ({"tools": ["weather"]}, "tools.[0]", "invalid_type"),
        ({"tools": [{"name": 5}]}, "tools.[0].name", "invalid_type"),
        (
            {"tools": [{"function": {"description": "x"}}]},
            "tools.[0].function.name",
            "missing_required_parameter",
        ),
        ({"tools": [{"function": "weather"}]}, "tools.[0].function", "invalid_type"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function"}},
            "tool_choice.function.name",
            "missing_required_parameter",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": 5}},
            "tool_choice.allowed_tools",
            "invalid_type",
        ),
    ],
)
def test_tools_of_a_wrong_shape_stay_a_400(fields: Any, param: str, code: str) -> None:
    assert refusal(body(**fields)) == (param, code)


def test_the_older_functions_are_taken_when_there_are_no_tools() -> None:
    request = read_chat(body(functions=[TOOL["function"]], function_call={"name": "weather"}))
    assert (request.tools, request.tool_choice) == ((WEATHER,), "weather")
    assert request.legacy_functions


# Formats


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ({}, None),
        ({"type": None}, None),
        ({"type": ""}, None),
        ({"type": "text", "json_schema": None}, None),
        ({"type": "json_object"}, JsonFormat()),
        ({"type": "json_object", "schema": SCHEMA}, JsonFormat(SCHEMA)),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, JsonFormat(SCHEMA)),
        ({"type": "json_schema", "json_schema": SCHEMA}, JsonFormat(SCHEMA)),
        ({"json_schema": {"schema": SCHEMA, "name": None}}, JsonFormat(SCHEMA)),
        (
            {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True},
            JsonFormat(SCHEMA, strict=True),
        ),
    ],
)
def test_a_format_has_several_shapes(
    format: Any, expected: JsonFormat | None, strict: bool
) -> None:
    request = read_chat(body(response_format=format), strict=strict)
    assert (request.json_format, request.warnings) == (expected, ())


@pytest.mark.parametrize(
    "format",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": None, "strict": True}},
    ],
)
def test_without_a_schema_any_object_is_json(format: Any) -> None:
    request = read_chat(body(response_format=format))
    assert request.json_format == JsonFormat()
    assert request.warnings == ("response_format: no schema, so any JSON object will do",)
    assert refusal(body(response_format=format), strict=True) == (
        "response_format.json_schema.schema",
        "missing_required_parameter",
    )


@pytest.mark.parametrize(
    ("format", "param", "code"),
    [
        ("json", "response_format", "invalid_type"),
        ({"type": "xml"}, "response_format.type", "invalid_value"),
        (
            {"type": "json_schema", "json_schema": {"schema": "x"}},
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        ({"type": "json_object", "schema": 5}, "response_format.schema", "invalid_type"),
    ],
)
def test_a_format_that_cannot_be_met_stays_a_400(format: Any, param: str, code: str) -> None:
    assert refusal(body(response_format=format)) == (param, code)


# Parameters


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("value", [0, -1, -1.0])
def test_a_count_below_one_is_the_default(name: str, value: float) -> None:
    request = read_chat(body(**{name: value}))
    assert (request.max_tokens, request.n) == (None, 1)
    assert request.warnings == (f"{name}: below 1, so the default is used",)
    assert refusal(body(**{name: value}), strict=True) == (name, "integer_below_min_value")


def test_of_two_limits_the_usable_one_counts() -> None:
    assert read_chat(body(max_tokens=5, max_completion_tokens=-1)).max_tokens == 5
    assert read_chat(body(max_tokens=-1, max_completion_tokens=7)).max_tokens == 7


def test_an_image_that_was_wanted_beside_the_text_is_named() -> None:
    document = body(modalities=["image", "text"])
    assert read_chat(document).warnings == ("modalities: only text is generated",)
    assert refusal(document, strict=True) == ("modalities", "unsupported_value")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [([None], ()), (["", None, "a"], ("a",)), (["", ""], ()), (["a"] * 200, ("a",))],
)
def test_empty_stops_are_nothing(stop: Any, expected: tuple[str, ...], strict: bool) -> None:
    request = read_chat(body(stop=stop), strict=strict)
    assert (request.stop, request.warnings) == (expected, ())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"seed": 0}, True),
        ({"seed": 1.5}, True),
        ({"seed": "x"}, True),
        ({"seed": -1}, False),
        ({"logit_bias": {}}, False),
        ({"logit_bias": []}, False),
        ({"logit_bias": [[1, -100]]}, True),
        ({"logprobs": False}, False),
        ({"top_logprobs": 0}, False),
    ],
)
def test_what_a_horde_cannot_do_is_named_where_it_matters(
    fields: dict[str, Any], named: bool
) -> None:
    [name] = fields
    assert read_chat(body(**fields)).warnings == ((f"{name}: not supported",) if named else ())


@pytest.mark.parametrize("value", [0, -1])
def test_a_completion_has_the_same_warnings(value: int) -> None:
    document = {"model": "m", "prompt": "Once", "max_tokens": value, "n": value, "stop": [None]}
    found = read_completion({**document, "seed": 3, "best_of": 2}, default_tokens=256)
    [request] = found.requests
    assert (request.max_tokens, request.n, request.stop) == (256, 1, ())
    assert request.warnings == (
        "seed: not supported",
        "best_of: not supported",
        "n: below 1, so the default is used",
        "max_tokens: below 1, so the default is used",
    )
    with pytest.raises(InvalidRequest) as raised:
        read_completion(document, default_tokens=256, strict=True)
    assert (raised.value.param, raised.value.code) == ("n", "integer_below_min_value")


# The header


def test_a_header_is_short() -> None:
    assert warnings_header(()) == ""
    assert warnings_header(["a: b", "c: d"]) == "a: b; c: d"
    long = warnings_header([f"field_{number}: not supported" for number in range(500)])
    assert len(long) <= 1000
    assert long.endswith("field_38: not supported; and 461 more")
    assert warnings_header(["x" * 2000]) == "and 1 more"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("web_search", "web_search"),
        ("tool-call", "tool-call"),
        ("my secret", "unknown"),
        ("a\n", "unknown"),
        ("x" * 41, "unknown"),
        ("ünknown", "unknown"),
        ("", "unknown"),
        (5, "unknown"),
        (None, "unknown"),
    ],
)
def test_only_plain_names_are_shown(value: Any, shown: str) -> None:
    assert plain_name(value) == shown


def test_strict_tolerates_nothing() -> None:
    error = InvalidRequest("No.", param="a.[0].b", code="c")
    lenient = Leniency()
    lenient.tolerate(error, "left out")
    assert lenient.warnings() == ("a: left out",)
    with pytest.raises(InvalidRequest, match="No"):
        Leniency(strict=True).tolerate(error, "left out")


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(1.5)
WORDS = st.sampled_from(
    ["text", "image_url", "tool_use", "tool_result", "function", "custom", "json_schema", "any"]
)
KEYS = st.sampled_from(
    [
        "type",
        "text",
        "content",
        "id",
        "name",
        "function",
        "input",
        "input_schema",
        "schema",
        "tools",
    ]
)
ANYTHING = st.recursive(
    LEAVES | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "function", "Human"])
ANY_MESSAGE = st.fixed_dictionaries(
    {"role": ROLES, "content": ANYTHING},
    optional={"name": ANYTHING, "tool_calls": st.lists(ANYTHING), "function_call": ANYTHING},
)


@given(
    st.lists(ANY_MESSAGE, min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(["tools", "tool_choice", "response_format", "n"]), ANYTHING),
)
def test_any_request_is_read_or_refused_and_strict_mode_differs_only_by_refusals(
    messages: list[Any], fields: dict[str, Any]
) -> None:
    document = body(messages=messages, **fields)
    try:
        request = read_chat(document)
    except InvalidRequest as exc:
        assert exc.message
        return
    header = warnings_header(request.warnings)
    assert header.isascii() and header.isprintable() and len(header) <= 1000
    if request.warnings:
        refusal(document, strict=True)
    else:
        assert read_chat(document, strict=True) == request
