"""Server-sent events, as bytes. Pure. Source: the HTML standard, section 9.2."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
"""What ends each of OpenAI's streams of chunks."""


def event(data: Any, name: str | None = None) -> bytes:
    """One event: its name if it has one, a single `data:` line of JSON, and a blank line.

    Lone surrogates, which models write as halves of an emoji, stay JSON escapes.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"


def comment(text: str) -> bytes:
    """A line that clients skip."""
    return f": {text}\n\n".encode()
