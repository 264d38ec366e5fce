"""JSON as models write it."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.prompts.lenient_json import loads


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("3", 3),
        ('"x"', "x"),
        ("null", None),
        (" [1] ", [1]),
        ('{"a": "b\nc\n"}', {"a": "b\nc\n"}),
        ('{"a": 1} and more', {"a": 1}),
        ('{"a": 1}}}', {"a": 1}),
        ("{'a': True, 'b': None}", {"a": True, "b": None}),
        ("{'a': (1, 2)}", {"a": [1, 2]}),
        ("{'a': 'b'} and more", {"a": "b"}),
        ("{'a': '\\d'}", {"a": "\\d"}),
    ],
)
def test_lenient_json_is_read_without_guessing(text: str, value: Any) -> None:
    assert loads(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": {"b": "c\n"}', {"a": {"b": "c\n"}}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ("{a: 1}", {"a": 1}),
        ('{"a": "say "hi" now"}', {"a": 'say "hi" now'}),
    ],
)
def test_broken_json_is_guessed_at_only_with_repair(text: str, value: Any) -> None:
    assert loads(text, repair=True) == value
    with pytest.raises(ValueError):
        loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "b'x'",
        "1e999",
        "NaN",
        "Infinity",
        '{"a": 1e999}',
        "[" * 200 + "]" * 200,
        "[" * 100_000,
        '{"a":' * 100_000,
        "-" * 100_000 + "1",
        "(" * 5_000,
        "1" * 10_000,
        '"' + "a" * 1_000_000 + '"',
        "\0",
        "\ud800",
    ],
)
@pytest.mark.parametrize("repair", [False, True])
def test_what_cannot_be_read_is_a_value_error(text: str, repair: bool) -> None:
    with pytest.raises(ValueError):
        loads(text, repair=repair)


@pytest.mark.parametrize(
    "text",
    [
        "{1: 2}",
        "{'a'}",
        "{'a': b'x'}",
        "{'a': 1j}",
        "{'a': 1" + "0" * 9_000,
    ],
)
def test_python_that_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        loads(text)
