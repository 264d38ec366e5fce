"""What a model is told when its answer must be calls or JSON, and how that answer begins. Pure.

The horde has no grammar: an instruction, a begun answer and stops are all that there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.prompts.answer import loops
from horde_proxy.prompts.json_schema.inlining import inlined
from horde_proxy.prompts.json_schema.merging import Unfillable
from horde_proxy.prompts.json_schema.slimming import slimmed
from horde_proxy.prompts.json_schema.validation import problem_with, schema_problem
from horde_proxy.prompts.lenient_json import dumps, loads, span
from horde_proxy.prompts.tool_calls import instructions as calling
from horde_proxy.prompts.tool_calls.calls import CallReading
from horde_proxy.prompts.tool_calls.reading import read_calls
from horde_proxy.protocol.chat import GenerationRequest, JsonFormat, Message, Tool

_JSON = "Answer with one JSON object only, no prose, no code fence."
_JSON_OF_SCHEMA = (
    "Answer with one JSON value only, no prose, no code fence. It must be an instance of this JSON "
    "schema, not the schema itself:\n"
)
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
_THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_MOST_STARTS = 20
_OTHERS = {"additionalProperties", "patternProperties", "anyOf", "oneOf", "if"}
_CALLED = re.compile(r'"name": *"([^"]{1,128})", *"(?:arguments|parameters)": *(?=\{)')
_BEGUN = re.compile(r'\{\s*"([^"\\]{1,200})"\s*:\s*(\S)')
_HIGHEST_TEMPERATURE = 0.7
_FOR_A_MUST = 0.1
_HIGHEST_PENALTY = 1.05


@dataclass(frozen=True)
class ConstrainedRequest:
    """How to ask: the chat, and the beginning that the answer is given ("" for none)."""

    request: GenerationRequest
    prefill: str


def constrained_request(request: GenerationRequest, style: str) -> ConstrainedRequest | None:
    """How to ask for what a request wants; None for plain text.

    `style` is how tool calls are written for the model, "none" for a model that is told of none.
    """
    if request.tools and style != "none":
        return _for_tools(request, style)
    if request.json_format is not None:
        return _for_json(request)
    return None


def with_correction(messages: Sequence[Message], answer: str, problem: str) -> list[Message]:
    """The chat that asks a model to mend its last answer."""
    begun = messages[-1].text if messages[-1].role == "assistant" else ""
    kept = messages[:-1] if begun else messages
    return [*kept, Message("assistant", begun + answer), Message("user", problem)]


def with_prefill(messages: Sequence[Message], prefill: str) -> list[Message]:
    """The chat whose answer begins with a text of ours."""
    return [*messages, Message("assistant", prefill)] if prefill else list(messages)


def read_json(prefill: str, text: str, schema: Mapping[str, Any] | None) -> tuple[str, str]:
    """(JSON text, "") or ("", what is wrong) of a text that was to go on with a prefill.

    Models may begin anew instead, in a fence or after some prose; only what goes on is mended.
    """
    wrong = "The answer is not valid JSON."
    for value in _candidates(prefill, text):
        misfit = problem_with(value, schema) if schema is not None else None
        if schema is None and not isinstance(value, dict):
            misfit = "It is not a JSON object."
        if misfit is None:
            return dumps(value), ""
        wrong = misfit
    return "", wrong


def _candidates(prefill: str, text: str) -> Iterator[Any]:
    """The JSON values that a text may be, the likeliest first."""
    text = _without_thought(text)
    yield from _strictly(prefill + text)
    yield from _strictly(_unfenced(text))
    # The objects within one that was begun are not the answer: it is mended before they are tried.
    if _goes_on(prefill, text):
        yield from _mended(prefill + text)
    for start in [match.start() for match in _BRACKET.finditer(text)][:_MOST_STARTS]:
        found = span(text, start)
        if found.state == "closed":
            yield from _strictly(text[start : found.end])
    if text.lstrip()[:1] in (tuple("{[-0123456789]") if prefill else ("{", "[")):
        yield from _mended(prefill + text)


def _goes_on(prefill: str, text: str) -> bool:
    """Whether a text surely goes on with a begun object or array; else it may begin anew."""
    going_on = {"{": "\"'}", "[": "\"'{[]-0123456789"}.get(prefill, "")
    return text.lstrip()[:1] in tuple(going_on)


def _without_thought(text: str) -> str:
    """The text without the reasoning that it begins with, be that finished or not."""
    return _THOUGHT.sub("", text, count=1)


def _strictly(text: str) -> Iterator[Any]:
    try:
        value = json.loads(text, strict=False)
        dumps(value)  # NaN and the infinities are read, but nobody could be sent them
        yield value
    except (ValueError, RecursionError):
        return


def _mended(text: str) -> Iterator[Any]:
    try:
        yield loads(text, repair=True)
    except ValueError:
        return


def read_call(structure: ConstrainedRequest, text: str, *, cut_off: bool) -> CallReading:
    """The calls in a text that was to go on with the prefill, or that began anew."""
    tools = callable_tools(structure.request)
    text = _without_thought(text) if structure.prefill else text
    glued = read_calls(structure.prefill + text, tools, cut_off=cut_off)
    if not structure.prefill or (glued.calls and not glued.problem):
        return glued
    anew = read_calls(text, tools, cut_off=cut_off)
    return anew if anew.calls and not anew.problem else glued


def callable_tools(request: GenerationRequest) -> list[Tool]:
    """The tools that the model may call."""
    return [
        tool for tool in request.tools if request.tool_choice in ("auto", "required", tool.name)
    ]


def undeclared_argument(arguments: str, tool: Tool) -> str | None:
    """What is wrong with arguments that a tool does not have, unless it says it takes others."""
    try:
        schema = inlined(tool.parameters)
    except Unfillable:
        return None
    if schema.keys() & _OTHERS:
        return None
    known = schema.get("properties", {})
    extra = [name for name in loads(arguments) if name not in known]
    return f"'{tool.name}' has no argument '{extra[0][:60]}'." if extra else None


def is_complete(structure: ConstrainedRequest, text: str) -> bool:
    """Whether nothing should follow: what must come is there, or the text went astray."""
    text = _without_thought(text)
    request, whole = structure.request, structure.prefill + text
    if request.tools:
        if request.tool_choice == "auto":
            return False
        read = read_call(structure, text, cut_off=True)
        is_there = bool(read.calls) and not read.unfinished
    else:
        is_there = _is_closed(structure.prefill, text)
    begins_anew = text.lstrip()[:1] in ("<", "[", "{", "`")
    return is_there or loops(text) or (not begins_anew and _is_astray(whole, request))


def _is_closed(prefill: str, text: str) -> bool:
    """Whether the JSON that was to come is whole: the begun one, or one that began anew."""
    whole, bare = (prefill + text).lstrip(), text.lstrip()
    if whole.startswith(("{", "[")) and span(whole).state == "closed":
        return True
    is_anew = not _goes_on(prefill, text) if prefill else bare.startswith("`")
    return is_anew and span(bare).state == "closed"


def _is_astray(text: str, request: GenerationRequest) -> bool:
    """Whether a begun object has a first property that its schema has not, or of another type.

    That is how small models repeat the schema instead of filling it in.
    """
    called = _CALLED.search(text)
    if request.tools:
        tool = next((each for each in request.tools if called and each.name == called[1]), None)
        schema: Mapping[str, Any] | None = tool.parameters if tool else None
    else:
        schema = request.json_format.schema if request.json_format else None
    begun = _BEGUN.search(text, called.end() if called else 0)
    known = (schema or {}).get("properties")
    if not begun or not isinstance(known, Mapping) or not known:
        return False
    wanted = known.get(begun[1])
    if wanted is None:
        return True
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    return begun[2] in "{[" and kind in ("string", "integer", "number", "boolean")


def quoted_from(value: str, said: str) -> str | None:
    """The value as it was said, whatever its case; None when it was not."""
    at = said.casefold().find(value.casefold())
    if not value or at < 0 or len(said.casefold()) != len(said):
        return None
    return said[at : at + len(value)]


def _for_tools(request: GenerationRequest, style: str) -> ConstrainedRequest:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    is_free, tools = choice in ("auto", "required"), callable_tools(request)
    if choice != "auto":
        for tool in tools:
            _refuse_broken(tool.parameters, "tools")
    told = calling.instructions(tools, style, choice=choice, parallel=parallel)
    if choice == "auto" and request.json_format is not None:
        told += "\n\nIf you call no function: " + _json_rule(request.json_format)
    return ConstrainedRequest(
        replace(
            request,
            messages=tuple(_told(request.messages, told)),
            stop=(
                *(request.stop if choice == "auto" else ()),
                *calling.stops(style, parallel=parallel and is_free),
            ),
            sampling=_steady(
                request.sampling, _HIGHEST_TEMPERATURE if choice == "auto" else _FOR_A_MUST
            ),
        ),
        calling.prefill(style, choice),
    )


def _for_json(request: GenerationRequest) -> ConstrainedRequest:
    assert request.json_format is not None
    schema = request.json_format.schema
    if schema is not None:
        _refuse_broken(schema, "response_format.json_schema.schema")
    told = _json_rule(request.json_format)
    return ConstrainedRequest(
        replace(
            request,
            messages=tuple(_told(request.messages, told)),
            stop=(),
            sampling=_steady(request.sampling),
        ),
        _opening(schema),
    )


def _json_rule(wanted: JsonFormat) -> str:
    return _JSON if wanted.schema is None else _JSON_OF_SCHEMA + _slim(wanted.schema)


def _refuse_broken(schema: Mapping[str, Any], param: str) -> None:
    """Raises InvalidRequest for what is no JSON schema: nothing could ever fit it."""
    fault = schema_problem(schema)
    if fault:
        raise InvalidRequest(
            f"Invalid schema in '{param}': {fault}", param=param, code="invalid_value"
        )


def _opening(schema: Mapping[str, Any] | None) -> str:
    """How JSON of a schema begins, as far as that is certain."""
    if schema is None:
        return "{"
    try:
        kind = inlined(schema).get("type")
    except Unfillable:
        return ""
    return {"object": "{", "array": "["}.get(kind, "") if isinstance(kind, str) else ""


def _slim(schema: Mapping[str, Any]) -> str:
    return json.dumps(slimmed(schema), ensure_ascii=False, separators=(",", ":"))


def _told(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with a text at the end of the first system message, or in one of its own."""
    first = messages[0] if messages else None
    if first is not None and first.role == "system":
        return [replace(first, text=f"{first.text}\n\n{text}".strip()), *messages[1:]]
    return [Message("system", text), *messages]


def _steady(sampling: Mapping[str, Any], highest: float = _HIGHEST_TEMPERATURE) -> dict[str, Any]:
    """Repetition penalties and high temperatures break JSON."""
    temperature = min(sampling.get("temperature", highest), highest)
    penalty = min(sampling.get("rep_pen", 1.0), _HIGHEST_PENALTY)
    kept = {
        name: value
        for name, value in sampling.items()
        if name not in ("frequency_penalty", "presence_penalty")
    }
    return {**kept, "temperature": temperature, "rep_pen": penalty}


def _unfenced(text: str) -> str:
    """The JSON within the first code fence, or the text as it is."""
    fence = _FENCED.search(text)
    return fence[1] if fence else text
