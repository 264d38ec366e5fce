"""Answers of foreign servers: whatever their shape, legal chunks or an error come out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from horde_proxy.api.access_log import RequestLog
from horde_proxy.errors import UpstreamFailed
from horde_proxy.protocol.chunks import Chunk, Head, fold
from horde_proxy.upstreams.base import Spent
from horde_proxy.upstreams.openai.events import events
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from tests.legal_answers import check_chunks
from tests.support import growth

HEAD = Head("chatcmpl-ours", 1700000000, "our/model")
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
DONE = b"data: [DONE]\n\n"


def sse(*documents: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)


def event(delta: Any, finish_reason: Any = None, **extra: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "created": 1,
        "model": "m",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        **extra,
    }


def whole(message: Any, finish_reason: Any = "stop", **extra: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"object": "chat.completion", "choices": [choice], **extra}).encode()


def tidied(body: bytes, size: int | None = None, **options: Any) -> list[Chunk]:
    """The chunks of a body that comes in pieces of so many bytes."""
    size = size or len(body) or 1
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return list(ForeignAnswer(HEAD, **options).chunks(events(pieces)))


def completion(body: bytes, size: int | None = None, **options: Any) -> dict[str, Any]:
    chunks = tidied(body, size, **options)
    check_chunks(chunks)
    answer = fold(chunks)
    ChatCompletion.model_validate(answer, strict=True)
    return answer


def message(*deltas: Any, finish_reason: Any = "stop", **options: Any) -> dict[str, Any]:
    """The message of the streamed answer with these deltas."""
    stream = sse(*map(event, deltas), event({}, finish_reason))
    value: dict[str, Any] = completion(stream, **options)["choices"][0]["message"]
    return value


# The events of a stream

ROLES = sse(
    event({"role": "assistant", "content": "Hel"}),
    event({"role": "assistant", "content": "lo"}),
    event({}, "stop", usage=USAGE),
)
PLAIN = sse(
    event({"role": "assistant", "content": ""}),
    event({"content": "Hel"}),
    event({"content": "lo"}),
    event({}, "stop"),
    {**event({}), "choices": [], "usage": USAGE},
)
FRAMINGS = {
    "a role in each chunk": ROLES,
    "OpenAI's own": PLAIN + DONE,
    "no [DONE]": PLAIN,
    "comments": b": comment\n\n" + ROLES.replace(b"\n\n", b"\n\n: ping\n\n"),
    "CRLF": PLAIN.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n",
    "CR": (PLAIN + DONE).replace(b"\n", b"\r"),
    "no space after the colon": (PLAIN + DONE).replace(b"data: ", b"data:"),
    "no blank lines": PLAIN.replace(b"\n\n", b"\n"),
    "no end of the last line": PLAIN[:-2],
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "blank lines first": b"\n\r\n \n" + PLAIN,
    "empty data": b"data:\n\n" + PLAIN.replace(b"\n\n", b"\n\ndata: \n\n"),
    "event names": PLAIN.replace(b"data:", b"event: message\nid: 7\nretry: 9\ndata:"),
    "a ping with a name": b'event: ping\ndata: {"type": "ping"}\n\n' + PLAIN,
    "several data lines": PLAIN.replace(b', "', b',\ndata: "'),
    "what comes after [DONE]": PLAIN + DONE + b"data: {nonsense\n\n",
}


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("stream", FRAMINGS.values(), ids=FRAMINGS)
def test_servers_that_stream_differently_give_the_same_chunks(
    stream: bytes, size: int | None
) -> None:
    chunks = tidied(stream, size)
    check_chunks(chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:-1])
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], USAGE)
    answer = fold(chunks)
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("size", [None, 1])
def test_a_document_instead_of_a_stream_becomes_chunks(size: int | None) -> None:
    body = whole({"role": "assistant", "content": "Hello"}, usage=USAGE, id="x", created=1)
    assert tidied(b"\xef\xbb\xbf \n" + body, size) == [
        made({"role": "assistant", "content": "", "refusal": None}),
        made({"content": "Hello"}),
        made({}, "stop"),
        {**made({}), "choices": [], "usage": USAGE},
    ]


def made(delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "our/model",
        "choices": [choice],
    }


@pytest.mark.parametrize("line_end", ["\u2028", "\x0b", "\x0c", "\x85"])
def test_only_cr_and_lf_end_a_line(line_end: str) -> None:
    stream = sse(event({"content": "a"})).decode().replace('"a"', f'"a{line_end}b"')
    answer = completion(stream.encode() + DONE)
    assert answer["choices"][0]["message"]["content"] == f"a{line_end}b"


# Answers that are cut, empty, or errors

CUT = {
    "nothing": b"",
    "blank lines": b"\n\n\n",
    "comments": b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n",
    "[DONE] alone": DONE,
    "a role and [DONE]": sse(event({"role": "assistant", "content": ""})) + DONE,
    "text without an end": sse(event({"content": "Hel"}), event({"content": "lo"})),
    "text and a usage": sse(event({"content": "Hi"}), {"choices": [], "usage": USAGE}),
    "an event in two": (PLAIN + DONE)[:-40] + b"\n",
    "the last event in two": PLAIN[:-40],
    "an event without a choice": sse({}, {"choices": 3}, {"choices": None}, {"choices": ["x"]}),
    "a document without a choice": b"{}",
    "a document in two": whole({"content": "Hello"})[:-9],
    "an empty document": b"",
    "a message without anything": whole({"content": ""}, None),
    "a web page": b"<html><body>Log in</body></html>",
    "plain text": b"Internal Server Error",
    "not JSON": b"data: {\n\n",
    "no object": b"data: []\n\n",
    "a list": b"[1]",
    "an error": b'data: {"error": {"message": "out of memory"}}\n\n',
    "an error with text": sse(event({"content": "x"}), {"error": "out of memory"}) + DONE,
    "an error by its name": b'event: error\ndata: {"message": "out of memory"}\n\n' + PLAIN,
    "a flat error": sse({"object": "error", "message": "out of memory"}) + PLAIN,
    "an error in a document": b'{"error": {"message": "out of memory"}}',
    "the reason error": sse(event({"content": "x"}), event({}, "error")) + DONE,
    "the reason abort": sse(event({"content": "x"}, "abort")),
    "nested without end": b"data: " + b"[" * 200_000 + b"\n\n",
    "a document nested without end": b'{"choices":' * 200_000,
    "a number without end": b'data: {"choices": [{"index": ' + b"9" * 9_000 + b"}]}\n\n",
}


@pytest.mark.parametrize("body", CUT.values(), ids=CUT)
def test_an_answer_that_is_cut_or_empty_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        tidied(body)


def test_no_beginning_of_an_answer_is_taken_for_all_of_it() -> None:
    stream = sse(event({"role": "assistant", "content": "Hello"}), event({}, "stop"))
    for length in range(len(stream) - 2):
        with pytest.raises(UpstreamFailed):
            tidied(stream[:length])


def test_the_servers_own_words_are_in_the_error() -> None:
    with pytest.raises(UpstreamFailed, match="it broke the answer off: out of memory"):
        tidied(b'data: {"error": {"message": "out of memory"}}\n\n')


def test_an_error_shows_no_key_of_the_endpoint() -> None:
    stream = sse(event({"content": "x"}), {"error": {"message": "bad key: our-secret-key"}})
    with pytest.raises(UpstreamFailed, match=r"bad key: \*{14}"):
        list(ForeignAnswer(HEAD).chunks(events([stream], ["our-secret-key"])))


@pytest.mark.parametrize("error", [None, "", {}, False, []])
def test_an_empty_error_in_an_event_is_ignored(error: Any) -> None:
    stream = sse(event({"content": "Hi"}, error=error), event({}, "stop", error=error))
    assert completion(stream)["choices"][0]["message"]["content"] == "Hi"


def test_done_ends_an_answer_without_a_reason() -> None:
    answer = completion(sse(event({"content": "Hi"})) + DONE)
    assert answer["choices"][0]["finish_reason"] == "stop"


# The head


@pytest.mark.parametrize(
    "extra",
    [
        {"id": None, "created": None, "model": None},
        {"id": "", "created": 0, "model": ""},
        {"id": 7, "created": "now", "model": 7, "object": 5},
        {"id": ["x"], "created": -1, "model": {}},
        {"id": "x" * 5_000, "created": 1e300, "model": "x" * 5_000},
        {"id": " ", "created": True, "model": "\n"},
        {"id": "", "created": float("nan"), "model": ""},
    ],
)
def test_a_head_that_is_unusable_is_ours(extra: dict[str, Any]) -> None:
    answer = completion(sse(event({"content": "Hi"}, "stop", **extra)))
    assert (answer["id"], answer["created"], answer["model"]) == (
        "chatcmpl-ours",
        1700000000,
        "our/model",
    )


def test_all_chunks_have_the_head_of_the_first_choice() -> None:
    stream = sse(
        {"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": []},
        event({"content": "a"}, id="one", created=5, model="big"),
        event({"content": "b"}, id="two", created=6, model="small"),
        event({}, "stop", id=None, created=7.5, model=None),
    )
    heads = {(chunk["id"], chunk["created"], chunk["model"]) for chunk in tidied(stream)}
    assert heads == {("one", 5, "big")}


def test_fields_that_openai_does_not_have_are_left_out() -> None:
    stream = sse(event({"content": "a", "images": []}, "stop", provider="x", timings={"a": 1}))
    assert all(
        chunk.keys() <= {"id", "object", "created", "model", "choices", "usage"}
        for chunk in tidied(stream)
    )


# Choices


def test_older_completions_become_chunks_too() -> None:
    choice = {"index": 0, "text": "Hi", "finish_reason": "stop"}
    assert [
        chunk["choices"][0]["delta"].get("content")
        for chunk in tidied(sse({**event({}), "choices": [choice]}))[:-1]
    ] == ["", "Hi", None]


@pytest.mark.parametrize(
    ("index", "n"),
    [(0, 1), (1, 1), (7, 1), ("0", 1), (None, 1), (-1, 1), (True, 1), (0.0, 1), (10**30, 1)],
)
def test_the_index_of_the_only_choice_is_zero(index: Any, n: int) -> None:
    choice = {"index": index, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    [answered] = completion(sse({"choices": [None, "x", choice]}), n=n)["choices"]
    assert (answered["index"], answered["message"]["content"]) == (0, "Hi")


@pytest.mark.parametrize(
    "indexes", [(0, 1), (1, 2), ("0", "1"), (0.0, 1.0), (5, 9), (1, 0), ("a", "b")]
)
def test_two_choices_stay_apart(indexes: Sequence[Any]) -> None:
    stream = sse(
        *(
            {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]}
            for text, reason in [("Hel", None), ("lo", None), ("", "stop")]
            for index in indexes
        )
    )
    answer = completion(stream, n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello", "Hello"]


def test_choices_without_an_index_are_told_apart_by_their_places() -> None:
    body = {"choices": [{"text": text, "finish_reason": "stop"} for text in "ab"]}
    answer = completion(json.dumps(body).encode(), n=2)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "b"]


def test_choices_beyond_those_requested_are_left_out() -> None:
    stream = sse(
        *(
            {"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": "stop"}]}
            for index in (0, 1, 0)
        )
    )
    [answered] = completion(stream)["choices"]
    assert answered["message"]["content"] == "aa"


def test_a_choice_that_did_not_end_makes_the_answer_an_error() -> None:
    choices = [
        {"index": index, "delta": {"content": "a"}, "finish_reason": reason}
        for index, reason in [(0, "stop"), (1, None)]
    ]
    with pytest.raises(UpstreamFailed, match="it broke the answer off"):
        tidied(sse({"choices": choices}), n=2)


# Texts

CONTENTS = {
    "text": "Hi there",
    "parts": [{"type": "text", "text": "Hi "}, {"type": "output_text", "text": "there"}],
    "texts in a list": ["Hi ", "there"],
    "one part": {"type": "text", "text": "Hi there"},
    "a part without a type": [{"text": "Hi there"}, {"text": ""}, {"text": None}, None, {}],
    "a part with a value": [{"type": "text", "text": {"content": "Hi there"}}],
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_content_becomes_a_text(content: Any) -> None:
    content = [part for part in content if part != {}] if isinstance(content, list) else content
    assert message({"content": content})["content"] == "Hi there"
    answer = completion(whole({"role": "assistant", "content": content}))
    assert answer["choices"][0]["message"]["content"] == "Hi there"


@pytest.mark.parametrize(
    ("content", "text"), [(42, "42"), (True, "true"), ({"a": [1, "é"]}, '{"a": [1, "é"]}')]
)
def test_a_value_as_content_is_its_json(content: Any, text: str) -> None:
    assert message({"content": content})["content"] == text


REASONINGS: dict[str, dict[str, Any]] = {
    "reasoning_content": {"reasoning_content": "hm."},
    "reasoning": {"reasoning": "hm."},
    "thinking": {"thinking": "hm."},
    "null and reasoning": {"reasoning_content": None, "reasoning": "hm."},
    "two names": {"reasoning_content": "hm.", "reasoning": "hm."},
    "details": {"reasoning_details": [{"type": "reasoning.text", "text": "hm."}]},
    "a name and details": {
        "reasoning": "hm.",
        "reasoning_details": [{"type": "reasoning.summary", "summary": "hm."}],
    },
    "an object": {"reasoning": {"content": "hm."}},
    "a part": {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm."}]}],
    },
}


@pytest.mark.parametrize("delta", REASONINGS.values(), ids=REASONINGS)
def test_reasoning_is_kept(delta: dict[str, Any]) -> None:
    answers = [message(delta, {"content": "Hi", "reasoning": None})]
    if "content" not in delta:
        body = whole({"role": "assistant", "content": "Hi", **delta})
        answers.append(completion(body)["choices"][0]["message"])
    for answer in answers:
        assert (answer["reasoning_content"], answer["content"]) == ("hm.", "Hi")


@pytest.mark.parametrize(
    "delta", [{"refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}]
)
def test_a_refusal_is_kept(delta: dict[str, Any]) -> None:
    answer = message(delta)
    assert (answer["refusal"], answer["content"]) == ("No.", None)


def test_halves_of_a_character_are_joined_or_replaced() -> None:
    deltas = [{"content": text} for text in ("a\ud83d", "\ude00b", "\ude00", "c\ud83d")]
    assert message(*deltas)["content"] == "a\U0001f600b\ufffdc\ufffd"


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    stream = sse(event({"content": "a"})).replace(b'"a"', b'"a\xffb\xc3"') + DONE
    assert completion(stream)["choices"][0]["message"]["content"] == "a\ufffdb\ufffd"


def test_a_message_that_repeats_what_was_streamed_is_no_further_text() -> None:
    last = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
    stream = sse(event({"content": "Hel"}), event({"content": "lo"}), last)
    assert completion(stream)["choices"][0]["message"]["content"] == "Hello"


def test_a_long_text_comes_in_pieces() -> None:
    chunks = tidied(whole({"content": "x" * 10_000}))
    lengths = [len(chunk["choices"][0]["delta"].get("content", "")) for chunk in chunks[:-1]]
    assert lengths == [0, 4096, 4096, 1808, 0]


BEYOND = {
    "a line": (b"data: " + b"x" * (17 * 2**20), "an event that is too large"),
    "a document": (b"{" + b" " * (17 * 2**20), "an event that is too large"),
    "lines": ((b"data: " + b"x" * 2**20 + b"\n") * 17, "an event that is too large"),
    "many lines": (b"data: {\n" * 1_001, "an event that is not JSON"),
}


@pytest.mark.parametrize(("body", "words"), BEYOND.values(), ids=BEYOND)
def test_an_event_beyond_all_measure_is_an_error(body: bytes, words: str) -> None:
    with pytest.raises(UpstreamFailed, match=words):
        tidied(body, 2**20)


def test_an_answer_beyond_all_measure_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horde_proxy.upstreams.openai.events._LARGEST_ANSWER", 4 * 2**20)
    pieces = itertools.repeat(sse(event({"content": "x"})) + b": " + b"x" * 2**20 + b"\n")
    with pytest.raises(UpstreamFailed, match="its answer is too large"):
        list(ForeignAnswer(HEAD).chunks(events(pieces)))


# finish_reason

REASONS = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "STOP": "stop",
    "COMPLETE": "stop",
    "whatever": "stop",
    "length": "length",
    "max_tokens": "length",
    "MAX_TOKENS": "length",
    "model_length": "length",
    "max-tokens": "length",
    "content_filter": "content_filter",
    "SAFETY": "content_filter",
    "refusal": "content_filter",
    "tool_calls": "stop",
    "tool_use": "stop",
    "function_call": "stop",
}


@pytest.mark.parametrize(("reason", "expected"), REASONS.items())
def test_foreign_reasons_become_openais_five(reason: str, expected: str) -> None:
    for body in (
        sse(event({"content": "Hi"}), event({}, reason)),
        whole({"content": "Hi"}, reason),
    ):
        assert completion(body)["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("reason", [1, True, ["stop"], {"type": "stop"}])
def test_a_finish_reason_that_is_not_a_string_becomes_stop(reason: Any) -> None:
    answer = completion(sse(event({"content": "Hi"}, reason)))
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_reason_as_an_object_has_its_type() -> None:
    answer = completion(sse(event({"content": "Hi"}, {"type": "length", "length": 9})))
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("reason", ["", "null", False, 0])
def test_a_reason_that_says_nothing_ends_nothing(reason: Any) -> None:
    stream = sse(event({"content": "Hel"}, reason), event({"content": "lo"}, reason))
    with pytest.raises(UpstreamFailed):
        tidied(stream)
    answer = completion(stream + sse(event({}, "length")))
    assert answer["choices"][0]["finish_reason"] == "length"


def test_text_after_a_reason_still_counts() -> None:
    answer = completion(sse(event({"content": "Hel"}, "stop"), event({"content": "lo"}, "stop")))
    assert answer["choices"][0]["message"]["content"] == "Hello"


# Tool calls


def call(**fields: Any) -> dict[str, Any]:
    """An entry of tool_calls with these fields; `name` and `arguments` are its function's."""
    names = ("name", "arguments")
    function = {name: fields.pop(name) for name in names if name in fields}
    return {**fields, "function": function} if function else fields


