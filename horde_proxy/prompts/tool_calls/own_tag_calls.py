"""The grammar of a tool as its own XML tag: <bash><command>ls</command></bash>.

Written by models that were trained with Cline's or Roo's prompts, or that imitate them. Only tags
of known tools with known arguments count.
"""

from __future__ import annotations

import re
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of, required_of
from horde_proxy.prompts.tool_calls.arguments import make_call, value_of_text
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText
from horde_proxy.protocol.generation_request import Tool

# <bash> or <command>, with the spaces around it
_TAG = re.compile(r"\s*<(?P<name>[A-Za-z_][\w.\-]{0,127})>\s*")
_SPACES = re.compile(r"\s*")
_LONGEST_TAG = 160
"""Characters: a longer text without ">" is not the beginning of a tag."""


def read_own_tag(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read a tool's tag, its arguments' tags, and its closing tag."""
    tag = _TAG.match(searched.text, start)
    tool = searched.tool(tag["name"]) if tag else None
    if tag is None or tool is None:
        return None
    values, end = values_in_own_tags(searched, tag.end(), tool)
    closing = f"</{tag['name']}>"
    rest = searched.text[end : end + _LONGEST_TAG]
    is_cut = not rest or (rest[0] == "<" and ">" not in rest and len(rest) < _LONGEST_TAG)
    if searched.may_end_early and is_cut:
        return Passage(start, len(searched.text), is_open=True, is_likely=bool(values))
    is_whole = rest.startswith(closing) and (values or not required_of(tool.parameters))
    call = make_call(searched, tool.name, values) if is_whole else None
    return Passage(start, end + len(closing), (call,)) if call else None


def values_in_own_tags(
    searched: SearchedText, position: int, tool: Tool
) -> tuple[dict[str, Any], int]:
    """(the arguments in tags of their own names, the position after them and spaces)."""
    properties, values = properties_of(tool.parameters), {}
    while tag := _TAG.match(searched.text, position):
        # The spaces after the tag belong to the value: it may be a file's first line.
        start, key = tag.end("name") + 1, tag["name"]
        # An opening tag that is written twice
        if searched.text.startswith(f"<{key}>", start):
            start += len(key) + 2
        end = _end_of_value(searched.text, start, key) if key in properties else -1
        if end < 0:
            if key in properties:
                searched.count_long_read()
                position = len(searched.text) if searched.may_end_early else position
            break
        value = searched.text[start:end]
        bare = value.removeprefix("\n")
        value = bare.removesuffix("\n") if bare != value else value
        values[key] = value_of_text(value, properties[key], tool.parameters)
        position = _after_spaces(searched.text, end + len(f"</{key}>"))
    return values, position


def _end_of_value(text: str, start: int, key: str) -> int:
    """Where the closing tag is that another tag follows; -1 without one."""
    closing = f"</{key}>"
    end = text.find(closing, start)
    while end >= 0:
        after = _after_spaces(text, end + len(closing))
        if after == len(text) or text[after] == "<":
            break
        end = text.find(closing, after)
    return end


def _after_spaces(text: str, position: int) -> int:
    spaces = _SPACES.match(text, position)
    return spaces.end() if spaces else position


OWN_TAG_CALLS = Grammar("own tag", read_own_tag, sign=r"<[A-Za-z_][\w.\-]{0,127}>(?=\s*(?:<|\Z))")
