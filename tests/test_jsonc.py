"""One value is changed, and every other character stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.jsonc import JsoncError, parse, set_value

COMMENTED = """{
  // whom I like
  "theme": "dark", /* very */
  "provider": {
    "mine": {"npm": "x",}, // my own
  },
  "list": [1, 2, /* three */ 3,], // numbers
}
"""


def test_comments_and_trailing_commas_are_ignored() -> None:
    assert parse(COMMENTED).value == {
        "theme": "dark",
        "provider": {"mine": {"npm": "x"}},
        "list": [1, 2, 3],
    }


@pytest.mark.parametrize(
    ("before", "path", "value", "after"),
    [
        ("{}", ("a",), 1, '{\n  "a": 1\n}'),
        ("{ }\n", ("a",), 1, '{\n  "a": 1\n}\n'),
        ('{"a": 1}', ("a",), 2, '{"a": 2}'),
        ('{"a": 1}', ("b",), 2, '{"a": 1,\n  "b": 2\n}'),
        ('{"a": 1,}', ("b",), 2, '{"a": 1,\n  "b": 2\n}'),
        ('{\n  "a": 1 // one\n}', ("b",), 2, '{\n  "a": 1, // one\n  "b": 2\n}'),
        ("{\n  // none\n}", ("b",), 2, '{\n  // none\n  "b": 2\n}'),
        ("{}", ("a", "b"), 1, '{\n  "a": {\n    "b": 1\n  }\n}'),
        ('{"a": {"c": 1}}', ("a", "b"), 2, '{"a": {"c": 1,\n    "b": 2\n  }}'),
        ('{"a": {"b" : [1,\n2]}}', ("a", "b"), [1, 2], '{"a": {"b" : [1,\n2]}}'),
        ('{"a": 1, "a": 2}', ("a",), 3, '{"a": 1, "a": 3}'),
        ('{"ü": "\\u00fc"}', ("ü",), "ö", '{"ü": "ö"}'),
        ('{"a": 0}', ("a",), False, '{"a": false}'),
        ('{"a": {"b": 1}}', ("a",), {"b": True}, '{"a": {\n    "b": true\n  }}'),
    ],
)
def test_a_value_is_set(before: str, path: tuple[str, ...], value: Any, after: str) -> None:
    assert set_value(before, path, value) == after


def test_everything_else_stays_to_the_letter() -> None:
    changed = set_value(COMMENTED, ("provider", "horde"), {"npm": "y"})
    assert changed == COMMENTED.replace(
        '"mine": {"npm": "x",}, // my own\n',
        '"mine": {"npm": "x",}, // my own\n    "horde": {\n      "npm": "y"\n    }\n',
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a"}',
        '{"a": }',
        '{"a": 1 "b": 2}',
        "{a: 1}",
        "[1 2]",
        "{} {}",
        '{"a": "\\x"}',
        "nul",
        "/* open",
        "[" * 200,
        '{"a": 01}',
        "{1: 2}",
    ],
)
def test_invalid_json_is_refused_with_line_and_column(text: str) -> None:
    with pytest.raises(JsoncError, match="not valid JSON in line 1, column"):
        parse(text)


@pytest.mark.parametrize("text", ["[]", "1", '{"provider": "x"}'])
def test_a_path_through_something_other_than_an_object_is_refused(text: str) -> None:
    with pytest.raises(JsoncError, match="is not an object"):
        set_value(text, ("provider", "horde"), {})


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES), st.text(), VALUES, st.booleans())
def test_the_new_text_parses_to_the_object_with_the_value(
    found: dict[str, Any], key: str, value: Any, indented: bool
) -> None:
    text = json.dumps(found, indent=2 if indented else None)
    assert json.loads(set_value(text, (key,), value)) == {**found, key: value}
