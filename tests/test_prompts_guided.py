"""Guided filling: what is asked for a schema, and what becomes of the completions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from horde_proxy.prompts.guided import NOTHING, LeafPrompt, Unfillable, Unsaid, guided_fill
from horde_proxy.prompts.json_schema.validation import problem_with

STRING = {"type": "string"}
INTEGER = {"type": "integer"}


def thing(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def run(schema: Any, *said: str, **options: Any) -> tuple[Any, list[LeafPrompt]]:
    """The value, and the asks, of a model that says these texts and then nothing."""
    filling, asks = guided_fill(schema, **options), list[LeafPrompt]()
    texts = iter(said)
    try:
        asks.append(next(filling))
        while True:
            asks.append(filling.send(next(texts, "")))
    except StopIteration as end:
        return end.value, asks


def value(schema: Any, *said: str, **options: Any) -> Any:
    return run(schema, *said, **options)[0]


def unsaid(schema: Any, *said: str, **options: Any) -> str:
    """Why there is no value."""
    with pytest.raises(Unsaid) as raised:
        run(schema, *said, **options)
    return str(raised.value)


def prefills(schema: Any, *said: str, **options: Any) -> list[str]:
    return [ask.prefill for ask in run(schema, *said, **options)[1]]


# Structure.


def test_the_structure_is_ours_and_the_leaves_are_the_models() -> None:
    schema = thing(city=STRING, days=INTEGER, unit={"enum": ["C", "F"]}, dry={"type": "boolean"})
    filled, asks = run(schema, 'Oslo"', "3,", 'F"', "true}")
    assert filled == {"city": "Oslo", "days": 3, "unit": "F", "dry": True}
    assert asks == [
        LeafPrompt('{"city": "', ('"', "\n"), 200),
        LeafPrompt('{"city": "Oslo", "days": ', (",", "}", "\n", "]"), 24),
        LeafPrompt('{"city": "Oslo", "days": 3, "unit": "', ('"', "\n"), 24, ("C", "F")),
        LeafPrompt(
            '{"city": "Oslo", "days": 3, "unit": "F", "dry": ',
            (",", "}", "\n", "]"),
            24,
            ("true", "false"),
        ),
    ]


def test_each_prefill_begins_with_the_given_beginning() -> None:
    begun = '<tool_call>\n{"name": "f", "arguments": '
    assert prefills(thing(a=STRING), "x", begun=begun) == [begun + '{"a": "']


def test_an_object_within_an_object_is_filled() -> None:
    schema = thing(a=thing(b=STRING), c=INTEGER)
    assert prefills(schema, "x", "1") == ['{"a": {"b": "', '{"a": {"b": "x"}, "c": ']


@pytest.mark.parametrize(
    "schema, expected",
    [
        ({"type": "null"}, None),
        ({"const": {"a": [1]}}, {"a": [1]}),
        ({"enum": ["only"]}, "only"),
        ({"type": "object", "properties": {}}, {}),
        (thing(kind={"const": "cat"}), {"kind": "cat"}),
        ({"type": "string", "maxLength": 0}, ""),
    ],
)
def test_constants_need_no_completion(schema: Any, expected: Any) -> None:
    assert run(schema) == (expected, [])


def test_null_is_not_chosen_where_a_value_may_be() -> None:
    assert value({"anyOf": [{"type": "null"}, INTEGER]}, "7") == 7
    assert value({"type": ["null", "string"]}, "x") == "x"


def test_optional_properties_are_filled_while_leaves_are_left() -> None:
    schema = {
        "type": "object",
        "properties": {"a": STRING, "b": thing(c=STRING, d=STRING), "e": STRING, "f": STRING},
        "required": ["f"],
    }
    assert value(schema, "1", "2", "3", most_leaves=3) == {"a": "1", "e": "2", "f": "3"}


def test_no_more_properties_than_an_object_may_have_are_filled() -> None:
    schema = {
        "type": "object",
        "properties": {"a": STRING, "b": STRING, "c": STRING},
        "required": ["c"],
        "maxProperties": 2,
    }
    assert value(schema, "1", "2") == {"a": "1", "c": "2"}


def test_additional_properties_are_not_invented() -> None:
    schema = {**thing(a=STRING), "additionalProperties": True}
    assert value(schema, 'x", "b": "y"}') == {"a": "x"}


def test_a_required_property_that_is_not_described_is_a_string() -> None:
    assert value({"type": "object", "required": ["a"]}, "x") == {"a": "x"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        thing(**{str(n): STRING for n in range(13)}),
        {"type": "array", "items": {"const": 1}, "minItems": 9},
        {"type": "string", "pattern": "^[A-Z]{3}$"},
    ],
)
def test_an_unfillable_schema_is_refused_before_the_first_prompt(schema: Any) -> None:
    with pytest.raises(Unfillable):
        guided_fill(schema)


# Strings.


@pytest.mark.parametrize(
    "said, expected",
    [
        ("Oslo", "Oslo"),
        ('Oslo"', "Oslo"),
        ("Oslo\n", "Oslo"),
        ('Oslo", "country": "Norway"}', "Oslo"),
        (' "Oslo"', "Oslo"),
        ("\n  Oslo  ", "Oslo"),
        ('say \\"hi\\" now"', 'say "hi" now'),
        ('back\\\\", "x', "back\\"),
        ("a\\nb", "a\nb"),
        ("caf\\u00e9 \\ud83d\\ude00", "café 😀"),
        ("half \\ud83d", "half ?"),
        ("C:\\Users", "C:\\Users"),
        ("tab\there", "tab\there"),
    ],
)
def test_a_string_ends_at_the_first_quote_that_is_not_escaped(said: str, expected: str) -> None:
    assert run(STRING, said)[0] == expected


@pytest.mark.parametrize("end", ["\\", '\\"'])
def test_a_string_that_stopped_at_an_escaped_quote_is_continued(end: str) -> None:
    filled, asks = run(STRING, "say " + end, "hi" + end, ' now"')
    assert filled == 'say "hi" now'
    assert [ask.prefill for ask in asks] == ['"', '"say \\"', '"say \\"hi\\"']


def test_a_string_that_always_stops_at_escaped_quotes_ends_somewhere() -> None:
    filled, asks = run(STRING, "a\\", "b\\", "c\\", "d\\", "e\\")
    assert (filled, len(asks)) == ('a"b"c', 3)


@pytest.mark.parametrize("empty", ["", '"', '", "b": "c"}', "\n", '": "'])
def test_an_empty_string_is_requested_once_more(empty: str) -> None:
    filled, asks = run(STRING, empty, "x")
    assert (filled, len(asks)) == ("x", 2)


def test_a_string_that_is_closed_at_once_twice_is_empty() -> None:
    assert value(STRING, '"', '"}') == ""


def test_a_string_is_cut_to_its_length() -> None:
    assert value({**STRING, "maxLength": 6}, "Trondheim") == "Trondh"
    assert value({**STRING, "maxLength": 4}, "New York") == "New"


def test_a_string_that_is_too_short_is_requested_once_more() -> None:
    filled, asks = run({**STRING, "minLength": 5}, "ab", "abcde")
    assert (filled, [ask.is_again for ask in asks]) == ("abcde", [False, True])


@pytest.mark.parametrize("most, expected", [(10, 64), (100, 100), (1000, 200)])
def test_the_requested_length_depends_on_the_longest_string(most: int, expected: int) -> None:
    assert run({**STRING, "maxLength": most}, "x")[1][0].max_length == expected


@pytest.mark.parametrize(
    "format, said, expected",
    [
        ("date", "2024-02-29", "2024-02-29"),
        ("date", "on 2024-02-29.", "2024-02-29"),
        ("time", "10:30", "10:30:00Z"),
        ("date-time", "2024-05-01 10:30", "2024-05-01T10:30:00Z"),
        ("date-time", "2024-05-01", "2024-05-01T00:00:00Z"),
        ("email", "mail bob@example.com", "bob@example.com"),
        ("uri", "https://example.com/x", "https://example.com/x"),
        ("ipv4", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_format_is_found_in_what_was_said(format: str, said: str, expected: str) -> None:
    assert run({**STRING, "format": format}, said)[0] == expected


def test_a_pattern_is_requested_three_times_before_the_default_is_taken() -> None:
    schema = {**STRING, "pattern": "^[A-Z]{3}$", "default": "NOK"}
    assert value(schema, "kr", "EUR") == "EUR"
    filled, asks = run(schema, "kr", "crowns", "7", "EUR")
    assert (filled, len(asks)) == ("NOK", 3)


# Numbers.


@pytest.mark.parametrize(
    "schema, said, expected",
    [
        (INTEGER, "42", 42),
        (INTEGER, ' "42"', 42),
        (INTEGER, "about 42 days,", 42),
        (INTEGER, "-3}", -3),
        (INTEGER, "3.0", 3),
        (INTEGER, "\n7\n8", 7),
        ({"type": "number"}, "2.5e1", 25.0),
        ({"type": "number"}, ".5", 0.5),
        ({**INTEGER, "minimum": 1, "maximum": 5}, "9", 5),
        ({**INTEGER, "minimum": 1, "maximum": 5}, "0", 1),
        ({**INTEGER, "exclusiveMinimum": 1}, "1", 2),
        ({**INTEGER, "exclusiveMaximum": 5}, "5", 4),
        ({**INTEGER, "multipleOf": 5}, "13", 15),
        ({**INTEGER, "multipleOf": 5, "maximum": 14}, "99", 10),
        ({"type": "number", "multipleOf": 0.5}, "1.3", 1.5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "0", 0.1),
    ],
)
def test_the_first_number_is_taken_and_brought_within_its_bounds(
    schema: Any, said: str, expected: float
) -> None:
    assert run(schema, said)[0] == expected


def test_a_number_is_requested_once_more() -> None:
    filled, asks = run({**INTEGER, "minimum": 1}, "none", "5")
    assert (filled, [ask.is_again for ask in asks]) == (5, [False, True])


# Choices.

COLOURS = {"enum": ["red", "dark red", "green"]}


@pytest.mark.parametrize(
    "said, expected",
    [
        ('green"', "green"),
        (' "Green"', "green"),
        ("gre", "green"),
        ("dark red wine", "dark red"),
        ("It is green, not red", "green"),
        ("gren", "green"),
    ],
)
def test_a_choice_is_the_closest_of_the_allowed(said: str, expected: str) -> None:
    assert run(COLOURS, said)[0] == expected


@pytest.mark.parametrize(
    "said, expected",
    [
        ("true", True),
        ("False,", False),
        ('"true"', True),
        ("yes", True),
        ("No.", False),
    ],
)
def test_a_boolean_is_read(said: str, expected: bool) -> None:
    assert run({"type": "boolean"}, said)[0] is expected


@pytest.mark.parametrize("said", ["", "I cannot say.", "blue"])
def test_a_choice_that_is_none_of_the_allowed_is_requested_once_more(said: str) -> None:
    filled, asks = run({"enum": ["C", "F"]}, said, "F")
    assert (filled, len(asks)) == ("F", 2)


def test_choices_of_several_types_are_requested_as_json() -> None:
    filled, asks = run({"enum": ["a", 1, None]}, "null}")
    assert filled is None
    assert asks == [LeafPrompt("", (",", "}", "\n", "]"), 24, ('"a"', "1", "null"))]


def test_constants_in_a_union_are_choices() -> None:
    filled, asks = run({"anyOf": [{"const": "a"}, {"const": "b"}]}, "b")
    assert (filled, asks[0].choices) == ("b", ("a", "b"))


# Arrays.

STRINGS = {"type": "array", "items": STRING}


def test_an_array_goes_on_after_a_comma_and_ends_at_its_bracket() -> None:
    filled, asks = run(STRINGS, '"a", "b"]', 'a"', ', "', 'b"', "]")
    assert filled == ["a", "b"]
    assert asks == [
        LeafPrompt("[", ("]", "\n"), 16),
        LeafPrompt('["', ('"', "\n"), 200),
        LeafPrompt('["a"', ("]", "\n", '"'), 16),
        LeafPrompt('["a", "', ('"', "\n"), 200),
        LeafPrompt('["a", "b"', ("]", "\n", '"'), 16),
    ]


@pytest.mark.parametrize("said", ["]", "", " ]}"])
def test_an_array_may_be_empty(said: str) -> None:
    assert value(STRINGS, said) == []


@pytest.mark.parametrize("said", ["]", "", ",]", "and so on", "}"])
def test_anything_but_a_comma_or_an_element_ends_an_array(said: str) -> None:
    assert value(STRINGS, '"', "a", said, "b") == ["a"]


def test_an_array_below_its_minimum_has_no_end_to_look_for() -> None:
    schema = {**STRINGS, "minItems": 2, "maxItems": 2}
    assert prefills(schema, "a", "b") == ['["', '["a", "']


def test_an_array_ends_where_elements_or_leaves_run_out() -> None:
    endless = ["1, 2"] + ["1,", ", 1"] * 20
    schema = {"type": "array", "items": INTEGER}
    assert value(schema, *endless, most_elements=4) == [1, 1, 1, 1]
    assert value(schema, *endless, most_leaves=3) == [1, 1, 1]


def test_objects_in_an_array_are_filled_one_after_another() -> None:
    schema = {"type": "array", "items": thing(a=INTEGER), "minItems": 1}
    filled, asks = run(schema, "1", ", {", "2", "]")
    assert filled == [{"a": 1}, {"a": 2}]
    assert [ask.prefill for ask in asks] == [
        '[{"a": ',
        '[{"a": 1}',
        '[{"a": 1}, {"a": ',
        '[{"a": 1}, {"a": 2}',
    ]


def test_an_element_that_came_before_ends_an_array_of_unique_elements() -> None:
    schema = {**STRINGS, "uniqueItems": True, "minItems": 1}
    assert value(schema, "a", ",", "a", ",", "b") == ["a"]


def test_a_unique_array_offers_each_choice_once_and_does_not_request_the_last() -> None:
    schema = {"type": "array", "items": COLOURS, "uniqueItems": True, "minItems": 3}
    filled, asks = run(schema, "red", "red")
    assert filled == ["red", "dark red", "green"]
    assert [ask.choices for ask in asks] == [("red", "dark red", "green"), ("dark red", "green")]


# Leaves that the model does not say.


@pytest.mark.parametrize(
    "schema, said",
    [
        (INTEGER, "none"),
        ({**INTEGER, "minimum": -2}, "I would rather not say."),
        ({"enum": ["C", "F"]}, "I cannot say."),
        ({"type": "boolean"}, "It depends."),
        (STRING, ""),
        (STRING, "{"),
        (STRING, "```json\n"),
        (STRING, "<think>\nThey want"),
        ({**STRING, "minLength": 5}, "ab"),
        ({**STRING, "format": "date"}, "nothing"),
        ({**STRING, "format": "uuid", "examples": ["00000000-0000-0000-0000-000000000000"]}, "?"),
        ({**STRING, "pattern": "^[A-Z]{3}$", "examples": ["NOK"]}, "crowns"),
        ({**STRINGS, "uniqueItems": True, "minItems": 2}, "a"),
    ],
)
def test_a_leaf_that_the_model_does_not_say_is_not_invented(schema: Any, said: str) -> None:
    assert unsaid(thing(a=schema), *[said] * 9) == "The model gave no value for 'a'."
    assert unsaid(thing(b=thing(a=schema)), *[said] * 9) == "The model gave no value for 'b.a'."


@pytest.mark.parametrize(
    "schema, expected",
    [
        ({**INTEGER, "default": 7}, {"a": 7}),
        ({"enum": ["C", "F"], "default": "F"}, {"a": "F"}),
        ({"type": ["integer", "null"]}, {"a": None}),
        ({"anyOf": [INTEGER, {"type": "null"}], "default": None}, {"a": None}),
        ({"anyOf": [thing(b=INTEGER), {"type": "null"}]}, {"a": None}),
    ],
)
def test_an_unsaid_leaf_is_the_schemas_default_or_null(schema: Any, expected: Any) -> None:
    assert value(thing(a=schema), "none", "many") == expected


def test_an_optional_leaf_that_is_unsaid_is_left_out() -> None:
    schema = {"type": "object", "properties": {"a": INTEGER, "b": STRING}, "required": ["b"]}
    assert value(schema, "none", "many", "x") == {"b": "x"}


def test_an_array_ends_before_an_unsaid_element() -> None:
    assert value({"type": "array", "items": INTEGER, "minItems": 1}, "1", ",", "none") == [1]


# Parts that are known.


TRIP = thing(city=STRING, days=INTEGER, unit={"enum": ["C", "F"]})


@pytest.mark.parametrize(
    "known, said, expected, requested",
    [
        (
            {"city": "Oslo", "days": 3, "unit": "C"},
            [],
            {"city": "Oslo", "days": 3, "unit": "C"},
            [],
        ),
        (
            {"city": "Oslo", "unit": "C"},
            ["3"],
            {"city": "Oslo", "unit": "C", "days": 3},
            ['{"city": "Oslo", "unit": "C", "days": '],
        ),
        (
            {"city": 7, "days": 3, "unit": "K", "more": True},
            ["Oslo", "C"],
            {"days": 3, "more": True, "city": "Oslo", "unit": "C"},
            [
                '{"days": 3, "more": true, "city": "',
                '{"days": 3, "more": true, "city": "Oslo", "unit": "',
            ],
        ),
        ("prose", ["Oslo", "3", "C"], {"city": "Oslo", "days": 3, "unit": "C"}, 3),
    ],
)
def test_known_properties_that_fit_are_kept(
    known: Any, said: list[str], expected: Any, requested: Any
) -> None:
    filled, asks = run(TRIP, *said, known=known)
    assert json.dumps(filled) == json.dumps(expected)
    assert (len(asks) if isinstance(requested, int) else [ask.prefill for ask in asks]) == requested


def test_within_known_objects_and_elements_only_what_does_not_fit_is_requested() -> None:
    schema = thing(trips={"type": "array", "items": TRIP})
    whole = {"city": "Oslo", "days": 3, "unit": "C"}
    known = {"trips": [whole, {"city": "Rome", "unit": "C"}, whole]}
    filled, asks = run(schema, "2", known=known)
    assert filled == {"trips": [whole, {"city": "Rome", "unit": "C", "days": 2}, whole]}
    assert len(asks) == 1


def test_known_null_of_a_nullable_property_is_kept() -> None:
    schema = thing(a={"anyOf": [STRING, {"type": "null"}]}, b=INTEGER)
    assert value(schema, "1", known={"a": None}) == {"a": None, "b": 1}


def test_optional_properties_that_the_model_left_out_are_not_requested() -> None:
    schema = {**thing(a=INTEGER), "properties": {"a": INTEGER, "b": STRING, "c": INTEGER}}
    filled, asks = run(schema, "1", "2", known={"c": "many"})
    assert (filled, len(asks)) == ({"a": 1, "c": 2}, 2)


def test_undeclared_properties_are_kept_only_where_they_are_allowed() -> None:
    closed = {**thing(a=INTEGER), "additionalProperties": False}
    assert value(closed, "1", known={"b": 2}) == {"a": 1}
    assert value(thing(a=INTEGER), "1", known={"b": 2}) == {"b": 2, "a": 1}


def test_known_elements_count_for_the_least_number() -> None:
    schema = {"type": "array", "items": INTEGER, "minItems": 3, "uniqueItems": True}
    assert run(schema, "3", known=[1, 1, 2])[0] == [1, 2, 3]


def test_what_is_known_does_not_count_against_the_most_leaves() -> None:
    schema = thing(**{f"p{number}": INTEGER for number in range(20)})
    known = {f"p{number}": number for number in range(19)}
    assert value(schema, "19", known=known) == {f"p{number}": number for number in range(20)}
    with pytest.raises(Unfillable):
        guided_fill(schema, known={"p0": 0})


# Anything.


def lengths(draw: Any, least: str, most: str, highest: int) -> dict[str, Any]:
    low = draw(st.integers(0, highest))
    found = {least: low, most: low + draw(st.integers(0, highest))}
    return {name: found[name] for name in found if draw(st.booleans())}


@st.composite
def texts(draw: Any) -> dict[str, Any]:
    if draw(st.booleans()):
        return {**STRING, "format": draw(st.sampled_from(["date", "time", "date-time", "email"]))}
    return {**STRING, **lengths(draw, "minLength", "maxLength", 6)}


@st.composite
def numbers(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    low = draw(st.integers(-50, 50))
    bounds = {
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])): low,
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])): low + draw(st.integers(12, 60)),
        "multipleOf": draw(st.sampled_from([1, 2, 5, 0.5, 0.1])),
    }
    kept = {name: bounds[name] for name in bounds if draw(st.booleans())}
    return {"type": kind, **kept}


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=4))
LEAVES = st.one_of(
    texts(),
    numbers(),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda each: {"const": each}, SCALARS),
    st.builds(
        lambda each: {"enum": each},
        st.lists(st.text(max_size=4), min_size=1, max_size=4, unique=True),
    ),
    st.builds(lambda each: {"enum": each}, st.lists(SCALARS, min_size=1, max_size=4)),
)


@st.composite
def objects(draw: Any, children: Any) -> dict[str, Any]:
    properties = draw(st.dictionaries(st.text(max_size=5), children, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    closed = {"additionalProperties": False} if draw(st.booleans()) else {}
    return {"type": "object", "properties": properties, "required": required, **closed}


@st.composite
def arrays(draw: Any, children: Any) -> dict[str, Any]:
    unique = {"uniqueItems": True} if draw(st.integers(0, 4)) == 4 else {}
    bounds = lengths(draw, "minItems", "maxItems", 2)
    return {"type": "array", "items": draw(children), **bounds, **unique}


def nested(children: Any) -> Any:
    nullable = st.builds(lambda each: {"anyOf": [{"type": "null"}, each]}, children)
    return st.one_of(objects(children), arrays(children), nullable)


SCHEMAS = st.recursive(LEAVES, nested, max_leaves=8)
GARBAGE = st.one_of(
    st.text(max_size=20),
    st.text(alphabet='ab1"\\\n,]}[{ .-eu0é', max_size=12),
    st.sampled_from(
        [
            "",
            '"',
            "\\",
            '\\"',
            "\\\\",
            'a"',
            ', "',
            "]",
            ",",
            "1e99",
            "-0",
            "true",
            "\\ud800",
            "2024-02-30",
            "9" * 400,
            "nan",
            "Infinity",
            " \\",
            'x\\" y',
        ]
    ),
)


def is_unique_somewhere(schema: Any) -> bool:
    return '"uniqueItems": true' in json.dumps(schema)


VALUES = st.recursive(
    SCALARS, lambda each: st.lists(each) | st.dictionaries(st.text(max_size=5), each), max_leaves=6
)


@given(
    SCHEMAS,
    st.lists(GARBAGE, max_size=60),
    st.sampled_from(["", "begun "]),
    st.just(NOTHING) | VALUES,
)
def test_whatever_a_model_says_the_value_fits_and_prompts_are_bounded(
    schema: Any, said: list[str], begun: str, known: Any
) -> None:
    options: dict[str, Any] = {"begun": begun, "most_leaves": 9, "most_elements": 4}
    try:
        filled, asks = run(schema, *said, known=known, **options)
    except Unfillable:
        return
    Draft202012Validator(schema).validate(filled)
    assert problem_with(filled, schema) is None
    assert len(asks) <= 9 * (4 + 4 + 1)
    assert all(16 <= ask.max_length <= 200 for ask in asks)
    text = begun + json.dumps(filled, ensure_ascii=False)
    assert json.loads(text.removeprefix(begun)) == filled
    # The prompts of a leaf that stays unsaid lead nowhere.
    if not is_unique_somewhere(schema) and not any(ask.is_again for ask in asks):
        assert [ask.prefill for ask in asks if not text.startswith(ask.prefill)] == []


@given(SCHEMAS)
def test_most_such_schemas_are_fillable_with_room_enough(schema: Any) -> None:
    try:
        guided_fill(schema, most_leaves=10_000)
    except Unfillable as exc:
        assert "different elements" in str(exc)
