"""The text of a chat job: lines of deltas, read strictly and folded."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.aihorde import transcript
from horde_proxy.aihorde.transcript import AGAIN, BadTranscript, Call, ChatResult, fold, line, read

CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "read"}}


def test_a_line_has_only_what_it_says() -> None:
    assert line({"content": "Hé"}) == '{"delta": {"content": "H\\u00e9"}}\n'
    assert line(finish_reason="stop") == '{"finish_reason": "stop"}\n'


def test_deltas_fold_into_a_message_with_its_usage() -> None:
    text = (
        line({"reasoning_content": "Hm."})
        + line({"content": "Hel"})
        + line({"content": "lo"})
        + line(finish_reason="stop", usage={"prompt_tokens": 12, "completion_tokens": 9})
    )
    result = fold(read(text))
    assert result.message() == {
        "role": "assistant",
        "content": "Hello",
        "reasoning_content": "Hm.",
    }
    assert result.finish_reason == "stop"
    assert result.usage == {"prompt_tokens": 12, "completion_tokens": 9}
    assert result.written == 8


def test_the_parts_of_calls_fold_by_their_index() -> None:
    text = (
        line({"tool_calls": [CALL]})
        + line({"tool_calls": [{"index": 1, "id": "call_2", "function": {"name": "now"}}]})
        + line({"tool_calls": [{"index": 0, "function": {"arguments": '{"path": '}}]})
        + line({"tool_calls": [{"index": 0, "function": {"arguments": '"a"}'}}]})
        + line(finish_reason="tool_calls")
    )
    result = fold(read(text))
    assert result.message() == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "read", "arguments": '{"path": "a"}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
        ],
    }
    assert result.written == len("read") + len('{"path": "a"}') + len("now")


def test_nothing_from_before_a_new_beginning_counts() -> None:
    text = line({"content": "Old", "tool_calls": [CALL]}) + AGAIN + line({"content": "New"})
    assert fold(read(text)) == ChatResult(content="New")


def test_an_incomplete_last_line_is_not_read_yet() -> None:
    whole = line({"content": "Hello"})
    assert transcript.whole_lines(whole + '{"delta": {"con') == whole
    assert fold(read(whole + '{"delta": {"con')).content == "Hello"
    assert read("") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Hello\n", "line 1 of the transcript is not JSON"),
        ('{"delta": {}}\n[]\n', "line 2 of the transcript is not an object"),
        ('{"delta": [1]}\n', "line 1 of the transcript has a delta that is not an object"),
        ('{"delta": {"content": 1}}\n', "line 1 of the transcript has a content that is no text"),
        ('{"finish_reason": "done"}\n', "line 1 of the transcript has an unknown finish_reason"),
        (
            '{"delta": {"tool_calls": [{"index": 300, "function": {}}]}}\n',
            "line 1 of the transcript has tool_calls that cannot be read",
        ),
        (
            '{"delta": {"tool_calls": [{"index": 0, "function": {"name": 1}}]}}\n',
            "line 1 of the transcript has tool_calls that cannot be read",
        ),
        ("[" * 100_000 + "\n", "line 1 of the transcript is not JSON"),
    ],
)
def test_a_text_that_is_no_transcript_says_why(text: str, fault: str) -> None:
    with pytest.raises(BadTranscript, match=f"^{fault}$"):
        read(text)


def test_unknown_fields_and_impossible_counts_are_left_out() -> None:
    [entry] = read(
        '{"delta": {"role": "assistant", "content": "", "x": 1}, "y": 2,'
        ' "usage": {"prompt_tokens": -1, "completion_tokens": 3}, "logprobs": []}\n'
    )
    assert entry == transcript.Entry()
    [counted] = read(
        '{"usage": {"prompt_tokens": 1, "completion_tokens": 3, "cached_tokens": true}}\n'
    )
    assert counted.usage == {"prompt_tokens": 1, "completion_tokens": 3}


def test_numbers_that_are_no_json_become_null() -> None:
    text = '{"logprobs": {"content": [{"logprob": -Infinity}, {"logprob": 1e999}]}}\n'
    assert fold(read(text)).logprobs == [{"logprob": None}, {"logprob": None}]


def test_logprobs_are_collected() -> None:
    token = {"token": "a", "logprob": -0.5}
    text = line({"content": "a"}, logprobs={"content": [token]}) * 2
    assert fold(read(text)).logprobs == [token, token]


def test_what_hordes_refuse_in_texts_is_left_out() -> None:
    """A client sends an answer back as a message of its next chat."""
    function = {"name": "f\0", "arguments": "{\0}"}
    text = line(
        {"content": "a\0b", "tool_calls": [{"index": 0, "id": "\0c", "function": function}]}
    )
    result = fold(read(text))
    assert result.content == "ab"
    assert result.calls == {0: Call("c", "f", "{}")}


def test_logprobs_that_are_none_are_left_out() -> None:
    deep: Any = "a"
    for _ in range(500):
        deep = [deep]
    top = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "bytes": [98]}]}
    texts = [line({"content": "a"}, logprobs={"content": [value]}) for value in (deep, 1, top)]
    assert fold(read("".join(texts))).logprobs == [top]
    inner = line({"content": "a"}, logprobs={"content": [{"token": deep}]})
    assert fold(read(inner)).logprobs == []
