"""Requests for tool calls or JSON: how to write them, and how to read the answers.

The horde has no field for a grammar. The only means are an instruction, a beginning of the answer
(the prefill) and stop strings. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.prompts.answer import loops
from horde_proxy.prompts.formats import neutralise, restore
from horde_proxy.prompts.json_schema.inlining import inlined
from horde_proxy.prompts.json_schema.merging import Unfillable
from horde_proxy.prompts.json_schema.slimming import FULL, Detail, slimmed
from horde_proxy.prompts.json_schema.validation import problem_with, schema_problem
from horde_proxy.prompts.json_schema.work import limited_work
from horde_proxy.prompts.lenient_json import dumps, loads, span
from horde_proxy.prompts.tool_calls import instructions as calling
from horde_proxy.prompts.tool_calls.calls import CallReading
from horde_proxy.prompts.tool_calls.reading import read_calls
from horde_proxy.prompts.turns import continued
from horde_proxy.protocol.generation_request import GenerationRequest, JsonFormat, Message, Tool

_JSON = "Answer with one JSON object only, no prose, no code fence."
_JSON_OF_SCHEMA = (
    "Answer with one JSON value only, no prose, no code fence. It must be an instance of this JSON "
    "schema, not the schema itself:\n"
)
# The first code block: ```json\n{"a": 1}\n```, even if it is cut off at the end of the text.
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
# Reasoning at the beginning, finished or not: <think>The user wants a name.</think>
_THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_MOST_STARTS = 20
"""Brackets in a text that are tried as the beginning of the JSON."""
# With these keywords, an object may have properties that `properties` does not list.
_OPEN_KEYWORDS = {"additionalProperties", "patternProperties", "anyOf", "oneOf", "if"}
# The head of a call in the forms that `instructions.prefill` begins: "name": "bash", "arguments": {
_CALLED = re.compile(r'"name": *"([^"]{1,128})", *"(?:arguments|parameters)": *(?=\{)')
# An object's first property and the first character of its value: {"properties": {
_FIRST_PROPERTY = re.compile(r'\{\s*"([^"\\]{1,200})"\s*:\s*(\S)')
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


def with_correction(messages: Sequence[Message], answer: str, problem: str) -> list[Message]:
    """The chat that asks a model to correct its answer, which is as the model wrote it.

    `problem` becomes the user's turn.
    """
    return [*continued(messages, answer), Message("user", problem)]


def with_prefill(messages: Sequence[Message], prefill: str) -> list[Message]:
    """The chat with the beginning of the answer as its last message."""
    return [*messages, Message("assistant", "", suffix=prefill)] if prefill else list(messages)


def read_json(prefill: str, text: str, schema: Mapping[str, Any] | None) -> tuple[str, str]:
    """(JSON text, "") or ("", the problem) of a text that should continue a prefill.

    Models may start over instead, in a code block or after prose. Only a continuation is repaired.
    """
    wrong = "The answer is not valid JSON."
    # One budget for all candidates: an expensive schema would cost it for each of them.
    with limited_work():
        for value in _candidates(prefill, text):
            misfit = problem_with(value, schema) if schema is not None else None
            if schema is None and not isinstance(value, dict):
                misfit = "It is not a JSON object."
            if misfit is None:
                return dumps(value), ""
            wrong = misfit
    return "", wrong


def _candidates(prefill: str, text: str) -> Iterator[Any]:
    """The JSON values that a text may mean, the likeliest first."""
    text = _without_thought(text)
    yield from _strictly(prefill + text)
    yield from _strictly(_unfenced(text))
    # If the text continues an object, objects in it are not the answer: so repair comes first.
    if _continues(prefill, text):
        yield from _repaired(prefill + text)
    for start in [match.start() for match in _BRACKET.finditer(text)][:_MOST_STARTS]:
        extent = span(text, start)
        if extent.state == "closed":
            yield from _strictly(text[start : extent.end])
    if text.lstrip()[:1] in (tuple("{[-0123456789]") if prefill else ("{", "[")):
        yield from _repaired(prefill + text)


def _continues(prefill: str, text: str) -> bool:
    """Whether a text surely continues the prefill's object or array, and does not start over."""
    first_signs = {"{": "\"'}", "[": "\"'{[]-0123456789"}.get(prefill, "")
    return text.lstrip()[:1] in tuple(first_signs)


def _without_thought(text: str) -> str:
    """The text without the reasoning at its beginning."""
    return _THOUGHT.sub("", text, count=1)


def _strictly(text: str) -> Iterator[Any]:
    """The value of a text that is JSON as a whole."""
    try:
        value = json.loads(text, strict=False)
        dumps(value)  # refuses NaN and Infinity, which Python reads although JSON has none
        yield value
    except (ValueError, RecursionError):
        return


def _repaired(text: str) -> Iterator[Any]:
    """The guessed value of a text that lacks a bracket or a quote."""
    try:
        yield loads(text, repair=True)
    except ValueError:
        return


