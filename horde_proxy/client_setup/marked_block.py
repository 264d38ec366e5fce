"""Lines of ours in a text file between two comments; everything outside of them stays. Pure.

For formats whose comments begin with "#": TOML and YAML. The lines between the two comments are
replaced by each setup, so a user's own settings belong outside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence

from horde_proxy.client_setup.contract import RefusedFile

FIRST = "# horde-proxy setup: begin. Each setup writes these lines anew."
LAST = "# horde-proxy setup: end."
_FIRST_LINE = re.compile(r"^[ \t]*# horde-proxy setup: begin\b.*$", re.MULTILINE)
"""The comment before our lines, as in FIRST, also where a list is indented."""
_LAST_LINE = re.compile(r"^[ \t]*# horde-proxy setup: end\b.*$(?:\r?\n)?", re.MULTILINE)
_TOP_LEVEL_KEY = re.compile(r"(?:\"([^\"]*)\"|'([^']*)'|([^\s:#'\"{\[-][^\s:]*))\s*:(?:\s|$)")
"""A key of YAML's outermost mapping: "model: x", "'model': x"."""


def with_block(text: str, lines: Sequence[str], *, at_top: bool = False) -> str:
    """The text with our lines in place of those from before, else at its end or top.

    Raises RefusedFile where only one of the two comments is left.
    """
    line_end = "\r\n" if "\r\n" in text else "\n"
    block = line_end.join([*lines, ""])
    before, after = split(text)
    if before is None:
        if at_top:
            return block + (line_end + text if text.strip() else "")
        gap = line_end if text and not text.endswith("\n") else ""
        return (text + gap + block) if text.strip() else block
    return before + block + after


def split(text: str) -> tuple[str | None, str]:
    """What comes before and after our lines; None and the text if they are not there.

    Raises RefusedFile.
    """
    first, last = _FIRST_LINE.search(text), _LAST_LINE.search(text)
    if first is None and last is None:
        return None, text
    if first is None or last is None or last.start() < first.end():
        missing = "begin" if first is None else "end"
        raise RefusedFile(
            f'the comment "# horde-proxy setup: {missing}" is missing: delete the other one and '
            "the lines that belong to it, then run setup again"
        )
    return text[: first.start()], text[last.end() :]


def refuse_yaml_keys(text: str, keys: Collection[str]) -> None:
    """Raise RefusedFile if the user's part of a YAML file has our keys, or is no mapping.

    Only the outermost lines are read: YAML forbids the same key twice, and a line at the left edge
    that is neither a key, a comment nor an item belongs to something that lines cannot follow.
    """
    before, after = split(text)
    for number, line in enumerate(f"{before or ''}{after}".splitlines(), 1):
        if not line.strip() or line[0] in " \t#-":
            continue
        match = _TOP_LEVEL_KEY.match(line)
        if match is None:
            raise RefusedFile(
                f'line {number} of your own lines, "{line}", is no key of a YAML mapping: correct '
                "it, or name another file with --output"
            )
        key = next(group for group in match.groups() if group is not None)
        if key in keys:
            raise RefusedFile(
                f"it sets {key} already: delete that, or name another file with --output"
            )


def quoted(text: str) -> str:
    """A string as TOML, YAML and JSON all write it."""
    return json.dumps(text, ensure_ascii=False)
