"""Responses as events and objects: each order of events, literally."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import (
    ContentPolicyViolation,
    ContextLengthExceeded,
    DailyLimitReached,
    InMaintenance,
    InsufficientKudos,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    ModelTooSmall,
    NoEligibleWorker,
    ProxyError,
    RateLimited,
    ServerBug,
    ShuttingDown,
    TimedOut,
    Unavailable,
    UpstreamFailed,
    UpstreamRefused,
)
from horde_proxy.protocol import sse
from horde_proxy.protocol.chunks import Chunk, Head, chunk, role_chunk, usage, usage_chunk
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.responses.calls import CallForm
from horde_proxy.protocol.responses.compaction import read_compaction
from horde_proxy.protocol.responses.events import ResponseEvents, fold_response
from horde_proxy.protocol.responses.failures import as_refusal, failure
from horde_proxy.protocol.responses.proxied_stream import ProxiedResponseStream
from horde_proxy.protocol.responses.question import ResponseQuestion
from tests.legal_responses import check_response, check_stream, parsed

HEAD = Head("chatcmpl-1", 5, "test/model")
Deltas = Sequence[Mapping[str, Any]]


def question(calls: Mapping[str, CallForm] | None = None) -> ResponseQuestion:
    request = GenerationRequest("asked/model", (Message("user", "Hi"),))
    echo: dict[str, Any] = {
        "instructions": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": None, "summary": None},
    }
    return ResponseQuestion((request,), "resp_1", 5, lambda: 9.0, echo, calls=calls or {})


def chunks(
    deltas: Deltas, finish: str | None = "stop", *, has_usage: bool = True
) -> Iterator[Chunk]:
    yield role_chunk(HEAD)
    for delta in deltas:
        yield chunk(HEAD, dict(delta))
    if finish:
        yield chunk(HEAD, {}, finish_reason=finish)  # type: ignore[arg-type]
        if has_usage:
            yield usage_chunk(HEAD, usage(7, 3, 1), {"kudos": 2.0})


def call(number: int, name: str, arguments: str = "", call_id: str = "") -> Mapping[str, Any]:
    function = {"name": name, "arguments": arguments}
    call_id = call_id or f"call_{number}"
    return {
        "tool_calls": [{"index": number, "id": call_id, "type": "function", "function": function}]
    }


def more(number: int, arguments: str) -> Mapping[str, Any]:
    return {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]}


def streamed(
    deltas: Deltas,
    finish: str | None = "stop",
    *,
    error: ProxyError | None = None,
    has_usage: bool = True,
    calls: Mapping[str, CallForm] | None = None,
) -> list[dict[str, Any]]:
    """The events of a legal stream, whose last object is that of the whole answer."""
    asked = question(calls)
    writer = ResponseEvents(asked)
    given = list(chunks(deltas, finish, has_usage=has_usage))
    text = b"".join(writer.begin())
    for part in given:
        text += b"".join(writer.chunk(part))
    if error is not None:
        text += writer.error(error)
    text += writer.end()
    events = parsed(text.decode())
    final = check_stream(events)
    assert writer.response == final
    if error is None:
        assert fold_response(asked, given) == final
    return events


def brief(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each event as its name, with its index and what it brings."""
    return [_brief(event) for event in events]


def _brief(event: Mapping[str, Any]) -> str:
    words = [event["type"].removeprefix("response.")]
    if "output_index" in event:
        words.append(str(event["output_index"]))
    if "item" in event:
        words.append(event["item"]["type"])
    keys = ("delta", "text", "refusal", "arguments", "input")
    return " ".join([*words, *(repr(event[key]) for key in keys if key in event)])


BEGIN = ["created", "in_progress"]


