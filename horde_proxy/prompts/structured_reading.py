"""Reads an answer that must, or may, be calls or JSON, and says what is wrong with it.

    text -> calls in the forms of all families (tool_calls)     -> what fits, or a problem
         -> any value that fits (json_values, schema_matching)     and the parts that fit

A call is looked for in any value only if it is required: the model had no other choice. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.prompts.answer import loops
from horde_proxy.prompts.constrained import ConstrainedRequest, callable_tools
from horde_proxy.prompts.formats import restore
from horde_proxy.prompts.guided import NOTHING
from horde_proxy.prompts.json_schema.work import limited_work
from horde_proxy.prompts.json_values import continues, json_values, without_thought
from horde_proxy.prompts.lenient_json import dumps, loads, span
from horde_proxy.prompts.schema_matching import Match, best_match, matching_tool
from horde_proxy.prompts.tool_calls.calls import CallReading, FoundCall
from horde_proxy.prompts.tool_calls.reading import read_calls
from horde_proxy.protocol.generation_request import Tool

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


# {"type": "object", "properties": {}, "additionalProperties": false}, as agents describe such tools
_WORDS_OF_NO_ARGUMENTS = {
    "$schema",
    "additionalProperties",
    "description",
    "properties",
    "required",
    "title",
    "type",
}
_LONGEST_NAME = 64
"""Characters of a name in a sentence to the model."""
_NO_PARTS = 1_000
"""Problems of an answer in which nothing was found: more than of any other."""


@dataclass(frozen=True)
class ReadCall:
    """A call, and what is wrong with it: a sentence for the model, None for a call that fits.

    `tool` is None if no offered tool has the call's name. `known` are the arguments as a value if
    they were checked and any of them are the tool's; else NOTHING.
    """

    call: FoundCall
    tool: Tool | None = None
    known: Any = NOTHING
    problem: str | None = None
    problem_count: int = 0


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


def _read_json(structure: ConstrainedRequest, text: str, cut_off: bool) -> StructuredReading:
    json_format = structure.request.json_format
    assert json_format is not None
    schema = _ANY_OBJECT if json_format.schema is None else json_format.schema
    values = json_values(structure.prefill, text, cut_off=cut_off)
    match = best_match(map(_restored, values), schema)
    if match is not None and match.problem is None:
        return StructuredReading(restore(text), json=dumps(match.value))
    problem = match.problem if match and match.problem else _NO_JSON
    return StructuredReading(
        restore(text),
        known=_known(match),
        problem=problem,
        problem_count=match.problem_count if match else _NO_PARTS,
        again=_JSON_AGAIN.format(problem=problem),
    )


def _restored(value: Any) -> Any:
    """A value with restored texts.

    Its text cannot be restored before it is read: there, the mark may be escaped, as in \\u00b7.
    """
    try:
        written = dumps(value)
        restored = restore(written)
        return value if restored == written else loads(restored)
    except (ValueError, RecursionError):  # NaN, or too long to be read again
        return value


def _known(match: Match | None) -> Any:
    return match.value if match and match.is_declared else NOTHING


def _read_calls(structure: ConstrainedRequest, text: str, cut_off: bool) -> StructuredReading:
    tools = callable_tools(structure.request)
    reading = _marked_calls(structure, text, cut_off)
    if structure.request.tool_choice != "auto":
        calls = _required_calls(structure, text, cut_off)
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
        problem_count=_count(calls) if calls else _NO_PARTS,
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
    checked = _checked(call, [tool])
    return checked if tool.strict else ReadCall(call, tool, problem_count=checked.problem_count)


def _marked_calls(structure: ConstrainedRequest, text: str, cut_off: bool) -> CallReading:
    """The calls in the forms of all families, in a continuation of the prefill or a new start."""
    if structure.prefill:
        text = without_thought(text)
    return _calls_in(structure, whole_text(structure, text), cut_off)


def _calls_in(structure: ConstrainedRequest, whole: str, cut_off: bool) -> CallReading:
    reading = read_calls(whole, callable_tools(structure.request), cut_off=cut_off)
    calls = (replace(call, arguments=restore(call.arguments)) for call in reading.calls)
    return replace(reading, content=restore(reading.content), calls=tuple(calls))


def _required_calls(
    structure: ConstrainedRequest, text: str, cut_off: bool
) -> tuple[ReadCall, ...]:
    """The calls of an answer that must be one; those with the fewest problems if none fits."""
    best: tuple[ReadCall, ...] = ()
    for calls in _possible_calls(structure, text, cut_off):
        if any(call.problem is None for call in calls):
            return calls
        if calls and (not best or _count(calls) < _count(best)):
            best = calls
    return best


def _count(calls: Sequence[ReadCall]) -> int:
    return sum(call.problem_count for call in calls)


def _possible_calls(
    structure: ConstrainedRequest, text: str, cut_off: bool
) -> Iterator[tuple[ReadCall, ...]]:
    """The calls that an answer may mean, the likeliest first: whatever fits a tool's schema."""
    tools, body = callable_tools(structure.request), without_thought(text)
    if len(tools) == 1 and _takes_nothing(tools[0]):
        yield (ReadCall(FoundCall(tools[0].name, "{}"), tools[0]),)
    wholes = [structure.prefill + body, body]
    # A new start after the prefill would look like two calls, the first one without arguments.
    if not _is_continued(structure, body):
        wholes.reverse()
    yield _checked_calls(structure, wholes[0], cut_off)
    # The prefill of a named call ends with the brace of its arguments.
    opening = "{" if structure.prefill.endswith("{") else ""
    values = json_values(opening, text, cut_off=cut_off)
    found = matching_tool(map(_restored, values), tools)
    if found is not None and (found[1].is_declared or found[1].problem is None):
        yield (_matched_call(*found),)
    yield _checked_calls(structure, wholes[1], cut_off)


