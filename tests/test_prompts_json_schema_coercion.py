"""Values that models write in another type than the schema's, and what they surely mean."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.prompts.json_schema.coercion import coerced

INTEGERS = {"type": "array", "items": {"type": "integer"}}
PLACE = {"type": "object", "properties": {"zip": {"type": "string"}}}
NESTED = {
    "properties": {"at": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]}},
    "$defs": {"Place": PLACE},
}


@pytest.mark.parametrize(
    "schema, value, expected",
    [
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, " -12 ", -12),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "integer"}, 30.0, 30),
        ({"type": "number"}, "0.5", 0.5),
        ({"type": "boolean"}, "True", True),
        ({"type": "string"}, 1234, "1234"),
        ({"type": "string"}, True, "true"),
        ({"type": ["string", "null"]}, 1.5, "1.5"),
        (INTEGERS, "[1, 2]", [1, 2]),
        (INTEGERS, ["1", 2], [1, 2]),
        (INTEGERS, "7", [7]),
        (INTEGERS, 7, [7]),
        ({"type": "array"}, "new", ["new"]),
        (PLACE, '{"zip": 123}', {"zip": "123"}),
        (NESTED, {"at": {"zip": 123}}, {"at": {"zip": "123"}}),
        ({"enum": ["Red", "Green"]}, "red ", "Red"),
        ({"properties": {"a": {"type": "string"}}}, {"a": None}, {}),
    ],
)
def test_a_value_becomes_what_the_schema_says(schema: Any, value: Any, expected: Any) -> None:
    assert repr(coerced(value, schema)) == repr(expected)


@pytest.mark.parametrize(
    "schema, value",
    [
        ({"type": "integer"}, "three"),
        ({"type": "integer"}, 2.5),
        ({"type": "integer"}, "1234567890123456789"),
        ({"type": "integer"}, True),
        ({"type": ["string", "integer"]}, "3"),
        ({"type": ["string", "integer"]}, 3),
        ({}, "3"),
        (INTEGERS, "many"),
        (INTEGERS, None),
        ({"anyOf": [INTEGERS, {"type": "string"}]}, "7"),
        ({"enum": ["red", "Red"]}, "RED"),
        ({"enum": ["red", "green"]}, "blue"),
        ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"a": None}),
        ({"type": 7, "properties": 7, "anyOf": 7, "enum": 7}, {"a": [1, {"b": "2"}]}),
    ],
)
def test_a_value_whose_meaning_is_not_clear_stays_as_it_is(schema: Any, value: Any) -> None:
    assert repr(coerced(value, schema)) == repr(value)


def test_a_schema_that_would_take_too_much_work_changes_nothing() -> None:
    union = {"anyOf": [{"$ref": "#/$defs/a"}] * 1000}
    schema = {"type": "array", "items": union, "$defs": {"a": {"type": "integer"}}}
    assert coerced(["3"] * 1000, schema) == ["3"] * 1000
