"""Writes requests for tool calls or JSON.

The horde has no field for a grammar. The only means are an instruction, a beginning of the answer
(the prefill) and stop strings. `structured_reading` reads the answers. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.prompts.formats import neutralise
from horde_proxy.prompts.json_schema.inlining import inlined
from horde_proxy.prompts.json_schema.merging import Unfillable
from horde_proxy.prompts.json_schema.slimming import FULL, Detail, slimmed
from horde_proxy.prompts.json_schema.validation import schema_problem
from horde_proxy.prompts.tool_calls import instructions as calling
from horde_proxy.prompts.turns import continued
from horde_proxy.protocol.generation_request import GenerationRequest, JsonFormat, Message, Tool

_JSON = "Answer with one JSON object only, no prose, no code fence."
_JSON_OF_SCHEMA = (
    "Answer with one JSON value only, no prose, no code fence. It must be an instance of this JSON "
    "schema, not the schema itself:\n"
)
_HIGHEST_TEMPERATURE = 0.7
"""Above this, small models make mistakes in JSON's syntax."""
_REQUIRED_CALL_TEMPERATURE = 0.1
"""For a required call, which needs no creativity."""
_HIGHEST_PENALTY = 1.05
"""The highest rep_pen: JSON repeats quotes, keys and brackets, so a higher penalty breaks it."""


@dataclass(frozen=True)
class ConstrainedRequest:
    """A request with its instruction and stops, and the beginning of the answer ("" for none)."""

    request: GenerationRequest
    prefill: str


def constrained_request(request: GenerationRequest, style: str) -> ConstrainedRequest | None:
    """The request with instructions for calls or JSON; None if plain text is requested.

    `style` is the model's way to write tool calls; with "none", the tools are not mentioned. Raises
    InvalidRequest for an invalid schema.
    """
    if request.tools and style != "none":
        return _for_tools(request, style)
    if request.json_format is not None:
        return _for_json(request)
    return None


def instruction(request: GenerationRequest, style: str, detail: Detail = FULL) -> str:
    """The text about tools or JSON at the end of the first system message; "" without them.

    `detail`: how much of the tools' and the format's schemas is told.
    """
    if request.tools and style != "none":
        return _for_calls(request, style, detail)
    return "" if request.json_format is None else _json_rule(request.json_format, detail)


def refuse_broken_schemas(request: GenerationRequest) -> None:
    """Raise InvalidRequest for a schema that the answer must fit, but cannot."""
    if request.tools:
        _refuse_broken_tools(request)
    if request.json_format is not None:
        _refuse_broken_format(request.json_format)


def with_tools_told(request: GenerationRequest) -> GenerationRequest:
    """The request with its tools in the first system message, as a template tells of them.

    So they are counted, and shortened, with the messages.
    """
    if not request.tools:
        return request
    told = instruction(replace(request, json_format=None), "hermes")
    return replace(request, messages=tuple(_with_instruction(request.messages, told)))


def with_correction(messages: Sequence[Message], written: str, again: str) -> list[Message]:
    """The chat with the model's last answer, as it wrote it, and a turn that requests another."""
    return [*continued(messages, written), Message("user", again)]


def with_prefill(messages: Sequence[Message], prefill: str) -> list[Message]:
    """The chat with the beginning of the answer as its last message."""
    return [*messages, Message("assistant", "", suffix=prefill)] if prefill else list(messages)


def callable_tools(request: GenerationRequest) -> list[Tool]:
    """The tools that the model may call: all, or the one that `tool_choice` names."""
    return [
        tool for tool in request.tools if request.tool_choice in ("auto", "required", tool.name)
    ]


def _for_tools(request: GenerationRequest, style: str) -> ConstrainedRequest:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    is_free = choice in ("auto", "required")
    _refuse_broken_tools(request)
    return ConstrainedRequest(
        replace(
            request,
            messages=tuple(_with_instruction(request.messages, instruction(request, style))),
            stop=(
                *(request.stop if choice == "auto" else ()),
                *calling.stops(style, parallel=parallel and is_free),
            ),
            sampling=_careful(
                request.sampling,
                _HIGHEST_TEMPERATURE if choice == "auto" else _REQUIRED_CALL_TEMPERATURE,
            ),
        ),
        calling.prefill(style, choice),
    )


def _for_calls(request: GenerationRequest, style: str, detail: Detail) -> str:
    """The instruction for tools; with a format too, it holds for answers that are no call."""
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    text = calling.instructions(
        callable_tools(request), style, choice=choice, parallel=parallel, detail=detail
    )
    if choice == "auto" and request.json_format is not None:
        text += "\n\nIf you call no function: " + _json_rule(request.json_format, detail)
    return text


def _for_json(request: GenerationRequest) -> ConstrainedRequest:
    assert request.json_format is not None
    _refuse_broken_format(request.json_format)
    return ConstrainedRequest(
        replace(
            request,
            messages=tuple(_with_instruction(request.messages, instruction(request, "none"))),
            stop=(),
            sampling=_careful(request.sampling),
        ),
        _opening(request.json_format.schema),
    )


def _json_rule(format: JsonFormat, detail: Detail) -> str:
    return _JSON if format.schema is None else _JSON_OF_SCHEMA + _schema_text(format.schema, detail)


def _refuse_broken_tools(request: GenerationRequest) -> None:
    """A tool that the model is free to call is the agent's own matter."""
    if request.tool_choice != "auto":
        for tool in callable_tools(request):
            _refuse_broken(tool.parameters, "tools")


def _refuse_broken_format(json_format: JsonFormat) -> None:
    if json_format.schema is not None:
        _refuse_broken(json_format.schema, "response_format.json_schema.schema")


def _refuse_broken(schema: Mapping[str, Any], param: str) -> None:
    """Raise InvalidRequest for an invalid schema, which no answer could fit."""
    problem = schema_problem(schema)
    if problem:
        raise InvalidRequest(
            f"Invalid schema in '{param}': {problem}", param=param, code="invalid_value"
        )


def _opening(schema: Mapping[str, Any] | None) -> str:
    """The bracket with which every value of a schema begins; "" if it may begin otherwise."""
    if schema is None:
        return "{"
    try:
        kind = inlined(schema).get("type")
    except Unfillable:
        return ""
    return {"object": "{", "array": "["}.get(kind, "") if isinstance(kind, str) else ""


def _schema_text(schema: Mapping[str, Any], detail: Detail) -> str:
    text = json.dumps(slimmed(schema, detail), ensure_ascii=False, separators=(",", ":"))
    return neutralise(text)


def _with_instruction(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with a text at the end of the first system message, or in a new one."""
    first = messages[0] if messages else None
    if first is not None and first.role == "system":
        suffix = f"\n\n{text}" if first.text.strip() else text
        return [replace(first, text=first.text.lstrip(), suffix=suffix), *messages[1:]]
    return [Message("system", "", suffix=text), *messages]


def _careful(sampling: Mapping[str, Any], highest: float = _HIGHEST_TEMPERATURE) -> dict[str, Any]:
    """The sampling parameters without those that break JSON: penalties, high temperatures."""
    temperature = min(sampling.get("temperature", highest), highest)
    penalty = min(sampling.get("rep_pen", 1.0), _HIGHEST_PENALTY)
    unchanged = {
        name: value
        for name, value in sampling.items()
        if name not in ("frequency_penalty", "presence_penalty")
    }
    return {**unchanged, "temperature": temperature, "rep_pen": penalty}
