"""The text that is searched for calls, the tools that it may name, and the findings of a stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.protocol.generation_request import Tool

MOST_PROBLEMS = 20
"""Unreadable calls after which a stage ends: such a text is a document about calls."""
_LONGEST_NAME = 256


@dataclass(frozen=True)
class SearchedText:
    """A text to search for calls of `tools`, a mapping by names and plain names.

    `cut_off`: the text ended at a length limit, so no call in it may be completed by a guess.
    """

    text: str
    tools: Mapping[str, Tool]
    cut_off: bool

    def tool(self, name: Any) -> Tool | None:
        """The tool that a model means by a name; None if there is no such tool."""
        return self.tools.get(name) or self.tools.get(plain_name(name)) if is_name(name) else None


@dataclass
class Findings:
    """The findings of a stage so far; `start` is the position of the first call.

    `unfinished`: the text ends inside a call. `problem` is the first of `problem_count`.
    `is_final`: no further stage should search, even if no call was found.
    """

    calls: list[FoundCall] = field(default_factory=list)
    start: int | None = None
    unfinished: bool = False
    problem: str | None = None
    problem_count: int = 0
    is_final: bool = False

    def add(self, start: int, calls: Iterable[FoundCall]) -> None:
        """Add calls that begin at `start`."""
        before = len(self.calls)
        self.calls.extend(calls)
        if self.start is None and len(self.calls) > before:
            self.start = start

    def add_problem(self, problem: str) -> None:
        """Record an unreadable call. Only the first problem is reported to the model."""
        self.problem = self.problem or problem
        self.problem_count += 1


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
    bare = name.strip(" \t\r\n\"'`").casefold().replace("-", "_")
    # gpt-oss and Kimi put the namespace before each name: functions.get_weather
    bare = re.sub(r"\Afunctions?\.", "", bare)
    # Kimi K2 counts its calls: get_weather:0
    return re.sub(r":\d{1,4}\Z", "", bare)
