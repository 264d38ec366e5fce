"""The shell blocks of README.md and docs/*.md, and who runs each.

The line before a fence says it, in a comment that readers do not see:

    <!-- run: KIND -->        a test runs the block; KIND says which, see KINDS
    <!-- not run: REASON -->  no test runs it; the reason may name a test that does the same

tests/test_doc_commands.py counts them, so a new block without such a line fails.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

KINDS = {
    "quick": "in this process, with databases of its own: tests/test_doc_commands.py",
    "served": "in bash, beside a running proxy at 127.0.0.1:8080: tests/live/test_doc_commands.py",
    "starts": "its last command is a server that has to answer: tests/live/test_doc_commands.py",
    "systemd": "in a bare Debian that systemd-nspawn boots: the live test of the service",
}
"""Which test runs a block, by the word in its marker."""

# <!-- run: served -->, <!-- not run: needs a GPU -->
_MARKER = re.compile(r"<!-- (run|not run): (.+?) -->$")
# ```sh, also indented in a list
_FENCE = re.compile(r"( *)```(\w*) *$")
_SHELLS = {"sh", "bash", "console"}


@dataclass(frozen=True)
class Block:
    """A fenced block of shell commands.

    `page` is relative to the repository, `line` that of the fence. `kind` or `reason` is set, or
    neither where there is no marker.
    """

    page: str
    line: int
    text: str
    kind: str | None = None
    reason: str | None = None

    @property
    def commands(self) -> list[str]:
        """Its commands one by one, without comments; one may have several lines."""
        return list(_commands(self.text))

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def shell_blocks(page: str | None = None, kind: str | None = None) -> list[Block]:
    """The blocks of all pages, or of one such as docs/operations.md, or of one kind, in order."""
    return [
        block
        for path in PAGES
        for block in _blocks(path)
        if page in (None, block.page) and kind in (None, block.kind)
    ]


def _blocks(path: Path) -> Iterator[Block]:
    name = str(path.relative_to(ROOT))
    lines = path.read_text(encoding="utf-8").splitlines()
    begin, indent, language = None, 0, ""
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence and begin is None:
            begin, indent, language = number, len(fence[1]), fence[2]
        elif fence and begin is not None:
            if language in _SHELLS:
                text = "".join(f"{inner[indent:]}\n" for inner in lines[begin + 1 : number])
                marker = _MARKER.search(lines[begin - 1]) if begin else None
                says = {"kind" if marker[1] == "run" else "reason": marker[2]} if marker else {}
                yield Block(name, begin + 1, text, **says)
            begin = None


def _commands(text: str) -> Iterator[str]:
    """Split at the ends of lines, but not within quotes, after a backslash or after a pipe."""
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote is still open, or a backslash ends the text
            continue
        if pending.endswith("\\\n") or (words and words[-1] in ("|", "&&", "||")):
            continue
        if words:
            yield pending.strip()
        pending = ""
    if pending.strip():
        yield pending.strip()


# `horde-proxy backup FILE`, `.venv/bin/horde-proxy check --url https://...`: in a sentence
_INLINE = re.compile(r"`(?:\.venv/bin/)?horde-proxy( [^`]+)`")


def inline_commands() -> list[tuple[str, str]]:
    """(page, arguments) of each command of ours in the pages' sentences."""
    return [
        (path.name, " ".join(arguments.split()))
        for path in PAGES
        for arguments in _INLINE.findall(path.read_text(encoding="utf-8"))
    ]
