"""The base of the XML-like grammars: a name, then a key and a value in tags for each argument.

A value ends where its closing tag balances the tags in it, if another tag of the call follows: so a
value may be a file that documents these tags. Without such an end, it ends where the next tag of
the call begins. Where both readings are possible, there is no call.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of
from horde_proxy.prompts.tool_calls.arguments import make_call, value_of_text
from horde_proxy.prompts.tool_calls.searching import Passage, SearchedText

_LONGEST_TAIL = 40
"""Characters at the end of a cut text in which a closing tag may be missing."""
_LONGEST_INDENT = 80
"""Spaces and tabs before a tag that still begins its line."""
_LONGEST_TAG = 200
"""Characters: <｜DSML｜parameter name="…" string="true"> with a name of 128 has 167."""
_LONGEST_SPACE = 1000
"""Characters after the last value that are looked at. A text of many calls without end tags would
be read with the square of its length if each of them looked at all that follows."""


@dataclass(frozen=True)
class TagGrammar:
    """The tags of one family.

    `key` begins a value; its group "key" is the argument's name. `tags` finds the tags that matter
    in a value, as groups: "open" and "close" of a value, "call" and "uncall" of a call. `follows`
    matches what may follow a value's end. `close` ends the call. `trims`: the line breaks around a
    value belong to the tags.
    """

    key: re.Pattern[str]
    tags: re.Pattern[str]
    follows: re.Pattern[str]
    close: re.Pattern[str]
    trims: bool


@dataclass
class _Ends:
    """Where a value without a regular end may end: at a late closing tag, or at a call's tag."""

    late: re.Match[str] | None = None
    call: re.Match[str] | None = None


def read_tagged_call(
    searched: SearchedText, start: int, name: str, position: int, grammar: TagGrammar
) -> Passage:
    """Read the arguments of a call that begins at `start`, from the position after its name on."""
    text, tool = searched.text, searched.tool(name)
    values, position = _values(searched, name, position, grammar)
    closing = grammar.close.match(text, position)
    rest = text[position : position + _LONGEST_TAG].lstrip()
    is_in_tag = rest.startswith("<") and ">" not in rest and len(rest) < _LONGEST_TAG
    is_near_end = is_in_tag or position >= len(text) - _LONGEST_TAIL
    if searched.may_end_early and closing is None and (values is None or is_near_end):
        return Passage(start, len(text), is_open=True)
    # Without a closing tag, it is a call only at the end of the text, where a stop may have cut it.
    at_end = not text[position : position + _LONGEST_SPACE].strip()
    if values is None or (closing is None and not (at_end and (values or tool))):
        problem = f"The call of '{name[:64]}' has no end." if values is None or tool else None
        return Passage(start, max(position, start + 1), problem=problem)
    schema: Mapping[str, Any] = tool.parameters if tool else {}
    properties = properties_of(schema)
    # Tags contain only texts. The schema tells which of them are numbers or lists.
    arguments = {
        key: value_of_text(value, properties.get(key), schema) for key, value in values.items()
    }
    call = make_call(searched, name, arguments)
    return Passage(start, closing.end() if closing else position, (call,) if call else ())


def _values(
    searched: SearchedText, name: str, position: int, grammar: TagGrammar
) -> tuple[dict[str, str] | None, int]:
    """(the values as written, by key, or None if one has no end; the position after them)."""
    values: dict[str, str] = {}
    tool = searched.tool(name)
    unused = set(properties_of(tool.parameters)) if tool else set()
    while key := grammar.key.match(searched.text, position):
        word = key["key"].strip()
        unused.discard(word)
        start = _after_doubled(searched.text, key, grammar)
        end = _end_of_value(searched, start, grammar, unused)
        if end is None:
            return None, len(searched.text)
        value = searched.text[start : end[0]]
        # Without its closing tag, the line break and the indentation before the next tag are not
        # the value's own.
        if end[0] == end[1]:
            value = value.rstrip(" \t").removesuffix("\n")
        values[word] = _trimmed(value) if grammar.trims else value
        position = end[1]
    return values, position


def _after_doubled(text: str, key: re.Match[str], grammar: TagGrammar) -> int:
    """Where a value begins; after the second tag if its opening tag is written twice."""
    again = grammar.key.match(text, key.end())
    return again.end() if again and again["key"] == key["key"] else key.end()


def _end_of_value(
    searched: SearchedText, start: int, grammar: TagGrammar, unused: Collection[str]
) -> tuple[int, int] | None:
    """(the end of the value that begins at `start`, the position after its closing tag)."""
    text, depth, calls = searched.text, 0, 0
    ends = _Ends()
    for tag in grammar.tags.finditer(text, start):
        kind = tag.lastgroup
        if kind == "open":
            # <parameter=content> on a line of its own, without </parameter> before it
            if depth == 0 and _begins_argument(text, tag, grammar, unused):
                return tag.start(), tag.start()
            depth += 1
        elif kind == "close":
            follows = grammar.follows.match(text, tag.end())
            if depth == 0 and follows:
                return tag.start(), tag.end()
            if depth == 0 and _is_on_line_end(text, tag):
                break
            if depth == 1 and follows and not calls and ends.call is None:
                ends.late = tag
            depth = max(depth - 1, 0)
        else:
            calls = calls + 1 if kind == "call" else max(calls - 1, 0)
            if kind == "call" or _is_on_line_end(text, tag):
                ends.call = ends.call or tag
    else:
        return _end_without_tag(searched, start, ends)
    searched.count_long_read()
    return None


def _end_without_tag(searched: SearchedText, start: int, ends: _Ends) -> tuple[int, int] | None:
    """(the end of a value without a regular end, the position after it)."""
    searched.count_long_read()
    # In a text that was cut off, the closing tag may have been cut off: a file would be half.
    if searched.may_end_early:
        return None
    if ends.late is not None:
        return ends.late.start(), ends.late.end()
    if ends.call is not None:
        return ends.call.start(), ends.call.start()
    # A line break before the end shows that the value is whole: its closing tag has its own line.
    value = searched.text[start:]
    if not value.strip() or not value.endswith("\n"):
        return None
    return len(searched.text), len(searched.text)


def _begins_argument(
    text: str, tag: re.Match[str], grammar: TagGrammar, unused: Collection[str]
) -> bool:
    """Whether a tag at the start of a line begins an argument that the call does not have yet."""
    key = grammar.key.match(text, tag.start())
    before = text[max(0, tag.start() - _LONGEST_INDENT) : tag.start()].rstrip(" \t")
    return key is not None and key["key"].strip() in unused and before.endswith("\n")


def _is_on_line_end(text: str, tag: re.Match[str]) -> bool:
    """Whether a closing tag belongs to a call, not to a sentence about tags: it ends its line.

    If it closes no value, another tag is missing, and it is unclear what the value is.
    """
    return tag.end() >= len(text) or text[tag.end()] in "\n<"


def _trimmed(value: str) -> str:
    """The value without the line breaks of its tags, which Qwen3-Coder writes around each value.

    MiniMax writes none, so a last line break after other lines is the value's own.
    """
    bare = value.removeprefix("\n")
    if bare != value or "\n" not in value.removesuffix("\n"):
        bare = bare.removesuffix("\n")
    return bare
