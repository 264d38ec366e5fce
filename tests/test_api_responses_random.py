"""Random bodies of responses, legal and broken, through the whole proxy: no 500, legal answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.legal_responses import check_response, check_stream, parsed
from tests.support import Scripted, World

PARTS = 4
"""Tests that run side by side."""
EXAMPLES = settings().max_examples * 10 // PARTS
"""In the thorough run, 2,000 in all."""
Values = st.SearchStrategy[Any]
Usually = Callable[[Values], Values]
JSON: Values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
TEXT = st.text(max_size=20)
NAME = st.sampled_from(["f", "g", "shell", "apply_patch", "tool_search", "mail"])
ID = st.sampled_from(["call_1", "call_2", "fc_1", "msg_1", ""])
ROLES = st.sampled_from(["user", "assistant", "system", "developer"])
TYPES = st.sampled_from(
    [
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "compaction",
        "compaction_trigger",
        "configuration_update",
        "additional_tools",
        "tool_search_call",
        "tool_search_output",
        "program",
        "program_output",
        "web_search_call",
        "file_search_call",
        "computer_call",
        "computer_call_output",
        "mcp_call",
        "code_interpreter_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "future_call",
    ]
)
TOOL_TYPES = st.sampled_from(
    [
        "function",
        "custom",
        "namespace",
        "tool_search",
        "web_search",
        "shell",
        "local_shell",
        "apply_patch",
        "mcp",
        "image_generation",
        "future",
    ]
)
FORMS = st.sampled_from(
    [
        {"type": "text"},
        {"type": "grammar", "syntax": "regex", "definition": "a+"},
        {"type": "grammar", "syntax": "regex", "definition": "(a"},
        {"type": "grammar", "syntax": "lark", "definition": "start: A"},
    ]
)
FORMATS = st.sampled_from(
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True},
    ]
)
ANSWERS = st.sampled_from(
    [
        "",
        "Roses are red.",
        "<think>Hm</think>Yes.",
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        '<tool_call>\n{"name": "shell", "arguments": {"commands": ["ls"]}}\n</tool_call>',
        'Now: <tool_call>\n{"name": "g", "arguments": {"input": "aa"}}\n</tool_call>'
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        '{"a": 1}',
        "So:\n```f\naa\n```",
        '<tool_call>\n{"name": "f", "argu',
    ]
)


def bodies(usually: Usually) -> Values:
    """Bodies whose values are what `usually` makes of legal ones."""

    def objects(required: dict[str, Any], optional: dict[str, Any]) -> Values:
        return st.fixed_dictionaries(
            {name: usually(value) for name, value in required.items()},
            optional={name: usually(value) for name, value in optional.items()},
        )

    parts = objects(
        {"type": st.sampled_from(["input_text", "output_text", "text"]), "text": TEXT}, {}
    ) | objects({"type": st.just("refusal"), "refusal": TEXT}, {})
    content = TEXT | st.lists(parts, max_size=3)
    messages = objects({"role": ROLES, "content": content}, {"type": st.just("message"), "id": ID})
    inner_tools = st.lists(
        objects({"type": st.sampled_from(["function", "custom"]), "name": NAME}, {}), max_size=2
    )
    tools = st.lists(
        usually(
            objects(
                {"type": TOOL_TYPES, "name": NAME},
                {
                    "description": TEXT,
                    "parameters": st.just({"type": "object", "properties": {"a": {}}}),
                    "strict": st.booleans(),
                    "tools": inner_tools,
                    "execution": st.sampled_from(["client", "server"]),
                    "format": FORMS,
                },
            )
        ),
        max_size=4,
    )
    action = objects({}, {"commands": st.lists(TEXT, max_size=2), "command": TEXT})
    items = objects(
        {"type": TYPES},
        {
            "id": ID,
            "call_id": ID,
            "name": NAME,
            "namespace": NAME,
            "arguments": TEXT | st.just('{"a": 1}'),
            "input": TEXT,
            "output": content,
            "summary": st.lists(parts, max_size=2),
            "content": content,
            "action": action,
            "operation": objects({}, {"type": TEXT, "path": TEXT, "diff": TEXT}),
            "tools": tools,
            "encrypted_content": TEXT,
            "status": TEXT,
        },
    )
    named = objects({"type": st.sampled_from(["function", "custom", "shell"]), "name": NAME}, {})
    allowed = objects(
        {
            "type": st.just("allowed_tools"),
            "mode": st.sampled_from(["auto", "required"]),
            "tools": st.lists(named, max_size=2),
        },
        {},
    )
    choices = st.one_of(st.just("auto"), st.just("auto"), st.just("none"), named, allowed)
    optional: dict[str, Values] = {
        "instructions": TEXT,
        "store": st.booleans(),
        "background": st.just(False),
        "max_output_tokens": st.integers(-1, 2000),
        "max_tool_calls": st.integers(0, 3),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "text": objects({}, {"format": FORMATS, "verbosity": TEXT}),
        "reasoning": objects({}, {"effort": TEXT, "summary": st.just("auto")}),
        "tool_choice": choices,
        "parallel_tool_calls": st.booleans(),
        "truncation": st.sampled_from(["auto", "disabled"]),
        "metadata": st.dictionaries(TEXT, TEXT, max_size=3),
        "include": st.just(["reasoning.encrypted_content"]),
        "n": st.integers(0, 3),
        "stop": st.just(["x"]),
        "client_metadata": JSON,
        "horde": objects({}, {"progress": st.just("reasoning"), "segments": st.booleans()}),
    }
    return st.fixed_dictionaries(
        {
            "model": st.just("test/model"),
            "input": usually(
                st.text(min_size=1, max_size=20)
                | st.lists(usually(messages | items), min_size=1, max_size=5)
            ),
            "tools": usually(tools),
            "stream": st.booleans(),
        },
        optional={name: usually(value) for name, value in optional.items()},
    )


LEGAL = bodies(lambda legal: legal)
BROKEN = bodies(lambda legal: st.one_of(*[legal] * 9, JSON))


def asks_for_summary(body: dict[str, Any]) -> bool:
    last = body["input"][-1] if isinstance(body["input"], list) else None
    return isinstance(last, dict) and last.get("type") == "compaction_trigger"


class RandomRequests:
    """One world for all examples: making one for each takes longer than an example."""

    def __init__(self) -> None:
        world = World()
        self._backend = world.employ(Scripted("x"))
        self._client = world.http()

    def post(self, body: Any, text: str) -> tuple[int, str, str]:
        """(status, media type, answer) of a body, to which the worker writes a text."""
        self._backend.text = text
        with self._client.post("/v1/responses", data=json.dumps(body)) as response:
            return response.status_code, response.mimetype or "", response.get_data(as_text=True)


requests = RandomRequests()


@pytest.mark.parametrize("part", range(PARTS))
@settings(max_examples=EXAMPLES)
@given(body=LEGAL | BROKEN, text=ANSWERS | TEXT)
def test_any_body_gets_a_legal_answer_or_a_clear_refusal(
    part: int, body: dict[str, Any], text: str
) -> None:
    status, media_type, answer = requests.post(body, text)
    if status != 200:
        # A summary without text is a failure of the model: with it, the chat would be lost.
        assert status < 500 or (status == 502 and asks_for_summary(body)), answer
        error = json.loads(answer)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"] and isinstance(error["type"], str)
    elif media_type == "text/event-stream":
        check_stream(parsed(answer))
    else:
        check_response(json.loads(answer))
