"""Reads an answer that must, or may, be calls or JSON, and says what is wrong with it.

    text -> calls (tool_calls), or any value that fits if one is required (required_calls)
         -> JSON: any value that fits (json_values, schema_matching)

Where nothing fits, there is a problem for the model to correct, and the parts that do fit. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.prompts.constrained import ConstrainedRequest, callable_tools
from horde_proxy.prompts.formats import restore
from horde_proxy.prompts.guided import NOTHING
from horde_proxy.prompts.json_schema.work import limited_work
from horde_proxy.prompts.json_values import continues, json_values, without_thought
from horde_proxy.prompts.lenient_json import dumps, span
from horde_proxy.prompts.repetition import loops
from horde_proxy.prompts.required_calls import (
    NOTHING_FOUND,
    ReadCall,
    checked,
    count_call_problems,
    known_part,
    marked_calls,
    required_calls,
    restored,
)
from horde_proxy.prompts.schema_matching import best_match
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.protocol.generation_request import GenerationRequest, Tool

# Short, for small models: what is wrong, and what to do.
_CALL_AGAIN = "Your function call was invalid: {problem} Reply only with a valid function call."
_JSON_AGAIN = "Your answer was invalid: {problem} Reply only with the valid JSON."
_NO_CALL = "You made no function call."
_NO_JSON = "The answer is not valid JSON."
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
# The head of a call in the forms that `instructions.prefill` begins: "name": "bash", "arguments": {
_CALLED = re.compile(r'"name": *"([^"]{1,128})", *"(?:arguments|parameters)": *(?=\{)')
# An object's first property and the first character of its value: {"properties": {
_FIRST_PROPERTY = re.compile(r'\{\s*"([^"\\]{1,200})"\s*:\s*(\S)')


@dataclass(frozen=True)
class StructuredReading:
    """What an answer says.

    `content` is the text beside the calls. `json` is JSON text that fits, "" without it; `known` is
    a value of which only parts fit, NOTHING without it. `problem` and `again` are sentences: what
    is wrong, and the turn that requests a correction. `unfinished`: the text ends inside a call.
    """

    content: str = ""
    calls: tuple[ReadCall, ...] = ()
    json: str = ""
    known: Any = NOTHING
    problem: str | None = None
    problem_count: int = 0
    again: str = ""
    unfinished: bool = False

    @property
    def quality(self) -> tuple[bool, bool, bool, int]:
        """Of two readings of one request, the better one has the greater quality.

        A call of an offered tool is better than a text, and that better than any other call.
        """
        is_use = bool(self.json) or any(call.tool for call in self.calls)
        return is_use, self.problem is None, bool(self.calls), -self.problem_count


def read_structured(
    structure: ConstrainedRequest, text: str, *, cut_off: bool = False
) -> StructuredReading:
    """The calls or the JSON in a text that continues the prefill, or starts over.

    The text is as the model wrote it: a call that it only quotes has neutralised tags. What is
    returned is restored.
    """
    request = structure.request
    if not request.tools:
        return _read_json(structure, text, cut_off)
    # One budget for all calls of an answer, which may be hundreds.
    with limited_work():
        reading = _read_calls(structure, text, cut_off)
    is_json = request.json_format is not None and not (reading.calls or reading.problem)
    return _read_json(structure, text, cut_off) if is_json else reading


def read_server_answer(
    request: GenerationRequest, content: str, calls: Sequence[FoundCall], *, cut_off: bool = False
) -> StructuredReading:
    """The same of an answer whose calls a server has read: nothing is found in its text but JSON.

    What the server should have made fit by its grammar is checked all the same: not each server
    has one.
    """
    if request.tools and (calls or request.tool_choice != "auto"):
        with limited_work():
            return _checked_calls(request, content, calls)
    if request.json_format is None:
        return StructuredReading(content)
    reading = _read_json(ConstrainedRequest(request, ""), content, cut_off)
    # The server's own spaces and numbers, where nothing had to be mended.
    is_same = bool(reading.json) and _strict_json(content) == _strict_json(reading.json)
    return replace(reading, json=content if is_same else reading.json)


def _checked_calls(
    request: GenerationRequest, content: str, calls: Sequence[FoundCall]
) -> StructuredReading:
    tools = callable_tools(request)
    is_free = request.tool_choice == "auto"
    read = tuple(_server_call(call, tools, is_free=is_free) for call in calls)
    problem = next((call.problem for call in read if call.problem), None if read else _NO_CALL)
    return StructuredReading(
        content,
        read,
        problem=problem,
        problem_count=count_call_problems(read) if read else NOTHING_FOUND,
        again=_CALL_AGAIN.format(problem=problem),
    )


def _server_call(call: FoundCall, tools: Sequence[Tool], *, is_free: bool) -> ReadCall:
    """A call of a server. One that the model was free to make need fit only if its tool is strict.

    Its name has to be that of a tool, and its arguments an object, in any case.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    # Servers write no arguments as "", and llama.cpp as "{}".
    call = replace(call, arguments=call.arguments.strip() or "{}")
    fitted = checked(call, [tool] if tool else ())
    arguments = _strict_json(call.arguments)
    if tool is None or (is_free and not tool.strict and isinstance(arguments, dict)):
        return replace(fitted, call=call) if tool is None else ReadCall(call, tool)
    # The server's own text, where nothing had to be mended.
    is_same = fitted.problem is None and _strict_json(fitted.call.arguments) == arguments
    return replace(fitted, call=call) if is_same else fitted