def test_a_text_is_one_message() -> None:
    events = streamed([{"content": "Ro"}, {"content": "ses"}])
    assert brief(events) == [
        *BEGIN,
        "output_item.added 0 message",
        "content_part.added 0",
        "output_text.delta 0 'Ro'",
        "output_text.delta 0 'ses'",
        "output_text.done 0 'Roses'",
        "content_part.done 0",
        "output_item.done 0 message",
        "completed",
    ]
    assert events[2]["item"]["id"].startswith("msg_") and len(events[2]["item"]["id"]) == 52
    assert events[3] == {
        "type": "response.content_part.added",
        "sequence_number": 3,
        "item_id": events[2]["item"]["id"],
        "output_index": 0,
        "content_index": 0,
        "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    }
    assert events[4]["logprobs"] == events[6]["logprobs"] == []
    response = events[-1]["response"]
    assert (response["status"], response["model"]) == ("completed", "test/model")
    assert (response["created_at"], response["completed_at"]) == (5, 9)
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 10,
    }
    assert response["horde"] == {"kudos": 2.0}


def test_a_call_has_its_arguments_in_deltas_only() -> None:
    events = streamed([call(0, "f"), more(0, '{"a":'), more(0, "1}")], "tool_calls")
    assert brief(events) == [
        *BEGIN,
        "output_item.added 0 function_call",
        "function_call_arguments.delta 0 '{\"a\":'",
        "function_call_arguments.delta 0 '1}'",
        "function_call_arguments.done 0 '{\"a\":1}'",
        "output_item.done 0 function_call",
        "completed",
    ]
    item = events[2]["item"]
    assert item == {
        "id": item["id"],
        "type": "function_call",
        "status": "in_progress",
        "call_id": "call_0",
        "name": "f",
        "arguments": "",
    }
    assert events[-2]["item"] == {**item, "status": "completed", "arguments": '{"a":1}'}
    assert item["id"].startswith("fc_")


def test_a_call_without_arguments_has_one_delta() -> None:
    events = streamed([call(0, "f")], "tool_calls")
    assert brief(events)[3:5] == [
        "function_call_arguments.delta 0 '{}'",
        "function_call_arguments.done 0 '{}'",
    ]


def test_reasoning_is_a_summary_that_is_closed_before_the_answer() -> None:
    events = streamed([{"reasoning_content": "Hm"}, {"content": "Yes"}])
    assert brief(events) == [
        *BEGIN,
        "output_item.added 0 reasoning",
        "reasoning_summary_part.added 0",
        "reasoning_summary_text.delta 0 'Hm'",
        "reasoning_summary_text.done 0 'Hm'",
        "reasoning_summary_part.done 0",
        "output_item.done 0 reasoning",
        "output_item.added 1 message",
        "content_part.added 1",
        "output_text.delta 1 'Yes'",
        "output_text.done 1 'Yes'",
        "content_part.done 1",
        "output_item.done 1 message",
        "completed",
    ]
    assert events[7]["item"]["summary"] == [{"type": "summary_text", "text": "Hm"}]


def test_a_text_and_calls_follow_each_other() -> None:
    deltas = [{"content": "Look:"}, call(0, "f", "{}"), call(1, "g", '{"b":2}')]
    assert brief(streamed(deltas, "tool_calls")) == [
        *BEGIN,
        "output_item.added 0 message",
        "content_part.added 0",
        "output_text.delta 0 'Look:'",
        "output_text.done 0 'Look:'",
        "content_part.done 0",
        "output_item.done 0 message",
        "output_item.added 1 function_call",
        "function_call_arguments.delta 1 '{}'",
        "function_call_arguments.done 1 '{}'",
        "output_item.done 1 function_call",
        "output_item.added 2 function_call",
        "function_call_arguments.delta 2 '{\"b\":2}'",
        "function_call_arguments.done 2 '{\"b\":2}'",
        "output_item.done 2 function_call",
        "completed",
    ]


