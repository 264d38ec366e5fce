"""Reads the calls in a generated text, in all forms that models use.

    SearchedText --> Scan: groups of calls --> Judge: uses and mentions --> CallReading
                                                                        '-> certain content

Markers may be missing, because workers drop control tokens. A call that was cut off is never
completed.
"""

from __future__ import annotations

from collections.abc import Sequence

from horde_proxy.prompts.tool_calls.arguments import obvious_problem
from horde_proxy.prompts.tool_calls.beginnings import beginning_at
from horde_proxy.prompts.tool_calls.calls import CallReading
from horde_proxy.prompts.tool_calls.markers import SEPARATOR, ends_in_marker
from horde_proxy.prompts.tool_calls.mentions import Judge, undecided_end
from horde_proxy.prompts.tool_calls.scanning import Group, Scan
from horde_proxy.prompts.tool_calls.searching import SearchedText, tools_by_name
from horde_proxy.protocol.generation_request import Tool


def read_calls(text: str, tools: Sequence[Tool], *, cut_off: bool = False) -> CallReading:
    """The calls in a text that contains neither stop strings nor reasoning.

    `cut_off`: the text ended at a length limit. A call of an unknown tool is returned with a
    problem if it has a marker.
    """
    if not tools:
        return CallReading(text, (), False, None)
    searched = SearchedText(text.replace(SEPARATOR, ""), tools_by_name(tools), cut_off)
    groups = list(Scan(searched).groups())
    judge = Judge(searched.text, groups)
    uses = [group for group in judge.uses() if group.is_likely or not group.is_open]
    calls = tuple(call for group in uses for call in group.calls)
    if any(group.is_open for group in uses) or (cut_off and ends_in_marker(searched.text)):
        return CallReading(text, calls, True, None)
    problems = (group.problem for group in uses if group.problem)
    problem = next(problems, None)
    if not calls:
        return CallReading(text, (), False, problem)
    misfits = (obvious_problem(searched, call) for call in calls)
    problem = problem or next((misfit for misfit in misfits if misfit), None)
    return CallReading(_without_calls(searched.text, uses, judge), calls, False, problem)


def certain_content(text: str, tools: Sequence[Tool]) -> str:
    """The beginning of a text that surely is content and not a call: safe to stream."""
    text = text.partition(SEPARATOR)[0]
    searched = SearchedText(text, tools_by_name(tools), is_growing=True)
    groups = list(Scan(searched).groups())
    begun = beginning_at(searched, after=groups[-1].end if groups else 0)
    judge = Judge(text, groups, end=min(begun, undecided_end(text)))
    uses = judge.uses()
    return text[: min([begun, *(judge.start_of(use) for use in uses[:1])])].rstrip()


def _without_calls(text: str, uses: Sequence[Group], judge: Judge) -> str:
    """The text before, between and after the calls."""
    parts, position = [], 0
    for use in uses:
        parts.append(text[position : judge.start_of(use)])
        position = use.end
    parts.append(text[position:])
    return "\n\n".join(part.strip() for part in parts if part.strip())
