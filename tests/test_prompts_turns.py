"""Messages as turns: calls and results as text, each result with its own call."""

from __future__ import annotations

import pytest

from horde_proxy.prompts.formats import FORMATS, Turn
from horde_proxy.prompts.turns import continued, to_turns
from horde_proxy.protocol.generation_request import Message, ToolCall


def calls(*pairs: tuple[str, str]) -> Message:
    """An assistant's turn with calls, each as (id, name)."""
    return Message("assistant", "", tuple(ToolCall(id, name, "{}") for id, name in pairs))


def result(id: str | None, text: str) -> Message:
    return Message("tool", text, tool_call_id=id)


def texts(*messages: Message, style: str = "hermes") -> list[str]:
    turns = to_turns(messages, FORMATS["chatml"], style)
    return [turn.text for turn in turns if turn.role == "user"]


def test_one_result_is_written_as_in_training() -> None:
    assert texts(calls(("1", "f")), result("1", "R")) == ["<tool_response>\nR\n</tool_response>"]


def test_results_come_in_the_order_of_their_calls_and_with_their_names() -> None:
    chat = [
        calls(("1", "get_weather"), ("2", "get_time")),
        result("2", "12:00"),
        result("1", "3 °C"),
    ]
    assert texts(*chat) == [
        "<tool_response>\nResult of get_weather:\n3 °C\n</tool_response>\n"
        "<tool_response>\nResult of get_time:\n12:00\n</tool_response>"
    ]


def test_results_of_one_tool_have_the_ids_of_their_calls() -> None:
    chat = [calls(("a", "read"), ("b", "read"), ("c", "ls")), *map(result, "cba", "321")]
    [call, _] = to_turns(chat, FORMATS["chatml"])
    assert call.text == (
        '<tool_call>\n{"name": "read", "arguments": {}, "id": "a"}\n</tool_call>\n'
        '<tool_call>\n{"name": "read", "arguments": {}, "id": "b"}\n</tool_call>\n'
        '<tool_call>\n{"name": "ls", "arguments": {}}\n</tool_call>'
    )
    assert texts(*chat) == [
        "<tool_response>\nResult of read (a):\n1\n</tool_response>\n"
        "<tool_response>\nResult of read (b):\n2\n</tool_response>\n"
        "<tool_response>\nResult of ls:\n3\n</tool_response>"
    ]


def test_one_result_of_two_calls_has_its_name() -> None:
    assert texts(calls(("1", "f"), ("2", "g")), result("2", "R")) == [
        "<tool_response>\nResult of g:\nR\n</tool_response>"
    ]


def test_an_id_that_is_used_again_is_the_last_calls() -> None:
    """Kimi and some servers count their calls from 0 in each turn."""
    chat = [calls(("0", "f"), ("1", "g")), *map(result, "01", "RS"), Message("user", "x")]
    assert texts(*chat, calls(("0", "g"), ("1", "h")), *map(result, "10", "TU"))[-1] == (
        "<tool_response>\nResult of g:\nU\n</tool_response>\n"
        "<tool_response>\nResult of h:\nT\n</tool_response>"
    )


def test_a_result_that_comes_late_has_the_name_of_its_call() -> None:
    chat = [calls(("1", "f")), Message("user", "x"), calls(("2", "g")), *map(result, "21", "SR")]
    assert texts(*chat)[-1] == (
        "<tool_response>\nResult of f:\nR\n</tool_response>\n"
        "<tool_response>\nResult of g:\nS\n</tool_response>"
    )


def test_results_whose_calls_were_left_out_are_a_user_turn_with_their_ids() -> None:
    assert texts(result("x", "R"), result("y", "S")) == [
        "<tool_response>\nResult of x:\nR\n</tool_response>\n"
        "<tool_response>\nResult of y:\nS\n</tool_response>"
    ]
    assert texts(result(None, "R")) == ["<tool_response>\nR\n</tool_response>"]


def test_a_result_without_a_call_comes_behind_the_others() -> None:
    chat = [calls(("1", "f")), result("x", "orphan"), result("1", "R")]
    assert texts(*chat, style="llama3") == [
        '{"name": "f", "output": "R"}\n{"name": "x", "output": "orphan"}'
    ]


@pytest.mark.parametrize("style", ["hermes", "none"])
def test_a_call_follows_the_text_of_its_turn(style: str) -> None:
    message = Message("assistant", "Let me look.", (ToolCall("1", "f", "{}"),))
    assert to_turns([message], FORMATS["chatml"], style) == [
        Turn(
            "assistant",
            'Let me look.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
            is_neutral=True,
        )
    ]


def test_an_answer_is_continued_in_its_own_turn() -> None:
    user, begun = Message("user", "Hi"), Message("assistant", "Well", suffix=", ")
    assert continued([user], "") == [user]
    assert continued([user], "A") == [user, Message("assistant", "", suffix="A")]
    assert continued([user, begun], "A") == [user, Message("assistant", "Well", suffix=", A")]