def test_calls_that_are_written_at_the_same_time_come_one_after_the_other() -> None:
    deltas = [call(0, "f", '{"a"'), call(1, "g", '{"b"'), more(0, ":1}"), more(1, ":2}")]
    assert brief(streamed(deltas, "tool_calls"))[2:] == [
        "output_item.added 0 function_call",
        "function_call_arguments.delta 0 '{\"a\"'",
        "function_call_arguments.delta 0 ':1}'",
        "function_call_arguments.done 0 '{\"a\":1}'",
        "output_item.done 0 function_call",
        "output_item.added 1 function_call",
        "function_call_arguments.delta 1 '{\"b\"'",
        "function_call_arguments.delta 1 ':2}'",
        "function_call_arguments.done 1 '{\"b\":2}'",
        "output_item.done 1 function_call",
        "completed",
    ]


def test_a_text_in_the_middle_of_a_call_follows_it() -> None:
    within = [{"content": "Hi"}, {"reasoning_content": "Hm"}]
    deltas = [call(0, "f", '{"a"'), *within, more(0, ":1}"), {"content": "Ho"}]
    events = streamed(deltas, "tool_calls")
    made, message, thought, last = events[-1]["response"]["output"]
    assert made["arguments"] == '{"a":1}'
    assert message["content"][0]["text"] == "Hi"
    assert thought["summary"][0]["text"] == "Hm"
    assert last["content"][0]["text"] == "Ho"


PIECES = st.one_of(
    st.builds(lambda text: {"content": text}, st.text(max_size=6)),
    st.builds(lambda text: {"content": text}, st.sampled_from(["```", "\n", "```custom\n"])),
    st.builds(lambda text: {"reasoning_content": text}, st.text(max_size=6)),
    st.builds(lambda text: {"refusal": text}, st.text(max_size=6)),
    st.integers(0, 3),
)


@given(st.lists(PIECES, max_size=25), st.sampled_from(["stop", "length", "content_filter"]))
def test_whatever_order_the_chunks_have_the_stream_is_legal_and_nothing_is_lost(
    pieces: list[Any], finish: str
) -> None:
    deltas: list[Mapping[str, Any]] = []
    arguments: dict[int, str] = {}
    for piece in pieces:
        if isinstance(piece, Mapping):
            deltas.append(piece)
            continue
        # A further part of one of the calls, which begin in order.
        number = min(piece, len(arguments))
        if number not in arguments:
            deltas.append(call(number, ["f", "custom", "shell", "g"][number]))
            arguments[number] = ""
        elif len(arguments[number]) < 9:
            part = '{"a": "x"}'[len(arguments[number]) :][:6]
            arguments[number] += part
            deltas.append(more(number, part))
    forms = {"custom": CallForm("custom", "custom"), "shell": CallForm("shell", "shell")}
    reason = "tool_calls" if arguments and finish == "stop" else finish
    response = streamed(deltas, reason, calls=forms)[-1]["response"]
    shown = "".join(
        part.get("text", "")
        for item in response["output"]
        for part in item.get("content", [])
        if item["type"] == "message"
    )
    if all(item["type"] != "custom_tool_call" for item in response["output"]):
        assert shown == "".join(delta.get("content", "") for delta in deltas)
    made = [item for item in response["output"] if item["type"] in ("function_call", "shell_call")]
    wanted = {number: text for number, text in arguments.items() if number != 1}
    assert [item["call_id"] for item in made] == [f"call_{number}" for number in sorted(wanted)]
    for item in made:
        if item["type"] == "function_call":
            number = int(item["call_id"].removeprefix("call_"))
            assert item["arguments"] == (wanted[number] or "{}")


def test_a_call_that_waits_to_the_end_is_written_then() -> None:
    deltas = [call(0, "f", '{"a"'), call(1, "g", '{"b":2}')]
    events = streamed(deltas, "length")
    assert [item["arguments"] for item in events[-1]["response"]["output"]] == ['{"a"', '{"b":2}']
    assert events[-1]["response"]["status"] == "incomplete"


