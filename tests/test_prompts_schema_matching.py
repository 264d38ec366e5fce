"""Which value in a text is the one that a schema describes, and which is not."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from horde_proxy.prompts.json_values import json_values
from horde_proxy.prompts.schema_matching import best_match, matching_tool
from horde_proxy.protocol.generation_request import Tool
from tests.support import growth

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": STRING, "age": INTEGER},
    "required": ["name", "age"],
}
ANN = {"name": "Ann", "age": 3}
OPTIONAL: dict[str, Any] = {"type": "object", "properties": {"city": STRING, "days": INTEGER}}
CLOSED: dict[str, Any] = {**PERSON, "additionalProperties": False}
NODE: dict[str, Any] = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "name": STRING,
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}


# The values in a text.


def values(prefill: str, text: str, *, cut_off: bool = False) -> list[Any]:
    return [*islice(json_values(prefill, text, cut_off=cut_off), 5)]


@pytest.mark.parametrize(
    "prefill, text, expected",
    [
        ("{", '"a": 1}', {"a": 1}),
        ("[", "1, 2]", [1, 2]),
        ("{", '"a": 1', {"a": 1}),
        ("{", "'a': 1}", {"a": 1}),
        ("{", 'Well: {"a": 1}.', {"a": 1}),
        ("{", "```json\n{'a': 1}\n```", {"a": 1}),
        ("", '```\n{"a": 1', {"a": 1}),
        ("", "It's {x} or {'a': 1}", {"a": 1}),
        ("{", '<think>{"b": 1}</think>{"a": 1}', {"a": 1}),
        ("{", '<think>{"b": 1}? No: {"a": 1}\n```', {"a": 1}),
    ],
)
def test_the_likeliest_value_comes_first(prefill: str, text: str, expected: Any) -> None:
    assert values(prefill, text)[0] == expected


@pytest.mark.parametrize(
    "prefill, text",
    [
        ("{", "Hello there: friend"),
        ("{", '<think>{"a": 1}? Not quite.'),
        ("", "See {x}."),
    ],
)
def test_prose_and_thoughts_hold_no_value(prefill: str, text: str) -> None:
    assert values(prefill, text) == []


@pytest.mark.parametrize(
    "prefill, text, expected",
    [
        ("{", '"a": {"b": 1}, "c": "x', []),
        ("{", '{"a": {"b": 1}, "c": "x', []),
        ("{", '"a": {"b": 1}} and so on and', [{"a": {"b": 1}}]),
        ("{", 'Here: {"a": 1} and so on [', [{"a": 1}]),
        ("{", '<think>So {"a": 1}', []),
    ],
)
def test_of_a_text_that_was_cut_off_only_complete_values_count(
    prefill: str, text: str, expected: list[Any]
) -> None:
    assert values(prefill, text, cut_off=True) == expected


@pytest.mark.thorough
@pytest.mark.parametrize("unit", ['{"a": 1, "b": "', "[1] ", "{", "It's {x} "])
def test_long_texts_take_time_in_proportion(unit: str) -> None:
    def read(size: int) -> None:
        for _ in json_values("{", unit * (size // len(unit))):
            pass

    assert growth(read, 32_000) < 1.5


# The value that fits.


@pytest.mark.parametrize(
    "schema, value, expected",
    [
        (PERSON, {"result": {"data": ANN}}, ANN),
        (PERSON, {"name": "get_person", "arguments": ANN}, ANN),
        (PERSON, {"name": "f", "arguments": '{"name": "Ann", "age": "3"}'}, ANN),
        (PERSON, [{"properties": ANN, "type": "object"}], ANN),
        (PERSON, {**ANN, "more": 1}, {**ANN, "more": 1}),
        (CLOSED, {**ANN, "more": 1}, ANN),
        (
            NODE,
            {"name": "a", "x": 1, "children": [{"name": "b", "y": 2}]},
            {"name": "a", "children": [{"name": "b"}]},
        ),
        ({"type": "array", "items": PERSON}, {"people": [ANN, ANN]}, [ANN, ANN]),
        ({"type": "array", "items": PERSON}, ANN, [ANN]),
        ({"type": "integer"}, {"answer": "42"}, 42),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        (OPTIONAL, {"arguments": {"city": "Oslo"}}, {"city": "Oslo"}),
        (OPTIONAL, {}, {}),
        ({**OPTIONAL, "additionalProperties": True}, {"x": 1}, {"x": 1}),
        ({"type": "object", "properties": {"input": STRING}}, {"input": "x"}, {"input": "x"}),
    ],
)
def test_a_value_is_found_in_its_wrapper(schema: Any, value: Any, expected: Any) -> None:
    match = best_match([value], schema)
    assert match is not None
    assert (match.value, match.problem) == (expected, None)


def test_an_object_that_only_lacks_something_is_not_left_for_one_within_it() -> None:
    value = {"name": "Ann", "friend": {"name": "Bob", "age": 4}}
    match = best_match([value], PERSON)
    assert match is not None
    assert (match.value, match.problem) == (value, "'age' is a required property.")


def test_several_values_are_not_one() -> None:
    match = best_match([[ANN, {**ANN, "age": 4}]], PERSON)
    assert match is not None
    assert match.problem == (
        "[{'name': 'Ann', 'age': 3}, {'name': 'Ann', 'age': 4}] is not of type 'object'."
    )


def test_an_object_with_nothing_that_the_schema_lists_does_not_fit() -> None:
    match = best_match([{"The weather": "is nice"}], OPTIONAL)
    assert match is not None
    assert (match.problem, match.is_declared) == ("There is no property 'The weather'.", False)


def test_the_problem_is_that_of_the_wrapped_value() -> None:
    match = best_match([{"arguments": {"name": "Ann"}}], PERSON)
    assert match is not None
    assert (match.value, match.problem) == ({"name": "Ann"}, "'age' is a required property.")


def test_of_values_that_do_not_fit_the_one_with_fewest_problems_counts() -> None:
    match = best_match([{}, {"age": "x"}, {"name": "Ann"}, "text"], PERSON)
    assert match is not None
    assert (match.value, match.problem_count) == ({"name": "Ann"}, 1)


# The tool that is meant.


def tools(**schemas: Any) -> list[Tool]:
    return [Tool(name, "", schema) for name, schema in schemas.items()]


NOTHING_TAKEN = {"type": "object", "properties": {}}
SEVERAL = tools(person=PERSON, trip=OPTIONAL, time=NOTHING_TAKEN, any={"type": "object"})


@pytest.mark.parametrize(
    "value, expected",
    [
        (ANN, ("person", ANN)),
        ({"name": "someone", "arguments": ANN}, ("person", ANN)),
        ({"city": "Oslo"}, ("trip", {"city": "Oslo"})),
        ({"city": "Oslo", "unit": "C"}, ("trip", {"city": "Oslo", "unit": "C"})),
        ({**ANN, "city": "Oslo"}, None),
        ({}, None),
        ({"x": 1}, None),
        ({"name": "Ann"}, None),
    ],
)
def test_of_several_tools_the_only_one_that_fits_is_meant(value: Any, expected: Any) -> None:
    found = matching_tool([value], SEVERAL)
    assert (found and (found[0].name, found[1].value)) == expected


@pytest.mark.parametrize(
    "thought",
    ["[THINK]a {[/THINK]", "<seed:think>{}</seed:think>", "<think>a</think>\n<think>b</think>"],
)
def test_json_behind_the_thought_of_any_family_is_the_value(thought: str) -> None:
    assert next(json_values("{", f'{thought}\n{{"a": 1}}')) == {"a": 1}
