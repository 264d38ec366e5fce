"""Reads the tools of a request and the choice between them. Pure.

    OpenAI's chats      {"type": "function", "function": {"name", "description", "parameters"}}
    OpenAI's responses  {"type": "function", "name", "description", "parameters"}
    OpenAI's functions  {"name", "description", "parameters"}
    Anthropic           {"name", "description", "input_schema"}, at times with "type": "custom"

Tools of other types are run by a server that we do not have, or take raw text instead of JSON.
They are left out with a warning: codex and others offer web_search beside their functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import Tool
from horde_proxy.protocol.json_format import without_nulls
from horde_proxy.protocol.leniency import Leniency, plain_name
from horde_proxy.protocol.sampled_body import LenientModel, Objects
from horde_proxy.protocol.validation import missing_parameter, validated

_FUNCTION_TYPES = (None, "", "function")
_MODES = {"none": "none", "auto": "auto", "required": "required", "any": "required"}
"""Choices that name no tool, with OpenAI's word: Mistral and Anthropic say "any"."""


class _Function(LenientModel):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


def _openai_mode(mode: Any) -> Any:
    return _MODES.get(mode, mode) if isinstance(mode, str) else mode


class _AllowedTools(LenientModel):
    mode: Annotated[Literal["auto", "required"], BeforeValidator(_openai_mode)] = "auto"
    tools: Objects


@dataclass(frozen=True)
class OfferedTools:
    """The tools that may be called, and GenerationRequest.tool_choice and parallel_tool_calls."""

    tools: tuple[Tool, ...] = ()
    choice: str = "none"
    is_parallel: bool = True


@dataclass
class ToolOffer:
    """What the client offers. `left_out`: names and types of tools that cannot be called here."""

    tools: list[Tool] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)


def read_tools(
    tools: Sequence[Mapping[str, Any]], choice: Any, leniency: Leniency, *, field: str = "tools"
) -> OfferedTools:
    """The tools and the choice between them. Raises InvalidRequest.

    `field` is the name of their field; "functions" for OpenAI's older form of them.
    """
    offer = ToolOffer()
    for index, tool in enumerate(tools):
        _read_tool(tool, (field, index), offer, leniency)
    return choose(offer, choice)


def choose(offer: ToolOffer, choice: Any) -> OfferedTools:
    """The tools of an offer that may be called, by `tool_choice`. Raises InvalidRequest."""
    named, allowed = _choice(choice, offer)
    callable_tools = tuple(tool for tool in offer.tools if allowed is None or tool.name in allowed)
    _check_choice(named, callable_tools, offer)
    if not callable_tools or named == "none":
        return OfferedTools()
    # Anthropic has it in the choice instead of a parallel_tool_calls of its own.
    is_single = isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True
    return OfferedTools(callable_tools, named, not is_single)


def _read_tool(
    tool: Mapping[str, Any], place: tuple[str, int], offer: ToolOffer, leniency: Leniency
) -> None:
    param, type = f"{place[0]}.[{place[1]}]", tool.get("type")
    if "input_schema" in tool and type in (*_FUNCTION_TYPES, "custom"):
        written = {**tool, "parameters": tool["input_schema"]}
        offer.tools.append(read_function(written, place))
    elif type not in _FUNCTION_TYPES:
        leave_out(tool, param, offer, leniency)
    elif tool.get("function") is not None:
        offer.tools.append(read_function(tool["function"], (*place, "function")))
    elif "name" in tool:
        offer.tools.append(read_function(tool, place))
    else:
        raise missing_parameter(f"{param}.function")


def leave_out(tool: Mapping[str, Any], param: str, offer: ToolOffer, leniency: Leniency) -> None:
    """Leave a tool out that nobody here can run. Raises InvalidRequest in strict mode."""
    shown = plain_name(tool.get("type"))
    error = InvalidRequest(
        f"Only tools of type 'function' are supported, not '{shown}'.",
        param=f"{param}.type",
        code="unsupported_value",
    )
    leniency.tolerate(error, f"type '{shown}' left out")
    names = (tool.get("type"), _name(tool))
    offer.left_out |= {name for name in names if isinstance(name, str)}


def read_function(written: Any, place: Sequence[str | int]) -> Tool:
    """The tool in the object of a function, whose path in the body is `place`.

    Raises InvalidRequest.
    """
    function = validated(_Function, written, place)
    parameters = without_nulls(function.parameters or {"type": "object", "properties": {}})
    type = parameters.get("type", "object")
    # The arguments of a call are an object, whatever else the schema allows.
    if isinstance(type, list) and "object" in type:
        parameters = {**parameters, "type": "object"}
    elif type != "object":
        raise InvalidRequest(
            f"Invalid schema for function '{function.name}': its type must be 'object'.",
            param=str(place[0]),
            code="invalid_value",
        )
    return Tool(function.name, function.description or "", parameters, strict=bool(function.strict))


def _choice(given: Any, offer: ToolOffer) -> tuple[str, set[str] | None]:
    """(a mode or the name of a tool, the names of the allowed tools or None for all)."""
    if given in (None, "", {}):
        return "auto" if offer.tools else "none", None
    if isinstance(given, str):
        # Some clients send the bare name of a tool.
        return _openai_mode(given), None
    if not isinstance(given, dict):
        raise _invalid_choice("it must be 'none', 'auto', 'required' or an object")
    type = given.get("type")
    # Responses have mode and tools beside the type.
    if type == "allowed_tools" or "allowed_tools" in given:
        return _allowed(given, offer)
    name = _name(given)
    if name is not None:
        return name, None
    if isinstance(type, str) and (type in _MODES or type in offer.left_out):
        return _openai_mode(type), None
    raise missing_parameter("tool_choice.function.name")


def _allowed(given: Mapping[str, Any], offer: ToolOffer) -> tuple[str, set[str] | None]:
    """The choice among some of the tools; those that were left out cannot be called anyway."""
    is_nested = "allowed_tools" in given
    place = ("tool_choice", "allowed_tools") if is_nested else ("tool_choice",)
    allowed = validated(_AllowedTools, given["allowed_tools"] if is_nested else given, place)
    offered = {tool.name for tool in offer.tools}
    names = {name for name in map(_name, allowed.tools) if name} - (offer.left_out - offered)
    unknown = names - offered
    return (min(unknown) if unknown else allowed.mode), names


def _check_choice(choice: str, tools: Sequence[Tool], offer: ToolOffer) -> None:
    """Raises InvalidRequest for a choice that cannot be met."""
    if choice in ("none", "auto"):
        return
    if choice == "required":
        if not tools and offer.left_out:
            raise _invalid_choice("none of the tools is a function, and only those can be called")
        if not tools:
            raise InvalidRequest(
                "'tool_choice' is only allowed when 'tools' are specified.",
                param="tool_choice",
                code="invalid_value",
            )
    elif choice not in {tool.name for tool in tools}:
        if choice in offer.left_out:
            raise _invalid_choice(f"'{choice}' is no function, and only those can be called")
        raise _invalid_choice(f"no tool named '{choice}' is in 'tools'")


def _invalid_choice(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for 'tool_choice': {reason}.", param="tool_choice", code="invalid_value"
    )


def _name(tool: Mapping[str, Any]) -> str | None:
    """The name in a tool or a choice: in an object named like its type, or beside the type."""
    inner = next(
        (tool[key] for key in ("function", "custom") if isinstance(tool.get(key), dict)), tool
    )
    name = inner.get("name")
    return name if isinstance(name, str) and name else None
