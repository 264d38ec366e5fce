"""The context diet: what a chat loses before a turn of it is dropped, and what it never loses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horde_proxy.errors import ContextLengthExceeded, ModelTooSmall, without_retry_triggers
from horde_proxy.prompts.constrained import constrained_request, instruction
from horde_proxy.prompts.diet import Diet, diet_warning
from horde_proxy.prompts.fit import Capacity, Fitted, fit
from horde_proxy.prompts.formats import FORMATS
from horde_proxy.prompts.json_schema.slimming import LESS_DETAIL, Detail, shortened, slimmed
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.generation_request import GenerationRequest, Message, ToolCall
from horde_proxy.upstreams.openai.error_signs import OVERFLOW

# Recorded from opencode 1.18.33 with "fix the typo in notes.txt" in an empty project.
OPENCODE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "opencode_first_request.json").read_text()
)
CHATML = FORMATS["chatml"]
# Every word by which opencode 1.18.33 (b$ in its code), Cline and Claude Code take an error for a
# chat that should be compacted; OVERFLOW has those of 20 servers.
COMPACTS = re.compile(
    r"prompt is too long|request_too_large|input is too long|exceeds|reduce the length"
    r"|maximum|input token count|max tokens|context|token limit|too many tokens|too large for"
    r"|request entity too large|input \(\d+ tokens\)|tokens? exceed|too long",
    re.IGNORECASE,
)
TEXT = "".join(f"line {number} of the file\n" for number in range(100))  # 1,990 characters


@cache
def opencode() -> GenerationRequest:
    structure = constrained_request(read_chat(OPENCODE), "hermes")
    assert structure is not None
    return structure.request


def fitted(
    request: GenerationRequest, context: int, *, is_on: bool = True, answer: int = 2048
) -> Fitted:
    diet = Diet(answer, instruction=partial(instruction, request, "hermes"), is_on=is_on)
    return fit(request.messages, CHATML, 512, [Capacity(512, context)], "hermes", diet)


def used(name: str, **arguments: Any) -> Message:
    return Message("assistant", "", (ToolCall(name, name, json.dumps(arguments)),))


def result(name: str, text: str) -> Message:
    return Message("tool", text, tool_call_id=name)


def steps(*messages: Message) -> list[tuple[str, int, str]]:
    return [(step.kind, step.index, step.message.text) for step in Diet().steps(messages)]


LAST = [used("ls"), result("ls", "notes.txt")]
"""A newest round, so that the rounds before it are old."""
MESSAGES = [
    Message("system", TEXT),
    Message("user", TEXT),
    Message("assistant", TEXT),
    used("read", path="a"),
    used("write", path="a", text=TEXT),
    result("read", TEXT),
    result("write", TEXT * 2),
    result("gone", TEXT),
]


# opencode's first request


def test_opencodes_first_request_fits_into_8192_tokens() -> None:
    small, large = fitted(opencode(), 8192), fitted(opencode(), 32768)
    assert (large.prompt_tokens, large.steps) == (7476, {})
    assert (small.prompt_tokens, small.steps, small.saved) == (4842, {"schemas": 1}, 2634)
    assert (small.dropped, small.blanked, small.max_length) == (0, 0, 512)


def test_a_diet_goes_no_further_than_needed() -> None:
    tokens = {context: fitted(opencode(), context).prompt_tokens for context in (8192, 6144, 5632)}
    assert tokens == {8192: 4842, 6144: 3966, 5632: 3572}
    assert fitted(opencode(), 10_800).steps == {}


def test_opencodes_system_prompt_and_request_stay_whole_at_each_size() -> None:
    system, user = (message["content"] for message in OPENCODE["messages"])
    for context in (5000, 8192):
        prompt = fitted(opencode(), context, answer=512).prompt
        assert system.strip() in prompt
        assert f"<|im_start|>user\n{user}<|im_end|>" in prompt


def test_without_the_diet_opencode_does_not_fit() -> None:
    with pytest.raises(ModelTooSmall):
        fitted(opencode(), 8192, is_on=False)


def test_every_tool_keeps_its_arguments_their_types_and_what_is_required() -> None:
    for tool in read_chat(OPENCODE).tools:
        for detail in LESS_DETAIL:
            slim = slimmed(tool.parameters, detail)
            assert slim["required"] == tool.parameters["required"]
            assert {name: part["type"] for name, part in slim["properties"].items()} == {
                name: part["type"] for name, part in tool.parameters["properties"].items()
            }


# Schemas


@pytest.mark.parametrize(
    ("schema", "slim"),
    [
        ({"title": "Anything", "type": "object"}, {"type": "object"}),
        ({"type": "integer", "format": "int64", "default": 3}, {"type": "integer"}),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"examples": ["a"], "example": "a", "$comment": "c", "$id": "i"}, {}),
        ({"format": ["date"], "title": {"a": 1}}, {}),
        ({"readOnly": True, "deprecated": True, "enum": ["title"]}, {"enum": ["title"]}),
        (
            {"properties": {"title": {"title": "T"}, "default": {"default": 1}, "format": {}}},
            {"properties": {"title": {}, "default": {}, "format": {}}},
        ),
        ({"description": "One. Two."}, {"description": "One. Two."}),
    ],
)
def test_schemas_lose_annotations_first(schema: Any, slim: Any) -> None:
    assert slimmed(schema, LESS_DETAIL[0]) == slim


def test_then_long_descriptions_end_with_a_sentence() -> None:
    schema = {"properties": {"path": {"description": "The path. It must be absolute."}}}
    assert slimmed(schema, Detail(longest_property=12)) == {
        "properties": {"path": {"description": "The path."}}
    }


@pytest.mark.parametrize(
    ("text", "longest", "short"),
    [
        (
            "Reads a file. It fails if there is none.",
            40,
            "Reads a file. It fails if there is none.",
        ),
        ("Reads a file. It fails if there is none.", 39, "Reads a file."),
        ("Really? Yes! No.", 13, "Really? Yes!"),
        (
            "Runs commands (e.g. npm test or make). Then more.",
            44,
            "Runs commands (e.g. npm test or make).",
        ),
        ("Finds files (eg. *.js) by name. More.", 32, "Finds files (eg. *.js) by name."),
        ("Reads version 1.5 of it. More.", 26, "Reads version 1.5 of it."),
        ("- Finds files\n- Returns paths", 20, "- Finds files"),
        ("Reads a file.\n\nUsage:\n- The path is absolute", 30, "Reads a file."),
        ("A sentence without an end in sight", 20, "A sentence without…"),
        ("Wortohnezwischenraum" * 3, 10, "…"),
    ],
)
def test_a_description_ends_with_a_sentence(text: str, longest: int, short: str) -> None:
    assert shortened(text, longest) == short


def test_a_format_of_answers_is_shortened_as_well() -> None:
    schema = {"title": "T", "type": "object", "properties": {"a": {"type": "string"}}}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = read_chat({**OPENCODE, "tools": [], "response_format": format})
    assert '"title":"T"' in instruction(request, "hermes")
    assert instruction(request, "hermes", LESS_DETAIL[0]).endswith(
        '\n{"type":"object","properties":{"a":{"type":"string"}}}'
    )


# Results and calls


def test_an_older_result_with_the_same_text_is_collapsed() -> None:
    text = TEXT[:1_240]
    again = [
        used("read", path="a"),
        result("read", text),
        used("cat", path="a"),
        result("cat", text),
    ]
    note = "[1,240 characters left out: the same as a later result of read]"
    assert ("repeated results", 1, note) in steps(*again, *LAST)
    assert [step for step in steps(*again, *LAST) if step[1] == 3] == []


def test_an_older_text_of_a_file_that_was_read_again_is_collapsed() -> None:
    again = [
        used("read", path="a", limit=9),
        result("read", TEXT),
        used("read", limit=9, path="a"),
        result("read", TEXT.replace("line 3 ", "LINE 3 ")),
    ]
    note = "[1,990 characters left out: read was called again with the same arguments]"
    assert ("repeated results", 1, note) in steps(*again)


def test_short_results_and_other_files_are_no_repetitions() -> None:
    chat = [
        used("edit", path="a"),
        result("edit", "Edit applied successfully."),
        used("edit", path="a"),
        result("edit", "Edit applied successfully."),
        used("read", path="a"),
        result("read", TEXT[:1_000]),
        used("read", path="b"),
        result("read", TEXT[:1_001]),
    ]
    assert [step for step in steps(*chat, *LAST) if step[0] == "repeated results"] == []


def test_an_old_long_result_loses_its_middle() -> None:
    [step] = [step for step in steps(used("read"), result("read", TEXT), *LAST) if step[1] == 1]
    kind, _, text = step
    assert kind == "long results"
    assert text.startswith("line 0 of the file\nline 1 of the file\n")
    assert "line 29 of the file\n[1,021 characters left out]\nline 81 of the file\n" in text
    assert text.endswith("line 99 of the file\n")


def test_a_result_of_one_long_line_loses_its_middle_as_well() -> None:
    [step] = [step for step in steps(used("x"), result("x", "a" * 5000), *LAST) if step[1] == 1]
    assert step[2] == "a" * 600 + "\n[4,000 characters left out]\n" + "a" * 400


def test_an_old_call_loses_its_long_arguments_and_says_so() -> None:
    written = Message(
        "assistant",
        "I write it.",
        (ToolCall("1", "write", json.dumps({"path": "a", "text": TEXT})),),
    )
    [step] = list(Diet().steps([written, result("1", "Done."), *LAST]))
    assert step.message == Message(
        "assistant",
        "I write it.\n[write: 2,092 characters of text left out]",
        (ToolCall("1", "write", '{"path":"a"}'),),
    )


@pytest.mark.parametrize(
    "arguments", ['{"text": "cut of', "[1]", '{"a": NaN}', "", '"x"', "[" * 9999]
)
def test_a_call_whose_arguments_are_no_object_stays(arguments: str) -> None:
    odd = Message("assistant", "", (ToolCall("1", "write", arguments),))
    [step] = list(Diet().steps([odd, result("1", "Done."), *LAST]))
    assert step.message == odd


def test_the_newest_call_and_its_results_stay() -> None:
    newest = [used("read", text=TEXT), result("read", TEXT), result("read", TEXT)]
    for more in ([], [Message("assistant", "It says")], [Message("user", "And?")]):
        assert steps(Message("user", TEXT), Message("assistant", TEXT), *newest, *more) == []


def test_a_diet_that_is_off_has_no_steps() -> None:
    messages = [used("read"), result("read", TEXT), *LAST]
    assert list(Diet(is_on=False).steps(messages)) == []


@settings(max_examples=30)
@given(st.lists(st.sampled_from(MESSAGES), max_size=12))
def test_only_old_results_and_old_calls_are_ever_touched(chat: list[Message]) -> None:
    newest = max((index for index, message in enumerate(chat) if message.tool_calls), default=0)
    for step in Diet().steps(chat):
        before, after = chat[step.index], step.message
        assert step.index < newest
        assert after.role == before.role in ("tool", "assistant")
        if before.role == "assistant":
            assert [call.id for call in after.tool_calls] == [call.id for call in before.tool_calls]
            assert after.text.startswith(before.text)
        else:
            assert after.tool_call_id == before.tool_call_id
            assert "characters left out" in after.text


def agent(rounds: int) -> GenerationRequest:
    """An opencode session of so many rounds, which reads five files again and again, and writes."""
    request = opencode()
    messages = list(request.messages)
    for number in range(rounds):
        path = f"/home/ann/project/{number % 5}.py"
        body = f"# {number // 2}\n" + "value = compute(value)\n" * (40 + number * 7 % 40)
        if number % 3 == 2:
            arguments, text = {"filePath": path, "content": body}, "Wrote file successfully."
        else:
            arguments, text = {"filePath": path}, body
        call = ToolCall(f"c{number}", "write" if number % 3 == 2 else "read", json.dumps(arguments))
        messages += [Message("assistant", "", (call,)), Message("tool", text, (), call.id)]
    return replace(request, messages=tuple(messages))


def test_steps_are_taken_in_order_and_before_anything_is_dropped() -> None:
    sizes = ((1, 8192), (6, 8192), (12, 8192), (12, 6144), (12, 5632))
    seen = [fitted(agent(rounds), context) for rounds, context in sizes]
    full = ["schemas", "repeated results", "long results", "old calls"]
    assert [(list(found.steps), found.blanked, found.dropped) for found in seen] == [
        (["schemas"], 0, 0),
        (["schemas", "long results", "old calls"], 0, 0),
        (full, 0, 0),
        (full, 5, 0),
        (full, 5, 6),
    ]


def test_a_growing_chat_keeps_the_beginning_of_its_prompt_for_some_turns() -> None:
    """A worker has the last prompt in its cache, up to the first difference."""
    seen = [fitted(agent(rounds), 16_384) for rounds in range(11, 19)]
    ends = [found.prompt.removesuffix("<|im_start|>assistant\n") for found in seen]
    kept = [after.startswith(before) for before, after in pairwise(ends)]
    assert all(found.steps for found in seen)
    assert kept == [True, True, True, False, True, False, True]


def test_the_segments_of_an_answer_share_one_prompt() -> None:
    request = agent(14)
    first = fitted(request, 16_384, answer=4096)
    begun = (*request.messages, Message("assistant", "word " * 1000))
    later = fitted(replace(request, messages=begun), 16_384, answer=4096)
    assert first.steps
    assert later.prompt.startswith(first.prompt)


def test_a_warning_names_the_steps_and_what_they_saved() -> None:
    assert diet_warning({"schemas": 1, "long results": 3}, 2635) == (
        "context diet: schemas shortened, 3 long results shortened, about 2635 tokens saved"
    )


# What no diet and no compaction can help


def test_a_model_too_small_for_system_and_tools_says_what_takes_the_room() -> None:
    with pytest.raises(ModelTooSmall) as raised:
        fitted(opencode(), 3584)
    error = raised.value.envelope()["error"]
    assert (raised.value.status, error["code"]) == (400, "model_too_small")
    assert error["message"] == (
        "The model is too small for this request, also without its older messages: "
        "system prompt 2,481 tokens, tools and formats 1,420 tokens, last message 26 tokens and "
        "answer 928 tokens are 4,855 tokens, and the model has room for 3,584. "
        "Use a model with more room, or fewer tools."
    )


@pytest.mark.parametrize("context", [300, 1500, 3584])
def test_no_client_compacts_or_repeats_a_request_for_a_model_too_small(context: int) -> None:
    with pytest.raises(ModelTooSmall) as raised:
        fitted(opencode(), context)
    message = str(raised.value)
    assert raised.value.message == without_retry_triggers(message) == message
    for text in (message, ModelTooSmall.code):
        assert not COMPACTS.search(text)
        assert not OVERFLOW.search(text)
    *parts, total, room = (
        int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d", message)
    )
    assert sum(parts) == total > room
    assert context - 1 <= room <= context


def test_a_last_message_too_long_beside_tools_cannot_be_helped_either() -> None:
    request = opencode()
    long = replace(request, messages=(request.messages[0], Message("user", "word " * 9000)))
    with pytest.raises(ModelTooSmall, match=r"last message 10,114 tokens"):
        fitted(long, 8192)


def test_a_model_without_room_for_one_call_is_too_small_after_the_first_call() -> None:
    """Compaction would not help: the next call would have no room again."""
    request = opencode()
    assert fitted(request, 4096).max_length == 134
    called = (*request.messages, used("read", path="a"), result("read", TEXT))
    with pytest.raises(ModelTooSmall, match="answer 1,056 tokens are 4,983 tokens"):
        fitted(replace(request, messages=called), 4096)


def test_a_long_newest_result_is_a_context_error_for_compaction_helps() -> None:
    newest = (used("read"), result("read", "word " * 9000))
    request = opencode()
    with pytest.raises(ContextLengthExceeded) as raised:
        fitted(replace(request, messages=(*request.messages, *newest)), 8192)
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.message.startswith("This model's maximum context length is 8192 tokens.")


def test_the_figure_of_a_context_error_is_the_one_that_was_compared() -> None:
    for size in range(800, 1000, 7):
        chat = [Message("user", "word " * size)]
        try:
            fit(chat, CHATML, 128, [Capacity(512, 1200)])
        except ContextLengthExceeded as exc:
            limit, needed = map(int, re.findall(r"(\d+) tokens", exc.message))
            assert limit == 1200 < needed <= size * 1.2 + 200
