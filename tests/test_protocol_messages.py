"""Requests of Anthropic's Messages API: what becomes of each block, role, tool and field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.content_parts import shows_pictures
from horde_proxy.protocol.generation_request import (
    GenerationRequest,
    JsonFormat,
    Message,
    MessagePicture,
    Tool,
    ToolCall,
)
from horde_proxy.protocol.messages import MessagesQuestion, read_messages_request
from tests.support import growth

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"
HI = {"role": "user", "content": "Hi"}
WEATHER = {
    "name": "weather",
    "description": "The weather at a place",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}
OFFERED = Tool("weather", "The weather at a place", WEATHER["input_schema"])  # type: ignore[arg-type]


def question(keeps_pictures: bool = False, **fields: Any) -> MessagesQuestion:
    body = {"model": "m", "max_tokens": 100, "messages": [HI], **fields}
    return read_messages_request(body, id="msg_1", keeps_pictures=keeps_pictures)


def read(**fields: Any) -> GenerationRequest:
    return question(**fields).requests[0]


def user(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


def assistant(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": [*blocks]}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def call(id: str = "toolu_1", name: str = "weather", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def result(id: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}


def test_the_shortest_request_becomes_a_chat_of_one_turn() -> None:
    posed = question()
    assert posed == MessagesQuestion(
        (GenerationRequest("m", (Message("user", "Hi"),), max_tokens=100),), "msg_1", "m"
    )


def test_samplers_stops_and_the_horde_object_are_those_of_chats() -> None:
    request = read(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END", None],
        stream=True,
        horde={"slow_workers": True},
    )
    assert request.sampling == {"temperature": 0.5, "top_p": 0.9, "top_k": 40}
    assert (request.stop, request.stream, request.n) == (("END",), True, 1)
    assert request.horde == {"slow_workers": True}


def test_fields_of_other_apis_and_unknown_ones_change_nothing() -> None:
    assert (
        read(
            n=3,
            stop="x",
            seed=1,
            metadata={"user_id": '{"device": 1}'},
            service_tier="auto",
            context_management={"edits": [{"type": "clear_thinking_20251015"}]},
            safeguards=[1],
            output_config={"effort": "xhigh"},
            thinking={"type": "adaptive", "display": "omitted"},
            container=None,
            cache_control={"type": "ephemeral"},
            new_field_of_next_month={},
        )
        == read()
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "The request body must be a JSON object."),
        ({"messages": [HI]}, "Missing required parameter: 'model'."),
        ({"model": "m"}, "Missing required parameter: 'messages'."),
        (
            {"model": "m", "messages": []},
            "Invalid 'messages': empty. Expected a minimum length of 1.",
        ),
        (
            {"model": "m", "messages": [{"role": "user", "content": []}]},
            "Invalid value for 'messages': they have no content.",
        ),
        (
            {"model": "m", "messages": [HI], "mcp_servers": [{"url": "https://x"}]},
            "'mcp_servers' cannot be used here: this proxy connects to no MCP servers. Connect the "
            "client to them instead, and send their tools in 'tools'.",
        ),
        (
            {"model": "m", "messages": [HI], "thread": {"continue": "thread_1"}},
            "'thread.continue' cannot be used here: no thread is stored. Send all messages.",
        ),
    ],
)
def test_what_nobody_could_answer_is_refused(body: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_messages_request(body, id="msg_1")
    assert caught.value.message == message


def test_no_length_is_a_default_and_zero_is_a_warm_up() -> None:
    body = {"model": "m", "messages": [HI]}
    assert read_messages_request(body, id="1").requests[0].max_tokens is None
    posed = question(max_tokens=0)
    assert (posed.is_warm_up, posed.requests[0].warnings) == (True, ())


# System and roles


def test_a_system_prompt_is_a_text_or_blocks_without_the_line_about_billing() -> None:
    # The blocks of Claude Code 2.1.332.
    blocks = [
        text("x-anthropic-billing-header: cc_version=2.1.332.abc; cch=1a2b3;"),
        {**text("You are Claude Code."), "cache_control": {"type": "ephemeral"}},
        text("# Rules"),
    ]
    turns = (Message("system", "You are Claude Code.\n\n# Rules"), Message("user", "Hi"))
    assert read(system=blocks).messages == turns
    assert read(system="Be brief.").messages == (
        Message("system", "Be brief."),
        Message("user", "Hi"),
    )
    assert read(system="").messages == (Message("user", "Hi"),)


def test_a_system_message_behind_the_users_becomes_a_part_of_it() -> None:
    # Claude Code puts its environment there; many templates know a system turn in front only.
    environment = {"role": "system", "content": "# Environment"}
    reminded = "Hi\n<system-reminder>\n# Environment\n</system-reminder>"
    assert read(messages=[HI, environment]).messages == (Message("user", reminded),)
    after = read(messages=[HI, assistant(text("Yes?")), environment])
    assert after.messages[-1].text == "<system-reminder>\n# Environment\n</system-reminder>"
    assert after.messages[-1].role == "user"


def test_a_system_message_never_stands_between_a_call_and_its_result() -> None:
    environment = {"role": "system", "content": "# News"}
    messages = [HI, assistant(call()), environment, user(result("toolu_1", "sun"), text("So?"))]
    roles = [(turn.role, turn.text) for turn in read(messages=messages).messages[1:]]
    news = "<system-reminder>\n# News\n</system-reminder>"
    assert roles == [("assistant", ""), ("tool", "sun"), ("user", f"{news}\nSo?")]
    alone = read(messages=messages[:3]).messages
    assert [turn.role for turn in alone] == ["user", "assistant", "user"]


def test_system_messages_in_front_go_to_the_system_prompt() -> None:
    early = {"role": "system", "content": "Be kind."}
    assert read(system="Be brief.", messages=[early, HI]).messages == (
        Message("system", "Be brief.\n\nBe kind."),
        Message("user", "Hi"),
    )


def test_neighbours_of_one_role_are_one_turn() -> None:
    messages = [HI, user(text("How are you?")), assistant(text("A")), assistant(text("B"))]
    assert read(messages=messages).messages == (
        Message("user", "Hi\nHow are you?"),
        Message("assistant", "A\nB"),
    )


@pytest.mark.thorough
def test_many_neighbours_of_one_role_are_joined_in_one_pass() -> None:
    def work(size: int) -> object:
        return read(messages=[{"role": "user", "content": "x" * 100}] * size)

    assert growth(work, 16_000) < 1.5


@pytest.mark.parametrize("role", ["ctx", "msg", "Human", "", None, 7, "tool"])
def test_an_unknown_role_is_a_users(role: Any) -> None:
    assert read(messages=[{"role": role, "content": "Hi"}]).messages == (Message("user", "Hi"),)


def test_the_beginning_of_an_answer_stays_the_last_turn() -> None:
    messages = [HI, {"role": "assistant", "content": "The answer is ("}]
    assert read(messages=messages).messages[-1] == Message("assistant", "The answer is (")


def test_an_empty_answer_of_before_is_no_turn() -> None:
    messages = [HI, assistant(), user(text("Well?"), text(""))]
    assert read(messages=messages).messages == (Message("user", "Hi\nWell?"),)


# Blocks


def test_calls_and_their_results_are_turns_in_order() -> None:
    messages = [
        HI,
        assistant(text("I look."), call("toolu_1", place="Rome"), call("toolu_2", place="Oslo")),
        user(
            result("toolu_2", "snow"),
            result("toolu_1", [text("sun"), text("26 C")]),
            result("toolu_3", "No such place", is_error=True),
            text("Well?"),
        ),
    ]
    assert read(messages=messages).messages[1:] == (
        Message(
            "assistant",
            "I look.",
            (
                ToolCall("toolu_1", "weather", '{"place": "Rome"}'),
                ToolCall("toolu_2", "weather", '{"place": "Oslo"}'),
            ),
        ),
        Message("tool", "snow", tool_call_id="toolu_2"),
        Message("tool", "sun\n26 C", tool_call_id="toolu_1"),
        Message("tool", "Error: No such place", tool_call_id="toolu_3"),
        Message("user", "Well?"),
    )


@pytest.mark.parametrize(
    ("content", "said"), [(None, ""), ([], ""), ("", ""), ({"a": 1}, '{"a": 1}')]
)
def test_a_result_may_be_empty_or_any_json(content: Any, said: str) -> None:
    messages = [HI, assistant(call()), user(result("toolu_1", content))]
    assert read(messages=messages).messages[-1] == Message("tool", said, tool_call_id="toolu_1")


def test_thoughts_come_back_with_any_signature() -> None:
    messages = [
        HI,
        assistant(
            {"type": "thinking", "thinking": "A greeting.", "signature": ""},
            {"type": "redacted_thinking", "data": "xyz"},
            text("Hello."),
        ),
        user(text("Bye")),
    ]
    thinking = read(messages=messages).messages[1]
    assert (thinking.text, thinking.reasoning) == ("Hello.", "A greeting.")


def test_pictures_keep_their_places_and_move_with_their_text() -> None:
    picture = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    }
    link = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    messages = [HI, user(text("Look:"), picture), user(link)]
    [turn] = read(messages=messages, keeps_pictures=True).messages
    assert turn.text == "Hi\nLook:\n[image left out]\n[image left out]"
    assert turn.pictures == (
        MessagePicture(9, 25, f"data:image/png;base64,{PNG}"),
        MessagePicture(26, 42, "https://example.com/a.png"),
    )
    assert [turn.text[shown.start : shown.end] for shown in turn.pictures] == [
        "[image left out]"
    ] * 2


def test_a_picture_that_nobody_can_read_is_refused_only_where_it_is_asked_about() -> None:
    picture = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    }
    with pytest.raises(InvalidRequest):
        read(messages=[user(picture, text("What is it?"))])
    old = [user(picture), assistant(text("A dot.")), user(text("Thanks"))]
    request = read(messages=old)
    assert request.messages[0].text == "[image left out]"
    assert request.warnings == ("messages: image left out",)
    # Claude Code's Read of a picture: a refusal would end the session for good.
    read_by_tool = [HI, assistant(call()), user(result("toolu_1", [picture]))]
    assert read(messages=read_by_tool).messages[-1].text == "[image left out]"
    seen = read(messages=read_by_tool, keeps_pictures=True)
    assert seen.messages[-1].pictures[0].url == f"data:image/png;base64,{PNG}"


def test_a_picture_in_a_result_is_one_of_the_body() -> None:
    # Such a body goes to an endpoint that sees, if there is one.
    picture = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    }
    assert shows_pictures({"messages": [HI, user(result("toolu_1", [text("Look:"), picture]))]})
    assert not shows_pictures({"messages": [HI, user(result("toolu_1", [text("Look:")]))]})


def test_a_stored_picture_is_refused() -> None:
    stored = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    with pytest.raises(InvalidRequest):
        read(messages=[user(stored)], keeps_pictures=True)


def test_documents_are_texts_below_their_titles() -> None:
    plain = {
        "type": "document",
        "title": "Poems",
        "context": "by Ann",
        "source": {"type": "text", "media_type": "text/plain", "data": "Roses are red."},
    }
    encoded = {
        "type": "document",
        "source": {
            "type": "base64",
            "media_type": "text/plain",
            "data": "VmlvbGV0cyBhcmUgYmx1ZS4=",
        },
    }
    parts = {
        "type": "document",
        "title": "More",
        "source": {"type": "content", "content": [text("Sugar"), text("is sweet.")]},
    }
    [turn] = read(messages=[user(plain, encoded, parts)]).messages
    assert turn.text == "Poems\nby Ann\nRoses are red.\nViolets are blue.\nMore\nSugar\nis sweet."


@pytest.mark.parametrize(
    "source",
    [
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="},
        {"type": "url", "url": "https://example.com/a.pdf"},
        {"type": "file", "file_id": "file_1"},
    ],
)
def test_a_document_that_cannot_be_read_is_refused_with_clear_words(source: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(messages=[user({"type": "document", "source": source})])
    assert caught.value.message == (
        "Only text can be read here: content of type 'document' is not supported. Remove it from "
        "the message, or say in words what it shows."
    )


def test_search_results_and_those_of_anthropics_own_tools_are_texts() -> None:
    search_result = {
        "type": "search_result",
        "title": "Roses",
        "source": "https://example.com",
        "content": [text("Roses are red.")],
    }
    searched = assistant(
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [
                {"type": "web_search_result", "title": "Roses", "url": "https://example.com/r"}
            ],
        },
        text("They are red."),
    )
    first, second = read(messages=[user(search_result), searched, HI]).messages[:2]
    assert first.text == "Roses\nhttps://example.com\nRoses\nRoses are red."
    assert second.text == "Roses\nhttps://example.com/r\nThey are red."


def test_an_unknown_block_is_left_out_or_read_as_text_with_a_warning() -> None:
    unknown: list[dict[str, Any]] = [
        {"type": "hologram", "data": 1},
        {"type": 7},
        {"type": "note", "text": "Hi"},
    ]
    request = read(messages=[user(*unknown)])
    assert request.messages == (Message("user", "Hi"),)
    assert request.warnings == (
        "messages: block of type 'hologram' left out",
        "messages: block of type 'unknown' left out",
        "messages: block of type 'note' read as text",
    )


# Tools


def test_tools_and_the_choice_between_them_are_those_of_chats() -> None:
    request = read(tools=[WEATHER])
    assert (request.tools, request.tool_choice, request.parallel_tool_calls) == (
        (OFFERED,),
        "auto",
        True,
    )
    forced = read(tools=[WEATHER], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert (forced.tool_choice, forced.parallel_tool_calls) == ("required", False)
    named = read(tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"})
    assert named.tool_choice == "weather"
    assert read(tools=[WEATHER], tool_choice={"type": "none"}).tools == ()
    # A kind of choice of next month.
    assert read(tools=[WEATHER], tool_choice={"type": "perhaps"}).tool_choice == "auto"
    assert read(tool_choice={"type": "any"}).tool_choice == "none"


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "rain"}, {"type": "tool"}])
def test_a_choice_of_an_unknown_tool_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequest):
        read(tools=[WEATHER], tool_choice=choice)


def test_tools_of_anthropics_servers_are_left_out_with_a_warning() -> None:
    tools = [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        {"type": "code_execution_20250825", "name": "code_execution"},
        {"type": "mcp_toolset", "mcp_server_name": "x"},
        WEATHER,
        "nonsense",
    ]
    request = read(tools=tools)
    assert request.tools == (OFFERED,)
    assert request.warnings == (
        "tools: tool that is no object left out",
        "tools: type 'web_search_20250305' left out",
        "tools: type 'code_execution_20250825' left out",
        "tools: type 'mcp_toolset' left out",
    )
    with pytest.raises(InvalidRequest):
        read(tools=tools[:1], tool_choice={"type": "tool", "name": "web_search"})


def test_tools_that_anthropic_defines_and_clients_run_get_their_schemas() -> None:
    tools = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
        {"type": "memory_20250818", "name": "memory"},
    ]
    offered = read(tools=tools).tools
    assert [tool.name for tool in offered] == ["bash", "str_replace_based_edit_tool", "memory"]
    assert list(offered[0].parameters["properties"]) == ["command", "restart"]


def test_a_deferred_tool_is_offered_once_it_was_found() -> None:
    # Claude Code's ToolSearch answers with nothing but a reference.
    deferred = {**WEATHER, "defer_loading": True}
    search = {"name": "ToolSearch", "input_schema": {"type": "object"}}
    placeholder = {"name": "DeferredToolPlaceholder", "defer_loading": True, "input_schema": {}}
    tools = [search, deferred, placeholder]
    assert [tool.name for tool in read(tools=tools).tools] == ["ToolSearch"]
    reference = {"type": "tool_reference", "tool_name": "weather"}
    messages = [HI, assistant(call(name="ToolSearch")), user(result("toolu_1", [reference]))]
    request = read(tools=tools, messages=messages)
    assert [tool.name for tool in request.tools] == ["ToolSearch", "weather"]
    assert request.messages[-1].text == (
        '{"name": "weather", "description": "The weather at a place", "input_schema": {"type": '
        '"object", "properties": {"place": {"type": "string"}}}}'
    )


def test_deferred_tools_are_all_offered_where_only_anthropic_could_search_for_them() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert read(tools=[search, {**WEATHER, "defer_loading": True}]).tools == (OFFERED,)


def test_calls_of_before_are_told_without_any_tools() -> None:
    messages = [HI, assistant(call()), user(result("toolu_1", "sun"))]
    assert read(messages=messages).messages[1].tool_calls == (ToolCall("toolu_1", "weather", "{}"),)


# Formats and thinking


def test_a_format_is_a_json_schema() -> None:
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    given = {"type": "json_schema", "schema": schema}
    assert read(output_config={"format": given}).json_format == JsonFormat(schema, strict=True)
    assert read(output_format=given).json_format == JsonFormat(schema, strict=True)
    assert read(output_config={"format": {"type": "poem"}}).json_format is None


@pytest.mark.parametrize(
    ("thinking", "shows"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "adaptive", "display": "summarized"}, True),
        ({"type": "between_tools"}, True),
        ("yes", False),
    ],
)
def test_thoughts_are_shown_to_clients_that_want_them(thinking: Any, shows: bool) -> None:
    assert question(thinking=thinking).shows_thinking is shows
