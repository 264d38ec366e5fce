"""Use or mention: whether a text that looks like a call is only quoted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from horde_proxy.prompts.lenient_json import Span, span
from horde_proxy.prompts.tool_calls.object_calls import OBJECT_START, names_a_tool
from horde_proxy.prompts.tool_calls.searching import SearchedText

# A code block: ```python\nprint(1)\n```, even if it is cut off at the end of the text.
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
# Fences with calls in them: all families use json, Gemma 3 uses tool_code, and models make up the
# others.
_CALL_FENCES = ("json", "tool_code", "tool_call", "tool_calls", "tool_use")
# A name directly before an object: `bash {`, `bash({`, `bash[ARGS]{`, `bash json{`.
_NAME_BEFORE = re.compile(r"(?<![\w.\-])([\w.\-]{1,128})(?:\[ARGS\]|json|[ \t(]){0,3}\Z")
_LONGEST_NAME_BEFORE = 160
_MOST_BLOCKS = 1000


def object_around(searched: SearchedText, position: int, marker: int) -> tuple[int, int]:
    """(where the next search for such an object may start, the end of the object around a marker).

    The second is 0 if the marker is not in an object. A marker in a string of an object is quoted:
    for example, a call writes a file about calls.
    """
    text = searched.text
    while key := OBJECT_START.search(text, position, marker):
        extent = span(text, key.start())
        if extent.end > marker and extent.state != "broken":
            is_json = _is_json(text[key.start() : extent.end])
            if is_json or _belongs_to_a_tool(searched, key.start(), extent):
                return position, extent.end
        position = max(extent.end, key.end())
    return marker, 0


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _belongs_to_a_tool(searched: SearchedText, start: int, extent: Span) -> bool:
    """Whether an object is a call, or follows the name of a tool."""
    before = searched.text[max(0, start - _LONGEST_NAME_BEFORE) : start]
    name = _NAME_BEFORE.search(before)
    is_known = name is not None and searched.tool(name[1]) is not None
    return is_known or names_a_tool(searched, start, extent)


def code_blocks(text: str) -> list[tuple[int, int]]:
    """The positions of code blocks in other languages, unless the whole answer is one."""
    blocks = []
    for fence in _FENCE.finditer(text):
        is_whole = not text[: fence.start()].strip() and not text[fence.end() :].strip()
        if not is_whole and fence[1].casefold() not in _CALL_FENCES:
            blocks.append(fence.span())
    return blocks


def is_within(position: int, blocks: Sequence[tuple[int, int]]) -> bool:
    """Whether a position is in one of the first thousand blocks."""
    return any(start <= position < end for start, end in blocks[:_MOST_BLOCKS])