F = '{"a":1}'
ONE = [("f", F)]
TWO = [("f", F), ("g", '{"b":2}')]
# What the deltas of a choice have as tool_calls, and the calls that they are.
CALLS: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "OpenAI's own": (
        [
            [call(index=0, id="i", type="function", name="f", arguments="")],
            [call(index=0, arguments='{"a"')],
            [call(index=0, arguments=":1}")],
        ],
        ONE,
    ),
    "null": ([None, [call(index=0, id="i", name="f", arguments=F)], None], ONE),
    "an object": ([call(id="i", name="f", arguments=F)], ONE),
    "no index": (
        [[call(id="i", name="f", arguments="")], [call(arguments='{"a"')], [call(arguments=":1}")]],
        ONE,
    ),
    "no index, two calls": (
        [[call(id="i", name="f", arguments=F)], [call(id="j", name="g", arguments='{"b":2}')]],
        TWO,
    ),
    "neither index nor id": (
        [
            [call(name="f", arguments="")],
            [call(arguments='{"a"')],
            [call(arguments=":1}")],
            [call(name="g", arguments='{"b"')],
            [call(arguments=":2}")],
        ],
        TWO,
    ),
    "neither index nor id, in one delta": (
        [[call(name="f", arguments=F), call(name="g", arguments='{"b":2}')]],
        TWO,
    ),
    "the same call twice, in one delta": (
        [[call(name="f", arguments=F), call(name="f", arguments=F)]],
        [("f", F), ("f", F)],
    ),
    "an index from 1": (
        [
            [call(index=1, id="i", name="f", arguments=F)],
            [call(index=2, id="j", name="g", arguments='{"b"')],
            [call(index=2, arguments=":2}")],
        ],
        TWO,
    ),
    "gaps": (
        [
            [call(index=3, id="i", name="f", arguments=F)],
            [call(index=70, id="j", name="g", arguments='{"b":2}')],
        ],
        TWO,
    ),
    "texts as index": (
        [
            [call(index="0", id="i", name="f", arguments='{"a"')],
            [call(index=0, arguments=":1}")],
            [call(index="x", id="j", name="g", arguments='{"b":2}')],
        ],
        TWO,
    ),
    "a huge, a negative, a false and a broken index": (
        [
            [call(index=10**40, id="i", name="f", arguments='{"a"')],
            [call(index=10**40, arguments=":1}")],
            [call(index=-1, id="j", name="g", arguments='{"b"')],
            [call(index=False, id="j", arguments=":")],
            [call(index=1.5, id="j", arguments="2}")],
        ],
        TWO,
    ),
    "index 0 for all": (
        [
            [call(index=0, id="i", name="f", arguments=F)],
            [call(index=0, id="j", name="g", arguments='{"b":2}')],
        ],
        TWO,
    ),
    "index 0 for all, and no ids": (
        [
            [call(index=0, id="", name="f", arguments=F)],
            [call(index=0, id="", name="g", arguments='{"b":2}')],
        ],
        TWO,
    ),
    "an id in each delta": (
        [
            [call(index=0, id="i", name="f", arguments="")],
            [call(index=0, id="i", arguments='{"a"')],
            [call(index=0, id="i", arguments=":1}")],
        ],
        ONE,
    ),
    "id, type and name in each delta": (
        [
            [call(index=0, id="i", type="function", name="f", arguments="")],
            [call(index=0, id="i", type="function", name="f", arguments='{"a"')],
            [call(index=0, id="i", type="function", name="f", arguments=":1}")],
        ],
        ONE,
    ),
    "an id in each delta, and no index": (
        [[call(id="i", name="f", arguments='{"a"')], [call(id="i", name="f", arguments=":1}")]],
        ONE,
    ),
    "an empty id in later deltas": (
        [
            [call(index=0, id="i", name="f", arguments="")],
            [call(index=0, id="", name="", arguments='{"a"')],
            [call(index=0, id=None, name=None, arguments=":1}")],
        ],
        ONE,
    ),
    "a new id in each delta": (
        [
            [call(index=0, id="i", name="f", arguments="")],
            [call(index=0, id="j", name=None, arguments='{"a"')],
            [call(index=0, id="k", name="f", arguments=":1}")],
        ],
        ONE,
    ),
    "the same id for two calls": (
        [
            [call(index=0, id="i", name="f", arguments=F)],
            [call(index=1, id="i", name="g", arguments="")],
            [call(index=1, id="i", arguments='{"b":2}')],
        ],
        TWO,
    ),
    "one id for all, in each delta, and no index": (
        [
            [call(id="i", name="f", arguments="")],
            [call(id="i", arguments='{"a"')],
            [call(id="i", arguments=":1}")],
            [call(id="i", name="g", arguments="")],
            [call(id="i", arguments='{"b"')],
            [call(id="i", arguments=":2}")],
        ],
        TWO,
    ),
    "two deltas of one call in one chunk": (
        [
            [
                call(index=0, id="i", name="f", arguments='{"a"'),
                call(index=0, id="i", name="f", arguments=":1}"),
            ]
        ],
        ONE,
    ),
    "a number as id": ([[call(index=0, id=7, name="f", arguments=F)]], ONE),
    "no type, and another type": (
        [
            [call(index=0, type=None, name="f", arguments=F)],
            [call(index=1, type="tool", name="g", arguments='{"b":2}')],
        ],
        TWO,
    ),
    "arguments missing": ([[call(index=0, id="i", name="f")]], [("f", "{}")]),
    "arguments null": ([[call(index=0, id="i", name="f", arguments=None)]], [("f", "{}")]),
    "arguments empty": ([[call(index=0, id="i", name="f", arguments="")]], [("f", "{}")]),
    "arguments of spaces": ([[call(index=0, id="i", name="f", arguments=" ")]], [("f", " {}")]),
    "arguments as an object": (
        [[call(index=0, id="i", name="f", arguments={"a": 1})]],
        [("f", '{"a": 1}')],
    ),
    "arguments as an empty object": ([[call(name="f", arguments={})]], [("f", "{}")]),
    "missing in the first of two": (
        [[call(index=0, name="f")], [call(index=1, name="g", arguments='{"b":2}')]],
        [("f", "{}"), ("g", '{"b":2}')],
    ),
    "null first": ([[call(index=0, name="f", arguments=None)], [call(index=0, arguments=F)]], ONE),
    "a late name": (
        [
            [call(index=0, id="i", arguments='{"a"')],
            [call(index=0, arguments=":1}")],
            [call(index=0, name="f")],
        ],
        ONE,
    ),
    "a late id": (
        [[call(index=0, name="f", arguments="")], [call(index=0, id="i", arguments=F)]],
        ONE,
    ),
    "a late name of the first of two": (
        [
            [call(index=0, id="i", arguments=F)],
            [call(index=1, id="j", name="g", arguments='{"b":2}')],
            [call(index=0, name="f")],
        ],
        TWO,
    ),
    "a name in pieces": (
        [[call(index=0, id="i", name="get_")], [call(index=0, name="it")], [call(arguments=F)]],
        [("get_it", F)],
    ),
    "a name that grows": (
        [[call(index=0, name="get")], [call(index=0, name="get_it")], [call(arguments=F)]],
        [("get_it", F)],
    ),
    "no function": ([[{"index": 0, "id": "i", "name": "f", "arguments": F}]], ONE),
    "a function that is null later": (
        [[call(index=0, id="i", name="f", arguments=F)], [{"index": 0, "function": None}]],
        ONE,
    ),
    "entries that are none": ([[None, 3, "x", call(name="f", arguments=F)], "x", 7], ONE),
    "two calls, interleaved": (
        [
            [call(index=0, id="i", name="f"), call(index=1, id="j", name="g")],
            [call(index=1, arguments='{"b"'), call(index=0, arguments='{"a"')],
            [call(index=0, arguments=":1}"), call(index=1, arguments=":2}")],
        ],
        TWO,
    ),
    "the whole call once more at the end": (
        [
            [call(index=0, id="i", name="f", arguments='{"a"')],
            [call(index=0, arguments=":1}")],
            [call(index=0, id="i", name="f", arguments=F)],
        ],
        ONE,
    ),
    "halves of a character": (
        [
            [call(index=0, name="f", arguments='{"a":"\ud83d')],
            [call(index=0, arguments='\ude00"}')],
        ],
        [("f", '{"a":"\U0001f600"}')],
    ),
}


