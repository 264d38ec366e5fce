"""Removes `$ref` and `allOf` from a schema: their targets and parts are merged in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from referencing.exceptions import Unresolvable

from horde_proxy.prompts.json_schema.bounds import MOST_DEPTH
from horde_proxy.prompts.json_schema.merging import Unfillable, merged
from horde_proxy.prompts.json_schema.references import resolve_reference
from horde_proxy.prompts.json_schema.validation import Schema
from horde_proxy.prompts.json_schema.work import TooMuchWork, limited_work, spend

MOST_REFERENCES = 6
"""References within references. Inlining a recursive schema would never end."""
_MOST_NODES = 2_000
"""Schemas in the result: definitions that refer to each other multiply."""

# Keywords with one schema, with schemas by name, and with a list of schemas.
_ONE = ("items", "additionalProperties")
_NAMED = ("properties",)
_SEVERAL = ("anyOf", "oneOf")
NEVER: dict[str, Any] = {"not": {}}
"""The schema `false`, which no value fits, as an object."""


def inlined(schema: Schema) -> dict[str, Any]:
    """The schema without references and allOf; null comes last among types and branches.

    Raises Unfillable for a remote or missing target, recursion, and contradicting parts.
    """
    try:
        with limited_work():
            return _Inliner(schema).inline(schema)
    except TooMuchWork:
        raise Unfillable("The schema would take too long to read.") from None


class _Inliner:
    """The inlining of one schema. References are relative to `root`."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._nodes = 0

    def inline(self, schema: Any, references: int = 0, depth: int = 0) -> dict[str, Any]:
        """A part of the schema, inlined; `references` and `depth` tell how deep it lies."""
        spend()
        self._nodes += 1
        if self._nodes > _MOST_NODES or depth > MOST_DEPTH or references > MOST_REFERENCES:
            raise Unfillable("The schema is too deep or recursive.")
        # `true` and `false` are schemas since draft 6.
        if isinstance(schema, bool):
            return {} if schema else dict(NEVER)
        if not isinstance(schema, Mapping):
            raise Unfillable("A schema must be an object.")
        parts = [self._inner(schema, references, depth + 1)]
        if "$ref" in schema:
            target = self._target(schema["$ref"])
            parts.append(self.inline(target, references + 1, depth + 1))
        # Pydantic 1 wrote a reference with a description as allOf with one part.
        for part in as_list(schema.get("allOf")):
            parts.append(self.inline(part, references, depth + 1))
        return reduce(merged, parts)

    def _target(self, reference: Any) -> Any:
        try:
            return resolve_reference(self._root, reference)
        except Unresolvable:
            raise Unfillable("A reference leads nowhere, or out of the schema.") from None

    def _inner(self, schema: Schema, references: int, depth: int) -> dict[str, Any]:
        """The schema's own keywords, with the schemas in them inlined."""
        replaced = ("$ref", "$defs", "definitions", "allOf")
        own = {keyword: value for keyword, value in schema.items() if keyword not in replaced}
        for keyword in own.keys() & set(_ONE):
            if not isinstance(own[keyword], bool) and not isinstance(own[keyword], list):
                own[keyword] = self.inline(own[keyword], references, depth)
        for keyword in own.keys() & set(_NAMED):
            if not isinstance(own[keyword], Mapping):
                raise Unfillable(f"'{keyword}' must be an object.")
            own[keyword] = {
                name: self.inline(part, references, depth) for name, part in own[keyword].items()
            }
        for keyword in own.keys() & set(_SEVERAL):
            # Null last: a model is asked for the other type first.
            several = [self.inline(part, references, depth) for part in as_list(own[keyword])]
            own[keyword] = sorted(several, key=is_null)
        if isinstance(own.get("type"), list):
            own["type"] = sorted(own["type"], key=lambda name: bool(name == "null"))
        return own


def is_null(schema: Schema) -> bool:
    """Whether a schema allows only null."""
    const_null = "const" in schema and schema["const"] is None
    return const_null or schema.get("type") in ("null", ["null"]) or schema.get("enum") == [None]


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty list."""
    return value if isinstance(value, list) else []


def property_schema(schema: Schema, name: str) -> Schema:
    """The schema of a property in an inlined schema of an object, whether it is listed or not."""
    listed = schema.get("properties", {})
    if name in listed:
        return dict(listed[name])
    rest = schema.get("additionalProperties", {})
    return NEVER if rest is False else {} if rest is True else dict(rest)
