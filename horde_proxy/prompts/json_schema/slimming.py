"""Shortens a schema for a prompt: removes everything that is of no use to a model.

opencode's ten tools have 4,700 tokens, more than many workers have room for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_SAFE_INTEGER = 2**53 - 1
"""JavaScript's largest safe integer, which zod writes as a bound of every integer."""
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# Keywords with schemas by names that clients choose, and keywords without schemas.
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("const", "enum", "default", "examples", "required")
_MOST_DEPTH = 64
"""Levels that are shortened; deeper ones stay unchanged."""


def slimmed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without useless keywords. Properties stay, whatever their names are."""
    slim = _rewritten(schema, _without_useless)
    return slim if isinstance(slim, dict) else {}


def _without_useless(key: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in schema.items() if not _useless(key, word, value)}


def _useless(key: str, word: str, value: Any) -> bool:
    """Whether a keyword is useless to a model; `key` is the property that the schema describes."""
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
    """The schema after `rule(key, schema)` was applied to it and to every schema in it.

    `key` is the name of the property that a schema describes, or "". Values, such as those of enum
    and default, are not schemas and stay unchanged.
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