@pytest.mark.parametrize(("lists", "expected"), CALLS.values(), ids=CALLS)
def test_calls_are_whole_and_right(lists: list[Any], expected: list[tuple[str, str]]) -> None:
    stream = sse(*(event({"tool_calls": calls}) for calls in lists), event({}, "stop"))
    bodies = [stream]
    if len(lists) == 1 and isinstance(lists[0], list):
        bodies.append(whole({"content": None, "tool_calls": lists[0]}))
    for body in bodies:
        [answered] = completion(body)["choices"]
        calls = answered["message"]["tool_calls"]
        functions = [entry["function"] for entry in calls]
        assert [(function["name"], function["arguments"]) for function in functions] == expected
        assert answered["finish_reason"] == "tool_calls"
        assert len({entry["id"] for entry in calls}) == len(calls)


def test_a_servers_id_is_kept_and_a_missing_one_is_made() -> None:
    calls = [
        call(index=0, id="call_x", name="f", arguments=F),
        call(index=1, id=None, name="f", arguments='{"a":2}'),
        call(index=2, id="call_x", name="f", arguments='{"a":3}'),
        call(index=3, id="x" * 999, name="f", arguments='{"a":4}'),
    ]
    first, *others = [entry["id"] for entry in message({"tool_calls": calls})["tool_calls"]]
    assert first == "call_x"
    assert all(len(other) == 29 and other.startswith("call_") for other in others)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "tool_calls"),
        ("eos", "tool_calls"),
        ("length", "length"),
        ("tool_use", "tool_calls"),
    ],
)
def test_the_reason_beside_calls(reason: str, expected: str) -> None:
    stream = sse(event({"tool_calls": [call(index=0, id="i", name="f", arguments=F)]}, reason))
    assert completion(stream)["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize(
    "calls",
    [
        [call(index=0, id="i", arguments=F)],
        [call(index=0, id="i", name="x" * 300, arguments=F)],
        [call(index=index, name="f", arguments=F) for index in range(1_001)],
    ],
)
def test_calls_that_cannot_be_made_legal_are_an_error(calls: list[Any]) -> None:
    with pytest.raises(UpstreamFailed, match="tool"):
        tidied(sse(event({"tool_calls": calls}, "tool_calls")) + DONE)


