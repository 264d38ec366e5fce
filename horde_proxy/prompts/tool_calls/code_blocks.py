"""Where a text is in a code block, as Markdown writes it; a scan moves it forward.

Backticks in the arguments of a call do not count, so the scan skips what it read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A fence with the name of its language: ```json
_FENCE = re.compile(r"```[ \t]*(?P<language>[\w+-]{0,20})[^\S\n]*\n?\s*")
_TICKS_OF_FENCE = "```"
_TICKS = re.compile(r"`+")


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
            start = self._text.find(_TICKS_OF_FENCE, self.position, position)
            if start < 0:
                break
            self._toggle(start)
            self.position = start + len(_TICKS_OF_FENCE)
        self.position = max(self.position, position)

    def skip(self, position: int) -> None:
        """Move forward over a call."""
        self.position = max(self.position, position)

    def _toggle(self, start: int) -> None:
        """Close the block, or open another one at a fence."""
        fence = None if self.block else _FENCE.match(self._text, start)
        self.block = CodeBlock(start, fence.end(), fence["language"].casefold()) if fence else None


def inline_code(before: str, rest: str) -> bool:
    """Whether what is between two parts of a line is in backticks: `{"name": "bash"}`.

    A backtick directly before it is enough. Another one counts if one follows, too.
    """
    if before.endswith("`") and not before.endswith("```"):
        return True
    return ends_in_code(before) and "`" in rest.replace("```", "")


def ends_in_code(line: str) -> bool:
    """Whether backticks are open at the end of a line: one, or two for code with backticks."""
    return sum(len(ticks) < 3 for ticks in _TICKS.findall(line)) % 2 == 1
