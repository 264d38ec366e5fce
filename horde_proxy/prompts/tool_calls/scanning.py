"""One pass over a text: finds the places where calls begin, and lets the grammars read there.

A group is what belongs together: a marker, the calls behind it, and their closing markers. Whether
a group is a call or only mentions one is judged in mentions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.code_blocks import CodeBlock, CodeBlocks
from horde_proxy.prompts.tool_calls.families import GRAMMARS
from horde_proxy.prompts.tool_calls.markers import (
    CLOSING,
    OPENING,
    SIGNS_OF_MARKERS,
    after_closers,
    after_openings,
    next_closing,
    next_opening_at,
    partial_closer_at,
)
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText

_BY_SIGN = {f"g{number}": grammar for number, grammar in enumerate(GRAMMARS) if grammar.sign}
# All signs begin with one of these characters, or with a word; so most positions are passed fast.
_FIRST = r"(?=[<\[{`*]|(?<![A-Za-z0-9_.\-])[A-Za-z_])"
_ALTERNATIVES = (f"(?P<{key}>{grammar.sign})" for key, grammar in _BY_SIGN.items())
_SIGNS = re.compile(f"{_FIRST}(?:{'|'.join([SIGNS_OF_MARKERS, *_ALTERNATIVES])})", re.MULTILINE)
_MOST_GROUPS = 2_000
"""Places that are read. A text with more is hostile; Python's parser needs 0.1 ms for a call."""
_MOST_CALLS = 300
"""Calls that are read; a broken one takes 0.25 ms. No answer has so many that are meant."""
# What may become a call behind a lead: a name, a bracket, spaces
_BEGUN = re.compile(r"""[\w.\-:\[\]({"'\s]{0,160}""")
_LONGEST_BEGINNING = 128
"""Characters after a marker, at the end of a text, that may be the beginning of any grammar."""


@dataclass
class Group:
    """Neighbouring calls, from their first marker to their last one.

    `block`: the code block around the group. `grammar`: the name of the grammar of a call without
    a marker; `is_closed`: a closing marker follows it, so a worker may have dropped the opening
    one. The other fields are as in a Passage.
    """

    start: int
    end: int
    context: Context
    block: CodeBlock | None
    calls: list[FoundCall] = field(default_factory=list)
    problem: str | None = None
    is_open: bool = False
    is_likely: bool = True
    grammar: str = ""
    is_closed: bool = False

    @property
    def is_marked(self) -> bool:
        """Whether a marker surely announces or ends a call."""
        return self.context == "marked" or self.is_closed


