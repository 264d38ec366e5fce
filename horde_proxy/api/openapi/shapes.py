"""Short notation for JSON Schemas, so that an answer's shape fits on a line or two. Pure.

"string"            {"type": "string"}
"number|null"       {"type": ["number", "null"]}
"any"               anything
"Error"             a reference to the schema of that name, also in "Usage|null"
"'list'"            the text itself, also one of several: "'asc'|'desc'"
["string"]          a list of texts
{"a": .., "b?": ..} an object that has `a`, and may have `b` and fields that are not named
{"*": "number"}     an object with any names, each of whose values is a number
("string", [..])    one or the other
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = str | list[Any] | tuple[Any, ...] | Mapping[str, Any]
"""A schema in this notation."""

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/"
_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})


def schema_of(shape: Shape) -> Schema:
    """The JSON Schema of a shape. Raises ValueError for what is no shape."""
    if isinstance(shape, str):
        return _of_words(shape.split("|"))
    if isinstance(shape, tuple):
        return {"anyOf": [schema_of(one) for one in shape]}
    if isinstance(shape, list):
        return {"type": "array", "items": schema_of(shape[0])} if shape else {"type": "array"}
    return _of_fields(shape)


def _of_words(words: list[str]) -> Schema:
    types = [word for word in words if word in _TYPES]
    texts = [word[1:-1] for word in words if word.startswith("'")]
    names = [word for word in words if word[:1].isupper()]
    if words == ["any"]:
        return {}
    if len(types) + len(texts) + len(names) != len(words):
        raise ValueError(f"no shape: {'|'.join(words)}")
    options: list[Schema] = [{"$ref": REFERENCE + name} for name in names]
    if texts:
        options.append({"const": texts[0]} if len(texts) == 1 else {"enum": texts})
    if types:
        options.append({"type": types[0] if len(types) == 1 else types})
    return options[0] if len(options) == 1 else {"anyOf": options}


def _of_fields(fields: Mapping[str, Any]) -> Schema:
    schema: Schema = {"type": "object"}
    named = {name: shape for name, shape in fields.items() if name != "*"}
    if named:
        schema["properties"] = {
            name.removesuffix("?"): schema_of(shape) for name, shape in named.items()
        }
    required = [name for name in named if not name.endswith("?")]
    if required:
        schema["required"] = required
    if "*" in fields:
        schema["additionalProperties"] = schema_of(fields["*"])
    return schema


def references(schema: Any) -> set[str]:
    """The names of the schemas that a schema refers to."""
    if isinstance(schema, dict):
        target = schema.get("$ref")
        own = set()
        if isinstance(target, str) and target.startswith(REFERENCE):
            own = {target.removeprefix(REFERENCE)}
        return own.union(*map(references, schema.values()))
    if isinstance(schema, list):
        return set().union(*map(references, schema))
    return set()
