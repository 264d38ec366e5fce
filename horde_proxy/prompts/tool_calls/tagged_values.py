"""The base of the XML-like grammars: a name, then a key and a value in tags for each argument."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of
from horde_proxy.prompts.tool_calls.arguments import make_call, value_of_text
from horde_proxy.prompts.tool_calls.searching import Findings, SearchedText

_LONGEST_TAIL = 40
"""Characters at the end of a cut text in which a closing tag may be missing."""


@dataclass(frozen=True)
class TagGrammar:
    """The tags of one family: `key` begins a value, `end` ends it, `close` ends the call.

    `next_key` begins the next argument even if the value before it was not ended.
    """

    key: re.Pattern[str]
    end: re.Pattern[str]
    close: re.Pattern[str]
    next_key: str | None = None


def read_tagged_call(
    searched: SearchedText,
    findings: Findings,
    opening: int,
    name: re.Match[str],
    grammar: TagGrammar,
) -> int:
    """Read the arguments after a name, which is group 1 of the match. The position to continue."""
    values, position = _values(searched.text, name.end(), grammar)
    closing = grammar.close.match(searched.text, position)
    is_near_end = position >= len(searched.text) - _LONGEST_TAIL
    if searched.cut_off and closing is None and (values is None or is_near_end):
        findings.unfinished = True
        return len(searched.text)
    # Without a closing tag, it is a call only at the end of the text, where a stop may have cut it.
    tool = searched.tool(name[1])
    at_end = not searched.text[position : position + 1000].strip()
    if values is None or (closing is None and not (at_end and (values or tool))):
        if values is None or tool:
            findings.add_problem(f"The call of '{name[1][:64]}' has no end.")
        return position
    schema: Mapping[str, Any] = tool.parameters if tool else {}
    properties = properties_of(schema)
    # Tags contain only texts. The schema tells which of them are numbers or lists.
    arguments = {
        key: value_of_text(text, properties.get(key), schema) for key, text in values.items()
    }
    call = make_call(searched, name[1], arguments)
    if call is not None:
        findings.add(opening, [call])
    return closing.end() if closing else position


def _values(text: str, position: int, grammar: TagGrammar) -> tuple[dict[str, str] | None, int]:
    """(the values as written, by key, or None if one has no end; the position after them)."""
    values: dict[str, str] = {}
    while key := grammar.key.match(text, position):
        ending = grammar.end.search(text, key.end())
        if ending is None:
            return None, len(text)
        value, position = text[key.end() : ending.start()], ending.end()
        # The value was not ended, so the search went on into the next argument.
        if grammar.next_key and grammar.next_key in value:
            value = value[: value.index(grammar.next_key)]
            position = key.end() + len(value)
        values[key[1].strip()] = value
    return values, position
