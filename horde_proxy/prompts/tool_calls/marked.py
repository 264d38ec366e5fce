"""Calls behind a marker: it says that a call follows, and what follows says by which grammar.

A grammar reads what follows a marker that begins at `opening`, adds calls or problems to the
findings, and returns where to go on. It returns None, and adds nothing, for another grammar's text.
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

# In this order, since a name before {, < or ( begins several of them. A new grammar is a module
# with such a function, and a line here.
_GRAMMARS: tuple[Callable[[SearchedText, Findings, int, int], int | None], ...] = (
    read_objects,
    read_function,
    read_named,
    read_glm,
    read_python,
)
_LONGEST_BEGINNING = 128
"""Characters behind a marker, at a text's end, that may be the beginning of any grammar."""


def marked_calls(searched: SearchedText) -> Findings:
    """The stage that reads calls behind markers."""
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
        # Whatever a grammar says, go on: a grammar that stands still would never end.
        position = max(position, opening.start() + 1)
    if searched.cut_off and not findings.unfinished:
        findings.unfinished = ends_in_marker(searched.text)
    return findings


def _read_call(searched: SearchedText, findings: Findings, opening: int, start: int) -> int:
    """Read what follows a marker by the first grammar that knows it; where to go on."""
    for read in _GRAMMARS:
        end = read(searched, findings, opening, start)
        if end is not None:
            return end
    return _pass_by(searched, findings, start)


def _pass_by(searched: SearchedText, findings: Findings, start: int) -> int:
    """Judge a marker without a call: cut off, wrongly filled, or only mentioned in prose."""
    text = searched.text
    closing = next_closing(text, start, next_opening_at(text, start))
    if closing is None and searched.cut_off and len(text) - start < _LONGEST_BEGINNING:
        findings.unfinished = True
    # "Use <tool_call> for calls." has no closing tag: the marker is only mentioned.
    elif closing is not None and closing.group().startswith("</"):
        findings.add_problem("The text between the call's tags is no function call.")
    return start
