"""A schema as short as a prompt wants it: without what no model reads.

opencode's ten tools are 4,700 tokens long, more than many workers have room for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_SAFE_INTEGER = 2**53 - 1
"""JavaScript's largest: zod writes it as a bound of every integer."""
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# Keywords whose value has schemas by names that clients choose, and those that hold no schema.
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("const", "enum", "default", "examples", "required")
_MOST_DEPTH = 64
"""Levels that are looked at; deeper ones are left as they are."""


def slimmed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without what no model needs; properties stay, whatever their names."""
    slim = _rewritten(schema, _without_useless)
    return slim if isinstance(slim, dict) else {}


def _without_useless(key: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in schema.items() if not _useless(key, word, value)}


def _useless(key: str, word: str, value: Any) -> bool:
    """Whether a keyword says nothing to a model; `key` is the property of its schema."""
    if word in _BOUNDS:
        return _is_number(value) and abs(value) >= _SAFE_INTEGER
    if word == "title":  # Pydantic repeats each name: "file_path" has the title "File Path"
        return isinstance(value, str) and bool(key) and _letters(value) == _letters(key)
    if word == "additionalProperties":
        return isinstance(value, bool)
    return word == "$schema" or (word == "description" and value == "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _rewritten(
    schema: Any,
    rule: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    key: str = "",
    depth: int = 0,
) -> Any:
    """The schema with `rule(key, schema)` applied to it and to every schema in it.

    `key` is the name of the property that a schema belongs to, or "". Values, such as those of
    enum and default, are no schemas and stay.
    """
    if depth > _MOST_DEPTH:
        return schema
    if isinstance(schema, list | tuple):
        return [_rewritten(part, rule, "", depth + 1) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    result = {}
    for word, value in rule(key, schema).items():
        if word in _NAMED_SCHEMAS and isinstance(value, Mapping):
            result[word] = {
                name: _rewritten(part, rule, str(name), depth + 2) for name, part in value.items()
            }
        else:
            result[word] = value if word in _VALUES else _rewritten(value, rule, "", depth + 1)
    return result