def test_a_text_after_a_call_is_a_message_of_its_own() -> None:
    events = streamed([call(0, "f", "{}"), {"content": "Done."}], "tool_calls")
    types = [item["type"] for item in events[-1]["response"]["output"]]
    assert types == ["function_call", "message"]


def test_a_refusal_is_a_part() -> None:
    events = streamed([{"refusal": "No"}, {"refusal": "."}])
    assert brief(events) == [
        *BEGIN,
        "output_item.added 0 message",
        "content_part.added 0",
        "refusal.delta 0 'No'",
        "refusal.delta 0 '.'",
        "refusal.done 0 'No.'",
        "content_part.done 0",
        "output_item.done 0 message",
        "completed",
    ]
    assert events[-2]["item"]["content"] == [{"type": "refusal", "refusal": "No."}]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_what_is_cut_is_incomplete(finish: str, reason: str) -> None:
    events = streamed([{"content": "Roses"}], finish)
    assert brief(events)[-2:] == ["output_item.done 0 message", "incomplete"]
    response = events[-1]["response"]
    assert response["incomplete_details"] == {"reason": reason}
    assert (response["completed_at"], response["output"][0]["status"]) == (None, "incomplete")
    assert response["usage"]["total_tokens"] == 10


def test_an_answer_without_text_has_an_empty_message() -> None:
    events = streamed([])
    assert brief(events)[2:] == [
        "output_item.added 0 message",
        "content_part.added 0",
        "output_text.done 0 ''",
        "content_part.done 0",
        "output_item.done 0 message",
        "completed",
    ]


