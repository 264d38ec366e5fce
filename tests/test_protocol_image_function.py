"""The function generate_image: how its calls leave an answer, and what comes instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from horde_proxy.errors import InvalidRequest, Unavailable
from horde_proxy.protocol.chunks import Chunk, Head, chunk, fold, role_chunk
from horde_proxy.protocol.generation_request import GenerationRequest, Message, Tool
from horde_proxy.protocol.image_function import (
    GENERATE_IMAGE,
    CallSeparator,
    ImageCall,
    conflict,
    failure_text,
    has_function,
    picture_text,
    with_function,
)
from horde_proxy.protocol.openai_body import openai_body

HEAD = Head("chatcmpl-1", 1, "m")
REQUEST = GenerationRequest("m", (Message("user", "Hi"),))


def call(number: int, name: str, arguments: str = "") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": number, "id": f"call_{number}", "type": "function", "function": function}


def more(number: int, arguments: str) -> dict[str, Any]:
    return {"index": number, "function": {"arguments": arguments}}


def calls(*parts: dict[str, Any], index: int = 0) -> Chunk:
    return chunk(HEAD, {"tool_calls": list(parts)}, index=index)


def end(reason: Any = "tool_calls", index: int = 0) -> Chunk:
    return chunk(HEAD, {}, index=index, finish_reason=reason)


def separated(*chunks: Chunk) -> tuple[list[Chunk], CallSeparator]:
    separator = CallSeparator()
    return [left for given in chunks if (left := separator.chunk(given))], separator


def own_calls(separator: CallSeparator) -> list[tuple[int, str]]:
    """The calls of the function: choice and arguments."""
    return [(image_call.index, image_call.arguments) for image_call in separator.calls]


def test_calls_of_the_function_leave_and_others_are_counted_without_them() -> None:
    left, separator = separated(
        role_chunk(HEAD),
        calls(call(0, "weather", "{}")),
        calls(call(1, "generate_image", '{"prompt"'), call(2, "time")),
        calls(more(1, ': "a fox"}'), more(2, "{}")),
        end(),
    )
    assert left == [
        role_chunk(HEAD),
        calls(call(0, "weather", "{}")),
        calls({**call(2, "time"), "index": 1}),
        calls(more(1, "{}")),
    ]
    assert own_calls(separator) == [(0, '{"prompt": "a fox"}')]
    assert list(separator.ends()) == [end("tool_calls")]


@pytest.mark.parametrize(
    ("given", "expected"), [("tool_calls", "stop"), ("length", "length"), ("stop", "stop")]
)
def test_an_answer_with_calls_of_the_function_alone_stops(given: str, expected: str) -> None:
    left, separator = separated(role_chunk(HEAD), calls(call(0, "generate_image")), end(given))
    assert left == [role_chunk(HEAD)]
    assert list(separator.ends()) == [end(expected)]


def test_an_answer_without_calls_of_the_function_is_unchanged() -> None:
    chunks = [role_chunk(HEAD), calls(call(0, "weather", "{}")), end()]
    left, separator = separated(*chunks)
    assert (left, separator.calls, list(separator.ends())) == (chunks, [], [])


def test_each_choice_has_its_own_calls() -> None:
    _, separator = separated(
        role_chunk(HEAD, 0),
        role_chunk(HEAD, 1),
        calls(call(0, "generate_image", '{"prompt": "a"}'), index=1),
        end("stop", 0),
        end("tool_calls", 1),
    )
    assert own_calls(separator) == [(1, '{"prompt": "a"}')]
    assert list(separator.ends()) == [end("stop", 1)]


def test_pictures_are_paragraphs_below_the_text() -> None:
    left, separator = separated(
        role_chunk(HEAD), chunk(HEAD, {"content": "Two."}), calls(call(0, "generate_image")), end()
    )
    [image_call] = separator.calls
    shown = [separator.shown(image_call, text, {"model": "x"}) for text in ("![a](1)", "![b](2)")]
    answer = fold([*left, *shown, *separator.ends()])
    assert answer["choices"][0]["message"]["content"] == "Two.\n\n![a](1)\n\n![b](2)"
    assert shown[0]["horde"] == {"images": [{"model": "x"}]}
    assert "horde" not in separator.shown(image_call, "No.")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a fox in snow", "![a fox in snow](LINK)"),
        ("a [red] fox,\n`at` <dawn>\\", "![a (red) fox, 'at' (dawn)/](LINK)"),
        ("x" * 2000, f"![{'x' * 1000}](LINK)"),
    ],
)
def test_a_prompt_cannot_break_the_markdown(prompt: str, text: str) -> None:
    assert picture_text(prompt, "LINK") == text


def test_a_failure_is_a_sentence() -> None:
    error = Unavailable("No image model is available right now.")
    assert failure_text(error) == (
        "The picture could not be made: No image model is available right now."
    )


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ('{"prompt": " a fox "}', None),
        ('{"prompt": "a fox", "orientation": "square"}', None),
        ('{"prompt": "a fox", "orientation": "portrait"}', (832, 1216)),
        ('{"prompt": "a fox", "orientation": "landscape"}', (1216, 832)),
        ('{"prompt": "a fox", "orientation": ["wide"]}', None),
    ],
)
def test_arguments_become_a_request_for_a_picture(
    arguments: str, size: tuple[int, int] | None
) -> None:
    request = ImageCall(0, arguments).request({"max_kudos": 20})
    assert (request.prompt, request.size, request.horde) == ("a fox", size, {"max_kudos": 20})
    assert (request.model, request.output_format) == ("", "webp")


@pytest.mark.parametrize(
    "arguments", ["", '{"prompt": "a f', "[]", "{}", '{"prompt": 1}', '{"prompt": " "}', "[" * 9999]
)
def test_arguments_without_a_prompt_are_refused(arguments: str) -> None:
    with pytest.raises(InvalidRequest, match="The model did not say what to draw."):
        ImageCall(0, arguments).request({})


def test_the_function_is_in_the_request_and_in_the_clients_body() -> None:
    own = Tool("weather", "", {"type": "object"})
    tools = [{"type": "function", "function": {"name": "weather"}}]
    request = with_function(replace(REQUEST, tools=(own,), source={"model": "m", "tools": tools}))
    assert (request.tools, request.tool_choice) == ((own, GENERATE_IMAGE), "auto")
    names = [tool["function"]["name"] for tool in openai_body(request)["tools"]]
    assert names == ["weather", "generate_image"]
    assert len(tools) == 1
    assert has_function(request)
    # A request that came in another shape is written from its tools.
    names = [tool["function"]["name"] for tool in openai_body(with_function(REQUEST))["tools"]]
    assert names == ["generate_image"]


def test_a_clients_tool_of_the_same_name_is_the_clients() -> None:
    namesake = replace(GENERATE_IMAGE)
    request = replace(REQUEST, tools=(namesake,), tool_choice="auto")
    assert not has_function(request)
    assert conflict(request) == "a tool has the same name"
