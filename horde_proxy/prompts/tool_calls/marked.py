"""Calls after a marker. The marker announces a call; the text after it decides about the grammar.

A grammar reads the text at `start`, after a marker at `opening`, adds calls or problems to the
findings, and returns the position to continue. For another grammar's text, it adds nothing and
returns None.
"""

from __future__ import annotations

from collections.abc import Callable

from horde_proxy.prompts.tool_calls.function_calls import read_function
from horde_proxy.prompts.tool_calls.glm_calls import read_glm
from horde_proxy.prompts.tool_calls.markers import (
    after_lead,
    ends_in_marker,
    next_closing,
    next_opening,
    next_opening_at,
)
from horde_proxy.prompts.tool_calls.mentions import object_around
from horde_proxy.prompts.tool_calls.named_calls import read_named
from horde_proxy.prompts.tool_calls.object_calls import read_objects
from horde_proxy.prompts.tool_calls.python_calls import read_python
from horde_proxy.prompts.tool_calls.searching import MOST_PROBLEMS, Findings, SearchedText

# The order matters, since several of them begin with a name before {, < or (. To add a grammar, add
# a module with such a function, and a line here.
_GRAMMARS: tuple[Callable[[SearchedText, Findings, int, int], int | None], ...] = (
    read_objects,
    read_function,
    read_named,
    read_glm,
    read_python,
)
_LONGEST_BEGINNING = 128
"""Characters after a marker, at the end of a text, that may be the beginning of any grammar."""


def marked_calls(searched: SearchedText) -> Findings:
    """The stage that reads calls after markers."""
    findings, position, free_until = Findings(), 0, 0
    while not findings.unfinished and findings.problem_count < MOST_PROBLEMS:
        opening = next_opening(searched.text, position)
        if opening is None:
            break
        free_until, quoted_until = object_around(
            searched, max(free_until, position), opening.start()
        )
        if quoted_until:
            position = quoted_until
            continue
        start = after_lead(searched.text, opening.end())
        position = _read_call(searched, findings, opening.start(), start)
        # Always move forward: a grammar that returns an earlier position would cause a loop.
        position = max(position, opening.start() + 1)
    if searched.cut_off and not findings.unfinished:
        findings.unfinished = ends_in_marker(searched.text)
    return findings


def _read_call(searched: SearchedText, findings: Findings, opening: int, start: int) -> int:
    """Read the text after a marker by the first grammar that fits. The position to continue."""
    for read in _GRAMMARS:
        end = read(searched, findings, opening, start)
        if end is not None:
            return end
    return _judge_no_call(searched, findings, start)


def _judge_no_call(searched: SearchedText, findings: Findings, start: int) -> int:
    """Judge a marker without a call: cut off, with a wrong text, or only mentioned in prose."""
    text = searched.text
    closing = next_closing(text, start, next_opening_at(text, start))
    if closing is None and searched.cut_off and len(text) - start < _LONGEST_BEGINNING:
        findings.unfinished = True
    # "Use <tool_call> for calls." has no closing tag: the marker is only mentioned.
    elif closing is not None and closing.group().startswith("</"):
        findings.add_problem("The text between the call's tags is no function call.")
    return start
