"""The usage of an answer, in tokens: read from its last bytes, or estimated. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

# `"usage": {` in JSON, with or without spaces: chats, completions, embeddings and responses.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_DECODER = json.JSONDecoder()
_TEXT_FIELDS = ("messages", "prompt", "input", "instructions", "tools", "functions")
_NOT_TEXT = frozenset({"image_url", "input_audio", "file", "file_data", "image"})
_CHARACTERS = 4
"""Characters of a token, a little less than English and code have on average."""
_TOO_MANY = 10**12
"""Counts from here on are a server's mistake, and would spoil every sum."""


def usage_in(tail: bytes) -> tuple[int, int] | None:
    """(prompt tokens, completion tokens) of the last usage object, or None without one.

    `tail` is the end of a JSON answer or of an event stream. It knows the names of chats
    (prompt_tokens) and of responses (input_tokens).
    """
    for match in reversed(list(_USAGE.finditer(tail))):
        usage = _object(tail[match.end() - 1 :])
        prompt = _count(usage, "prompt_tokens", "input_tokens")
        completion = _count(usage, "completion_tokens", "output_tokens")
        if prompt or completion:
            return prompt, completion
    return None


def tidy_usage(usage: Any) -> dict[str, Any]:
    """OpenAI's usage object of what a server sent; a count that is no number becomes 0."""
    usage = usage if isinstance(usage, dict) else {}
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": _count(usage, "total_tokens") or prompt + completion,
    }


def estimate_prompt(document: Any) -> int:
    """About how many tokens the texts of a request body have. Pictures are not counted."""
    if not isinstance(document, dict):
        return 0
    return sum(_characters(document.get(name)) for name in _TEXT_FIELDS) // _CHARACTERS


def _characters(value: Any) -> int:
    """The characters of all texts in a JSON value, and of the names of its fields.

    A loop and not a recursion: bodies nest as deep as JSON's reader lets them.
    """
    count, pending = 0, [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += [inner for name, inner in value.items() if name not in _NOT_TEXT]
            count += sum(map(len, value))
    return count


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object at the beginning of a text; {} when it is broken."""
    try:
        value, _ = _DECODER.raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(usage: dict[str, Any], *names: str) -> int:
    values = (usage.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and 0 < value < _TOO_MANY), 0)
