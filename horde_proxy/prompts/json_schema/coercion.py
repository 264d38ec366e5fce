"""Fits a value that a model wrote to a schema, where the schema leaves no doubt what was meant.

Models write "3" for 3, "true" for true, null for an absent property, objects as JSON texts, and one
value where a list of them is expected. What does not fit after that is for `validation` to find.
Never raises, even if the client's schema is invalid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from horde_proxy.prompts.json_schema.keywords import (
    dereferenced,
    properties_of,
    required_of,
    type_of,
    types_of,
)
from horde_proxy.prompts.json_schema.work import TooMuchWork, limited_work, spend
from horde_proxy.prompts.lenient_json import DEEPEST, loads

# 3, -12; 18 digits fit into 64 bits, more digits may be an id, which must stay a text
_INTEGER = re.compile(r"[+-]?\d{1,18}")
# 0.5, -12.25
_DECIMAL = re.compile(r"[+-]?\d{1,18}\.\d{1,18}")
_LARGEST_WHOLE = 2**53
"""Up to here every integer is a float of its own, so that 30.0 surely means 30."""

_UNITS_OF_VALUE = 3
"""Units of work for a value, or for a branch that it may mean: most of it resolves references."""


def coerced(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value in the types of the schema, without unnecessary nulls.

    A value whose type the schema allows already stays as it is, except for the values within it.
    The same value for a schema that would take too much work.
    """
    try:
        with limited_work():
            return _coerced(value, schema, schema, 0)
    except TooMuchWork:
        return value


def without_undeclared(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value without the properties that `additionalProperties: false` forbids, at every level.

    The same value for a schema that would take too much work.
    """
    try:
        with limited_work():
            return _declared(value, schema, schema, 0)
    except TooMuchWork:
        return value


def _declared(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    spend(_UNITS_OF_VALUE)
    schema = _branch(value, dereferenced(schema, root), root)
    if depth > DEEPEST or not schema:
        return value
    if isinstance(value, list):
        return [_declared(element, schema.get("items"), root, depth + 1) for element in value]
    if not isinstance(value, dict):
        return value
    properties = properties_of(schema)
    # Parts of an allOf and patterns allow properties that are not listed here.
    is_closed = schema.get("additionalProperties") is False
    is_closed = is_closed and not schema.keys() & {"allOf", "patternProperties"}
    return {
        name: _declared(part, properties.get(name), root, depth + 1)
        for name, part in value.items()
        if name in properties or not is_closed
    }


def _coerced(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    """As coerced; `schema` is a part of `root`, in which its references lie."""
    spend(_UNITS_OF_VALUE)
    schema = _branch(value, dereferenced(schema, root), root)
    if depth > DEEPEST or not schema:
        return value
    types = types_of(schema, root)
    if types and not _is_of(value, types):
        value = _converted(value, types)
    # One value where a list is expected: {"tags": "new"} for {"tags": ["new"]}
    if types - {"null"} == {"array"} and value is not None and not isinstance(value, list):
        element = _coerced(value, schema.get("items"), root, depth + 1)
        return [element] if _may_be(element, schema.get("items"), root) else value
    if isinstance(value, list):
        return [_coerced(element, schema.get("items"), root, depth + 1) for element in value]
    if isinstance(value, dict):
        return _coerced_object(value, schema, root, depth)
    return _listed(value, schema)


def _coerced_object(
    value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], depth: int
) -> dict[str, Any]:
    properties, required = properties_of(schema), required_of(schema)
    return {
        key: _coerced(part, properties.get(key), root, depth + 1)
        for key, part in value.items()
        if part is not None
        or key not in properties
        or key in required
        or "null" in types_of(properties[key], root)
    }


def _branch(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The branch of a union that the value can only mean: of `Place | None`, an object's is Place.

    The schema itself if it is no union, or if several branches allow values of this type.
    """
    options = schema.get("anyOf", schema.get("oneOf"))
    if not isinstance(options, list):
        return schema
    spend(_UNITS_OF_VALUE * len(options))
    branches = [dereferenced(option, root) for option in options]
    meant = [branch for branch in branches if _is_of(value, types_of(branch, root))]
    return meant[0] if len(meant) == 1 else schema


def _is_of(value: Any, types: frozenset[str]) -> bool:
    """Whether a value has one of the types."""
    own = type_of(value)
    return own in types or (own == "integer" and "number" in types)


def _may_be(value: Any, schema: Any, root: Mapping[str, Any]) -> bool:
    """Whether a schema may allow a value, judged by its type."""
    types = types_of(schema, root)
    return not types or _is_of(value, types)


def _converted(value: Any, types: frozenset[str]) -> Any:
    """A value of another type as the one that it means; the value itself if that is not clear."""
    if isinstance(value, str):
        return _from_text(value, types)
    # 30.0 is an integer for JSON Schema, but not for all clients.
    if isinstance(value, float) and "integer" in types:
        return int(value) if value.is_integer() and abs(value) <= _LARGEST_WHOLE else value
    # A number or a boolean where a text is expected: {"zip": 1234} for {"zip": "1234"}
    if isinstance(value, int | float) and types - {"null"} == {"string"}:
        return json.dumps(value)
    return value


def _from_text(text: str, types: frozenset[str]) -> Any:
    """A text as a value of one of the types if it looks like one; else the text."""
    bare = text.strip()
    if "boolean" in types and bare.casefold() in ("true", "false"):
        return bare.casefold() == "true"
    if types & {"integer", "number"} and _INTEGER.fullmatch(bare):
        return int(bare)
    if types & {"integer", "number"} and _DECIMAL.fullmatch(bare):
        number = float(bare)
        return number if "number" in types else _converted(number, types)
    containers = {"array": list, "object": dict}
    try:
        value = loads(text)
    except ValueError:
        return text
    is_wanted = any(isinstance(value, containers[name]) for name in types & set(containers))
    return value if is_wanted else text


def _listed(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value of an enum that a text means: "Red" for "red". The text if that is not clear."""
    values = schema.get("enum")
    if not isinstance(value, str) or not isinstance(values, list) or value in values:
        return value
    texts = [text for text in values if isinstance(text, str)]
    same = [text for text in texts if text.casefold() == value.strip().casefold()]
    return same[0] if len(same) == 1 else value
