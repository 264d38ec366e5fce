"""Random bodies for POST /v1/messages, legal and broken: no 500, and every stream ends legally."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.legal_messages import check_message, checked_stream
from tests.support import Scripted, World

CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome"}}\n</tool_call>'
ANSWERS = st.sampled_from(
    [
        "Hello.",
        "<think>Hm.</think>Hello. END of it",
        "<think>Hm",
        f"I look.\n{CALL}\n{CALL}",
        f"{CALL[:40]}",
        '{"title": "x"}',
        "word " * 300,
        "<|im_end|>",
    ]
)

# Any JSON, with the words of the API among its texts and names, so that some of it means something.
WORDS = st.sampled_from(
    [
        "text",
        "type",
        "content",
        "source",
        "tool_use",
        "tool_result",
        "thinking",
        "image",
        "base64",
        "name",
        "weather",
        "toolu_1",
        "user",
        "",
        "\x00",
        "\ud800",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner),
    max_leaves=8,
)


TEXT = st.fixed_dictionaries({"type": st.just("text"), "text": st.sampled_from(["Hi", ""])})
SOURCES = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("base64"),
            "media_type": st.sampled_from(["image/png", "text/plain", "application/pdf"]),
            "data": st.sampled_from(["iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB", "SGk=", "%"]),
        }
    ),
    st.fixed_dictionaries({"type": st.just("url"), "url": st.just("https://example.com/a.png")}),
    st.fixed_dictionaries({"type": st.just("text"), "data": st.just("A poem")}),
    st.fixed_dictionaries({"type": st.just("content"), "content": st.lists(TEXT, max_size=2)}),
    st.fixed_dictionaries({"type": st.just("file"), "file_id": st.just("file_1")}),
)
MEDIA = st.fixed_dictionaries(
    {"type": st.sampled_from(["image", "document"]), "source": SOURCES},
    optional={"title": st.just("Roses"), "context": st.just("by Ann")},
)
NAMES = st.sampled_from(["weather", "ToolSearch", "rain", "x" * 200])
IDS = st.sampled_from(["toolu_1", "toolu_2", "srvtoolu_1"])
USE = st.fixed_dictionaries(
    {
        "type": st.just("tool_use"),
        "id": IDS,
        "name": NAMES,
        "input": st.just({"place": "Rome"}),
    }
)
REFERENCE = st.fixed_dictionaries({"type": st.just("tool_reference"), "tool_name": NAMES})
OTHER = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "thinking",
                "redacted_thinking",
                "search_result",
                "server_tool_use",
                "web_search_tool_result",
                "mcp_tool_result",
                "compaction",
                "container_upload",
                "tool_addition",
                "function_call",
                "hologram",
            ]
        )
    },
    optional={
        "thinking": st.just("Hm."),
        "signature": st.just(""),
        "content": st.lists(TEXT, max_size=2),
        "text": st.just("Hi"),
        "name": VALUES,
    },
)
INNER = st.one_of(TEXT, MEDIA, REFERENCE, OTHER)
RESULT = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "tool_use_id": IDS},
    optional={
        "content": st.just("sun") | st.lists(INNER, max_size=3),
        "is_error": st.booleans(),
    },
)
BLOCKS = st.lists(st.one_of(TEXT, MEDIA, USE, RESULT, OTHER), max_size=4)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "ctx", "Human"]),
        "content": st.sampled_from(["Hi", ""]) | BLOCKS,
    }
)
SCHEMA = st.just({"type": "object", "properties": {"place": {"type": "string"}}, "$schema": "x"})

TOOL = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "type": st.sampled_from(
            ["custom", "bash_20250124", "web_search_20250305", "tool_search_tool_bm25_1"]
        ),
        "input_schema": SCHEMA,
        "description": st.just("Weather"),
        "defer_loading": st.booleans(),
        "strict": st.booleans(),
    },
)
CHOICE = st.fixed_dictionaries(
    {"type": st.sampled_from(["auto", "any", "tool", "none", "perhaps"])},
    optional={"name": NAMES, "disable_parallel_tool_use": st.booleans()},
)
FORMAT = st.fixed_dictionaries({"type": st.just("json_schema"), "schema": SCHEMA})
LEGAL = st.fixed_dictionaries(
    {
        "messages": st.lists(MESSAGE, min_size=1, max_size=4),
        "stream": st.booleans(),
    },
    optional={
        "model": st.sampled_from(["claude-haiku-4-5", "auto", "none"]),
        "max_tokens": st.sampled_from([0, 1, 50, 32000, 128000]),
        "system": st.just("Be brief.") | st.lists(TEXT, max_size=2),
        "tools": st.lists(TOOL, max_size=3),
        "tool_choice": CHOICE,
        "stop_sequences": st.lists(st.sampled_from(["END", "", "\n"]), max_size=3),
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(0, 100),
        "thinking": st.sampled_from([{"type": "adaptive"}, {"type": "disabled"}]),
        "output_config": st.fixed_dictionaries({"format": FORMAT}),
        "metadata": VALUES,
        "horde": st.just({"progress": "reasoning"}),
        "mcp_servers": st.just([]),
        "thread": VALUES,
    },
)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A body that is mostly legal; up to three of its values are replaced by any JSON."""
    body: dict[str, Any] = deepcopy(draw(LEGAL))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        parents = [parent for parent in parents_in(body) if parent]
        parent = draw(st.sampled_from(parents))
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        parent[draw(st.sampled_from(keys))] = draw(VALUES)
    return body


