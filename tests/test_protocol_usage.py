"""The usage of answers, wherever servers put it; estimated where they do not tell it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from horde_proxy.protocol.usage import cached_of, tidy_usage
from horde_proxy.protocol.usage_reader import UsageReader
from tests.support import growth

EVENTS = "text/event-stream; charset=utf-8"
USAGE = {"prompt_tokens": 400, "completion_tokens": 100, "total_tokens": 500}


def read(kind: str, *pieces: bytes) -> UsageReader:
    reader = UsageReader(kind)
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return reader


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(text: str = "word", finish_reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return event({"object": "chat.completion.chunk", "choices": [choice], **more})


def whole(usage: Any = None, text: str = "x" * 400, **more: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    usages = {} if usage is None else {"usage": usage}
    return json.dumps({"choices": [{"message": message}], **usages, **more}).encode()


WORDS = [chunk() for _ in range(80)]
LAST = event({"choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "events",
    [
        [*WORDS, LAST, DONE],
        # Pings, comments and empty chunks that follow the usage, 40 kB and more.
        [*WORDS, LAST, *[b": ping\n\n"] * 8000, DONE],
        [*WORDS, LAST, *[event({"type": "ping"})] * 3000],
        [*WORDS, LAST, *[chunk("")] * 1000, DONE],
        # The usage before all the text.
        [LAST, *WORDS * 20, DONE],
        # It grows with every chunk; the last chunk may have none, or an empty one.
        [chunk(usage={**USAGE, "completion_tokens": n, "total_tokens": 0}) for n in range(101)],
        [*[chunk(usage=USAGE)] * 50, chunk(usage=None), chunk(usage={})],
        [LAST, event({"choices": [], "usage": dict.fromkeys(USAGE, 0)})],
        # In the chunk with the finish_reason; in a choice (Moonshot); in x_groq.
        [*WORDS, chunk("", "stop", usage=USAGE)],
        [event({"choices": [{"delta": {}, "usage": USAGE}]})],
        [*WORDS, event({"choices": [], "x_groq": {"id": "r", "usage": USAGE}})],
        # Anthropic: the prompt first, what is cached beside it; the completion grows.
        [
            event(
                {
                    "type": "message_start",
                    "message": {
                        "usage": {
                            "input_tokens": 100,
                            "cache_read_input_tokens": 250,
                            "cache_creation_input_tokens": 50,
                            "output_tokens": 1,
                        }
                    },
                }
            ),
            *[event({"type": "content_block_delta", "delta": {"text": "Hi"}})] * 30,
            event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 100}}),
            event({"type": "message_stop"}),
        ],
        # OpenAI's responses.
        [
            *[event({"type": "response.output_text.delta", "delta": "Hi"})] * 30,
            event(
                {
                    "type": "response.completed",
                    "response": {"usage": {"input_tokens": 400, "output_tokens": 100}},
                }
            ),
        ],
    ],
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [0, 7, 5000])
def test_the_usage_of_a_stream_is_found_wherever_it_is(
    events: list[bytes], line_end: bytes, size: int
) -> None:
    stream = b"".join(events).replace(b"\n", line_end)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)] if size else [stream]
    assert read(EVENTS, *pieces).tokens(3) == (400, 100)


def test_lines_of_json_have_a_usage_too() -> None:
    lines = [b'{"message": {"content": "Hi"}, "done": false}\n'] * 50
    last = b'{"done": true, "prompt_eval_count": 26, "eval_count": 298}'
    assert read("application/x-ndjson", *lines, last).tokens(0) == (26, 298)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (whole(USAGE), (400, 100)),
        # Before 40 kB of other data, and before 3 MB.
        (b'{"usage": %s, "x": "%s"}' % (json.dumps(USAGE).encode(), b"y" * 40_000), (400, 100)),
        (b'{"usage": %s, "x": "%s"}' % (json.dumps(USAGE).encode(), b"y" * 3_000_000), (400, 100)),
        (b'{"x": "%s", "usage": %s}' % (b"y" * 3_000_000, json.dumps(USAGE).encode()), (400, 100)),
        # Embeddings have a prompt only.
        (b'{"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 8}}', (8, 0)),
        (b'{"data": [{"embedding": [0.5]}], "usage": {"total_tokens": 8}}', (8, 0)),
        (b'{"data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}', (8, 0)),
        (b'{"data": [{"embedding": "AAAA"}]}', (30, 0)),
        (b'{"data": [{"b64_json": "%s"}]}' % (b"A" * 2_000_000), (30, 0)),
        # Without a usage, with zeros, and with what is no count: estimated, 4 characters a token.
        (whole(), (30, 100)),
        (whole({}), (30, 100)),
        (whole()[:-1] + b', "usage": null}', (30, 100)),
        (whole("many"), (30, 100)),
        (whole(dict.fromkeys(USAGE, 0)), (30, 100)),
        (whole({"prompt_tokens": -1, "completion_tokens": True}), (30, 100)),
        (whole({"prompt_tokens": "7", "completion_tokens": None}), (30, 100)),
        (whole({"prompt_tokens": 1e13, "completion_tokens": 10**400}), (30, 100)),
        (whole({"prompt_tokens": 0, "completion_tokens": 5}), (30, 5)),
        (whole({"prompt_tokens": 7, "completion_tokens": 0}), (7, 100)),
        (whole({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}), (7, 100)),
        # Floats count.
        (whole({"prompt_tokens": 7.0, "completion_tokens": 5.9}), (7, 5)),
        # Only a total: what is not the prompt is the answer's.
        (whole({"total_tokens": 50}), (30, 20)),
        (whole({"total_tokens": 9}), (9, 100)),
        (whole({"total_tokens": 50, "prompt_tokens": 12}), (12, 38)),
        (whole({"total_tokens": 50, "completion_tokens": 12}), (30, 20)),
        # Google's OpenAI API counts thoughts in the total only.
        (whole({"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 111}), (5, 106)),
        (b'{"usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 6}}', (4, 6)),
        (b'{"message": {"content": "Hi"}, "prompt_eval_count": 4, "eval_count": 6}', (4, 6)),
        # Answers of other shapes.
        (b'{"content": [{"type": "text", "text": "12345678"}]}', (30, 2)),
        (b'{"output": [{"content": [{"type": "output_text", "text": "12345"}]}]}', (30, 2)),
        (b'{"choices": [{"text": "1234"}, {"text": "5678"}]}', (30, 2)),
        (b'{"text": "12345678"}', (30, 2)),
        (b'{"response": "12345678", "done": true}', (30, 2)),
        (
            b'{"choices": [{"message": {"content": null, "tool_calls": [{"id": "call_1", '
            b'"function": {"name": "f", "arguments": "{\\"a\\": 1}"}}]}}]}',
            (30, 2),
        ),
        # Escapes are single characters, and quotes in a text end nothing.
        (whole(text="ä" * 400), (30, 100)),
        (whole(text='"usage": {"completion_tokens": 77}, ' * 10), (30, 90)),
        # Cut off, because the client or the server went.
        (whole()[:300], (30, 61)),
        (whole(text="ä" * 400)[:301], (30, 10)),
        (b'{"choices": [{"message": {"content": "%s' % (b"x" * 3_000_000), (30, 749_981)),
        (b"", (30, 0)),
        (b"<html>", (30, 0)),
        (b"[" * 100_000, (30, 0)),
    ],
)
@pytest.mark.parametrize("size", [0, 1000])
def test_a_whole_answer_is_counted(text: bytes, counts: tuple[int, int], size: int) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)] if size else [text]
    assert read("application/json", *pieces).tokens(30) == counts


@pytest.mark.parametrize(
    ("kind", "completion"),
    [
        ("text/plain; charset=utf-8", 100),
        ("", 0),
        ("audio/mpeg", 0),
        ("image/png", 0),
        ("application/octet-stream", 0),
    ],
)
def test_a_body_that_is_no_json_counts_if_it_is_text(kind: str, completion: int) -> None:
    assert read(kind, b"word" * 100).tokens(3) == (3, completion)


def test_a_stream_without_usage_counts_its_texts_and_its_end() -> None:
    assert read(EVENTS, chunk("Hi"), DONE).tokens(0) == (0, 2)
    assert read(EVENTS, *WORDS, chunk("", "stop"), DONE).tokens(9) == (9, 81)
    # Broken off.
    assert read(EVENTS, *WORDS[:5]).tokens(9) == (9, 5)
    assert read(EVENTS, *WORDS[:5], WORDS[5][:-20]).tokens(9) == (9, 5)
    # A server that sends many tokens in an event.
    assert read(EVENTS, chunk("x" * 400), chunk("x" * 399), DONE).tokens(9) == (9, 201)
    # No text, and no pings that look like text.
    assert read(EVENTS, chunk(""), DONE).tokens(9) == (9, 0)
    assert read(EVENTS, *[event({"type": "ping"})] * 300, *WORDS[:3]).tokens(9) == (9, 3)


def test_a_text_that_is_repeated_at_the_end_counts_once() -> None:
    deltas = [event({"type": "response.output_text.delta", "delta": "12345678"})] * 10
    done = event({"type": "response.output_text.done", "text": "12345678" * 10})
    item = {"content": [{"type": "output_text", "text": "12345678" * 10}]}
    completed = event({"type": "response.completed", "response": {"output": [item]}})
    assert read(EVENTS, *deltas, done, completed).tokens(0) == (0, 20)
    sound = event({"type": "response.output_audio.delta", "delta": "A" * 4000})
    assert read(EVENTS, *deltas, sound).tokens(0) == (0, 20)


def test_a_long_stream_without_usage_is_estimated_from_every_seventeenth_event() -> None:
    prompt, completion = read(EVENTS, *[chunk("x" * 8)] * 10_000, DONE).tokens(0)
    assert prompt == 0
    assert completion == 20_001
    # After five minutes of keep-alives as well.
    _, completion = read(EVENTS, *[chunk("")] * 300, *[chunk("x" * 8)] * 40, DONE).tokens(0)
    assert completion == 81


def test_an_event_of_megabytes_is_not_kept_and_its_usage_found() -> None:
    image = {"type": "image", "b64_json": "A" * 3_000_000, "usage": USAGE}
    reader = UsageReader(EVENTS)
    stream, most = event(image) + DONE, 0
    for at in range(0, len(stream), 10_000):
        reader.feed(stream[at : at + 10_000])
        most = max(most, len(reader._rest) + reader._batched)
    reader.end()
    assert (reader.tokens(0), reader.is_finished) == ((400, 100), True)
    assert 0 < most < 1_050_000


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [EVENTS, "application/json"])
def test_the_cost_of_reading_grows_with_the_length(kind: str) -> None:
    def work(size: int) -> None:
        read(kind, b"data: {", *[b'"x": "y", '] * size)

    assert growth(work, 32_000) < 1.5


@pytest.mark.parametrize(
    ("events", "is_finished", "has_failed"),
    [
        ([*WORDS], False, False),
        ([*WORDS, chunk("", "stop")], True, False),
        ([*WORDS, chunk("", "eos"), LAST], True, False),
        ([*WORDS, b'data:{"choices":[{"finish_reason":"length"}]}\n\n'], True, False),
        ([*WORDS, DONE], True, False),
        ([*WORDS, b"data:[DONE]"], True, False),
        ([*WORDS, event({"error": {"message": "out of memory"}})], False, True),
        ([event({"error": "x"})], False, True),
        ([*WORDS, event({"error": None})], False, False),
        ([chunk('finish_reason": "stop" [DONE]')], False, False),
    ],
)
def test_it_is_known_whether_a_stream_is_complete(
    events: list[bytes], is_finished: bool, has_failed: bool
) -> None:
    reader = read(EVENTS, *events)
    assert (reader.is_finished, reader.has_failed) == (is_finished, has_failed)


@pytest.mark.parametrize(
    ("usage", "tidy"),
    [
        ({"total_tokens": 9}, (0, 9, 9)),
        ({"prompt_tokens": 4, "total_tokens": 9}, (4, 5, 9)),
        ({"prompt_tokens": 4.0, "completion_tokens": 5, "total_tokens": 1}, (4, 5, 9)),
        ({"input_tokens": 4, "output_tokens": 5}, (4, 5, 9)),
        ({"prompt_tokens": -4, "completion_tokens": float("nan")}, (0, 0, 0)),
        (None, (0, 0, 0)),
    ],
)
def test_a_usage_has_openai_s_three_counts(usage: Any, tidy: tuple[int, int, int]) -> None:
    found = tidy_usage(usage)
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert tuple(found[name] for name in names) == tidy


@pytest.mark.parametrize(
    ("usage", "warm"),
    [
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 37}}, 37),  # OpenAI, llama.cpp
        ({"input_tokens": 41, "input_tokens_details": {"cached_tokens": 40}}, 40),  # responses
        ({"input_tokens": 34, "cache_read_input_tokens": 7}, 7),  # Anthropic, llama.cpp's messages
        ({**USAGE, "prompt_cache_hit_tokens": 64}, 64),  # DeepSeek
        ({**USAGE, "cached_tokens": 9}, 9),  # Moonshot
        # Nothing was warm; and a server that does not say it (vLLM without the option for it).
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 0}}, 0),
        ({**USAGE, "prompt_tokens_details": None}, None),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": "many"}}, None),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": True}, "cached_tokens": -1}, None),
        (USAGE, None),
    ],
)
def test_what_was_in_the_servers_cache_is_read(usage: dict[str, Any], warm: int | None) -> None:
    assert cached_of(usage) == warm
    assert read("application/json", whole(usage)).cached_tokens == warm
    last = event({"choices": [], "usage": usage})
    assert read(EVENTS, *WORDS, last, DONE).cached_tokens == warm


def test_the_timings_of_an_older_llama_cpp_tell_it_too() -> None:
    timings = {"cache_n": 37, "prompt_n": 1}
    last = event({"choices": [], "usage": USAGE, "timings": timings})
    assert read(EVENTS, *WORDS, last, DONE).cached_tokens == 37
    # Without a usage, the whole answer is parsed; with one, it is not.
    assert read("application/json", whole(timings=timings)).cached_tokens == 37
    assert read("application/json", whole(timings={"cache_n": None})).cached_tokens is None


def test_the_cache_of_a_message_is_told_at_its_beginning() -> None:
    """As llama.cpp and Anthropic stream messages."""
    begin = {"type": "message_start", "message": {"usage": {"input_tokens": 4}}}
    begin["message"]["usage"]["cache_read_input_tokens"] = 30  # type: ignore[index]
    end = {"type": "message_delta", "usage": {"output_tokens": 3}}
    reader = read(EVENTS, event(begin), event(end), event({"type": "message_stop"}))
    assert (reader.cached_tokens, reader.tokens(9)) == (30, (34, 3))
