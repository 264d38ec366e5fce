"""How large and how deep a schema or a value may be before it is not looked at any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.prompts.json_schema.patterns import quantifier_count

MOST_DEPTH = 30
"""Levels. jsonschema takes several Python frames for each, and Python has 1,000."""
MOST_VALUES = 10_000
"""Values in one schema. opencode's ten tools together are 4,700 tokens long, so fewer values."""


def depth(value: Any) -> int:
    """How deep a JSON value is, up to one more than MOST_DEPTH."""
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


def is_bounded(schema: Mapping[str, Any]) -> bool:
    """Whether validating is sure to end: no great size, one dialect, no slow property patterns."""
    if depth(schema) > MOST_DEPTH:
        return False
    # With a stack of its own, since recursion is what must be bounded.
    nodes, count = parts(schema), 0
    while nodes:
        node = nodes.pop()
        nodes += parts(node)
        count += 1
        # jsonschema would switch to the unguarded validator of that other dialect.
        has_dialect = isinstance(node, Mapping) and isinstance(node.get("$schema"), str)
        if has_dialect or count > MOST_VALUES:
            return False
    return _has_fast_property_patterns(schema)


def _has_fast_property_patterns(schema: Any) -> bool:
    """Whether each pattern of `patternProperties` has one quantifier at most.

    jsonschema searches every property's name with them by itself, so they cannot be bounded at
    the time of the search, as those of the keyword `pattern` are.
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
