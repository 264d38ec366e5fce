"""Reads a past tool call in the shapes that clients and servers write. Pure.

OpenAI's chats      {"id", "type": "function", "function": {"name", "arguments": "{...}"}}
OpenAI's custom     {"id", "type": "custom", "custom": {"name", "input": "raw text"}}
OpenAI's responses  {"call_id", "name", "arguments": "{...}"}, and "input" for custom ones
Anthropic           {"id", "type": "tool_use", "name", "input": {...}}
Ollama              {"function": {"name", "arguments": {...}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import ToolCall


def read_call(call: Mapping[str, Any], param: str) -> ToolCall | None:
    """The call; None for one without a name. Raises InvalidRequest if it is nested too deeply.

    A call without an id gets its name as its id, as in OpenAI's older function calls.
    """
    inner = next((call[key] for key in ("function", "custom") if _is_object(call.get(key))), call)
    name = inner.get("name")
    if not isinstance(name, str) or not name:
        return None
    # Responses have both: `id` is the item's, and results refer to `call_id`.
    call_id = text_id(call.get("call_id")) or text_id(call.get("id"))
    return ToolCall(call_id or name, name, _arguments(inner, param))


def text_id(value: object) -> str | None:
    """An id as text, since some clients count their calls with numbers; None for what is no id."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def json_text(value: Any, param: str) -> str:
    """A value as JSON text. Raises InvalidRequest if it is nested too deeply."""
    try:
        return json.dumps(value)
    except RecursionError as exc:
        raise InvalidRequest(
            f"Invalid value for '{param}': it is nested too deeply.",
            param=param,
            code="invalid_value",
        ) from exc


def _arguments(inner: Mapping[str, Any], param: str) -> str:
    """The arguments as JSON text, which is also what OpenAI's own `arguments` are."""
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        return arguments
    if arguments is None:
        arguments = inner.get("input")
        # The input of a custom tool is raw text, e.g. a patch: as a function, it has one argument.
        if isinstance(arguments, str):
            arguments = {"input": arguments}
    return json_text({} if arguments is None else arguments, param)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
