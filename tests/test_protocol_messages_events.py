"""Answers of Anthropic's Messages API: literal events for chunks, and the same as one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import ContextLengthExceeded, InsufficientKudos, TimedOut, Unavailable
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, Head
from horde_proxy.protocol.messages import (
    MessageEvents,
    MessagesQuestion,
    fold_message,
    read_messages_request,
)
from tests.legal_messages import check_message, checked_stream, events_of

HEAD = Head("chatcmpl-1", 1, "real/model")
TOOLS = [{"name": "weather", "input_schema": {"type": "object"}}]
NO_CACHE = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def question(**fields: Any) -> MessagesQuestion:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return read_messages_request(body, id="msg_1")


def delta(**fields: Any) -> Chunk:
    return chunks.chunk(HEAD, fields)


def call(number: int, *pieces: str, name: str = "weather") -> list[Chunk]:
    [begun] = chunks.call_deltas(number, f"call_{number}", name, "")
    return [
        delta(**begun),
        *(delta(**d) for p in pieces for d in chunks.argument_deltas(number, p)),
    ]


def answer(*parts: Chunk, reason: Any = "stop", horde: Any = None, **usage: int) -> list[Chunk]:
    counts = chunks.usage(
        usage.get("prompt", 9), usage.get("completion", 5), usage.get("thinking", 0)
    )
    counts["prompt_tokens_details"]["cached_tokens"] = usage.get("cached", 0)
    end = chunks.chunk(HEAD, {}, finish_reason=reason)
    return [chunks.role_chunk(HEAD), *parts, end, chunks.usage_chunk(HEAD, counts, horde or {})]


def streamed(posed: MessagesQuestion, items: Sequence[Chunk]) -> str:
    writer = MessageEvents(posed)
    events = [*writer.begin()]
    for item in items:
        events += writer.chunk(item)
    assert writer.is_complete and not writer.is_open
    return b"".join([*events, writer.end()]).decode()


def both(posed: MessagesQuestion, items: Sequence[Chunk]) -> dict[str, Any]:
    """The message, which is the same whole and streamed."""
    message = fold_message(posed, items)
    check_message(message)
    assert checked_stream(streamed(posed, items)) == message
    return message


def test_the_events_of_a_text() -> None:
    items = answer(delta(content="Hel"), delta(content="lo"), prompt=12, completion=2)
    assert streamed(question(), items) == (
        "event: message_start\n"
        'data: {"type":"message_start","message":{"id":"msg_1","type":"message",'
        '"role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,'
        '"stop_details":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,'
        '"cache_read_input_tokens":0,"output_tokens":0}}}\n\n'
        "event: content_block_start\n"
        'data: {"type":"content_block_start","index":0,'
        '"content_block":{"type":"text","text":""}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"Hel"}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"lo"}}\n\n'
        "event: content_block_stop\n"
        'data: {"type":"content_block_stop","index":0}\n\n'
        "event: message_delta\n"
        'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null,'
        '"stop_details":null},"usage":{"input_tokens":12,"cache_creation_input_tokens":0,'
        '"cache_read_input_tokens":0,"output_tokens":2}}\n\n'
        "event: message_stop\n"
        'data: {"type":"message_stop"}\n\n'
    )


def test_a_text_as_one_message() -> None:
    items = answer(delta(content="Hel"), delta(content="lo"), prompt=12, completion=2)
    assert fold_message(question(), items) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {"input_tokens": 12, **NO_CACHE, "output_tokens": 2},
    }


def test_thought_text_and_calls_are_blocks_in_this_order() -> None:
    posed = question(thinking={"type": "enabled", "budget_tokens": 1024}, tools=TOOLS)
    items = answer(
        delta(reasoning_content="Hm"),
        delta(reasoning_content="."),
        delta(content="I look."),
        *call(0, '{"place":', ' "Rome"}'),
        *call(1, '{"place": "Oslo"}'),
        reason="tool_calls",
        completion=9,
        thinking=2,
    )
    assert [(name, data) for name, data in events_of(streamed(posed, items))][1:-2] == [
        (
            "content_block_start",
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""},
            },
        ),
        block_delta(0, type="thinking_delta", thinking="Hm"),
        block_delta(0, type="thinking_delta", thinking="."),
        block_delta(0, type="signature_delta", signature="aG9yZGUtcHJveHk="),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        begun(1, type="text", text=""),
        block_delta(1, type="text_delta", text="I look."),
        ("content_block_stop", {"type": "content_block_stop", "index": 1}),
        begun(2, type="tool_use", id="toolu_0", name="weather", input={}),
        block_delta(2, type="input_json_delta", partial_json='{"place":'),
        block_delta(2, type="input_json_delta", partial_json=' "Rome"}'),
        ("content_block_stop", {"type": "content_block_stop", "index": 2}),
        begun(3, type="tool_use", id="toolu_1", name="weather", input={}),
        block_delta(3, type="input_json_delta", partial_json='{"place": "Oslo"}'),
        ("content_block_stop", {"type": "content_block_stop", "index": 3}),
    ]
    message = both(posed, items)
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "aG9yZGUtcHJveHk="},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {"place": "Rome"}},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"place": "Oslo"}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["output_tokens_details"] == {"thinking_tokens": 2}


def begun(index: int, **block: Any) -> tuple[str, Any]:
    name = "content_block_start"
    return name, {"type": name, "index": index, "content_block": block}


def block_delta(index: int, **fields: Any) -> tuple[str, Any]:
    name = "content_block_delta"
    return name, {"type": name, "index": index, "delta": fields}


def test_thoughts_that_nobody_asked_for_are_left_out() -> None:
    # Programs read content[0].text.
    items = answer(delta(reasoning_content="Hm."), delta(content="Hi"), thinking=2)
    assert both(question(), items)["content"] == [{"type": "text", "text": "Hi"}]


def test_calls_that_a_server_writes_at_the_same_time_are_blocks_one_after_another() -> None:
    first, second = call(0, '{"a"', ": 1}"), call(1, '{"b"', ": 2}")
    woven = [piece for pair in zip(first, second, strict=True) for piece in pair]
    items = answer(*woven, delta(content="So."), reason="tool_calls")
    message = checked_stream(streamed(question(tools=TOOLS), items))
    assert message is not None
    assert [block.get("input", block.get("text")) for block in message["content"]] == [
        {"a": 1},
        "So.",
        {"b": 2},
    ]


def test_only_the_first_call_is_kept_where_one_was_allowed() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    items = answer(*call(0, "{}"), *call(1, "{}"), reason="tool_calls")
    message = both(question(tools=TOOLS, tool_choice=choice), items)
    assert [block["id"] for block in message["content"]] == ["toolu_0"]


def test_a_call_that_a_limit_cut_off_is_not_in_the_message() -> None:
    # Claude Code runs calls whatever the stop reason is.
    items = answer(delta(content="I write."), *call(0, '{"path": "/etc'), reason="length")
    message = fold_message(question(tools=TOOLS), items)
    assert message["content"] == [{"type": "text", "text": "I write."}]
    assert message["stop_reason"] == "max_tokens"
    # As Anthropic's own streams do, ours have its beginning, which is no JSON.
    assert checked_stream(streamed(question(tools=TOOLS), items)) is not None


def test_ids_of_servers_that_are_not_openais_stay() -> None:
    [begun_call] = chunks.call_deltas(0, "fc-9", "weather", "")
    items = answer(delta(**begun_call), reason="tool_calls")
    [block] = both(question(tools=TOOLS), items)["content"]
    assert (block["id"], block["input"]) == ("fc-9", {})


@pytest.mark.parametrize(
    ("reason", "horde", "end"),
    [
        ("stop", {}, ("end_turn", None)),
        ("stop", {"stop_sequence": "END"}, ("stop_sequence", "END")),
        # A stop that is not the client's.
        ("stop", {"stop_sequence": "\n<tool_response>"}, ("end_turn", None)),
        ("length", {}, ("max_tokens", None)),
        ("length", {"cut_off_by": "time"}, ("max_tokens", None)),
        ("length", {"cut_off_by": "context"}, ("model_context_window_exceeded", None)),
        ("content_filter", {}, ("refusal", None)),
    ],
)
def test_how_an_answer_ended(reason: Any, horde: Any, end: tuple[str, str | None]) -> None:
    items = answer(delta(content="x"), reason=reason, horde=horde)
    message = both(question(stop_sequences=["END"]), items)
    assert (message["stop_reason"], message["stop_sequence"]) == end


def test_a_refusal_is_the_text_and_the_explanation() -> None:
    message = both(question(), answer(delta(refusal="No valid JSON.")))
    assert message["content"] == [{"type": "text", "text": "No valid JSON."}]
    assert message["stop_details"] == {
        "type": "refusal",
        "category": None,
        "explanation": "No valid JSON.",
    }


def test_an_empty_answer_has_one_empty_text() -> None:
    assert both(question(), answer())["content"] == [{"type": "text", "text": ""}]


def test_cached_tokens_are_counted_beside_the_input() -> None:
    # Clients add the three up.
    usage = both(question(), answer(delta(content="x"), prompt=100, cached=60))["usage"]
    assert usage == {
        "input_tokens": 40,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 60,
        "output_tokens": 5,
    }


def test_a_wait_is_kept_alive_by_pings() -> None:
    writer = MessageEvents(question())
    assert not writer.is_open
    [start] = writer.begin()
    assert writer.is_open and b"message_start" in start
    assert [*writer.begin()] == []
    assert writer.keep_alive() == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert writer.comment("queued") == b": queued\n\n"


def test_the_wait_can_be_read_as_a_thought_before_the_answer() -> None:
    thinking = {"type": "adaptive"}
    posed = question(thinking=thinking, horde={"progress": "reasoning"})
    writer = MessageEvents(posed)
    assert writer.shows_progress
    assert not MessageEvents(question(horde={"progress": "reasoning"})).shows_progress
    written = [*writer.begin(), writer.progress("queued\n")]
    written += writer.chunk(delta(content="Hi"))
    assert writer.progress("queued\n") == writer.keep_alive()
    items = [chunks.chunk(HEAD, {}, finish_reason="stop"), chunks.usage_chunk(HEAD, {}, {})]
    written += [event for item in items for event in writer.chunk(item)]
    message = checked_stream(b"".join([*written, writer.end()]).decode())
    assert message is not None
    assert message["content"][0]["thinking"] == "queued\n"


@pytest.mark.parametrize(
    ("error", "type", "message"),
    [
        (
            ContextLengthExceeded(8192, 30000),
            "invalid_request_error",
            "prompt is too long: 30000 tokens > 8192 maximum",
        ),
        (TimedOut("Too late."), "timeout_error", "Too late."),
        (Unavailable("No worker."), "overloaded_error", "No worker."),
        (InsufficientKudos("Too few kudos."), "billing_error", "Too few kudos."),
    ],
)
def test_an_error_ends_a_stream(error: Any, type: str, message: str) -> None:
    writer = MessageEvents(question())
    written = [*writer.begin(), *writer.chunk(delta(content="Hel")), writer.error(error)]
    assert writer.end() == b""
    stream = b"".join(written).decode()
    assert checked_stream(stream) is None
    name, data = events_of(stream)[-1]
    assert (name, data["error"]) == ("error", {"type": type, "message": message})


_TEXTS = st.sampled_from(["", "Hi", " there", "\n", "ä 🦙"])
_DELTAS = st.one_of(
    st.builds(lambda text: ("content", text), _TEXTS),
    st.builds(lambda text: ("reasoning_content", text), _TEXTS),
    st.builds(lambda number, piece: ("call", (number, piece)), st.integers(0, 2), st.just("{}")),
)


@given(st.lists(_DELTAS, max_size=12), st.sampled_from(["stop", "length", "content_filter"]))
def test_every_answer_is_a_legal_stream(parts: list[tuple[str, Any]], reason: str) -> None:
    items: list[Chunk] = []
    numbers: list[int] = []
    for kind, value in parts:
        if kind != "call":
            items.append(delta(**{kind: value}))
        elif value[0] not in numbers and value[0] == len(numbers):
            numbers.append(value[0])
            items += call(value[0])
        elif value[0] in numbers:
            items += [delta(**d) for d in chunks.argument_deltas(value[0], value[1])]
    posed = question(thinking={"type": "adaptive"}, tools=TOOLS)
    assert checked_stream(streamed(posed, answer(*items, reason=reason))) is not None
    check_message(fold_message(posed, answer(*items, reason=reason)))
