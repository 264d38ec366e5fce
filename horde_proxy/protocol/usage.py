"""What an answer used, in tokens: as its last bytes tell, or about. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from horde_proxy.numbers import finite

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_DECODER = json.JSONDecoder()
_ASKED = ("messages", "prompt", "input", "instructions", "tools", "functions")
_NO_TEXT = frozenset({"image_url", "input_audio", "file", "file_data", "image"})
_CHARACTERS = 4


def usage_in(tail: bytes) -> tuple[int, int] | None:
    """(prompt tokens, completion tokens) of the last usage object; None where there is none.

    `tail` is the end of a JSON answer or of an event stream. Both the names of chats
    (prompt_tokens) and of responses (input_tokens) are known.
    """
    for match in reversed(list(_USAGE.finditer(tail))):
        usage = _object(tail[match.end() - 1 :])
        prompt = _count(usage, "prompt_tokens", "input_tokens")
        completion = _count(usage, "completion_tokens", "output_tokens")
        if prompt or completion:
            return prompt, completion
    return None


def usage_of(told: Any) -> dict[str, Any]:
    """OpenAI's usage object of what a server tells; a count that is none becomes 0."""
    usage = told if isinstance(told, dict) else {}
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": _count(usage, "total_tokens") or prompt + completion,
    }


def about_asked(document: Any) -> int:
    """About how many tokens a request has, at four characters each; pictures are not counted."""
    if not isinstance(document, dict):
        return 0
    asked = [document.get(name) for name in _ASKED]
    return sum(map(_characters, asked)) // _CHARACTERS


def _characters(asked: Any) -> int:
    """Those of the texts in it, however deep; tools are counted as they are written."""
    count, left = 0, [asked]
    while left:
        found = left.pop()
        if isinstance(found, str):
            count += len(found)
        elif isinstance(found, list):
            left += found
        elif isinstance(found, dict):
            left += [value for key, value in found.items() if key not in _NO_TEXT]
            count += sum(map(len, found))
    return count


def _object(text: bytes) -> dict[str, Any]:
    try:
        found, _ = _DECODER.raw_decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _count(usage: dict[str, Any], *names: str) -> int:
    values = (usage.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and finite(value)), 0)
