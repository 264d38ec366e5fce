"""Text of others, made safe to print: one line of a log, a cell of a table, an answer.

A terminal obeys escape sequences (ESC [2J clears it, ESC ]0; renames it), a newline begins a line
that looks like one of ours, and U+202E shows what follows it backwards. Pure: it prints nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

# What a terminal obeys or cannot show: control characters but newline and tab, halves of an emoji,
# and the characters that reorder a line (Trojan Source, CVE-2021-42574). A carriage return lets the
# rest of a line overwrite its beginning. What scripts need is not here, such as U+200D in "👩‍💻".
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str, most: int | None = None) -> str:
    r"""A text in a single line, as "a\nb" and "\x1b[2J". `most` bounds its characters before that.

    All is escaped that Python does not call printable, also line ends of other systems (U+2028).
    """
    if most is not None:
        text = shortened(text, most)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def lines(text: str) -> str:
    """A text that may have lines and tabs, and nothing that a terminal obeys. "\\r\\n" is "\\n"."""
    return _OBEYED.sub(lambda match: _escaped(match[0]), text.replace("\r\n", "\n"))


def encodable(text: str) -> str:
    r"""A text that UTF-8 can hold, with "?" for half a surrogate pair (in JSON: "\ud83d")."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def shortened(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long, with the number of what is left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}... ({len(text) - 2 * half} characters left out) ...{text[-half:]}"


def without_login(url: str) -> str:
    """A URL as it may be shown, without user, password and query, all of which may be secrets."""
    try:
        parts = urlsplit(url)
    # Such as http://user:password@[::1, of which nobody can say where the password ends.
    except ValueError:
        return "(not a valid URL)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def ascii_json(document: Any, indent: int | None = None) -> str:
    r"""JSON of printable ASCII and line ends only: json.dumps leaves DEL (U+007F) as it is."""
    return json.dumps(document, indent=indent).replace("\x7f", "\\u007f")


def _escaped(char: str) -> str:
    return ascii(char)[1:-1]
