"""The token usage of an answer: read from its last bytes, or estimated. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from horde_proxy.numbers import finite

# `"usage": {` in JSON, with or without spaces: chats, completions, embeddings and responses.
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_DECODER = json.JSONDecoder()
_TEXT_FIELDS = ("messages", "prompt", "input", "instructions", "tools", "functions")
_NOT_TEXT = frozenset({"image_url", "input_audio", "file", "file_data", "image"})
_CHARACTERS = 4
"""Characters in a token: a little less than the average of English and code."""
_MOST_TOKENS = 1e12
"""A larger count is a server's mistake, and would spoil every sum."""


def usage_in(tail: bytes) -> tuple[int, int] | None:
    """(prompt tokens, completion tokens) of the last usage object; None without one.

    `tail` is the end of a JSON answer or of an event stream. The fields may have the names of
    chats (prompt_tokens) or of responses (input_tokens).
    """
    for match in reversed(list(_USAGE.finditer(tail))):
        usage = _object(tail[match.end() - 1 :])
        prompt = _count(usage, "prompt_tokens", "input_tokens")
        completion = _count(usage, "completion_tokens", "output_tokens")
        if prompt or completion:
            return prompt, completion
    return None


def tidy_usage(usage: Any) -> dict[str, Any]:
    """OpenAI's usage object, made from a server's; a count that is not a number becomes 0."""
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
    """The estimated number of tokens of the texts in a request body. Pictures do not count."""
    if not isinstance(document, dict):
        return 0
    return sum(_characters(document.get(name)) for name in _TEXT_FIELDS) // _CHARACTERS


def estimate_answer(characters: int) -> int:
    """The estimated number of tokens of an answer with so many characters; none has no token."""
    return -(-characters // _CHARACTERS)


def _characters(value: Any) -> int:
    """The number of characters in all texts of a JSON value, names of fields included.

    This is a loop, because the nesting of a body could be too deep for recursion.
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
    """The JSON object at the beginning of a text; {} if it is broken."""
    try:
        value, _ = _DECODER.raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(usage: dict[str, Any], *names: str) -> int:
    """The first usable count under one of the names, else 0."""
    counts = (finite(usage.get(name), _MOST_TOKENS) for name in names)
    return int(next(filter(None, counts), 0))
