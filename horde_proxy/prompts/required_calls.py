"""Finds the call in an answer that must be one.

    {"name": "weather", "arguments": {"city": "Oslo"}}     the forms of all families (tool_calls)
    Sure: {"city": "Oslo"}                                 any value that fits a tool's schema

A call may continue our prefill, or start over. The text is as the model wrote it, with neutralised
tags; what is returned is restored. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.prompts.constrained import ConstrainedRequest, callable_tools
from horde_proxy.prompts.formats import restore
from horde_proxy.prompts.guided import NOTHING
from horde_proxy.prompts.json_values import continues, json_values, without_thought
from horde_proxy.prompts.lenient_json import dumps, loads
from horde_proxy.prompts.schema_matching import Match, matching_tool
from horde_proxy.prompts.tool_calls.calls import CallReading, FoundCall
from horde_proxy.prompts.tool_calls.reading import read_calls
from horde_proxy.protocol.generation_request import Tool

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
_MOST_CHECKED = 200
"""Calls of one answer: more do not fit into 4,096 tokens, and are a model's loop."""
NOTHING_FOUND = 100_000
"""Problems of an answer without a call or JSON: more than `_MOST_CHECKED` calls can have."""


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


def marked_calls(structure: ConstrainedRequest, text: str, cut_off: bool) -> CallReading:
    """The calls in the forms of all families, in a continuation of the prefill or a new start."""
    if structure.prefill:
        text = without_thought(text)
    return _calls_in(structure, whole_text(structure, text), cut_off)


def _calls_in(structure: ConstrainedRequest, whole: str, cut_off: bool) -> CallReading:
    reading = read_calls(whole, callable_tools(structure.request), cut_off=cut_off)
    calls = (replace(call, arguments=restore(call.arguments)) for call in reading.calls)
    return replace(reading, content=restore(reading.content), calls=tuple(calls))


def required_calls(structure: ConstrainedRequest, text: str, cut_off: bool) -> tuple[ReadCall, ...]:
    """The calls of an answer that must be one; those with the fewest problems if none fits."""
    best: tuple[ReadCall, ...] = ()
    for calls in _possible_calls(structure, text, cut_off):
        if any(call.problem is None for call in calls):
            return calls
        if calls and (not best or count_call_problems(calls) < count_call_problems(best)):
            best = calls
    return best


def count_call_problems(calls: Sequence[ReadCall]) -> int:
    """The problems of all calls together."""
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
    marked = _checked_calls(structure, wholes[0], cut_off)
    yield marked
    # The prefill of a named call ends with the brace of its arguments.
    opening = "{" if structure.prefill.endswith("{") else ""
    values = json_values(opening, text, cut_off=cut_off)
    matching = matching_tool(map(restored, values), tools)
    if matching is not None and (matching[1].is_declared or matching[1].problem is None):
        yield (_matched_call(*matching),)
    if not marked:
        yield _checked_calls(structure, wholes[1], cut_off)


def _checked_calls(
    structure: ConstrainedRequest, whole: str, cut_off: bool
) -> tuple[ReadCall, ...]:
    tools = callable_tools(structure.request)
    calls = _calls_in(structure, whole, cut_off).calls[:_MOST_CHECKED]
    return tuple(checked(call, tools) for call in calls)


def _takes_nothing(tool: Tool) -> bool:
    """Whether a tool has no arguments, so that its call has only one form."""
    parameters = tool.parameters
    is_closed = not parameters.get("additionalProperties") and parameters.get("properties") == {}
    return is_closed and parameters.keys() <= _WORDS_OF_NO_ARGUMENTS


def checked(call: FoundCall, tools: Sequence[Tool]) -> ReadCall:
    """A call beside the schema of its tool; with an unknown name, of the tool that it fits."""
    named = [tool for tool in tools if tool.name == call.name]
    try:
        arguments = loads(call.arguments)
    except ValueError:  # too long to be read again
        arguments = None
    match = matching_tool([arguments], named or tools)
    if match is None:
        problem = f"No tool named '{call.name[:_LONGEST_NAME]}' is available."
        return ReadCall(call, problem=problem, problem_count=NOTHING_FOUND)
    return _matched_call(*match)


def _matched_call(tool: Tool, match: Match) -> ReadCall:
    """The call of a tool with the arguments that were found."""
    arguments = match.value if isinstance(match.value, dict) else {}
    problem = f"The call of '{tool.name}': {match.problem}" if match.problem else None
    return ReadCall(
        FoundCall(tool.name, dumps(arguments)),
        tool,
        known_part(match),
        problem,
        match.problem_count,
    )


def restored(value: Any) -> Any:
    """A value with restored texts.

    Its text cannot be restored before it is read: there, the mark may be escaped, as in \\u00b7.
    """
    try:
        written = dumps(value)
        restored = restore(written)
        return value if restored == written else loads(restored)
    except (ValueError, RecursionError):  # NaN, or too long to be read again
        return value


def known_part(match: Match | None) -> Any:
    """The value of a match of which guided filling may keep parts; else NOTHING."""
    return match.value if match and match.is_declared else NOTHING


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
