"""What a JSON schema asks for, and what is wrong in a value."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.prompts.json_schema.fillable import count_leaves, read_shape
from horde_proxy.prompts.json_schema.inlining import inlined
from horde_proxy.prompts.json_schema.keywords import dereferenced, types_of
from horde_proxy.prompts.json_schema.merging import Unfillable, merged
from horde_proxy.prompts.json_schema.patterns import pattern_matches
from horde_proxy.prompts.json_schema.string_formats import has_format
from horde_proxy.prompts.json_schema.validation import problem_with, validator
from horde_proxy.prompts.json_schema.work import TooMuchWork, keep, limited_work, spend
from horde_proxy.prompts.schema_matching import best_match

STRING = {"type": "string"}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
    "required": ["x", "y"],
}


def thing(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def test_a_reference_is_inlined_and_the_definitions_go() -> None:
    schema = {**thing(at={"$ref": "#/$defs/point"}), "$defs": {"point": POINT}}
    assert inlined(schema) == thing(at=POINT)


def test_a_reference_to_old_definitions_is_inlined() -> None:
    schema = {**thing(at={"$ref": "#/definitions/a~1b%20c"}), "definitions": {"a/b c": STRING}}
    assert inlined(schema) == thing(at=STRING)


def test_the_keywords_beside_a_reference_count_too() -> None:
    schema = {
        **thing(a={"$ref": "#/$defs/short", "minLength": 2, "description": "A name."}),
        "$defs": {"short": {"type": "string", "maxLength": 5, "description": "Any."}},
    }
    assert inlined(schema)["properties"]["a"] == {
        "type": "string",
        "minLength": 2,
        "maxLength": 5,
        "description": "A name.",
    }


def test_a_property_named_like_a_keyword_is_a_property() -> None:
    schema = {"type": "object", "properties": {"$ref": STRING, "allOf": STRING}}
    assert inlined(schema) == schema


def test_the_objects_of_all_of_become_one() -> None:
    schema = {"allOf": [thing(a=STRING), thing(b=STRING)]}
    assert inlined(schema) == {
        "type": ["object"],
        "properties": {"a": STRING, "b": STRING},
        "required": ["a", "b"],
    }


def test_bounds_that_meet_become_the_narrower_ones() -> None:
    schema = {"allOf": [{"minimum": 1, "maximum": 9}, {"minimum": 3, "maximum": 11}]}
    assert inlined(schema) == {"minimum": 3, "maximum": 9}


def test_a_property_that_a_closed_part_forbids_is_dropped() -> None:
    closed = {"type": "object", "properties": {"a": STRING}, "additionalProperties": False}
    other = {"type": "object", "properties": {"b": STRING}}
    assert inlined({"allOf": [closed, other]})["properties"] == {"a": STRING}


def test_null_comes_last_among_types_and_branches() -> None:
    assert inlined({"type": ["null", "string"]}) == {"type": ["string", "null"]}
    assert inlined({"anyOf": [{"type": "null"}, STRING]}) == {"anyOf": [STRING, {"type": "null"}]}


@pytest.mark.parametrize("reference", ["https://example.com/s", "#/$defs/none", "#name", "#", 3])
def test_a_reference_that_cannot_be_followed_to_an_end_is_unfillable(reference: Any) -> None:
    with pytest.raises(Unfillable):
        inlined(thing(a={"$ref": reference}))


POINTERS = {
    "$defs": {"a/b~c%d": STRING, "list": [STRING, {"type": "integer"}], "again": {"$ref": "#"}}
}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("#/$defs/a~1b~0c%25d", {"string"}),
        ("#/%24defs/list/1", {"integer"}),
        ("#/$defs/list/2", set()),
        ("#/$defs/list/a", set()),
        ("#/$defs/list/0/type/x", set()),
        ("#/$defs/none", set()),
        ("#name", set()),
        ("https://127.0.0.1:9/s", set()),
    ],
)
def test_arguments_and_guided_filling_resolve_references_alike(
    reference: str, expected: set[str]
) -> None:
    schema = {**thing(a={"$ref": reference}), **POINTERS}
    assert types_of({"$ref": reference}, schema) == expected
    if expected:
        assert inlined(schema)["properties"]["a"] == {"type": expected.pop()}
    else:
        with pytest.raises(Unfillable):
            inlined(schema)


def test_references_in_a_circle_lead_nowhere() -> None:
    assert dereferenced({"$ref": "#/a"}, {"a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}) == {
        "$ref": "#/a"
    }


def test_references_that_multiply_are_unfillable() -> None:
    definitions = {
        str(level): {
            "type": "object",
            "properties": {str(n): {"$ref": f"#/$defs/{level + 1}"} for n in range(40)},
        }
        for level in range(6)
    }
    with pytest.raises(Unfillable):
        inlined({"$ref": "#/$defs/0", "$defs": {**definitions, "6": STRING}})


@pytest.mark.parametrize(
    "schema, expected",
    [
        (STRING, 1),
        ({"type": "null"}, 0),
        ({"const": {"a": 1}}, 0),
        ({"enum": ["only"]}, 0),
        ({"enum": ["a", "b"]}, 1),
        (thing(a=STRING, b={"type": "boolean"}), 2),
        ({"type": "object", "properties": {"a": STRING}}, 1),
        ({"type": "object", "properties": {}}, 0),
        ({"type": "object", "additionalProperties": False}, 0),
        ({"type": "array", "items": STRING}, 3),
        ({"type": "array", "items": POINT}, 6),
        ({"type": "array", "items": STRING, "minItems": 5}, 5),
        ({"type": "array", "items": STRING, "maxItems": 2}, 2),
        ({"type": "array", "items": STRING, "maxItems": 0}, 0),
        ({"type": ["null", "integer"]}, 1),
        ({"anyOf": [{"type": "null"}, POINT]}, 2),
        ({"oneOf": [{"const": "a"}, {"const": "b"}]}, 1),
        ({"type": "string", "pattern": "^[A-Z]{3}$", "default": "ABC"}, 1),
        ({"type": "object", "properties": {"a": STRING, "b": {"not": {}}}, "required": ["a"]}, 1),
    ],
)
def test_leaves_are_counted(schema: dict[str, Any], expected: int) -> None:
    assert count_leaves(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"description": "Anything."},
        {"type": "object"},
        {"type": "object", "additionalProperties": STRING},
        {"type": "object", "patternProperties": {"^a": STRING}},
        {"type": "object", "properties": {"a": STRING}, "minProperties": 1},
        thing(a={"type": "string", "pattern": "^[A-Z]{3}$"}),
        thing(a={"type": "string", "minLength": 5, "maxLength": 4}),
        thing(a={"type": "string", "minLength": 1_000_000_000}),
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "integer", "minimum": 10**400},
        {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "prefixItems": [STRING]},
        {"type": "array", "items": STRING, "minItems": 2, "maxItems": 1},
        {"oneOf": [thing(a=STRING), thing(b=STRING)]},
        {"anyOf": []},
        {"enum": ["a"], "type": "integer"},
        {"type": "object", "properties": {"child": {"$ref": "#"}}},
        {"type": "no such type"},
        {"type": "object", "properties": 3},
        {"type": "string", "not": {"const": ""}},
        {"allOf": [STRING, {"type": "integer"}]},
    ],
)
def test_an_unfillable_schema_has_no_leaves(schema: dict[str, Any]) -> None:
    assert count_leaves(schema) is None


def test_one_of_is_fillable_where_a_required_value_tells_the_branches_apart() -> None:
    cat, dog = thing(kind={"const": "cat"}, lives=STRING), thing(kind={"const": "dog"})
    assert count_leaves({"oneOf": [cat, dog]}) == 1


def test_a_schema_that_is_no_object_is_unfillable() -> None:
    with pytest.raises(Unfillable):
        read_shape(True)  # type: ignore[arg-type]


def test_a_value_that_fits_has_no_problem() -> None:
    assert problem_with({"x": 1, "y": 2}, POINT) is None


def test_a_problem_names_the_place() -> None:
    assert problem_with({"x": 1, "y": "2"}, POINT) == "At 'y': '2' is not of type 'number'."


def test_a_problem_at_the_root_is_a_sentence_too() -> None:
    assert problem_with({"x": 1}, POINT) == "'y' is a required property."


def test_a_long_value_is_not_repeated() -> None:
    assert problem_with("a" * 5000, {"type": "integer"}) == "The value does not meet 'type'."


def test_a_problem_keeps_its_numbers_and_names() -> None:
    schema = {"properties": {"SmolLM2-135M": {"maximum": 500}}}
    assert problem_with({"SmolLM2-135M": 1502}, schema) == (
        "At 'SmolLM2-135M': 1502 is greater than the maximum of 500."
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no such type"},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"pattern": "("},
        {"pattern": "^(a+)+$"},
        {"pattern": "^(\\w|\\d){30}$"},
        {"pattern": "^" + "a?" * 98 + "$"},
        {"pattern": "b" * 201},
        {"patternProperties": {"^(a+)+$": False}},
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
    ],
)
def test_a_schema_that_is_broken_remote_or_slow_finds_no_problem(schema: dict[str, Any]) -> None:
    assert problem_with("a" * 60 + "!", schema) is None


def test_a_pattern_stays_guarded_when_a_schema_with_a_dialect_refers_to_itself() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {"a": {"$ref": "#"}},
        "pattern": "^(a+)+$",
    }
    assert problem_with({"a": "a" * 60 + "!"}, schema) is None


def test_references_that_multiply_find_no_problem() -> None:
    definitions: dict[str, Any] = {
        str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(40)
    }
    schema = {"$ref": "#/$defs/0", "$defs": {**definitions, "40": {"type": "integer"}}}
    assert problem_with(3, schema) is None


def test_a_tree_is_checked_to_its_leaves() -> None:
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
    }
    assert problem_with({"children": [{"children": []}]}, tree) is None
    assert problem_with({"children": [{"children": [3]}]}, tree) == (
        "At 'children.0.children.0': 3 is not of type 'object'."
    )


def test_an_enormous_schema_finds_no_problem() -> None:
    assert problem_with(-1, {"enum": list(range(20_000))}) is None


def test_one_of_does_not_rely_on_formats_to_tell_branches_apart() -> None:
    schema = {"oneOf": [{"const": "x"}, {"type": "string", "format": "date"}]}
    assert count_leaves(schema) is None


def test_depth_without_end_finds_no_problem() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    value: Any = "text"
    for _ in range(5000):
        schema, value = {"items": schema}, [value]
    assert problem_with(value, {"type": "integer"}) is None
    assert problem_with("text", schema) is None
    assert validator(schema) is None


def test_the_dialect_of_a_schema_is_used() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "minimum": 3,
        "exclusiveMinimum": True,
    }
    assert problem_with(3, schema) == "3 is less than or equal to the minimum of 3."
    assert problem_with(4, schema) is None


def test_a_pattern_is_searched_for() -> None:
    assert problem_with("ab1", {"pattern": "^[a-z]+$"}) == "'ab1' does not match '^[a-z]+$'."
    assert problem_with("abc", {"pattern": "^[a-z]+$"}) is None


@pytest.mark.parametrize(
    "pattern, text, expected",
    [
        ("^(foo|bar)$", "foo", True),
        ("^\\d{4}-\\d{2}$", "2024-1", False),
        ("^(\\d{3}-)?\\d{4}$", "555-1234", True),
        ("^[(*+|]+$", "((*", True),
        ("^(a|b)+$", "ab", None),
        ("^(a*){20}$", "aa", None),
        ("^(a)\\1*$", "aa", None),
        ("a" * 201, "a", None),
        ("^a*a*a*a*a*$", "a" * 100, None),
    ],
)
def test_a_pattern_that_could_run_for_ever_is_not_searched_for(
    pattern: str, text: str, expected: bool | None
) -> None:
    assert pattern_matches(pattern, text) is expected


@pytest.mark.parametrize(
    "format, text, expected",
    [
        ("date", "2024-02-29", True),
        ("date", "2023-02-29", False),
        ("date", "2024-13-01", False),
        ("date", "0000-01-01", False),
        ("date", "2024-2-9", False),
        ("time", "23:59:59Z", True),
        ("time", "23:59:59", False),
        ("date-time", "2024-02-29T10:00:00.5+02:00", True),
        ("date-time", "2024-02-30T10:00:00Z", False),
        ("email", "a.b@example.com", True),
        ("email", "a b@example.com", False),
        ("uri", "https://example.com/a?b=c#d", True),
        ("uri", "example.com", False),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", True),
        ("uuid", "123e4567", False),
        ("ipv4", "192.168.0.1", True),
        ("ipv4", "192.168.0.256", False),
        ("ipv6", "::1", True),
        ("hostname", "-a.com", False),
        ("of-our-own", "anything", True),
    ],
)
def test_a_format_is_checked(format: str, text: str, expected: bool) -> None:
    assert has_format(format, text) is expected
    assert (problem_with(text, {"format": format}) is None) is expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": STRING, "minItems": 20_000},
        {"type": "array", "items": STRING, "minItems": 2**70},
        {
            "type": "array",
            "minItems": 200,
            "items": {"type": "array", "items": POINT, "minItems": 200},
        },
        thing(
            a={"type": "array", "items": STRING, "minItems": 6_000},
            b={"type": "array", "items": STRING, "minItems": 6_000},
        ),
    ],
)
def test_a_value_that_would_be_too_large_is_not_made(schema: dict[str, Any]) -> None:
    with pytest.raises(Unfillable, match="too large"):
        read_shape(schema)


def _doubled(keyword: str) -> dict[str, Any]:
    """A small schema whose steps double with each of twenty levels."""
    definitions: dict[str, Any] = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(20)
    }
    definitions["d20"] = {"type": "integer"}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


_MIXED = [element for number in range(1000) for element in (number, f"s{number}")]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (_doubled("anyOf"), "text"),
        (_doubled("oneOf"), ["a"] * 2000),
        (_doubled("allOf"), 3),
        ({"not": {"$ref": "#/$defs/d0"}, **_doubled("anyOf")}, "text"),
        ({"contains": {"$ref": "#/$defs/d0"}, "$defs": _doubled("anyOf")["$defs"]}, ["a"]),
        ({"items": {"enum": [[number] for number in range(2000)]}}, _MIXED),
        ({"uniqueItems": True}, _MIXED),
        (
            {"patternProperties": {f"a{n}": {} for n in range(900)}},
            {f"b{n}": 1 for n in range(900)},
        ),
        ({"patternProperties": {f"^{n}.*b": {} for n in range(50)}}, {"a" * 4000: 1}),
        ({"items": {"pattern": "^a*a*a*$"}}, ["a" * 200 + "b"] * 1000),
        ({"$defs": {f"d{number}": {"type": "string"} for number in range(3000)}}, "text"),
        ({"allOf": [{"anyOf": [{"minLength": n}, {}]} for n in range(900)]}, "text"),
    ],
)
def test_work_on_a_schema_ends_with_its_budget(schema: dict[str, Any], value: Any) -> None:
    with limited_work():
        for _ in range(12):
            assert problem_with(value, schema) is None
        # Nothing is left of the units, or of the errors that may be kept.
        with pytest.raises(TooMuchWork):
            spend()
            keep("")


def test_no_leaves_are_counted_beyond_the_budget() -> None:
    # No branch is told apart from all others: each has the same last value.
    branches = [{"enum": [*range(n * 20, n * 20 + 20), "last"]} for n in range(400)]
    assert count_leaves({"oneOf": branches}) is None
    assert count_leaves({"oneOf": branches[:2]}) is None
    assert count_leaves({"oneOf": [{"enum": [1]}, {"enum": [2]}]}) == 1


def test_the_errors_that_are_kept_are_bounded() -> None:
    # Each branch adds an error whose message repeats the value.
    schema = {"items": {"anyOf": [{"type": "integer", "minimum": n} for n in range(50)]}}
    assert problem_with(["x" * 4000] * 20, schema) is None
    assert problem_with(["x" * 40], schema) == (
        "At '0': 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' is not valid under any of the given "
        "schemas."
    )


def test_a_large_value_of_an_ordinary_schema_is_checked_to_its_end() -> None:
    names = ("one", "two", "three", "four", "five")
    row = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    rows: list[dict[str, Any]] = [dict.fromkeys(names, 1) for _ in range(1000)]
    assert problem_with(rows, {"type": "array", "items": row}) is None
    rows[-1]["five"] = "a text"
    assert problem_with(rows, {"type": "array", "items": row}) == (
        "At '999.five': 'a text' is not of type 'integer'."
    )


def test_many_candidates_for_an_answer_share_one_budget() -> None:
    match = best_match([{"a": "text"}] * 20, _doubled("anyOf"))
    assert match is not None
    assert (match.value, match.problem) == ({"a": "text"}, None)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ({"type": "integer"}, {"type": ["number", "null"]}, {"type": ["integer"]}),
        ({"enum": [1, "a", True]}, {"enum": ["a", 1]}, {"enum": [1, "a"]}),
        ({"minimum": 1}, {"minimum": 3}, {"minimum": 3}),
        ({"maxLength": 1}, {"maxLength": 3}, {"maxLength": 1}),
        ({"uniqueItems": False}, {"uniqueItems": True}, {"uniqueItems": True}),
        ({"required": ["a"]}, {"required": ["b", "a"]}, {"required": ["a", "b"]}),
        ({"const": 1, "title": "One"}, {"const": 1.0, "title": "1"}, {"const": 1, "title": "One"}),
        (
            {"properties": {"a": {}}, "additionalProperties": False},
            {"properties": {"a": {"type": "null"}, "b": {}}},
            {"properties": {"a": {"type": "null"}}, "additionalProperties": False},
        ),
    ],
)
def test_two_schemas_become_one_for_what_fits_both(first: Any, second: Any, both: Any) -> None:
    with limited_work():
        assert merged(first, second) == both


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"const": 1}, {"const": 2}, "contradict each other"),
        ({"type": "string"}, {"type": ["integer", "null"]}, "different types"),
        ({"enum": [1]}, {"enum": [True, "1"]}, "no value in common"),
        (
            {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
            {"properties": {"b": {}}},
            "restricted by another",
        ),
    ],
)
def test_schemas_that_contradict_each_other_cannot_be_filled(
    first: Any, second: Any, problem: str
) -> None:
    with limited_work(), pytest.raises(Unfillable, match=problem):
        merged(first, second)
