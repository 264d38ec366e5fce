"""The text that is searched for calls, the tools that it may name, and the contract of a grammar.

A grammar reads what one family of models writes for a call. It decides nothing about use or
mention; that is done in mentions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.protocol.generation_request import Tool

_LONGEST_NAME = 256
_MOST_LONG_READS = 24
"""Readings up to the end of a text without a result. After as many, a text is a document about
calls, or hostile; each reading costs time in proportion to the length of the text."""

Context = Literal["marked", "led", "bare"]
"""What stands before a call: a marker, as <tool_call>; a lead, as "Action:"; or nothing."""


@dataclass
class SearchedText:
    """A text to search for calls of `tools`, a mapping by names and plain names.

    `cut_off`: the text ended at a length limit, so no call in it may be completed by a guess.
    `is_growing`: more text will follow, so what has no end yet is undecided.
    """

    text: str
    tools: Mapping[str, Tool]
    cut_off: bool = False
    is_growing: bool = False
    _long_reads: int = field(default=0, init=False)

    def tool(self, name: Any) -> Tool | None:
        """The tool that a model means by a name; None if there is no such tool."""
        return self.tools.get(name) or self.tools.get(plain_name(name)) if is_name(name) else None

    @property
    def may_end_early(self) -> bool:
        """Whether something without an end may have lost it, so it must not be completed."""
        return self.cut_off or self.is_growing

    @property
    def may_repair(self) -> bool:
        """Whether faulty JSON may be repaired by a guess."""
        return self.is_growing or not self.cut_off

    @property
    def is_exhausted(self) -> bool:
        """Whether there were too many long readings without a result."""
        return self._long_reads >= _MOST_LONG_READS

    def count_long_read(self) -> None:
        """Count a reading that went far and found no call."""
        self._long_reads += 1


@dataclass(frozen=True)
class Passage:
    """A part of the text that a grammar read: whole calls, or the reason why there are none.

    `is_open`: the text ends inside of it; `is_likely`: that part begins like a call of a tool.
    `problem`: a sentence for the model about an unreadable call. `hides`: calls before `end` are
    only quoted in it, since it is JSON of another kind. Of a passage without all of these, only
    markers in it count.
    """

    start: int
    end: int
    calls: tuple[FoundCall, ...] = ()
    problem: str | None = None
    is_open: bool = False
    is_likely: bool = True
    hides: bool = False


@dataclass(frozen=True)
class Grammar:
    """How one family writes calls.

    `read(searched, start, context)` reads the text at `start`; it returns None if the text there is
    of another grammar. `sign` is a regular expression for the beginning of a call without a marker;
    "" if this family's calls always have one.
    """

    name: str
    read: Callable[[SearchedText, int, Context], Passage | None]
    sign: str = ""


def tools_by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """The tools by name and by plain name. A tool's exact name wins over another's plain name."""
    known = {tool.name: tool for tool in tools}
    for tool in tools:
        known.setdefault(plain_name(tool.name), tool)
    return known


def is_name(value: Any) -> bool:
    """Whether a value may be the name of a tool."""
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def plain_name(name: str) -> str:
    """The name in a form for comparisons: "`functions.Get-Weather:0`" becomes get_weather."""
    bare = name.strip(" \t\r\n\"'`").casefold()
    # gpt-oss and Kimi put the namespace before each name, functions.get_weather; Gemini's API and
    # models trained on its outputs write default_api.get_weather
    bare = re.sub(r"\A(?:functions?|default_api)\.", "", bare)
    # Kimi K2 counts its calls: get_weather:0
    bare = re.sub(r":\d{1,4}\Z", "", bare)
    # Semantic Kernel names a tool Plugin-Function; models trained on its older API write
    # Plugin.Function
    return bare.replace("-", "_").replace(".", "_")
