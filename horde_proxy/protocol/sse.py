"""Server-sent events, as bytes. Pure. Source: the HTML standard, section 9.2.

All events that the proxy itself writes are made here. Those of a proxied stream pass as its server
wrote them.
"""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
"""The end of each of OpenAI's streams of chunks."""

# Only \n and \r end a line of an event stream. But httpx's iter_lines, and that of requests with
# decode_unicode, split as str.splitlines does: also at U+0085, which old mainframe texts have, and
# at U+2028 and U+2029, which models copy from web pages. The other characters that it splits at are
# below U+0020, and JSON has escapes for all of those.
_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def event(data: Any, name: str | None = None) -> bytes:
    """One event: its name if any, a single `data:` line of JSON, and a blank line.

    Characters that some clients take for the end of a line, and lone surrogates, which models
    write for halves of an emoji, become JSON escapes.
    """
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + one_line(data) + b"\n\n"


def one_line(data: Any) -> bytes:
    """JSON that no client splits into two lines."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Most events are ASCII, and need no look at each of their characters.
    text = text if text.isascii() else text.translate(_LINE_BREAKS)
    return text.encode("utf-8", "backslashreplace")


def comment(text: str) -> bytes:
    """A comment, which clients skip."""
    return f": {text}\n\n".encode()