OLDER = [
    {"function_call": {"name": "f", "arguments": ""}},
    {"function_call": {"arguments": '{"a"'}},
    {"function_call": {"arguments": ":1}"}},
]


def test_the_older_form_becomes_a_tool_call() -> None:
    answer = message(*OLDER, finish_reason="function_call")
    [made_call] = answer["tool_calls"]
    assert made_call["function"] == {"name": "f", "arguments": F}
    body = whole({"content": None, "function_call": {"name": "f", "arguments": F}}, "function_call")
    [made_call] = completion(body)["choices"][0]["message"]["tool_calls"]
    assert made_call["function"] == {"name": "f", "arguments": F}


@pytest.mark.parametrize(
    "deltas",
    [
        OLDER,
        [{"tool_calls": [call(index=0, id="i", name="f", arguments=F)]}],
        [{"function_call": {"name": "f", "arguments": F}, "tool_calls": None}],
    ],
)
def test_a_client_of_the_older_form_gets_it(deltas: list[dict[str, Any]]) -> None:
    stream = sse(*map(event, deltas), event({}, "tool_calls"))
    [answered] = completion(stream, legacy_functions=True)["choices"]
    assert answered["message"]["function_call"] == {"name": "f", "arguments": F}
    assert answered["finish_reason"] == "function_call"
    assert "tool_calls" not in answered["message"]


