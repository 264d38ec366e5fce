"""Reads `response_format`: the JSON that an answer must be. Pure.

OpenAI's chats      {"type": "json_schema", "json_schema": {"name", "schema", "strict"}}
OpenAI's responses  {"type": "json_schema", "name", "schema", "strict"}
llama.cpp           {"type": "json_object", "schema": {...}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import JsonFormat
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.sampled_body import LenientModel
from horde_proxy.protocol.validation import invalid_type, missing_parameter, param_name, validated

_LITERAL = ("const", "default", "enum", "examples")
"""Keywords of a JSON schema whose values are data, in which null is a value."""
_DEEPEST_SCHEMA = 64
"""Levels of a schema in which nulls are removed. Python's stack ends at a thousand calls."""
_OF_SCHEMAS = frozenset({"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "items"})
"""Keywords by which a schema is known that stands where its wrapper should be."""


class _JsonSchema(LenientModel):
    name: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


def read_format(
    given: Any, leniency: Leniency, place: Sequence[str] = ("response_format",)
) -> JsonFormat | None:
    """The JSON format that is asked for; None for text. Raises InvalidRequest.

    `place` is its path in the body.
    """
    if given is None:
        return None
    field = param_name(place)
    if not isinstance(given, dict):
        raise invalid_type(field, "an object", given)
    # Clients fill in a form: {} and {"type": null} say nothing.
    type = given.get("type") or _implied(given)
    if type == "text":
        return None
    if type == "json_object" and given.get("schema") is None:
        return JsonFormat()
    if type in ("json_object", "json_schema"):
        return _schema_format(given, leniency, place)
    raise InvalidRequest(
        f"Invalid value for '{field}.type': Input should be 'text', 'json_object' or "
        "'json_schema'.",
        param=f"{field}.type",
        code="invalid_value",
    )


def _implied(given: Mapping[str, Any]) -> str:
    return "json_schema" if given.get("json_schema") or given.get("schema") else "text"


def _schema_format(
    given: Mapping[str, Any], leniency: Leniency, place: Sequence[str]
) -> JsonFormat:
    is_flat = given.get("json_schema") is None and given.get("schema") is not None
    place = place if is_flat else (*place, "json_schema")
    wrapper = given if is_flat else given.get("json_schema") or {}
    read = validated(_JsonSchema, wrapper, place)
    is_bare = read.json_schema is None and bool(_OF_SCHEMAS & set(wrapper))
    schema = wrapper if is_bare else read.json_schema
    if schema is None:
        missing = missing_parameter(f"{param_name(place)}.schema")
        leniency.tolerate(missing, "no schema, so any JSON object will do")
        return JsonFormat()
    return JsonFormat(without_nulls(schema), strict=bool(read.strict))


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
