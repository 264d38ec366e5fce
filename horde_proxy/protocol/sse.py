"""Server-sent events, as bytes. Pure."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    """One event: a single `data:` line and a blank one. Lone surrogates stay JSON escapes."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"


def comment(text: str) -> bytes:
    """A line that clients skip."""
    return f": {text}\n\n".encode()