def test_both_forms_of_one_call_are_one_call() -> None:
    function = {"name": "f", "arguments": F}
    answer = message({"function_call": function, "tool_calls": [{"id": "i", "function": function}]})
    assert [entry["id"] for entry in answer["tool_calls"]] == ["i"]


@pytest.mark.thorough
def test_the_cost_of_long_arguments_grows_with_their_length() -> None:
    def work(length: int) -> None:
        piece = {"tool_calls": [call(index=0, name="f", arguments="x")]}
        tidied(sse(*(event(piece) for _ in range(length)), event({}, "stop")))

    assert growth(work, 16_000) < 1.5


# Usage


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, (9, 2, 11)),
        (None, (9, 2, 11)),
        ("many", (9, 2, 11)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (9, 2, 11)),
        ({"prompt_tokens": None, "completion_tokens": 3}, (9, 3, 12)),
        ({"input_tokens": 4, "output_tokens": 5}, (4, 5, 9)),
        ({"total_tokens": 5}, (5, 2, 7)),
        ({"prompt_tokens": -5, "completion_tokens": float("nan")}, (9, 2, 11)),
        ({"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": "9"}, (4, 5, 9)),
    ],
)
def test_usage_is_the_servers_or_estimated(told: Any, expected: tuple[int, int, int]) -> None:
    stream = sse(event({"content": "Hello"}), event({}, "stop", usage=told))
    usage = completion(stream, prompt_tokens=9)["usage"]
    counts = (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
    assert counts == expected


def test_reasoning_and_calls_are_estimated_too() -> None:
    deltas = [{"reasoning": "x" * 40}, {"tool_calls": [call(name="f", arguments=F)]}]
    stream = sse(*map(event, deltas), event({}, "stop"))
    assert completion(stream)["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize(
    "usages",
    [
        [None, None, USAGE],
        [USAGE, None, None],
        [{"prompt_tokens": 1, "completion_tokens": 1}, USAGE, USAGE],
    ],
)
def test_the_last_usage_counts_and_comes_last(usages: list[Any]) -> None:
    deltas = [({"content": "a"}, None), ({"content": "b"}, None), ({}, "stop")]
    stream = sse(*(event(*part, usage=usage) for part, usage in zip(deltas, usages, strict=True)))
    assert completion(stream)["usage"] == USAGE


def test_a_usage_in_the_choice_counts() -> None:
    choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop", "usage": USAGE}
    assert completion(sse({"choices": [choice]}))["usage"] == USAGE


def test_the_timings_of_llama_cpp_tell_what_was_in_its_cache() -> None:
    last = {"choices": [], "usage": USAGE, "timings": {"cache_n": 5, "prompt_n": 1}}
    stream = sse(event({"content": "a"}, "stop"), last)
    assert completion(stream)["usage"] == {**USAGE, "prompt_tokens_details": {"cached_tokens": 5}}
    told = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}
    stream = sse(event({"content": "a"}, "stop"), {**last, "usage": told})
    assert completion(stream)["usage"] == told