def test_a_failure_midway_is_response_failed_with_what_came() -> None:
    events = streamed([{"content": "Ro"}], None, error=UpstreamFailed("The worker gave up."))
    assert brief(events)[2:] == [
        "output_item.added 0 message",
        "content_part.added 0",
        "output_text.delta 0 'Ro'",
        "failed",
    ]
    response = events[-1]["response"]
    assert response["error"] == {"code": "server_error", "message": "The worker gave up."}
    assert (response["usage"], response["completed_at"]) == (None, None)
    [item] = response["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "Ro")


def test_an_answer_without_usage_ends_all_the_same() -> None:
    events = streamed([{"content": "Ro"}], has_usage=False)
    assert (events[-1]["type"], events[-1]["response"]["usage"]) == ("response.completed", None)


def test_nothing_follows_the_last_event() -> None:
    writer = ResponseEvents(question())
    for part in chunks([{"content": "Ro"}]):
        list(writer.chunk(part))
    assert writer.error(ServerBug()) == writer.end() == b""
    assert (writer.response["status"], writer.is_complete) == ("completed", True)


def test_a_keep_alive_is_in_progress_again_and_counts() -> None:
    asked = question()
    writer = ResponseEvents(replace(asked, echo={**asked.echo, "tools": [{"type": "shell"}]}))
    begin = b"".join(writer.begin())
    [event] = parsed(writer.keep_alive().decode())
    assert (event["type"], event["sequence_number"]) == ("response.in_progress", 2)
    first = parsed(begin.decode())[1]["response"]
    assert first["tools"] == [{"type": "shell"}]
    assert event["response"] == {**first, "tools": []}
    assert (writer.is_open, writer.is_complete) == (True, False)


def test_progress_is_shown_as_reasoning() -> None:
    writer = ResponseEvents(question())
    text = b"".join(writer.begin()) + writer.progress("queued, position 3\n")
    for part in chunks([{"content": "Hi"}]):
        text += b"".join(writer.chunk(part))
    assert check_stream(parsed(text.decode()))["output"][0]["summary"] == [
        {"type": "summary_text", "text": "queued, position 3\n"}
    ]


def test_the_object_can_be_had_in_the_middle() -> None:
    writer = ResponseEvents(question())
    for part in chunks([{"reasoning_content": "Hm"}, {"content": "Ro"}], None):
        list(writer.chunk(part))
    check_response(writer.response)
    assert [item["status"] for item in writer.response["output"]] == ["completed", "in_progress"]


def test_long_texts_come_in_pieces() -> None:
    events = streamed([{"content": "x" * 5000}])
    deltas = [event["delta"] for event in events if event["type"].endswith("delta")]
    assert [len(delta) for delta in deltas] == [4096, 904]


def test_a_custom_call_has_its_raw_input() -> None:
    form = CallForm("custom", "apply_patch")
    deltas = [call(0, "apply_patch", '{"input": "*** Be'), more(0, 'gin\\n"}')]
    events = streamed(deltas, "tool_calls", calls={"apply_patch": form})
    assert brief(events)[2:] == [
        "output_item.added 0 custom_tool_call",
        "custom_tool_call_input.delta 0 '*** Begin\\n'",
        "custom_tool_call_input.done 0 '*** Begin\\n'",
        "output_item.done 0 custom_tool_call",
        "completed",
    ]
    item = events[-2]["item"]
    assert item == {
        "id": item["id"],
        "type": "custom_tool_call",
        "call_id": "call_0",
        "name": "apply_patch",
        "input": "*** Begin\n",
    }
    assert item["id"].startswith("ctc_")


def test_a_call_in_a_namespace_names_it() -> None:
    form = CallForm("function", "send", "mail")
    events = streamed([call(0, "mail_send", "{}")], "tool_calls", calls={"mail_send": form})
    [item] = events[-1]["response"]["output"]
    assert (item["name"], item["namespace"]) == ("send", "mail")


BUILT_IN = [
    (
        CallForm("shell", "shell"),
        '{"commands": ["ls"], "timeout_ms": 5}',
        {
            "type": "shell_call",
            "action": {"commands": ["ls"], "timeout_ms": 5, "max_output_length": None},
            "environment": {"type": "local"},
        },
    ),
    (
        CallForm("local_shell", "local_shell"),
        '{"command": "ls -l", "env": {"A": "b"}, "working_directory": "/"}',
        {
            "type": "local_shell_call",
            "action": {
                "type": "exec",
                "command": ["bash", "-lc", "ls -l"],
                "env": {"A": "b"},
                "timeout_ms": None,
                "user": None,
                "working_directory": "/",
            },
        },
    ),
    (
        CallForm("apply_patch", "apply_patch"),
        '{"type": "update_file", "path": "a.py", "diff": "@@\\n-a\\n+b"}',
        {
            "type": "apply_patch_call",
            "operation": {"type": "update_file", "path": "a.py", "diff": "@@\n-a\n+b"},
        },
    ),
    (
        CallForm("apply_patch", "apply_patch"),
        '{"type": "delete_file", "path": "a.py"}',
        {
            "type": "apply_patch_call",
            "operation": {"type": "delete_file", "path": "a.py"},
        },
    ),
    (
        CallForm("tool_search", "tool_search"),
        '{"query": "mail"}',
        {"type": "tool_search_call", "arguments": {"query": "mail"}, "execution": "client"},
    ),
]


@pytest.mark.parametrize(("form", "arguments", "expected"), BUILT_IN)
def test_a_call_of_a_built_in_tool_is_the_item_of_its_kind(
    form: CallForm, arguments: str, expected: dict[str, Any]
) -> None:
    events = streamed([call(0, form.name, arguments)], "tool_calls", calls={form.name: form})
    [item] = events[-1]["response"]["output"]
    rest = {key: item[key] for key in item.keys() - {"id", "call_id", "status"}}
    assert (rest, item["call_id"], item["status"]) == (expected, "call_0", "completed")


# Failures.

REFUSALS: Sequence[tuple[ProxyError, int, str | None, str]] = [
    (InvalidRequest("x", code="invalid_value"), 400, "invalid_value", "invalid_prompt"),
    (
        ContextLengthExceeded(8, 9),
        400,
        "context_length_exceeded",
        "context_length_exceeded",
    ),
    (ModelTooSmall(8, {"tools": 9}, 1), 400, "model_too_small", "invalid_prompt"),
    (ContentPolicyViolation("x"), 400, "content_policy_violation", "invalid_prompt"),
    (InvalidApiKey("x"), 401, "invalid_api_key", "invalid_prompt"),
    (InsufficientKudos("x"), 400, "insufficient_quota", "insufficient_quota"),
    (ModelNotFound("x"), 404, "model_not_found", "invalid_prompt"),
    (RateLimited("x"), 429, "rate_limit_exceeded", "rate_limit_exceeded"),
    (DailyLimitReached("x"), 429, "daily_limit_reached", "insufficient_quota"),
    (ServerBug(), 500, None, "server_error"),
    (UpstreamFailed("x"), 502, "upstream_error", "server_error"),
    (UpstreamRefused("x"), 400, "upstream_error", "invalid_prompt"),
    (Unavailable("x"), 400, "no_workers", "invalid_prompt"),
    (NoEligibleWorker("x"), 400, "no_workers", "invalid_prompt"),
    (InMaintenance("x"), 400, "maintenance", "invalid_prompt"),
    (ShuttingDown(), 503, "shutting_down", "server_error"),
    (TimedOut("x"), 400, "timeout", "invalid_prompt"),
]


@pytest.mark.parametrize(("error", "status", "code", "failed"), REFUSALS)
def test_only_what_may_go_well_in_seconds_is_repeated(
    error: ProxyError, status: int, code: str | None, failed: str
) -> None:
    assert failure(error)["code"] == failed
    refusal = as_refusal(error)
    assert (refusal.status, refusal.code) == (status, code)
    if refusal is not error:
        assert refusal.headers() == {"x-should-retry": "false"}


def test_a_deadline_names_the_way_to_wait_longer() -> None:
    assert as_refusal(TimedOut("Too late.")).message == (
        "Too late. A response with `background: true` may take longer."
    )


def test_a_refusal_names_the_field_of_this_api() -> None:
    assert as_refusal(ContextLengthExceeded(8, 9)).param == "input"
    assert as_refusal(ModelNotFound("x")).param == "model"


# Custom input in a code block.

PATCH = CallForm(
    "custom", "apply_patch", literals=frozenset({"*** Begin Patch", "*** End Patch", "+"})
)
CLOCK = CallForm("custom", "clock", pattern=re2.compile(r"\d\d:\d\d"))
BEGIN_PATCH = "*** Begin Patch\n*** Add File: a\n+a\n*** End Patch\n"
FENCED = [
    (f"```apply_patch\n{BEGIN_PATCH}```", "", BEGIN_PATCH),
    (f"I add it.\n\n```diff\n{BEGIN_PATCH}```\n\n", "I add it.\n\n", BEGIN_PATCH),
    (f"```\n{BEGIN_PATCH}```\n", "", BEGIN_PATCH),
    ("```apply_patch\nanything\n```", "", "anything\n"),
    ("So:\n```\n12:30\n```", "So:\n", "12:30"),
    ("```py\nx\n```\n```\n12:30\n```", "```py\nx\n```\n", "12:30"),
]
NOT_FENCED = [
    f"```diff\n{BEGIN_PATCH}```\nThat is how a patch looks.",
    "```diff\n*** Begin Patch\nand so on\n```",
    "```py\nprint(1)\n```",
    "```\n```",
    "```apply_patch\nno end",
    "Use ```apply_patch``` now",
    "a ```\n12:30\n```",
    "```",
    "``",
    "```\nhalf past\n```",
    "```clock\n12:30\n```\n\n```py\nx\n```",
]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("text", "before", "raw"), FENCED)
def test_a_code_block_with_custom_input_at_the_end_is_a_call(
    text: str, before: str, raw: str, size: int
) -> None:
    parts = [{"content": text[at : at + size]} for at in range(0, len(text), size)]
    *others, item = streamed(parts, calls={"apply_patch": PATCH, "clock": CLOCK})[-1]["response"][
        "output"
    ]
    assert (item["type"], item["input"], len(item["call_id"])) == ("custom_tool_call", raw, 29)
    assert "".join(other["content"][0]["text"] for other in others) == before


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("text", NOT_FENCED)
def test_any_other_code_block_is_text(text: str, size: int) -> None:
    parts = [{"content": text[at : at + size]} for at in range(0, len(text), size)]
    events = streamed(parts, calls={"apply_patch": PATCH, "clock": CLOCK})
    [item] = events[-1]["response"]["output"]
    assert item["content"][0]["text"] == text


