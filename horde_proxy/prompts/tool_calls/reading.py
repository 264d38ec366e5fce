"""Reads the calls in a generated text, in all forms that models use.

Each stage searches for one form, and the first stage that finds calls wins. Markers may be missing,
because workers drop control tokens. A call that was cut off is never completed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from horde_proxy.prompts.tool_calls.arguments import obvious_problem
from horde_proxy.prompts.tool_calls.calls import CallReading
from horde_proxy.prompts.tool_calls.marked import marked_calls
from horde_proxy.prompts.tool_calls.searching import (
    Findings,
    SearchedText,
    plain_name,
    tools_by_name,
)
from horde_proxy.prompts.tool_calls.unmarked import embedded_calls, line_calls, whole_answer_calls
from horde_proxy.protocol.generation_request import Tool

_STAGES: tuple[Callable[[SearchedText], Findings], ...] = (
    marked_calls,
    whole_answer_calls,
    embedded_calls,
    line_calls,
)
# The first characters of calls in all grammars: <tool_call>, [TOOL_CALLS], {, `
_SIGN = re.compile(r"[<\[{`]")
# Words before a name, of gpt-oss ("commentary to=functions.bash") and Kimi ("functions.bash").
_CALL_WORDS = ("functions", "to", "commentary", "assistant")
_LONGEST_BEGINNING = 160
# The beginning of a fence or list around a call, which is not content: "```json", "[",
# "<|python_tag|>"
_OPENER = re.compile(r"(?:```[ \t]{0,9}\w{0,20}|<\|python_tag\|>|\[)\Z")
_LONGEST_OPENER = 40
_MOST_OPENERS = 3


def read_calls(text: str, tools: Sequence[Tool], *, cut_off: bool = False) -> CallReading:
    """The calls in a text that contains neither stop strings nor reasoning.

    `cut_off`: the text ended at a length limit. A call of an unknown tool is returned with a
    problem if it has a marker.
    """
    if not tools:
        return CallReading(text, (), False, None)
    searched = SearchedText(text, tools_by_name(tools), cut_off)
    problem = None
    for stage in _STAGES:
        findings = stage(searched)
        problem = problem or findings.problem
        if findings.calls or findings.unfinished or findings.is_final:
            return _reading(searched, findings)
    return CallReading(text, (), False, problem)


def certain_content(text: str, tools: Sequence[Tool]) -> str:
    """The beginning of a text that surely is content and not a call: safe to stream."""
    names = (*map(plain_name, tools_by_name(tools)), *_CALL_WORDS)
    sign = _SIGN.search(text)
    end = sign.start() if sign else len(text)
    for line in re.finditer(r"^.*", text[:end], re.MULTILINE):
        beginning = plain_name(line.group().strip()[:_LONGEST_BEGINNING])
        is_last = line.end() == end
        # A line may be a call if it begins with a tool's name; the last line, with half of a name.
        if any(
            beginning.startswith(name) or (is_last and name.startswith(beginning)) for name in names
        ):
            return text[: line.start()].rstrip()
    return text[:end].rstrip()


def _reading(searched: SearchedText, findings: Findings) -> CallReading:
    content = searched.text
    if findings.calls and not findings.unfinished:
        content = _before(searched.text, findings.start or 0)
    problems = (obvious_problem(searched, call) for call in findings.calls)
    problem = findings.problem or next((problem for problem in problems if problem), None)
    return CallReading(content, tuple(findings.calls), findings.unfinished, problem)


def _before(text: str, start: int) -> str:
    """The text before a call, without the fence or bracket that encloses the call."""
    before = text[:start].rstrip()
    for _ in range(_MOST_OPENERS):
        opener = _OPENER.search(before, max(0, len(before) - _LONGEST_OPENER))
        before = before[: opener.start()].rstrip() if opener else before
    return before.lstrip()
