"""Fits the arguments of a call to the tool's schema, and tells which of them do not fit.

Models write "3" for 3, "true" for true, null for absent arguments, and objects as JSON texts. If
the schema leaves no doubt, the intended value is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from horde_proxy.prompts.json_schema.keywords import (
    dereferenced,
    properties_of,
    required_of,
    types_of,
)
from horde_proxy.prompts.json_schema.validation import problem_with
from horde_proxy.prompts.lenient_json import DEEPEST, dumps, loads
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.searching import SearchedText
from horde_proxy.protocol.generation_request import Tool

# 3, -12; 18 digits fit into 64 bits, more digits may be an id, which must stay a text
_INTEGER = re.compile(r"[+-]?\d{1,18}")
# 0.5, -12.25
_DECIMAL = re.compile(r"[+-]?\d{1,18}\.\d{1,18}")


def make_call(searched: SearchedText, name: str, arguments: Any) -> FoundCall | None:
    """The call with arguments fitted to the tool's schema; None if they are not an object."""
    tool = searched.tool(name)
    try:
        if isinstance(arguments, str):  # as OpenAI itself writes them: "{\"city\": \"Oslo\"}"
            is_empty = not arguments.strip()
            arguments = {} if is_empty else loads(arguments, repair=not searched.cut_off)
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            return None
        if tool is not None:
            arguments = _fitted(arguments, tool.parameters)
        return FoundCall(tool.name if tool else name.strip(), dumps(arguments))
    except (ValueError, RecursionError):
        return None


def value_of_text(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value of a text between tags: the text if the schema allows a string, else its JSON."""
    types = types_of(schema, root)
    if "string" in types:
        return None if text.strip() == "null" and "null" in types else text
    try:
        return loads(text.strip())
    except ValueError:
        return text


def _fitted(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments coerced, and unwrapped if a model copied the structure of the schema."""
    # {"properties": {"city": "Oslo"}, "type": "object"} for {"city": "Oslo"}
    inner = arguments.get("properties")
    if isinstance(inner, dict) and "properties" not in properties_of(schema):
        if set(arguments) <= {"properties", "type", "required"}:
            arguments = inner
    fitted = _coerced(arguments, schema, schema, 0)
    return fitted if isinstance(fitted, dict) else arguments


def _coerced(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    """The value with texts converted to the schema's types, and without unnecessary nulls."""
    schema = dereferenced(schema, root)
    if depth > DEEPEST or not schema:
        return value
    if isinstance(value, str):
        return _from_text(value, types_of(schema, root))
    if isinstance(value, list):
        return [_coerced(item, schema.get("items"), root, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    properties, required = properties_of(schema), required_of(schema)
    return {
        key: _coerced(part, properties.get(key), root, depth + 1)
        for key, part in value.items()
        if part is not None
        or key not in properties
        or key in required
        or "null" in types_of(properties[key], root)
    }


def _from_text(text: str, types: frozenset[str]) -> Any:
    """A text converted to one of the types if it looks like one; else the text."""
    bare = text.strip()
    if not types or "string" in types:
        return text
    if "boolean" in types and bare.casefold() in ("true", "false"):
        return bare.casefold() == "true"
    if types & {"integer", "number"} and _INTEGER.fullmatch(bare):
        return int(bare)
    if "number" in types and _DECIMAL.fullmatch(bare):
        return float(bare)
    containers = {"array": list, "object": dict}
    try:
        value = loads(text)
    except ValueError:
        return text
    is_wanted = any(isinstance(value, containers[name]) for name in types & set(containers))
    return value if is_wanted else text


def obvious_problem(searched: SearchedText, call: FoundCall) -> str | None:
    """An obvious problem of a call, in one sentence: an unknown tool or a missing argument."""
    tool = searched.tool(call.name)
    if tool is None:
        return f"No tool named '{call.name[:64]}' is available."
    arguments = loads(call.arguments)
    missing = [name for name in required_of(tool.parameters) if name not in arguments]
    if not missing:
        return None
    return f"The call of '{tool.name}' lacks the required argument '{missing[0]}'."


def call_problem(call: FoundCall, tool: Tool) -> str | None:
    """How a call does not fit the tool's schema, in one sentence; None if it fits."""
    try:
        arguments = loads(call.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return f"The arguments of '{tool.name}' are not a JSON object."
    problem = problem_with(arguments, tool.parameters)
    return None if problem is None else f"The call of '{tool.name}': {problem}"