def parents_in(value: Any) -> list[Any]:
    """All objects and lists within a value, itself included."""
    inner = value.values() if isinstance(value, dict) else value
    parents = [value]
    for child in inner:
        if isinstance(child, dict | list):
            parents += parents_in(child)
    return parents


def answered_well(fields: dict[str, Any], answer: str, keeps_pictures: bool = True) -> None:
    world = World(horde={"describe_images": keeps_pictures, "tool_retries": 0})
    world.employ(Scripted(answer))
    http = world.http()
    body = {"model": "test/model", "max_tokens": 50, **fields}
    response: Any = http.post("/v1/messages", json=body)
    with response:
        if response.status_code != 200:
            # A call that no model made is the model's fault, and nothing to ask for again.
            is_faulty_model = "did not make the function call" in response.text
            assert response.status_code in ((502,) if is_faulty_model else (400, 404)), (
                response.text
            )
            error = response.json
            assert error["type"] == "error" and error["error"].keys() == {"type", "message"}
        elif response.mimetype == "text/event-stream":
            checked_stream(response.text)
        else:
            check_message(response.json)
        is_good = response.status_code == 200
    counted = http.post("/v1/messages/count_tokens", json=body)
    assert counted.status_code in ((200,) if is_good else (200, 400)), counted.text
    assert world.horde.open_requests() == []


@given(bodies(), ANSWERS, st.booleans())
def test_random_bodies_get_legal_answers(
    fields: dict[str, Any], answer: str, keeps_pictures: bool
) -> None:
    answered_well(fields, answer, keeps_pictures)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=2000)
@given(bodies(), ANSWERS, st.booleans())
def test_two_thousand_random_bodies_get_legal_answers(
    fields: dict[str, Any], answer: str, keeps_pictures: bool
) -> None:
    answered_well(fields, answer, keeps_pictures)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b'{"a": NaN}', b"[" * 9999]
)
def test_what_is_no_body_is_a_400(body: bytes) -> None:
    response = World().http().post("/v1/messages", data=body)
    assert response.status_code == 400
    assert response.get_json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_nested_without_measure_is_no_500() -> None:
    nested: Any = "x"
    for _ in range(400):
        nested = {"type": "tool_result", "tool_use_id": "t", "content": [nested]}
    for block in (nested, {"type": "x_tool_result", "content": nested}):
        world = World()
        world.employ(Scripted("Hi."))
        body = {"model": "test/model", "messages": [{"role": "user", "content": [block, "Hi"]}]}
        assert world.http().post("/v1/messages", json=body).status_code in (200, 400)
