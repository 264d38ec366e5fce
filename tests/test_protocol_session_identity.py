"""Which conversation a request belongs to: told by its client, or known by its beginning."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.session_identity import (
    beginning_of_body,
    beginning_of_request,
    named_identity,
)


@pytest.mark.parametrize(
    ("headers", "body", "identity"),
    [
        ({"X-Session-Affinity": "ses_1", "X-Session-Id": "ses_2"}, {}, "ses_1"),
        ({"X-Session-Id": "ses_2"}, {"prompt_cache_key": "p"}, "ses_2"),
        # Codex.
        ({"Session-Id": "019a", "Thread-Id": "019b"}, {"prompt_cache_key": "019a"}, "019a"),
        ({"X-Claude-Code-Session-Id": "c"}, {"metadata": {"user_id": "u"}}, "c"),
        ({"X-OpenWebUI-Chat-Id": "chat"}, {}, "chat"),
        ({"X-Session-Id": "  "}, {"prompt_cache_key": "p", "user": "ann"}, "p"),
        ({}, {"session_id": "s", "user": "ann"}, "s"),
        ({}, {"conversation": "conv_1", "user": "ann"}, "conv_1"),
        ({}, {"conversation": {"id": "conv_1"}}, "conv_1"),
        ({}, {"metadata": {"user_id": "device account session"}}, "device account session"),
        ({}, {"user": "ann"}, "ann"),
        ({}, {"user": "a" * 1000}, "a" * 512),
        ({}, {"user": 5, "prompt_cache_key": None, "metadata": [], "conversation": {}}, None),
        ({}, [], None),
        ({}, None, None),
    ],
)
def test_a_client_tells_its_conversation(
    headers: dict[str, str], body: Any, identity: str | None
) -> None:
    assert named_identity(headers.get, body) == identity


SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi"}
MORE = {"role": "user", "content": "More"}


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"messages": [SYSTEM, HELLO]}, {"messages": [SYSTEM, HELLO, ANSWER, MORE]}),
        # Parts, of which a marker for the cache moves from turn to turn (Anthropic's clients).
        (
            {
                "system": [{"type": "text", "text": "Be brief."}],
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Hello", "cache_control": {}}],
                    }
                ],
            },
            {
                "system": [{"type": "text", "text": "Be brief.", "cache_control": {}}],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                    ANSWER,
                    MORE,
                ],
            },
        ),
        (
            {"instructions": "Be brief.", "input": [HELLO]},
            {"instructions": "Be brief.", "input": [HELLO, ANSWER, MORE]},
        ),
        ({"input": "Hello"}, {"input": [HELLO, ANSWER, MORE]}),
        # A character greets first.
        ({"messages": [SYSTEM, ANSWER, HELLO]}, {"messages": [SYSTEM, ANSWER, HELLO, MORE]}),
        ({"prompt": "x" * 512 + "a"}, {"prompt": "x" * 512 + "b" * 600}),
        ({"system": "s", "prompt": "p"}, {"system": "s", "prompt": "p", "stream": True}),
    ],
)
def test_a_later_turn_begins_like_the_first(first: Any, later: Any) -> None:
    assert beginning_of_body(first) is not None
    assert beginning_of_body(first) == beginning_of_body(later)


def test_conversations_with_other_beginnings_are_told_apart() -> None:
    picture = "data:image/png;base64," + "A" * 300
    bodies: list[Any] = [
        {"messages": [HELLO]},
        {"messages": [MORE]},
        {"messages": [SYSTEM, HELLO]},
        {"messages": [{**SYSTEM, "content": "Be long."}, HELLO]},
        {"messages": [ANSWER, HELLO]},
        {"prompt": "Hello"},
        {"prompt": "Hello", "system": "Be brief."},
        {"messages": [{"role": "user", "content": "x" * 5000}]},
        {"messages": [{"role": "user", "content": "x" * 5001}]},
        *[
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": picture + end}}],
                    }
                ]
            }
            for end in ("B", "C")
        ],
    ]
    assert len({beginning_of_body(body) for body in bodies}) == len(bodies)


@pytest.mark.parametrize(
    "body",
    [None, [], "x", {}, {"messages": []}, {"messages": 5, "input": 5}, {"prompt": ["a", "b"]}],
)
def test_a_body_without_messages_has_no_beginning(body: Any) -> None:
    assert beginning_of_body(body) is None


@pytest.mark.parametrize(
    "content", [None, 5, {}, [None], [5], [{"text": None}], [{"image_url": []}], "\ud83e"]
)
def test_no_content_breaks_the_reading(content: Any) -> None:
    assert beginning_of_body({"messages": [{"role": "user", "content": content}, None, 7]})


def test_a_request_that_was_read_has_the_same_beginning_in_each_turn() -> None:
    turns = (Message("system", "Be brief."), Message("user", "Hello"))
    later = (*turns, Message("assistant", "Hi"), Message("user", "More"))
    first = beginning_of_request(GenerationRequest("m", turns))
    assert first == beginning_of_request(GenerationRequest("m", later))
    assert first != beginning_of_request(GenerationRequest("m", turns[1:]))
    # The first turn's body, as it came.
    body = {"instructions": "Be brief.", "input": [HELLO]}
    assert first == beginning_of_body(body) == beginning_of_body({"messages": [SYSTEM, HELLO]})
