"""Typical answers where a call or JSON is required, and the requests to the horde that each costs.

Run as a program, it prints the requests of all cases: python -m tests.test_structured_requests
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import ProxyError
from horde_proxy.prompts.constrained import constrained_request
from horde_proxy.prompts.structured_reading import read_structured
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.upstreams.base import Caller, Route
from tests.support import Scripted, World

FORECAST: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {}}},
    "required": ["name"],
}
OSLO = {"city": "Oslo", "days": 3, "unit": "C"}
TEXT = '{"city": "Oslo", "days": 3, "unit": "C"}'
ANN = {"name": "Ann", "tags": ["x"]}
QUOTED = json.dumps(TEXT)


def tool(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


NAMED = {
    "tools": [tool("forecast", FORECAST), tool("person", PERSON)],
    "tool_choice": {"type": "function", "function": {"name": "forecast"}},
}
SINGLE = {"tools": [tool("forecast", FORECAST)], "tool_choice": "required"}
SEVERAL = {**NAMED, "tool_choice": "required"}
SCHEMA = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": FORECAST}}
}
OBJECT = {"response_format": {"type": "json_object"}}


@dataclass(frozen=True)
class Case:
    """A worker's texts (the last one again and again), and what comes of them.

    `requests`: to the horde. `value`: the arguments or the JSON; None if the answer is refused.
    """

    name: str
    fields: dict[str, Any]
    texts: tuple[str, ...]
    requests: int = 1
    value: Any = None

    def __str__(self) -> str:
        return self.name


def named(name: str, *texts: str, requests: int = 1, value: Any = OSLO) -> Case:
    return Case(f"named: {name}", NAMED, texts, requests, value)


def schema(name: str, *texts: str, requests: int = 1, value: Any = OSLO) -> Case:
    return Case(f"schema: {name}", SCHEMA, texts, requests, value)


def both(name: str, *texts: str, requests: int = 1, value: Any = OSLO) -> list[Case]:
    return [
        named(name, *texts, requests=requests, value=value),
        schema(name, *texts, requests=requests, value=value),
    ]


LEAVES = ('Oslo"', "3,", 'C"')
CASES = [
    *both("bare", TEXT),
    *both("in a fence", f"```json\n{TEXT}\n```"),
    *both("prose around it", f"Sure, here it is:\n\n{TEXT}\n\nAnything else?"),
    *both("prose around a fence", f"Sure:\n```json\n{TEXT}\n```\nThat is the {{forecast}}."),
    *both("a string that holds JSON", QUOTED),
    *both("a wrapper: final_result", f'{{"final_result": {TEXT}}}'),
    *both("a wrapper: response", f'{{"response": {TEXT}}}'),
    *both("a wrapper: arguments", f'{{"arguments": {TEXT}}}'),
    *both("a wrapper: parameters", f'{{"parameters": {TEXT}}}'),
    *both("a wrapper: tool_input", f'{{"tool": "forecast", "tool_input": {TEXT}}}'),
    *both("a wrapper: input", f'{{"input": {TEXT}}}'),
    *both("a wrapper: properties", f'{{"properties": {TEXT}, "type": "object"}}'),
    *both("a wrapper: a string in it", f'{{"arguments": {QUOTED}}}'),
    *both("a list of one", f"[{TEXT}]"),
    *both("another name", f'{{"name": "get_forecast", "arguments": {TEXT}}}'),
    *both("an undeclared key", TEXT[:-1] + ', "country": "Norway"}'),
    *both("numbers as strings", TEXT.replace("3", '"3"')),
    *both("a number with a point", TEXT.replace("3", "3.0")),
    *both("a choice in lower case", TEXT.replace('"C"', '"c"')),
    *both("Python's quotes", TEXT.replace('"', "'")),
    *both("an unclosed thought", f"<think>\nThey ask for Oslo.\n\n{TEXT}"),
    *both("a closed thought", f'<think>\nMaybe {{"city": "Rome"}}.\n</think>\n{TEXT}'),
    *both("a continuation", TEXT[1:]),
    named("a call in prose", f"I call forecast({TEXT})."),
    named("a marked call of another name", f'<tool_call>\n{{"name": "f", "arguments": {TEXT}}}'),
    Case("single: bare", SINGLE, (TEXT,), 1, OSLO),
    Case("single: a wrapper", SINGLE, (f'{{"final_result": {TEXT}}}',), 1, OSLO),
    Case("several: bare", SEVERAL, (TEXT,), 1, OSLO),
    Case("several: in a fence", SEVERAL, (f"```json\n{TEXT}\n```",), 1, OSLO),
    Case("several: a wrapper", SEVERAL, (f'{{"tool_input": {TEXT}}}',), 1, OSLO),
    Case("several: a continuation", SEVERAL, (f'forecast", "arguments": {TEXT}}}',), 1, OSLO),
    Case("several: another name", SEVERAL, (f'weather", "arguments": {TEXT}}}',), 1, OSLO),
    Case("several: the other", SEVERAL, ('{"name": "Ann", "tags": "x"}',), 1, ANN),
    *both("a leaf is missing", TEXT.replace(', "unit": "C"', ""), "Sorry.", 'C"', requests=3),
    *both("a leaf does not fit", TEXT.replace("3", '"some"'), "Sorry.", "3,", requests=3),
    *both("prose", "I would rather not.", "No.", *LEAVES, requests=5),
    schema("prose only", "I would rather not.", requests=5, value=None),
    Case("object: bare", OBJECT, (TEXT,), 1, OSLO),
    Case("object: in a fence", OBJECT, (f"Here:\n```json\n{TEXT}\n```",), 1, OSLO),
    Case("object: a string that holds JSON", OBJECT, (QUOTED,), 1, OSLO),
    Case("object: an unclosed thought", OBJECT, (f"<think>\nHm.\n{TEXT}",), 1, OSLO),
    Case("object: prose", OBJECT, ("Hello there.",), 2, None),
]


class Texts(Scripted):
    """Gives one text after the other; the last one again and again."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        super().__init__("")
        self.texts = list(texts)

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]


