"""Where a text is in a code block, as Markdown writes it; a scan moves it forward.

Backticks in the arguments of a call do not count, so the scan skips what it read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A fence with the name of its language: ```json
_FENCE = re.compile(r"```+[ \t]*(?P<language>[\w+-]{0,20})[^\S\n]*\n?\s*")
_TICKS = re.compile(r"`+")
_LONGEST_LINE = 1_000
"""Characters before a call in which a backtick of the same line is searched."""


@dataclass(frozen=True)
class CodeBlock:
    """The beginning of a code block: its fence, and where the code begins."""

    start: int
    code: int
    language: str


class CodeBlocks:
    """The state at `position`: `block` is the open code block, or None."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0
        self.block: CodeBlock | None = None

    def advance(self, position: int) -> None:
        """Move forward, and open and close blocks on the way."""
        while self.position < position:
            ticks = _FENCE.search(self._text, self.position, max(position, self.position))
            if ticks is None:
                break
            self._toggle(ticks)
            run = _TICKS.match(self._text, ticks.start())
            self.position = run.end() if run else ticks.end()
        self.position = max(self.position, position)

    def skip(self, position: int) -> None:
        """Move forward over a call."""
        self.position = max(self.position, position)

    def _toggle(self, fence: re.Match[str]) -> None:
        if self.block is not None:
            self.block = None
        else:
            whole = _FENCE.match(self._text, fence.start()) or fence
            self.block = CodeBlock(fence.start(), whole.end(), whole["language"].casefold())


def inline_code(text: str, start: int, end: int, *, after: int) -> bool:
    """Whether a part of a text is within backticks: `{"name": "bash"}`.

    A backtick directly before it is enough. Another one on its line counts if one follows, too.
    Backticks before the position `after` belong to another call.
    """
    if text[start - 1 : start] == "`" and text[max(0, start - 3) : start] != "```":
        return True
    line = text[max(after, start - _LONGEST_LINE) : start].rpartition("\n")[2]
    if not ends_in_code(line):
        return False
    rest = text[end : end + _LONGEST_LINE].partition("\n")[0]
    return "`" in rest.replace("```", "")


def ends_in_code(line: str) -> bool:
    """Whether backticks are open at the end of a line: one, or two for code with backticks."""
    return sum(len(ticks) < 3 for ticks in _TICKS.findall(line)) % 2 == 1
