"""The judge of use or mention: which groups are calls, and which are only quoted or described.

A call without a marker is one only if nothing but closers and other calls follow it; so is one with
a marker in a code block. Text in backticks is never a call, nor are examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from horde_proxy.prompts.tags import MARK
from horde_proxy.prompts.tool_calls.code_blocks import inline_code
from horde_proxy.prompts.tool_calls.markers import after_closers, partial_closer_at
from horde_proxy.prompts.tool_calls.scanning import Group

# Blocks that may contain a call besides other text, and those that may contain an object. Gemma 3
# uses tool_code, most families json, and models make up the rest. A block in another language is
# code, unless the answer is only that.
_CALL_BLOCKS = ("tool_code", "tool_call", "tool_calls", "tool_use")
_OBJECT_BLOCKS = ("", "json", *_CALL_BLOCKS)
# The last word before a call in the midst of a sentence: "Models write <tool_call>", "1. First: "
_MID_SENTENCE = re.compile(r"[^\W_][,;:]?[ \t]+\Z")
# The item of a list that a call stands in: "2. Writing a file:", "- To read a file:"
_LIST_ITEM = re.compile(r"^[ \t]*(?:\d{1,3}[.)]|[-*•])[ \t][^\n]*\n?\s*\Z", re.MULTILINE)
# A value that stands for another one: "<command>", "...", "path/to/file"
_PLACEHOLDER = re.compile(r"<[\w .,/\-]{1,60}>|\.{3}|…|(?:/?path/to/|your[_ ])[\w./\- ]{0,60}")
# A quotation within a line, a quoted line, or a line of a diff: 'Write "', "> ", "+"
_QUOTATION = re.compile(r"\S[ \t]*[\"“«»„「]\Z|^[ \t]*>[> \t]*\Z|^[+-]\Z", re.MULTILINE)
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "»": "«", "「": "」"}
_LONGEST_ITEM, _LONGEST_WORD, _LONGEST_LINE = 300, 80, 1_000
"""Characters around a call that tell what it is part of."""
_MOST_IN_LINE = 20
"""Calls in a line before another one."""
# A marker that a message had and the model quotes, directly before a call: "<·tool_call>\n". In the
# prompt, it was broken up with a mark.
_QUOTED_MARKER = re.compile(rf"[<\[]{MARK}{{1,9}}[^<>\[\]\n]{{1,60}}[>\]]?\s*\Z")
_LONGEST_MARKER = 80


class Judge:
    """Judges the groups of one text, from the last to the first."""

    def __init__(self, text: str, groups: Sequence[Group], *, end: int | None = None) -> None:
        """`end`: from where on the text is undecided, since it grows."""
        self._text, self._groups = text, groups
        self._is_growing = end is not None
        self._end = len(text) if end is None else end

    def uses(self) -> list[Group]:
        """The groups that are calls, or may become some; in the order of the text."""
        uses: list[Group] = []
        # All that follows this position is calls and closers.
        alive_from = self._end
        for number in reversed(range(len(self._groups))):
            group = self._groups[number]
            if self._is_use(number, alive_from):
                uses.append(group)
                alive_from = self.start_of(group)
        uses.reverse()
        if any(group.is_marked for group in uses):
            return self._with_marks(uses)
        return uses

    def start_of(self, group: Group) -> int:
        """Where a call begins: at the fence of its code block if nothing else is before it."""
        block = group.block
        is_first = block is not None and block.code >= group.start
        return block.start if block is not None and is_first else group.start

    def _with_marks(self, uses: list[Group]) -> list[Group]:
        """The marked calls and their neighbours. A model that writes markers means only these."""
        kept: list[Group] = []
        for number, group in enumerate(uses):
            follows = bool(kept) and self._are_neighbours(kept[-1], group)
            after = uses[number + 1] if number + 1 < len(uses) else None
            precedes = after is not None and after.is_marked
            if after is None or not self._are_neighbours(group, after):
                precedes = False
            if group.is_marked or follows or precedes:
                kept.append(group)
        return kept

    def _are_neighbours(self, first: Group, second: Group) -> bool:
        return self._is_gap(first.end, self.start_of(second))

    def _is_gap(self, start: int, end: int) -> bool:
        """Whether only spaces and closers are between two positions."""
        return start >= end or after_closers(self._text, start, is_fenced=False) >= end

    def _is_use(self, number: int, alive_from: int) -> bool:
        group, text = self._groups[number], self._text
        if group.is_open and self._is_growing:
            return True
        before = text[max(0, group.start - _LONGEST_MARKER) : group.start]
        line, rest = self._line_around(number)
        if inline_code(line, rest) or _QUOTED_MARKER.search(before):
            return False
        if _QUOTATION.search(before) and self._ends_quotation(group):
            return False
        if group.is_open:
            return True
        if group.context != "marked" and (self._is_code(group) or self._is_example(number)):
            return False
        if group.is_marked and group.block is None:
            return not self._is_in_sentence(group)
        return self._is_gap(group.end, alive_from)

    def _line_around(self, number: int) -> tuple[str, str]:
        """(the line before a group, without other groups in it; the line after it)."""
        text, group = self._text, self._groups[number]
        start = text.rfind("\n", max(0, group.start - _LONGEST_LINE), group.start) + 1
        start = max(start, group.start - _LONGEST_LINE)
        parts, end = [], group.start
        for other in reversed(self._groups[max(0, number - _MOST_IN_LINE) : number]):
            if other.end <= start:
                break
            parts.append(text[other.end : end])
            end = other.start
        line = text[start:end] + "".join(reversed(parts))
        rest = text[group.end : min(group.end + _LONGEST_LINE, max(self._end, group.end))]
        return line, rest.partition("\n")[0]

    def _ends_quotation(self, group: Group) -> bool:
        """Whether a quotation ends behind the group: with its mark, or with its line."""
        before, after = self._text[group.start - 1], self._text[group.end : group.end + 1]
        return after == _QUOTES.get(before, after)

    def _is_in_sentence(self, group: Group) -> bool:
        """Whether a sentence goes on around the group."""
        text = self._text
        before = text[max(0, group.start - _LONGEST_WORD) : group.start]
        # The spaces behind a closing marker belong to the group.
        gap = text[max(group.start, group.end - _LONGEST_WORD) : group.end]
        is_same_line = "\n" not in gap[len(gap.rstrip()) :]
        after = text[group.end : group.end + 1]
        goes_on = is_same_line and (after.islower() or after in (".", "!", "?", ":"))
        return goes_on and _MID_SENTENCE.search(before) is not None

    def _is_code(self, group: Group) -> bool:
        """Whether the group is part of a program, not the whole answer."""
        block = group.block
        languages = _OBJECT_BLOCKS if group.grammar == "object" else _CALL_BLOCKS
        if block is None or block.language in languages:
            return False
        return bool(self._text[: block.start].strip()) or group.start > block.code

    def _is_example(self, number: int) -> bool:
        """Whether the group only shows how a call would look: with placeholders, or in a list."""
        group = self._groups[number]
        is_item = self._is_in_list(group)
        if is_item and number > self._first_in_list:
            return True
        is_shown = is_item or group.block is not None
        return is_shown and any(
            _has_placeholder(json.loads(call.arguments)) for call in group.calls
        )

    @cached_property
    def _first_in_list(self) -> int:
        """The number of the first group in a list; the number of all groups without one."""
        in_lists = (n for n, group in enumerate(self._groups) if self._is_in_list(group))
        return next(in_lists, len(self._groups))

    def _is_in_list(self, group: Group) -> bool:
        start = self.start_of(group)
        before = self._text[max(0, start - _LONGEST_ITEM) : start]
        return _LIST_ITEM.search(before) is not None


def undecided_end(text: str) -> int:
    """Where the closing marker begins that the end of a growing text cuts off, or the spaces."""
    return len(text[: partial_closer_at(text)].rstrip())


def _has_placeholder(value: Any) -> bool:
    """Whether a text in the arguments stands for another one."""
    if isinstance(value, str):
        return _PLACEHOLDER.fullmatch(value.strip()) is not None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_has_placeholder(part) for part in parts)