def _checked_calls(
    structure: ConstrainedRequest, whole: str, cut_off: bool
) -> tuple[ReadCall, ...]:
    tools = callable_tools(structure.request)
    return tuple(_checked(call, tools) for call in _calls_in(structure, whole, cut_off).calls)


def _takes_nothing(tool: Tool) -> bool:
    """Whether a tool has no arguments, so that its call has only one form."""
    parameters = tool.parameters
    is_closed = not parameters.get("additionalProperties") and parameters.get("properties") == {}
    return is_closed and parameters.keys() <= _WORDS_OF_NO_ARGUMENTS


def _checked(call: FoundCall, tools: Sequence[Tool]) -> ReadCall:
    """A call beside the schema of its tool; with an unknown name, of the tool that it fits."""
    named = [tool for tool in tools if tool.name == call.name]
    try:
        arguments = loads(call.arguments)
    except ValueError:  # too long to be read again
        arguments = None
    match = matching_tool([arguments], named or tools)
    if match is None:
        problem = f"No tool named '{call.name[:_LONGEST_NAME]}' is available."
        return ReadCall(call, problem=problem, problem_count=_NO_PARTS)
    return _matched_call(*match)


def _matched_call(tool: Tool, match: Match) -> ReadCall:
    """The call of a tool with the arguments that were found."""
    arguments = match.value if isinstance(match.value, dict) else {}
    problem = f"The call of '{tool.name}': {match.problem}" if match.problem else None
    return ReadCall(
        FoundCall(tool.name, dumps(arguments)), tool, _known(match), problem, match.problem_count
    )


def whole_text(structure: ConstrainedRequest, text: str) -> str:
    """The text with the prefill before it if it continues that; prose and new starts stay alone."""
    return structure.prefill + text if _is_continued(structure, text) else text


def _is_continued(structure: ConstrainedRequest, text: str) -> bool:
    """Whether a text continues the prefill: the name of a call, or the inside of an object."""
    if structure.prefill.endswith('"'):
        return text.lstrip().startswith(
            tuple(tool.name for tool in callable_tools(structure.request))
        )
    return continues(structure.prefill, text)


def is_complete(structure: ConstrainedRequest, text: str) -> bool:
    """Whether generation should stop: the call or JSON is complete, or will never come."""
    request, body = structure.request, without_thought(text)
    if request.tools and request.tool_choice == "auto":
        return False
    if request.tools:
        marked = _marked_calls(structure, text, cut_off=True)
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