def test_a_code_block_that_is_cut_or_beside_a_call_is_text() -> None:
    text = f"```apply_patch\n{BEGIN_PATCH}```"
    events = streamed([{"content": text}], "length", calls={"apply_patch": PATCH})
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]
    events = streamed(
        [{"content": text}, call(0, "f", "{}")], "tool_calls", calls={"apply_patch": PATCH}
    )
    types = [item["type"] for item in events[-1]["response"]["output"]]
    assert types == ["message", "function_call"]
    error = UpstreamFailed("x")
    events = streamed([{"content": text}], None, error=error, calls={"apply_patch": PATCH})
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == text


def test_text_before_a_code_block_is_not_held_back() -> None:
    writer = ResponseEvents(question({"apply_patch": PATCH}))
    written = b"".join(writer.chunk(chunk(HEAD, {"content": "Now I patch.\n```di"})))
    assert b'"delta":"Now I patch.\\n"' in written
    assert b"```" not in written


# Streams that pass unchanged.


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_broken_stream_ends_with_its_own_id_and_the_next_number(size: int) -> None:
    writer, stream = ResponseEvents(question()), ProxiedResponseStream()
    data = sse.comment("wait") + b"".join(writer.begin())
    for part in chunks([{"content": '"type":"response.completed","sequence_number":99'}], None):
        data += b"".join(writer.chunk(part))
    for at in range(0, len(data), size):
        stream.feed(data[at : at + size])
    ending = stream.failed(UpstreamFailed("x"))
    assert ending is not None and not stream.has_ended
    last = parsed(ending.decode())[0]
    assert (last["response"]["id"], last["response"]["status"]) == ("resp_1", "failed")
    assert last["sequence_number"] == len(parsed(data.decode()))


