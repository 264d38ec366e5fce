"""Fits the arguments of a call to the tool's schema, and tells which of them do not fit.

Models write "3" for 3, and copy the structure of the schema. If the schema leaves no doubt, the
intended value is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.prompts.json_schema.coercion import coerced
from horde_proxy.prompts.json_schema.keywords import properties_of, required_of, types_of
from horde_proxy.prompts.json_schema.validation import problem_with
from horde_proxy.prompts.lenient_json import dumps, loads
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.searching import SearchedText
from horde_proxy.protocol.generation_request import Tool


def make_call(searched: SearchedText, name: str, arguments: Any) -> FoundCall | None:
    """The call with arguments fitted to the tool's schema; None if they are not an object."""
    tool = searched.tool(name)
    try:
        if isinstance(arguments, str):  # as OpenAI itself writes them: "{\"city\": \"Oslo\"}"
            is_empty = not arguments.strip()
            arguments = {} if is_empty else loads(arguments, repair=searched.may_repair)
        if isinstance(arguments, list) and len(arguments) == 1:  # [{"city": "Oslo"}]
            [arguments] = arguments
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
    fitted = coerced(arguments, schema)
    return fitted if isinstance(fitted, dict) else arguments


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
