"""Server-sent events, as bytes. Pure. Source: the HTML standard, section 9.2."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
"""The end of each of OpenAI's streams of chunks."""


def event(data: Any, name: str | None = None) -> bytes:
    """One event: its name if any, a single `data:` line of JSON, and a blank line.

    Lone surrogates, which models write for halves of an emoji, become JSON escapes.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"


def comment(text: str) -> bytes:
    """A comment, which clients skip."""
    return f": {text}\n\n".encode()