class Scan:
    """A pass over a text."""

    def __init__(self, searched: SearchedText) -> None:
        self._searched = searched
        self._blocks = CodeBlocks(searched.text)
        # Objects before this position are parts of one that was read.
        self._bare_from = 0
        self._call_count = 0

    def groups(self) -> Iterator[Group]:
        """All groups, from left to right. After an open one, nothing is read."""
        position, number, text = 0, 0, self._searched.text
        while sign := _SIGNS.search(text, position):
            is_much = number >= _MOST_GROUPS or self._call_count >= _MOST_CALLS
            if self._searched.is_exhausted or is_much:
                break
            number += 1
            group = self._group(sign)
            # Always move forward, also after a marker that is only a lookahead.
            position = max(sign.start() + 1, self._blocks.position)
            if group is not None:
                yield group
                if group.is_open:
                    break

    def _group(self, sign: re.Match[str]) -> Group | None:
        """The group that begins at a sign; None if there is no call."""
        grammar = _BY_SIGN.get(sign.lastgroup or "")
        if grammar is not None:
            return self._bare_group(sign, grammar)
        self._blocks.advance(sign.start())
        context: Context = "marked" if sign.lastgroup == "marker" else "led"
        group = Group(sign.start(), sign.end(), context, self._blocks.block)
        self._extend(group, sign.start())
        is_empty = not (group.calls or group.problem or group.is_open)
        return None if is_empty else group

    def _bare_group(self, sign: re.Match[str], grammar: Grammar) -> Group | None:
        """The group of one call without a marker."""
        if sign.start() < self._bare_from:
            return None
        passage = grammar.read(self._searched, sign.start(), "bare")
        if passage is None:
            return None
        self._blocks.advance(passage.start)
        group = Group(passage.start, passage.end, "bare", self._blocks.block, grammar=grammar.name)
        self._take(group, passage)
        is_empty = not (group.calls or group.problem or group.is_open)
        if not is_empty or passage.hides:
            self._close(group)
            closing = CLOSING.search(self._searched.text, passage.end, group.end)
            group.is_closed = closing is not None
        else:
            self._bare_from = passage.end
        return None if is_empty else group

    def _extend(self, group: Group, position: int) -> None:
        """Read the calls that share the markers of a group."""
        text = self._searched.text
        context = group.context
        while True:
            start = after_openings(text, position)
            # Behind a call and its closing marker, only another marker announces a call surely.
            if OPENING.search(text, position, start) or OPENING.match(text, start):
                context = group.context = "marked"
            elif group.calls:
                context = "led"
            passage = self._passage(start, context)
            if passage is None or not (passage.calls or passage.problem or passage.is_open):
                break
            self._blocks.advance(start)
            self._take(group, passage)
            self._close(group)
            position = group.end
            if group.is_open or group.problem or not self._goes_on(position):
                return
        if not group.calls:
            # Several markers without a call between them are read once.
            self._blocks.advance(start)
            self._judge_no_call(group, start)
        elif start == len(text) and start > position:
            # A marker that closes instead of one with a slash: <tool_call>{...}<tool_call>
            group.end, group.is_open = start, self._searched.may_end_early
            self._blocks.advance(start)

    def _passage(self, start: int, context: Context) -> Passage | None:
        """What the first grammar that fits reads at a position."""
        passages = (grammar.read(self._searched, start, context) for grammar in GRAMMARS)
        return next((passage for passage in passages if passage is not None), None)

    def _goes_on(self, position: int) -> bool:
        """Whether another call may follow directly."""
        text = self._searched.text
        may_follow = position < len(text) and self._call_count < _MOST_CALLS
        return may_follow and _SIGNS.match(text, position) is not None

    def _take(self, group: Group, passage: Passage) -> None:
        group.calls.extend(passage.calls)
        self._call_count += len(passage.calls)
        group.problem = group.problem or passage.problem
        group.is_open, group.is_likely = passage.is_open, passage.is_likely
        group.end = passage.end

    def _close(self, group: Group) -> None:
        """Move behind a group and its closing markers."""
        text = self._searched.text
        if group.problem and not group.calls:
            # What is unreadable may be text, with code blocks in it.
            self._blocks.advance(group.end)
            return
        self._blocks.skip(group.end)
        if not group.problem:
            is_fenced = self._blocks.block is not None
            group.end = after_closers(text, group.end, is_fenced=is_fenced)
            # "</tool_c" at the end, but a backtick may end a quotation.
            is_cut = partial_closer_at(text) == group.end and not text.endswith("`")
            if is_cut and not self._searched.is_growing:
                group.end = len(text)
            self._blocks.advance(group.end)

    def _judge_no_call(self, group: Group, start: int) -> None:
        """Judge a marker without a call: cut off, with a wrong text, or only mentioned in prose."""
        text = self._searched.text
        if group.context != "marked":
            # Only a growing text waits for what a lead announces: it announces little surely.
            if self._searched.is_growing and _BEGUN.fullmatch(text, start):
                group.is_open, group.is_likely, group.end = True, False, len(text)
            return
        closing = next_closing(text, start, next_opening_at(text, start))
        is_short = len(text) - start < _LONGEST_BEGINNING
        if closing is None and self._searched.may_end_early and is_short:
            group.is_open, group.end = True, len(text)
        # "Use <tool_call> for calls." has no closing tag: the marker is only mentioned.
        elif closing is not None and closing.group().startswith("</"):
            group.problem = "The text between the call's tags is no function call."
            self._searched.count_long_read()