def outcome(case: Case, *, stream: bool) -> tuple[Any, int]:
    """(the arguments or the JSON, the requests); "error", "prose" or None for a refusal."""
    world = World()
    worker = world.employ(Texts(case.texts))
    upstream = world.upstream()
    body = {"model": "test/model", "stream": stream, **case.fields}
    request = read_chat({**body, "messages": [{"role": "user", "content": "Three days in Oslo?"}]})
    try:
        items = [*upstream.stream(request, Route(upstream, ("test/model",)), Caller())]
    except ProxyError:
        return "error", len(worker.payloads)
    message = fold([item for item in items if isinstance(item, dict)])["choices"][0]["message"]
    if message["refusal"]:
        return message["content"], len(worker.payloads)
    calls = message.get("tool_calls")
    try:
        text = calls[0]["function"]["arguments"] if calls else message["content"]
        return json.loads(text), len(worker.payloads)
    except ValueError:
        return "prose", len(worker.payloads)


def is_tried_whole(case: Case) -> bool:
    """Whether a case runs through a horde: the others are read alone, which takes less time."""
    words = ("continuation", "final_result", "unclosed thought")
    return case.requests > 1 or any(case.name.endswith(word) for word in words)


@pytest.mark.parametrize("case", [case for case in CASES if case.requests == 1], ids=str)
def test_an_answer_that_fits_needs_no_further_request(case: Case) -> None:
    messages = [{"role": "user", "content": "Three days in Oslo?"}]
    request = read_chat({"model": "x", "messages": messages, **case.fields})
    for style in ("hermes", "llama3", "mistral"):
        structure = constrained_request(request, style)
        assert structure is not None
        # Llama 3 has another word for the arguments.
        text = case.texts[0]
        text = text.replace('"arguments"', '"parameters"') if style == "llama3" else text
        reading = read_structured(structure, text)
        assert reading.problem is None
        assert json.loads(reading.json or reading.calls[0].call.arguments) == case.value


FORECASTS = st.fixed_dictionaries(
    {
        "city": st.text() | st.sampled_from(["{", "```\n", '"}', "</think>", "It's <tool_call>"]),
        "days": st.integers(-(2**53), 2**53),
        "unit": st.sampled_from(["C", "F"]),
    }
)
WRAPPERS: list[Callable[[Any], Any]] = [
    lambda value: {"final_result": value},
    lambda value: {"name": "forecast", "arguments": value},
    lambda value: {"tool_input": json.dumps(value)},
    lambda value: [value],
    lambda value: json.dumps(value),
]
SURROUNDINGS = [
    "%s",
    "```json\n%s\n```",
    "Here it is:\n%s",
    "%s\nThat is all.",
    "<think>Hm.</think>%s",
]


@given(
    FORECASTS,
    st.lists(st.sampled_from(WRAPPERS), max_size=2),
    st.sampled_from(SURROUNDINGS),
    st.sampled_from([NAMED, SEVERAL, SCHEMA]),
)
def test_whatever_a_value_holds_it_is_found_in_its_wrappers(
    value: Any, wrappers: list[Any], surrounding: str, fields: dict[str, Any]
) -> None:
    wrapped = value
    for wrap in wrappers:
        wrapped = wrap(wrapped)
    messages = [{"role": "user", "content": "Three days in Oslo?"}]
    structure = constrained_request(
        read_chat({"model": "x", "messages": messages, **fields}), "hermes"
    )
    assert structure is not None
    # A string alone is JSON only where nothing else is around it.
    text = json.dumps(wrapped) if isinstance(wrapped, str) else surrounding % json.dumps(wrapped)
    reading = read_structured(structure, text)
    assert reading.problem is None
    assert json.loads(reading.json or reading.calls[0].call.arguments) == value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", [case for case in CASES if is_tried_whole(case)], ids=str)
def test_an_answer_costs_one_request_and_those_for_what_it_lacks(case: Case, stream: bool) -> None:
    assert outcome(case, stream=stream) == (case.value, case.requests)


if __name__ == "__main__":
    spent = 0
    for case in CASES:
        value, requests = outcome(case, stream=False)
        spent += requests
        mark = "" if (value, requests) == (case.value, case.requests) else "  <--"
        print(f"{requests}  {case.name}: {value}{mark}")
    print(spent, "requests;", sum(case.requests for case in CASES), "expected")