def read_call(structure: ConstrainedRequest, text: str, *, cut_off: bool) -> CallReading:
    """The calls in a text that continues the prefill, or starts over.

    The text is as the model wrote it: a call that it only quotes has neutralised tags. What is
    returned is restored.
    """
    reading = _read_written_call(structure, text, cut_off=cut_off)
    calls = (replace(call, arguments=restore(call.arguments)) for call in reading.calls)
    return replace(reading, content=restore(reading.content), calls=tuple(calls))


def _read_written_call(structure: ConstrainedRequest, text: str, *, cut_off: bool) -> CallReading:
    tools = callable_tools(structure.request)
    text = _without_thought(text) if structure.prefill else text
    continued = read_calls(structure.prefill + text, tools, cut_off=cut_off)
    if not structure.prefill or (continued.calls and not continued.problem):
        return continued
    alone = read_calls(text, tools, cut_off=cut_off)
    return alone if alone.calls and not alone.problem else continued


def callable_tools(request: GenerationRequest) -> list[Tool]:
    """The tools that the model may call: all, or the one that `tool_choice` names."""
    return [
        tool for tool in request.tools if request.tool_choice in ("auto", "required", tool.name)
    ]


def undeclared_argument(arguments: str, tool: Tool) -> str | None:
    """A sentence about an argument that the tool does not have; None if there is none.

    None also if the schema allows arguments that it does not list.
    """
    try:
        schema = inlined(tool.parameters)
    except Unfillable:
        return None
    if schema.keys() & _OPEN_KEYWORDS:
        return None
    known = schema.get("properties", {})
    unknown = [name for name in loads(arguments) if name not in known]
    return f"'{tool.name}' has no argument '{unknown[0][:60]}'." if unknown else None


def is_complete(structure: ConstrainedRequest, text: str) -> bool:
    """Whether generation should stop: the call or JSON is complete, or will never come."""
    text = _without_thought(text)
    request, whole = structure.request, structure.prefill + text
    if request.tools:
        if request.tool_choice == "auto":
            return False
        reading = read_call(structure, text, cut_off=True)
        is_there = bool(reading.calls) and not reading.unfinished
    else:
        is_there = _is_closed(structure.prefill, text)
    starts_over = text.lstrip()[:1] in ("<", "[", "{", "`")
    return is_there or loops(text) or (not starts_over and _misreads_schema(whole, request))


def _is_closed(prefill: str, text: str) -> bool:
    """Whether the JSON is complete, as a continuation of the prefill or after a new start."""
    whole, bare = (prefill + text).lstrip(), text.lstrip()
    if whole.startswith(("{", "[")) and span(whole).state == "closed":
        return True
    starts_over = not _continues(prefill, text) if prefill else bare.startswith("`")
    return starts_over and span(bare).state == "closed"


def _misreads_schema(text: str, request: GenerationRequest) -> bool:
    """Whether the object's first property is not in the schema, or has another type there.

    Small models may repeat the schema instead of filling it in: {"properties": {
    """
    called = _CALLED.search(text)
    if request.tools:
        named = (tool.parameters for tool in request.tools if called and tool.name == called[1])
        schema: Mapping[str, Any] | None = next(named, None)
    else:
        schema = request.json_format.schema if request.json_format else None
    first = _FIRST_PROPERTY.search(text, called.end() if called else 0)
    known = (schema or {}).get("properties")
    if not first or not isinstance(known, Mapping) or not known:
        return False
    expected = known.get(first[1])
    if expected is None:
        return True
    kind = expected.get("type") if isinstance(expected, Mapping) else None
    return first[2] in "{[" and kind in ("string", "integer", "number", "boolean")


def quoted_from(value: str, source: str) -> str | None:
    """The value as it is written in `source`, in upper or lower case; None if it is missing."""
    position = source.casefold().find(value.casefold())
    # Some letters become two when folded (ß). Then positions differ, and nothing is returned.
    if not value or position < 0 or len(source.casefold()) != len(source):
        return None
    return source[position : position + len(value)]


def _for_tools(request: GenerationRequest, style: str) -> ConstrainedRequest:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    is_free, tools = choice in ("auto", "required"), callable_tools(request)
    if choice != "auto":
        for tool in tools:
            _refuse_broken(tool.parameters, "tools")
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
    schema = request.json_format.schema
    if schema is not None:
        _refuse_broken(schema, "response_format.json_schema.schema")
    return ConstrainedRequest(
        replace(
            request,
            messages=tuple(_with_instruction(request.messages, instruction(request, "none"))),
            stop=(),
            sampling=_careful(request.sampling),
        ),
        _opening(schema),
    )


def _json_rule(format: JsonFormat, detail: Detail) -> str:
    return _JSON if format.schema is None else _JSON_OF_SCHEMA + _schema_text(format.schema, detail)


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


def _unfenced(text: str) -> str:
    """The inside of the first code block, or the whole text."""
    fence = _FENCED.search(text)
    return fence[1] if fence else text
