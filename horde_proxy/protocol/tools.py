"""Reads the tools of a request and the choice between them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import Tool
from horde_proxy.protocol.json_format import without_nulls
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS, LenientModel
from horde_proxy.protocol.validation import missing_parameter


class Function(LenientModel):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(LenientModel):
    """A tool; in `allowed_tools`, it has only a name, in `function` or beside the type."""

    type: str | None = "function"
    function: Function | None = None
    name: str | None = None


class NamedChoice(LenientModel):
    name: str


class _AllowedTools(LenientModel):
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[ToolDefinition], Field(max_length=MOST_ELEMENTS, fail_fast=True)]


class ToolChoice(LenientModel):
    """`tool_choice` as an object: one function by name, or a list of allowed tools."""

    type: str = "function"
    function: NamedChoice | None = None
    name: str | None = None
    allowed_tools: _AllowedTools | None = None


def read_tools(
    tools: Sequence[ToolDefinition], functions: Sequence[Function], given: Any
) -> tuple[tuple[Tool, ...], str]:
    """(the tools that may be called, GenerationRequest.tool_choice). Raises InvalidRequest.

    `functions` are OpenAI's older form of `tools`, `given` is the choice.
    """
    offered = [_tool(index, tool) for index, tool in enumerate(tools)]
    if not offered:
        offered = [_function_tool(function) for function in functions]
    choice, allowed = _choice(given, "auto" if offered else "none")
    known = {tool.name for tool in offered}
    callable_tools = tuple(tool for tool in offered if allowed is None or tool.name in allowed)
    if allowed is not None and not allowed <= known:
        choice = sorted(allowed - known)[0]
    if choice not in ("none", "auto", "required") and choice not in {
        tool.name for tool in callable_tools
    }:
        raise InvalidRequest(
            f"Invalid value for 'tool_choice': no tool named '{choice}' is in 'tools'.",
            param="tool_choice",
            code="invalid_value",
        )
    if choice == "required" and not callable_tools:
        raise InvalidRequest(
            "'tool_choice' is only allowed when 'tools' are specified.",
            param="tool_choice",
            code="invalid_value",
        )
    return (callable_tools, choice) if callable_tools and choice != "none" else ((), "none")


def _tool(index: int, tool: ToolDefinition) -> Tool:
    if tool.type not in ("function", None):
        raise InvalidRequest(
            f"Only tools of type 'function' are supported, not '{tool.type}'.",
            param=f"tools.[{index}].type",
            code="unsupported_value",
        )
    if tool.function is None:
        raise missing_parameter(f"tools.[{index}].function")
    return _function_tool(tool.function)


def _function_tool(function: Function) -> Tool:
    parameters = without_nulls(function.parameters or {"type": "object", "properties": {}})
    if parameters.get("type", "object") != "object":
        raise InvalidRequest(
            f"Invalid schema for function '{function.name}': its type must be 'object'.",
            param="tools",
            code="invalid_value",
        )
    return Tool(function.name, function.description or "", parameters, strict=bool(function.strict))


def _choice(given: Any, default: str) -> tuple[str, set[str] | None]:
    """(the choice, the names of the allowed tools or None for all)."""
    if given is None or isinstance(given, str):
        return given or default, None
    if isinstance(given, NamedChoice):
        return given.name, None
    if given.allowed_tools is not None:
        listed = given.allowed_tools.tools
        named = [tool.function.name if tool.function else tool.name for tool in listed]
        return given.allowed_tools.mode, {name for name in named if name}
    named = given.function.name if given.function else given.name
    if named is None:
        raise missing_parameter("tool_choice.function.name")
    return named, None
