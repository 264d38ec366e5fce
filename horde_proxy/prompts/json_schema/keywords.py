"""Reads the few keywords that tool calls need, from schemas that may be invalid. Never raises.

Arguments are coerced even if the client's schema is invalid; unreadable parts are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from referencing.exceptions import Unresolvable

from horde_proxy.prompts.json_schema.references import resolve_reference

_MOST_HOPS = 8
"""References to references. A cycle of them would never end."""
_MOST_DEPTH = 3
"""Unions within unions: Pydantic writes one level for `X | None`."""
_MOST_BRANCHES, _MOST_VALUES = 20, 100


def properties_of(schema: Any) -> Mapping[str, Any]:
    """The schemas of an object's properties by name; {} if there are none."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def required_of(schema: Any) -> list[str]:
    """The names of an object's required properties."""
    required = schema.get("required") if isinstance(schema, Mapping) else None
    names = required if isinstance(required, list) else []
    return [name for name in names if isinstance(name, str)]


def dereferenced(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema after local references were followed; {} if there is none."""
    for _ in range(_MOST_HOPS):
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            break
        try:
            schema = resolve_reference(root, schema["$ref"])
        except Unresolvable:  # remote, or without a target: any value may be allowed
            return {}
    return schema if isinstance(schema, Mapping) else {}


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The types that a schema allows, by its type, its enum, or the branches of a union."""
    schema = dereferenced(schema, root)
    named = schema.get("type")
    types = {named} if isinstance(named, str) else set()
    if isinstance(named, list):
        types = {name for name in named if isinstance(name, str)}
    # An enum without a type, such as {"enum": [1, 2]}, allows the types of its values.
    if not types and isinstance(schema.get("enum"), list):
        types = {type_of(value) for value in schema["enum"][:_MOST_VALUES]}
    for word in ("anyOf", "oneOf"):
        branches = schema.get(word)
        if isinstance(branches, list) and depth < _MOST_DEPTH:
            inner = [types_of(branch, root, depth + 1) for branch in branches[:_MOST_BRANCHES]]
            types = types.union(*inner)
    return frozenset(types)


def type_of(value: Any) -> str:
    """JSON Schema's name for the type of a value."""
    names = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object"}
    return "null" if value is None else names.get(type(value), "array")