def test_details_of_a_usage_are_numbers_or_left_out() -> None:
    told = {
        **USAGE,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": 3.5,
    }
    told |= {"cost": "free", "queue_time": 0.5, "x": {"a": None}}
    answer = completion(sse(event({"content": "a"}, "stop", usage={**told, "x": {"y": [1]}})))
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert answer["usage"].keys() & {"cost", "x"} == set()


def test_the_cost_so_far_is_known_at_any_time() -> None:
    answer = ForeignAnswer(HEAD, prompt_tokens=9)
    chunks = answer.chunks(events([sse(event({"content": "x" * 80}), event({}, "stop"))]))
    assert answer.spent() == Spent(9, 0)
    next(chunks)
    next(chunks)
    assert answer.spent() == Spent(9, 20)


def test_the_cost_at_another_horde_is_kept() -> None:
    last = {**event({}), "choices": [], "usage": USAGE, "horde": {"kudos": 4.5}}
    record = RequestLog("id", "POST", "/", "client")
    with record.recording():
        for chunk in tidied(sse(event({"content": "x"}, "stop"), last)):
            record.note(chunk)
    assert (record.kudos, record.completion_tokens) == (4.5, 2)


# Anything at all

NAMES = [
    "id",
    "created",
    "model",
    "choices",
    "index",
    "delta",
    "message",
    "text",
    "role",
    "content",
    "refusal",
    "reasoning",
    "thinking",
    "tool_calls",
    "function_call",
    "function",
    "name",
    "arguments",
    "type",
    "finish_reason",
    "usage",
    "prompt_tokens",
    "horde",
]
SCALARS = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        1.5,
        10**30,
        float("nan"),
        "",
        "x",
        "stop",
        "{}",
        '{"a"',
        ":1}",
        "\ud83d",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=6,
)
FUNCTIONS = st.fixed_dictionaries({}, optional={"name": VALUES, "arguments": VALUES})
ENTRIES = st.fixed_dictionaries(
    {"function": FUNCTIONS | VALUES}, optional={"index": VALUES, "id": VALUES, "type": VALUES}
)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "role": VALUES,
        "content": VALUES,
        "reasoning": VALUES,
        "refusal": VALUES,
        "function_call": VALUES,
        "tool_calls": st.lists(ENTRIES | VALUES, max_size=3) | VALUES,
    },
)
CHOICES = st.fixed_dictionaries(
    {"delta": DELTAS | VALUES}, optional={"index": VALUES, "finish_reason": VALUES}
)
EVENTS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES | VALUES, max_size=2) | VALUES},
    optional={"id": VALUES, "created": VALUES, "model": VALUES, "usage": VALUES, "horde": VALUES},
)


@given(st.lists(EVENTS, max_size=6), st.integers(1, 3), st.booleans())
def test_whatever_comes_the_answer_is_legal_or_an_error(
    documents: list[Any], n: int, legacy_functions: bool
) -> None:
    try:
        chunks = tidied(sse(*documents) + DONE, n=n, legacy_functions=legacy_functions)
    except UpstreamFailed:
        return
    check_chunks(chunks)
    ChatCompletion.model_validate(fold(chunks), strict=True)