@pytest.mark.parametrize("data", [b"", b"data: {}\n\n", b"data: x\n\n", b": hello\n\n", b"data: {"])
def test_a_stream_without_a_response_cannot_fail(data: bytes) -> None:
    stream = ProxiedResponseStream()
    stream.feed(data)
    assert stream.failed(UpstreamFailed("x")) is None


# Summaries.


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_summary_is_one_compaction_item(finish: str) -> None:
    deltas = [{"reasoning_content": "Hm"}, {"content": "Ann "}, {"content": "asked."}]
    asked = replace(question(), compacts=True)
    writer = ResponseEvents(asked)
    text = b"".join(writer.begin())
    for part in chunks(deltas, finish):
        text += b"".join(writer.chunk(part))
    events = parsed(text.decode())
    [item] = check_stream(events)["output"]
    assert brief(events)[2:5] == [
        "output_item.added 0 compaction",
        "compaction.compacting 0",
        "output_item.done 0 compaction",
    ]
    assert read_compaction(item["encrypted_content"]) == "Ann asked."


def test_a_summary_without_text_has_failed() -> None:
    asked = replace(question(), compacts=True)
    response = fold_response(asked, chunks([{"content": " "}]))
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")


def test_a_failure_by_a_limit_says_how_long_to_wait() -> None:
    assert failure(RateLimited("Too many.", retry_after=7))["message"] == (
        "Too many. Please try again in 7s."
    )