def _strict_json(text: str) -> Any:
    """The value of a JSON text; NOTHING for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return NOTHING


def _read_json(structure: ConstrainedRequest, text: str, cut_off: bool) -> StructuredReading:
    json_format = structure.request.json_format
    assert json_format is not None
    schema = _ANY_OBJECT if json_format.schema is None else json_format.schema
    values = json_values(structure.prefill, text, cut_off=cut_off)
    match = best_match(map(restored, values), schema)
    if match is not None and match.problem is None:
        return StructuredReading(restore(text), json=dumps(match.value))
    problem = match.problem if match and match.problem else _NO_JSON
    return StructuredReading(
        restore(text),
        known=known_part(match),
        problem=problem,
        problem_count=match.problem_count if match else NOTHING_FOUND,
        again=_JSON_AGAIN.format(problem=problem),
    )


def _read_calls(structure: ConstrainedRequest, text: str, cut_off: bool) -> StructuredReading:
    tools = callable_tools(structure.request)
    reading = marked_calls(structure, text, cut_off)
    if structure.request.tool_choice != "auto":
        calls = required_calls(structure, text, cut_off)
        problem = None if calls else reading.problem or _NO_CALL
    else:
        known = {tool.name: tool for tool in tools}
        calls = tuple(
            _free_call(call, known.get(call.name), is_wrong=reading.problem is not None)
            for call in reading.calls
        )
        problem = reading.problem
    problem = next((call.problem for call in calls if call.problem), problem)
    return StructuredReading(
        reading.content,
        calls,
        problem=problem,
        problem_count=count_call_problems(calls) if calls else NOTHING_FOUND,
        again=_CALL_AGAIN.format(problem=problem),
        unfinished=reading.unfinished,
    )


def _free_call(call: FoundCall, tool: Tool | None, *, is_wrong: bool) -> ReadCall:
    """A call that the model was free to make. It has to fit only if its tool is strict.

    Agents handle a small misfit themselves, better than a small model does. `is_wrong`: a call of
    this answer is to be corrected, so its problems are counted.
    """
    if tool is None or not (tool.strict or is_wrong):
        return ReadCall(call, tool)
    fitted = checked(call, [tool])
    return fitted if tool.strict else ReadCall(call, tool, problem_count=fitted.problem_count)


def is_complete(structure: ConstrainedRequest, text: str) -> bool:
    """Whether generation should stop: the call or JSON is complete, or will never come."""
    request, body = structure.request, without_thought(text)
    if request.tools and request.tool_choice == "auto":
        return False
    if request.tools:
        marked = marked_calls(structure, text, cut_off=True)
        is_there = bool(marked.calls) and not marked.unfinished
    else:
        is_there = _is_closed(structure.prefill, body)
    is_there = is_there or read_structured(structure, text, cut_off=True).problem is None
    starts_over = body.lstrip()[:1] in ("<", "[", "{", "`")
    whole = structure.prefill + body
    return is_there or loops(body) or (not starts_over and _misreads_schema(whole, structure))


def _is_closed(prefill: str, text: str) -> bool:
    """Whether the JSON is complete, as a continuation of the prefill or after a new start."""
    whole, bare = (prefill + text).lstrip(), text.lstrip()
    if whole.startswith(("{", "[")) and span(whole).state == "closed":
        return True
    starts_over = not continues(prefill, text) if prefill else bare.startswith("`")
    return starts_over and span(bare).state == "closed"


def _misreads_schema(text: str, structure: ConstrainedRequest) -> bool:
    """Whether the object's first property is not in the schema, or has another type there.

    Small models may repeat the schema instead of filling it in: {"properties": {
    """
    request, called = structure.request, _CALLED.search(text)
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
