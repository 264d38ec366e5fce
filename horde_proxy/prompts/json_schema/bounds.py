"""Limits on the size and the depth of schemas and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.prompts.json_schema.patterns import quantifier_count

MOST_DEPTH = 30
"""Levels. jsonschema takes several Python frames for each, and Python has 1,000."""
MOST_VALUES = 10_000
"""Values in one schema. For comparison, opencode's ten tools together have 4,700 tokens."""


def depth(value: Any) -> int:
    """The depth of a JSON value, at most MOST_DEPTH + 1."""
    levels, level = 0, [value]
    while level and levels <= MOST_DEPTH:
        levels += 1
        level = [part for node in level for part in parts(node)]
    return levels


def parts(value: Any) -> list[Any]:
    """The values directly within a JSON value."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def count_objects(value: Any) -> int:
    """The number of JSON objects in a value, itself included; most of a schema's are schemas."""
    nodes, count = [value], 0
    while nodes:
        node = nodes.pop()
        nodes += parts(node)
        count += isinstance(node, Mapping)
    return count


def is_bounded(schema: Mapping[str, Any]) -> bool:
    """Whether validation surely ends: limited size, one dialect, no slow property patterns."""
    if depth(schema) > MOST_DEPTH:
        return False
    # A loop with a stack, because the depth could be too much for recursion.
    nodes, count = parts(schema), 0
    while nodes:
        node = nodes.pop()
        nodes += parts(node)
        count += 1
        # For another dialect, jsonschema would switch to a validator without our guards.
        has_dialect = isinstance(node, Mapping) and isinstance(node.get("$schema"), str)
        if has_dialect or count > MOST_VALUES:
            return False
    return _has_fast_property_patterns(schema)


def _has_fast_property_patterns(schema: Any) -> bool:
    """Whether each pattern of `patternProperties` has at most one quantifier.

    jsonschema itself applies them to the name of every property, so they cannot be checked at the
    time of the search, as patterns of the keyword `pattern` are.
    """
    nodes = [schema]
    while nodes:
        node = nodes.pop()
        nodes += parts(node)
        named = node.get("patternProperties") if isinstance(node, Mapping) else None
        for pattern in named if isinstance(named, Mapping) else ():
            quantifiers = quantifier_count(pattern)
            if quantifiers is None or quantifiers > 1:
                return False
    return True
