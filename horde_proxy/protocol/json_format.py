"""Reads `response_format`: the JSON that an answer must be. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from horde_proxy.protocol.generation_request import JsonFormat
from horde_proxy.protocol.sampled_body import LenientModel
from horde_proxy.protocol.validation import missing_parameter

_LITERAL = ("const", "default", "enum", "examples")
"""Keywords of a JSON schema whose values are data, in which null is a value."""
_DEEPEST_SCHEMA = 64
"""Levels of a schema in which nulls are removed. Python's stack ends at a thousand calls."""


class _JsonSchema(LenientModel):
    name: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(LenientModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


def read_format(given: ResponseFormat | None) -> JsonFormat | None:
    """The JSON format that is asked for; None for text. Raises InvalidRequest."""
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return JsonFormat()
    if given.json_schema is None or given.json_schema.json_schema is None:
        raise missing_parameter("response_format.json_schema.schema")
    schema = without_nulls(given.json_schema.json_schema)
    return JsonFormat(schema, strict=bool(given.json_schema.strict))


def without_nulls(schema: Any, depth: int = 0) -> Any:
    """A JSON schema without keywords that are null, which means that they are absent."""
    if depth > _DEEPEST_SCHEMA:
        return schema
    if isinstance(schema, list):
        return [without_nulls(element, depth + 1) for element in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value if name in _LITERAL else without_nulls(value, depth + 1)
        for name, value in schema.items()
        if value is not None or name in ("const", "default")
    }
