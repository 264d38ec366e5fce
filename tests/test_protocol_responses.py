"""Reading requests for responses: every item, every tool, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import JsonFormat, Message, Tool, ToolCall
from horde_proxy.protocol.responses.calls import CallForm, Item
from horde_proxy.protocol.responses.compaction import read_compaction, write_compaction
from horde_proxy.protocol.responses.question import (
    ConversationNotFound,
    ItemNotFound,
    NoRecall,
    NotKept,
    PreviousResponseNotFound,
    ResponseQuestion,
    item_id,
)
from horde_proxy.protocol.responses.request import read_response, refers_to_kept

KEPT: dict[str, list[Item]] = {
    "resp_1": [
        {"id": "msg_1", "type": "message", "role": "user", "content": "My name is Ann."},
        {
            "id": "msg_2",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello Ann.", "annotations": []}],
        },
    ]
}


class Kept(NoRecall):
    """What a client has stored."""

    def chain(self, response_id: str) -> Sequence[Item]:
        return KEPT.get(response_id) or super().chain(response_id)

    def conversation(self, conversation_id: str) -> Sequence[Item]:
        return KEPT["resp_1"] if conversation_id == "conv_1" else super().conversation("conv_2")

    def item(self, item_id: str) -> Item | None:
        return next((item for item in KEPT["resp_1"] if item["id"] == item_id), None)


def read(body: Any, *, strict: bool = False, keeps_pictures: bool = False) -> ResponseQuestion:
    ids = itertools.count(1)
    return read_response(
        body,
        recall=Kept(),
        new_id=lambda: f"{next(ids):048x}",
        now=lambda: 5.5,
        strict=strict,
        keeps_pictures=keeps_pictures,
    )


def asked(**fields: Any) -> ResponseQuestion:
    return read({"model": "m", "input": "Hi", **fields})


def messages(*items: Any, **fields: Any) -> tuple[Message, ...]:
    [request] = asked(input=list(items), **fields).requests
    return request.messages


def warnings(*items: Any) -> tuple[str, ...]:
    [request] = asked(input=[USER, *items]).requests
    return request.warnings


def refusal(body: Any, **options: bool) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        read(body, **options)
    return caught.value.param, caught.value.code


USER = {"role": "user", "content": "Hi"}
HI = Message("user", "Hi")


def test_a_text_is_a_message_of_the_user() -> None:
    question = asked()
    [request] = question.requests
    assert (request.model, request.messages, request.source) == ("m", (HI,), {})
    assert (question.id, question.created) == ("resp_" + "0" * 47 + "1", 5)
    assert question.input_items == (
        {
            "id": item_id("msg_", question.id, "input 0"),
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}],
        },
    )
    assert (question.store, question.asked_to_store, question.background) == (True, False, False)


def test_parameters_are_those_of_chats() -> None:
    [request] = asked(
        max_output_tokens=99,
        temperature=0.5,
        top_p=0.9,
        stream=True,
        parallel_tool_calls=False,
        stop=["x"],
        min_p=0.1,
        horde={"workers": ["a"]},
    ).requests
    assert (request.max_tokens, request.stream, request.n) == (99, True, 1)
    assert request.sampling == {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1}
    assert (request.parallel_tool_calls, request.stop) == (False, ("x",))
    assert request.horde == {"workers": ["a"]}
    assert request.drops_messages is False
    [request] = asked(truncation="auto").requests
    assert request.drops_messages is True


def test_what_the_horde_cannot_do_is_a_warning() -> None:
    [request] = asked(seed=1, logit_bias={"1": 2}, n=2).requests
    assert request.warnings == (
        "seed: not supported",
        "logit_bias: not supported",
        "n: not supported",
    )


def test_a_format_is_read() -> None:
    schema = {"type": "object"}
    format = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    [request] = asked(text={"format": format}).requests
    assert request.json_format == JsonFormat(schema, strict=True)
    [request] = asked(text={"format": {"type": "json_object"}}).requests
    assert request.json_format == JsonFormat()
    body = {"model": "m", "input": "Hi", "text": {"format": {"type": "xml"}}}
    assert refusal(body) == ("text.format.type", "invalid_value")


def test_nulls_are_as_if_absent() -> None:
    names = "instructions previous_response_id conversation store background max_output_tokens "
    names += "temperature top_p text tools tool_choice truncation metadata prompt reasoning include"
    question = asked(**dict.fromkeys(names.split()))
    assert question.requests == asked().requests
    assert question.echo == asked().echo


def test_what_repeats_the_request_has_openai_s_defaults() -> None:
    assert asked().echo == {
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "prompt": None,
        "user": None,
        "safety_identifier": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
    }


def test_functions_are_repeated_with_all_keys() -> None:
    """The specification of OpenResponses requires these."""
    tool = {"type": "function", "name": "f"}
    whole = {**tool, "description": None, "parameters": None, "strict": None}
    search = {"type": "web_search"}
    assert asked(tools=[tool, search]).echo["tools"] == [whole, search]


def test_what_no_server_knows_is_ignored() -> None:
    question = asked(
        include=["reasoning.encrypted_content", "of.the.future"],
        reasoning={"effort": "colossal", "summary": "auto"},
        client_metadata={"a": 1},
        service_tier="warp",
        moderation={},
        context_management=[{"type": "compaction"}],
    )
    assert question.requests == asked().requests
    assert question.echo["reasoning"] == {"effort": "colossal", "summary": "auto"}
    assert question.echo["service_tier"] == "warp"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "missing_required_parameter"),
    ({"input": ""}, "input", "missing_required_parameter"),
    ({"input": 5}, "input", "invalid_type"),
    ({"input": ["Hi"]}, "input.[0]", "invalid_type"),
    ({"input": [USER, {"role": "boss", "content": "x"}]}, "input.[1].role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input.[0].content", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": 5}]}, "input.[0].content", "invalid_type"),
    ({"model": None}, "model", "missing_required_parameter"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    (
        {"previous_response_id": "resp_1", "conversation": "conv_1"},
        "previous_response_id",
        "mutually_exclusive_parameters",
    ),
    ({"conversation": 5}, "conversation", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
    ({"metadata": {"a": "x" * 513}}, "metadata", "string_above_max_length"),
    ({"metadata": {"x" * 65: "a"}}, "metadata", "string_above_max_length"),
    ({"instructions": 5}, "instructions", "invalid_type"),
    ({"tools": [{"type": "function"}]}, "tools.[0].name", "missing_required_parameter"),
    (
        {"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "custom"}]}]},
        "tools.[0].tools.[0].name",
        "missing_required_parameter",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
def test_what_cannot_be_read_is_refused(fields: dict[str, Any], param: str, code: str) -> None:
    assert refusal({"model": "m", "input": "Hi", **fields}) == (param, code)


def test_a_body_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    assert refusal({"model": "m", "input": "Hi", "metadata": None, "x": deep})[1] == "invalid_value"


def test_metadata_have_sixteen_pairs_at_most() -> None:
    many = {str(number): "x" for number in range(17)}
    assert refusal({"model": "m", "input": "Hi", "metadata": many})[0] == "metadata"


# Earlier turns.


def test_a_previous_response_goes_before_the_input_without_its_instructions() -> None:
    question = asked(previous_response_id="resp_1", instructions="Be brief.")
    assert question.requests[0].messages == (
        Message("system", "Be brief."),
        Message("user", "My name is Ann."),
        Message("assistant", "Hello Ann."),
        HI,
    )
    assert question.previous_response_id == "resp_1"
    assert [item["content"][0]["text"] for item in question.input_items] == ["Hi"]


@pytest.mark.parametrize("given", ["conv_1", {"id": "conv_1"}])
def test_a_conversation_goes_before_the_input(given: Any) -> None:
    question = asked(conversation=given)
    assert len(question.requests[0].messages) == 3
    assert question.conversation == "conv_1"


def test_a_previous_response_suffices() -> None:
    question = read({"model": "m", "previous_response_id": "resp_1"})
    assert (len(question.requests[0].messages), question.input_items) == (2, ())


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_2"}, {"id": "msg_2"}])
def test_a_reference_is_the_item_that_it_names(reference: Item) -> None:
    question = asked(input=[USER, reference, USER])
    assert question.requests[0].messages == (HI, Message("assistant", "Hello Ann."), HI)
    assert question.input_items[1] == KEPT["resp_1"][1]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"previous_response_id": "resp_2"}, PreviousResponseNotFound),
        ({"conversation": "conv_2"}, ConversationNotFound),
        ({"input": [{"type": "item_reference", "id": "msg_9"}]}, ItemNotFound),
    ],
)
def test_what_is_not_kept_is_never_ignored(fields: dict[str, Any], error: type[NotKept]) -> None:
    with pytest.raises(error):
        asked(**fields)


@pytest.mark.parametrize(
    ("body", "is_kept"),
    [
        ({"previous_response_id": "resp_1"}, True),
        ({"previous_response_id": "resp_2"}, False),
        ({"conversation": {"id": "conv_1"}}, True),
        ({"conversation": "conv_2"}, False),
        ({"input": [USER, {"id": "msg_1"}]}, True),
        ({"input": [{"id": "msg_9"}, {"id": "msg_1", "type": "message"}]}, False),
        ({"input": "Hi"}, False),
        ({"input": [5], "conversation": 5, "previous_response_id": 5}, False),
        ([], False),
    ],
)
def test_only_bodies_that_refer_to_what_is_kept_are_ours(body: Any, is_kept: bool) -> None:
    assert refers_to_kept(body, Kept()) is is_kept


def test_references_are_not_endless() -> None:
    items = [{"id": "msg_1"}] * 1001
    assert refusal({"model": "m", "input": items}) == ("input", "array_above_max_length")
    assert len(asked(input=items[:1000]).input_items) == 1000


# Messages and what belongs to them.


def test_roles_and_parts_of_messages_are_tolerated() -> None:
    assert messages(
        {"role": "system", "content": "A"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "B"}]},
        USER,
        {"role": "assistant", "content": "C", "phase": "commentary", "id": "msg_foreign"},
        {"role": "assistant", "content": [{"type": "input_text", "text": "D"}]},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "E", "prompt_cache_breakpoint": {}},
                {"type": "input_text", "text": "F"},
            ],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        USER,
        {"role": "developer", "content": "G"},
    ) == (
        Message("system", "A\n\nB"),
        HI,
        Message("assistant", "C\nD"),
        Message("user", "E\nF"),
        Message("assistant", "No."),
        HI,
        Message("system", "G"),
    )


def test_reasoning_a_message_and_calls_are_one_turn() -> None:
    turn = messages(
        USER,
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "So"}]},
        {"role": "assistant", "content": "Look:"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"role": "assistant", "content": "Done."},
    )
    calls = (ToolCall("c1", "f", '{"a": 1}'), ToolCall("c2", "g", "{}"))
    assert turn == (
        HI,
        Message("assistant", "Look:", calls),
        Message("tool", "2", tool_call_id="c2"),
        Message("tool", "1", tool_call_id="c1"),
        Message("assistant", "Done."),
    )
    assert turn[1].reasoning == "Hm\n\nSo"
    assert turn[4].reasoning == ""


def test_reasoning_without_content_is_no_fault() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    assert messages(USER, item) == (HI,)
    assert warnings(item) == ()


CALLS: list[tuple[Item, Item, ToolCall, str]] = [
    (
        {"type": "function_call", "name": "f", "arguments": {"a": 1}},
        {"type": "function_call_output", "output": [{"type": "input_text", "text": "ok"}]},
        ToolCall("c1", "f", '{"a": 1}'),
        "ok",
    ),
    (
        {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin\n"},
        {"type": "custom_tool_call_output", "output": "Done!"},
        ToolCall("c1", "apply_patch", '{"input": "*** Begin\\n"}'),
        "Done!",
    ),
    (
        {"type": "tool_search_call", "arguments": {"query": "mail"}, "execution": "client"},
        {
            "type": "tool_search_output",
            "tools": [{"type": "function", "name": "send"}, {"type": "function", "name": "read"}],
        },
        ToolCall("c1", "tool_search", '{"query": "mail"}'),
        "Found: send, read",
    ),
    (
        {"type": "shell_call", "action": {"commands": ["ls"], "timeout_ms": None}},
        {"type": "shell_call_output", "output": [{"stdout": "a", "stderr": ""}]},
        ToolCall("c1", "shell", '{"commands": ["ls"]}'),
        '[{"stdout": "a", "stderr": ""}]',
    ),
    (
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "local_shell_call_output", "output": "a"},
        ToolCall("c1", "local_shell", '{"command": ["ls"], "env": {}}'),
        "a",
    ),
    (
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a.py"}},
        {"type": "apply_patch_call_output", "status": "failed", "output": "no such file"},
        ToolCall("c1", "apply_patch", '{"type": "delete_file", "path": "a.py"}'),
        "failed: no such file",
    ),
]


@pytest.mark.parametrize(("call", "result", "expected", "text"), CALLS)
def test_a_past_call_of_each_kind_is_a_call_with_its_result(
    call: Item, result: Item, expected: ToolCall, text: str
) -> None:
    assert messages(USER, {**call, "call_id": "c1"}, {**result, "call_id": "c1"}) == (
        HI,
        Message("assistant", "", (expected,)),
        Message("tool", text, tool_call_id="c1"),
    )


def test_the_result_of_a_local_shell_may_name_its_call_by_its_own_id() -> None:
    call = {"type": "local_shell_call", "call_id": "c1", "action": {"command": ["ls"]}}
    result = {"type": "local_shell_call_output", "id": "c1", "output": "a"}
    assert messages(USER, call, result)[-1] == Message("tool", "a", tool_call_id="c1")


def test_a_call_of_another_server_s_tools_is_a_call_with_its_result() -> None:
    item = {
        "type": "mcp_call",
        "id": "mcp_1",
        "name": "find",
        "arguments": '{"q": 1}',
        "output": "two",
        "server_label": "x",
    }
    assert messages(USER, item) == (
        HI,
        Message("assistant", "", (ToolCall("mcp_1", "find", '{"q": 1}'),)),
        Message("tool", "two", tool_call_id="mcp_1"),
    )


def test_a_result_without_its_call_is_a_message() -> None:
    result = {"type": "function_call_output", "call_id": "c9", "name": "f", "output": "42"}
    assert messages(USER, result) == (HI, Message("user", "Result of f from before:\n42"))
    data = {"type": "shell_call_output", "call_id": "c9", "output": [{"stdout": "a"}]}
    assert messages(USER, data)[1].text == 'Result from before:\n[{"stdout": "a"}]'


def test_a_compaction_of_ours_is_read_again() -> None:
    blob = write_compaction("Ann asked for a poem. 🌹")
    text = "Summary of our conversation so far:\n\nAnn asked for a poem. 🌹"
    assert messages({"type": "compaction", "encrypted_content": blob}) == (Message("user", text),)
    for other in ("gAAAAA", "x", "ICAg", None, 5):
        assert read_compaction(other) is None


LEFT_OUT = (
    "compaction",
    "program",
    "program_output",
    "web_search_call",
    "file_search_call",
    "computer_call",
    "computer_call_output",
    "code_interpreter_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "future_call",
)


@pytest.mark.parametrize("type", LEFT_OUT)
def test_what_no_model_can_read_is_left_out_with_a_warning(type: str) -> None:
    assert messages({"type": type, "id": "x"}, USER) == (HI,)
    assert warnings({"type": type}) == (f"input: item of type '{type}' left out",)
    body = {"model": "m", "input": [USER, {"type": type}]}
    assert refusal(body, strict=True) == ("input.[1]", "unsupported_value")


def test_a_compaction_trigger_at_the_end_asks_for_a_summary() -> None:
    question = asked(input=[USER, {"type": "compaction_trigger"}], tools=[F])
    [request] = question.requests
    assert question.compacts and request.tools == ()
    assert request.drops_messages
    assert [message.role for message in request.messages] == ["user", "user"]
    assert request.messages[1].text.startswith("Summarise our conversation so far")
    assert not asked(input=[{"type": "compaction_trigger"}, USER]).compacts


@pytest.mark.parametrize(
    "type", ["additional_tools", "compaction_trigger", "configuration_update", "mcp_list_tools"]
)
def test_what_is_no_turn_needs_no_warning(type: str) -> None:
    assert messages({"type": type}, USER) == (HI,)
    assert warnings({"type": type}) == ()


def test_ids_of_any_form_are_taken_as_they_are() -> None:
    ids = ["msg_1", "chatcmpl-7", "x" * 500, "ö"]
    items = [{"type": "message", "id": given, "role": "user", "content": "Hi"} for given in ids]
    assert [item["id"] for item in asked(input=items).input_items] == ids
    [item] = asked(input=[{"type": "reasoning", "id": None, "summary": []}, USER]).input_items[:1]
    assert item["id"].startswith("rs_") and len(item["id"]) == 51


def test_a_picture_in_a_result_stays_beside_its_note() -> None:
    picture = "data:image/png;base64,iVBORw0KGgo="
    items = [
        USER,
        {"type": "function_call", "call_id": "c1", "name": "view_image", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_image", "image_url": picture}],
        },
    ]
    body = {"model": "m", "input": items}
    [request] = read(body, keeps_pictures=True).requests
    assert request.messages[2].pictures[0].url == picture
    [request] = read(body).requests
    assert request.messages[2].text == "[image left out]"
    assert request.warnings == ("input: image left out",)


# Tools.

PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
ANY = {"type": "object", "properties": {}}
F = {"type": "function", "name": "f", "parameters": PARAMETERS, "strict": True}
INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The raw input."}},
    "required": ["input"],
}


def offered(*tools: Any, choice: Any = None) -> tuple[list[str], str]:
    """(the names of the tools that the model sees, the choice)."""
    [request] = asked(tools=list(tools), tool_choice=choice).requests
    return [tool.name for tool in request.tools], request.tool_choice


def test_a_function_is_offered_as_it_is() -> None:
    question = asked(tools=[F, {"type": "function", "name": "g", "parameters": None}])
    [request] = question.requests
    assert request.tools == (Tool("f", "", PARAMETERS, strict=True), Tool("g", "", ANY))
    assert request.tool_choice == "auto"
    assert question.calls == {"f": CallForm("function", "f"), "g": CallForm("function", "g")}


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
    tool = {"type": "custom", "name": "apply_patch", "description": "Patches.", "format": grammar}
    question = asked(tools=[tool])
    [request] = question.requests
    text = "Patches.\n\nThe input must fit this grammar (lark):\nstart: A"
    assert request.tools == (Tool("apply_patch", text, INPUT),)
    assert question.calls == {"apply_patch": CallForm("custom", "apply_patch")}


def test_a_namespace_has_its_tools_under_names_of_their_own() -> None:
    mail = {
        "type": "namespace",
        "name": "mail",
        "description": "Ann's mail.",
        "tools": [
            {"type": "function", "name": "send", "description": "Sends."},
            {"type": "custom", "name": "f"},
        ],
    }
    question = asked(tools=[F, mail, {**mail, "name": "work"}])
    assert question.calls == {
        "f": CallForm("function", "f"),
        "send": CallForm("function", "send", "mail"),
        "mail_f": CallForm("custom", "f", "mail"),
        "work_send": CallForm("function", "send", "work"),
        "work_f": CallForm("custom", "f", "work"),
    }
    assert question.requests[0].tools[1].description == "Sends.\n\nAnn's mail."


def test_a_past_call_has_the_name_that_the_model_knows_the_tool_by() -> None:
    inner = [{"type": "function", "name": "f"}]
    tools = [F, {"type": "namespace", "name": "mail", "tools": inner}]
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    turns = messages(USER, {**call, "namespace": "mail"}, call, tools=tools)
    assert [past.name for past in turns[1].tool_calls] == ["mail_f", "f"]


def test_tools_may_come_with_the_input() -> None:
    items = [
        {"type": "additional_tools", "role": "developer", "tools": [F]},
        {"type": "tool_search_output", "call_id": "c1", "tools": [{**F, "name": "found"}]},
        {"type": "additional_tools", "role": "developer", "tools": [F]},
        USER,
    ]
    [request] = asked(input=items).requests
    assert [tool.name for tool in request.tools] == ["f", "found"]


def test_built_in_tools_that_the_client_runs_are_functions() -> None:
    tools = [{"type": type} for type in ("shell", "local_shell", "apply_patch")]
    search = {
        "type": "tool_search",
        "execution": "client",
        "description": "Finds.",
        "parameters": PARAMETERS,
    }
    question = asked(tools=[*tools, search])
    assert list(question.calls) == ["shell", "local_shell", "apply_patch", "tool_search"]
    assert question.requests[0].tools[3] == Tool("tool_search", "Finds.", PARAMETERS)


def test_a_function_may_have_the_name_of_a_built_in_tool() -> None:
    shell = {"type": "function", "name": "shell"}
    question = asked(tools=[shell, {"type": "shell"}])
    assert question.calls["shell"].kind == "function"
    assert question.calls["shell_2"] == CallForm("shell", "shell")
    assert offered(shell, {"type": "shell"}, choice={"type": "shell"})[1] == "shell_2"
    assert offered(shell, {"type": "shell"}, choice={"type": "function", "name": "shell"})[1] == (
        "shell"
    )


HOSTED: list[dict[str, Any]] = [
    {"type": "web_search"},
    {"type": "web_search_2025_08_26"},
    {"type": "web_search_preview"},
    {"type": "file_search", "vector_store_ids": []},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "computer"},
    {"type": "computer_use_preview"},
    {"type": "mcp", "server_label": "x", "server_url": "y"},
    {"type": "programmatic_tool_calling"},
    {"type": "tool_search"},
    {"type": "tool_search", "execution": "server"},
    {"type": "shell", "environment": {"type": "container_auto"}},
    {"type": "of_the_future"},
]


@pytest.mark.parametrize("tool", HOSTED)
def test_what_a_server_would_run_is_left_out_and_cannot_be_forced(tool: dict[str, Any]) -> None:
    [request] = asked(tools=[F, tool]).requests
    assert [offer.name for offer in request.tools] == ["f"]
    assert request.warnings == (f"tools: type '{tool['type']}' left out",)
    body = {"model": "m", "input": "Hi", "tools": [F, tool]}
    choice = {"type": tool["type"]}
    assert refusal({**body, "tool_choice": choice}) == ("tool_choice", "invalid_value")
    assert refusal(body, strict=True) == ("tools.[1].type", "unsupported_value")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", (["f", "g"], "auto")),
        ("required", (["f", "g"], "required")),
        ("none", ([], "none")),
        ({"type": "function", "name": "g"}, (["f", "g"], "g")),
        ({"type": "custom", "name": "g"}, (["f", "g"], "g")),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "g"}, {"type": "web_search"}],
            },
            (["g"], "required"),
        ),
    ],
)
def test_a_choice_is_read(choice: Any, expected: tuple[list[str], str]) -> None:
    custom = {"type": "custom", "name": "g"}
    assert offered(F, custom, {"type": "web_search"}, choice=choice) == expected


def test_a_choice_may_name_a_namespace() -> None:
    mail = {"type": "namespace", "name": "mail", "tools": [{"type": "function", "name": "f"}]}
    choice = {"type": "function", "name": "f", "namespace": "mail"}
    assert offered(F, mail, choice=choice)[1] == "mail_f"


def test_tools_are_not_endless() -> None:
    inner = [{"type": "function", "name": f"f{number}"} for number in range(1000)]
    tools = [{"type": "namespace", "name": name, "tools": inner} for name in ("a", "b")]
    assert refusal({"model": "m", "input": "Hi", "tools": tools})[1] == "array_above_max_length"


# Custom input.

PATCH = CallForm("custom", "apply_patch")
RAW_INPUTS = [
    ('{"input": "a\\nb"}', "a\nb"),
    ('{"patch": "a"}', "a"),
    ('"a"', "a"),
    ("*** Begin Patch", "*** Begin Patch"),
    ("{}", ""),
    ('{"a": 1}', '{"a": 1}'),
    ('{"input": "```diff\\na\\n```"}', "a"),
]


@pytest.mark.parametrize(("arguments", "expected"), RAW_INPUTS)
def test_the_raw_input_is_taken_out_of_the_arguments(arguments: str, expected: str) -> None:
    assert PATCH.raw_input(arguments) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("12:30", "12:30"),
        (" 12:30\\n", "12:30"),
        ("```\\n12:30\\n```", "12:30"),
        ("half past twelve", "half past twelve"),
    ],
)
def test_an_input_loses_its_wrapping_if_it_fits_the_grammar_then(
    written: str, expected: str
) -> None:
    format = {"type": "grammar", "syntax": "regex", "definition": r"\d\d:\d\d"}
    tool = {"type": "custom", "name": "clock", "format": format}
    form = asked(tools=[tool]).calls["clock"]
    assert form.raw_input(f'{{"input": "{written}"}}') == expected


def test_a_grammar_that_cannot_be_read_is_not_checked() -> None:
    for definition in ("(a", "(?=a)b", "a" * 20_001, "\ud800"):
        format = {"type": "grammar", "syntax": "regex", "definition": definition}
        question = asked(tools=[{"type": "custom", "name": "x", "format": format}])
        assert question.requests[0].warnings == (
            "tools: grammar that cannot be read is not checked",
        )
        assert question.calls["x"].raw_input('{"input": " a"}') == " a"
